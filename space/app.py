"""A page that writes songs: a Gradio demo of a LyricGPT model, as it lies here a Hugging Face Space.

The environment's `MODEL` names the model: a Hub id, or a run folder. The server gives out no file and takes none.
"""

import base64
from pathlib import Path

import gradio as gr
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from songs import MAX_LENGTH, MAX_NAME, MAX_PROMPT, MODEL, SONGS, continue_song, knows_names, write_song

# Requests that may wait; whoever comes then is told so.
WAITING = 32
# Visitors of whom Gradio keeps what their page shows; of 10,000, its default, memory would fill.
SESSIONS = 100
MAX_SEED = 2**32 - 1
STYLE = Path(__file__).with_name("style.css")
# None of the fonts is fetched from elsewhere.
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}
GREY = {"body_text_color_subdued": "*neutral_500", "input_placeholder_color": "*neutral_500"}
THEME = gr.themes.Default(primary_hue="indigo", **FONTS).set(**GREY)


def record(name: str) -> bytes:
    """A file of the model's repository or run folder; empty where there is none."""
    try:
        path = Path(MODEL) / name if Path(MODEL).is_dir() else Path(hf_hub_download(MODEL, name))
        return path.read_bytes()
    except (EntryNotFoundError, FileNotFoundError):
        return b""


def card() -> str:
    """What the model's card says of figures, data and limits, the curves written into it: they are no file to be given out.

    How to make a run again is left out: of a run folder it says where on this machine it lies.
    """
    text = record("README.md").decode() or "This model has no card."
    curves = f"data:image/png;base64,{base64.b64encode(record('curves.png')).decode()}"
    shown = text[max(0, text.find("## Figures")) :].partition("\n## Reproduce")[0]
    return shown.replace("](curves.png)", f"]({curves})")


def are_busy(busy: bool) -> list[dict]:
    """While a song is written its page has one button: Stop."""
    return [gr.update(interactive=not busy)] * 3 + [gr.update(interactive=busy)]


with gr.Blocks(title="LyricGPT", analytics_enabled=False) as page:
    is_run = Path(MODEL).is_dir()
    name = f"`{Path(MODEL).resolve().name}`" if is_run else f"[{MODEL}](https://huggingface.co/{MODEL})"
    gr.Markdown(f"# LyricGPT\nA character-level GPT that writes songs. Model: {name}")
    with gr.Tab("Write"):
        with gr.Row(visible=knows_names):
            artist = gr.Textbox(label="Artist", max_lines=1, max_length=MAX_NAME, min_width=140)
            title = gr.Textbox(label="Title", max_lines=1, max_length=MAX_NAME, min_width=140)
        prompt = gr.Textbox(
            label="How the song begins", placeholder="empty: the model begins", lines=2, max_length=MAX_PROMPT
        )
        with gr.Row():
            temperature = gr.Slider(0.1, 1.5, 0.9, step=0.05, label="Temperature", scale=2, min_width=220)
            length = gr.Slider(50, MAX_LENGTH, 600, step=50, label="Length", scale=2, min_width=220)
            seed = gr.Number(0, precision=0, minimum=0, maximum=MAX_SEED, label="Seed", min_width=100)
        with gr.Row():
            write = gr.Button("Write", variant="primary", min_width=100)
            again = gr.Button("Again", min_width=100)
            go_on = gr.Button("Continue", min_width=100)
            stop = gr.Button("Stop", interactive=False, min_width=100)
        note = gr.HTML(elem_id="note", label="Note", padding=False)
        song = gr.Textbox(
            label="Song",
            placeholder="Write begins one.",
            lines=14,
            max_lines=14,
            interactive=False,
            buttons=["copy"],
            elem_id="song",
        )
    with gr.Tab("Figures"):
        gr.Markdown(card(), elem_id="card")

    buttons = [write, again, go_on, stop]
    inside = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    drawn = {"outputs": [song, note], "concurrency_id": "songs", "concurrency_limit": SONGS, "show_progress_on": note}
    asked = [prompt, temperature, length, seed, artist, title]
    begun = [
        write.click(lambda: are_busy(True), None, buttons, **inside),
        again.click(lambda seed: [min((seed or 0) + 1, MAX_SEED), *are_busy(True)], seed, [seed, *buttons], **inside),
        go_on.click(lambda: are_busy(True), None, buttons, **inside),
    ]
    writing = [
        begun[0].then(write_song, asked, **drawn, api_name="write"),
        begun[1].then(write_song, asked, **drawn, api_visibility="private"),
        begun[2].then(continue_song, [song, temperature, length, seed], **drawn, api_name="continue"),
    ]
    for event in writing:
        for ended in (event.then, event.failure):  # (a refused one is no `then`)
            ended(lambda: are_busy(False), None, buttons, **inside)
    stop.click(lambda: are_busy(False), None, buttons, cancels=writing, **inside)

if __name__ == "__main__":
    page.queue(max_size=WAITING).launch(
        theme=THEME,
        css_paths=STYLE,
        ssr_mode=False,
        max_file_size=1,
        state_session_capacity=SESSIONS,
        enable_monitoring=False,
        footer_links=[],
    )
