"""A page that writes songs: a Gradio demo of a LyricGPT model, as it lies here a Hugging Face Space.

`MODEL` names the model: a Hub id, or a run folder. Notable: the song appears character by character (transformers' own
streamers wait for whole words), a shared seed gives the same song, and nothing but the model's repository is read.
"""

import os
import queue
import threading
from collections.abc import Iterator

import gradio as gr
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, StoppingCriteria
from transformers.generation.streamers import BaseStreamer

MODEL = os.environ.get("MODEL", "you/lyricgpt-sample")
MAX_CHARACTERS = 2000
MAX_PROMPT = 1000
SECONDS = 60

tokenizer = AutoTokenizer.from_pretrained(MODEL, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(MODEL, trust_remote_code=True).eval()
alphabet = {token for token in tokenizer.get_vocab() if len(token) == 1}
drawing = threading.Lock()  # torch's generator is the process's: one song at a time is drawn from a seed


class Pieces(BaseStreamer, StoppingCriteria):
    """Hands drawn characters to another thread, and stops drawing when that one has left."""

    def __init__(self):
        self.pieces: queue.Queue[str | None] = queue.Queue()
        self.is_prompt = True
        self.left = False

    def put(self, value: torch.Tensor) -> None:
        if not self.is_prompt:
            self.pieces.put(tokenizer.decode(value.flatten(), skip_special_tokens=True))
        self.is_prompt = False

    def end(self) -> None:
        self.pieces.put(None)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self.left, device=input_ids.device)


def write(prompt: str, temperature: float, length: int, seed: int) -> Iterator[tuple[str, str]]:
    """The song so far and a remark, again at each piece."""
    prompt = prompt[-MAX_PROMPT:]
    unknown = sorted(set(prompt) - alphabet)
    for character in unknown:
        prompt = prompt.replace(character, "")
    remark = f"Left out, because the model does not know it: {' '.join(unknown)}" if unknown else ""
    inputs = tokenizer(prompt, return_tensors="pt", split_special_tokens=True) if prompt else {}
    stream = Pieces()

    def draw() -> None:
        try:
            with drawing:
                torch.manual_seed(int(seed))
                model.generate(
                    **inputs,
                    temperature=max(0.05, float(temperature)),
                    max_new_tokens=min(MAX_CHARACTERS, max(1, int(length))),
                    max_time=SECONDS,
                    streamer=stream,
                    stopping_criteria=[stream],
                )
        finally:
            stream.end()

    threading.Thread(target=draw, daemon=True).start()
    song = prompt
    try:
        yield song, remark
        while (piece := stream.pieces.get()) is not None:
            song += piece
            yield song, remark
    finally:
        stream.left = True


with gr.Blocks(title="LyricGPT") as page:
    gr.Markdown(f"# LyricGPT\nA character-level GPT that writes songs. Model: `{MODEL}`")
    prompt = gr.Textbox(label="How the song begins (empty: a new song)", lines=2, max_length=MAX_PROMPT)
    with gr.Row():
        temperature = gr.Slider(0.1, 1.5, value=0.9, step=0.05, label="Temperature")
        length = gr.Slider(50, MAX_CHARACTERS, value=600, step=50, label="Characters at most")
        seed = gr.Number(value=0, precision=0, label="Seed")
    with gr.Row():
        start = gr.Button("Write", variant="primary")
        stop = gr.Button("Stop")
    song = gr.Textbox(label="Song", lines=16, interactive=False)
    remark = gr.Markdown()
    writing = start.click(write, [prompt, temperature, length, seed], [song, remark], concurrency_limit=2)
    stop.click(None, cancels=[writing])

if __name__ == "__main__":
    page.queue(max_size=16).launch(show_error=True)
