"""A page that writes songs: a Gradio demo of a LyricGPT model, as it lies here a Hugging Face Space.

The environment's `MODEL` names the model: a Hub id, or a run folder. The server gives out no file and takes none.
"""

from pathlib import Path

import gradio as gr
from figures import figures
from songs import (
    MAX_LENGTH,
    MAX_NAME,
    MAX_PROMPT,
    MAX_SEED,
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    MODEL,
    SONGS,
    continue_song,
    knows_names,
    number,
    write_song,
)

# Requests that may wait; whoever comes then is told so.
WAITING = 32
CSS = """
.gradio-container {width: 100% !important; max-width: 860px !important; margin: auto !important}
#song textarea {font-family: Georgia, 'Times New Roman', serif; font-size: 1.05rem; line-height: 1.55}
#figures img {width: 100%; border-radius: 8px; background: white}
#figures .wide {overflow-x: auto; contain: inline-size}
#figures table {width: 100%; border: 0 !important; border-collapse: collapse; font-variant-numeric: tabular-nums}
#figures :is(th, td) {padding: .35rem .6rem; text-align: right; border: 0; border-bottom: 1px solid var(--border-color-primary)}
#figures tr {border: 0 !important}
#figures :is(th, td):first-child {text-align: left}
#figures h3 {margin: 1.4rem 0 .4rem; font-size: 1.1rem}
@media (max-width: 600px) {#figures table {font-size: .8rem} #figures :is(th, td) {padding: .3rem .25rem}}
"""
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}  # none is fetched from elsewhere
THEME = gr.themes.Default(primary_hue="indigo", **FONTS)


def are_busy(busy: bool) -> list[dict]:
    """While a song is written its page has one button: Stop."""
    return [gr.update(interactive=not busy)] * 3 + [gr.update(interactive=busy)]


def next_seed(seed: float) -> list:
    return [int(number(seed, 0, MAX_SEED - 1)) + 1, *are_busy(True)]


with gr.Blocks(title="LyricGPT", analytics_enabled=False) as page:
    name = Path(MODEL).resolve().name if Path(MODEL).is_dir() else MODEL
    gr.Markdown(f"# LyricGPT\nA character-level GPT that writes songs. Model: `{name}`")
    with gr.Tab("Write"):
        with gr.Row(visible=knows_names):
            artist = gr.Textbox(label="Artist", max_length=MAX_NAME, min_width=140)
            title = gr.Textbox(label="Title", max_length=MAX_NAME, min_width=140)
        prompt = gr.Textbox(
            label="How the song begins", placeholder="empty: as the model likes", lines=2, max_length=MAX_PROMPT
        )
        with gr.Row():
            temperature = gr.Slider(
                MIN_TEMPERATURE, MAX_TEMPERATURE, 0.9, step=0.05, label="Temperature", scale=2, min_width=220
            )
            length = gr.Slider(50, MAX_LENGTH, 600, step=50, label="Length", scale=2, min_width=220)
            seed = gr.Number(0, precision=0, minimum=0, maximum=MAX_SEED, label="Seed", min_width=100)
        with gr.Row():
            write = gr.Button("Write", variant="primary", min_width=100)
            again = gr.Button("Again", min_width=100)
            go_on = gr.Button("Continue", min_width=100)
            stop = gr.Button("Stop", interactive=False, min_width=100)
        song = gr.Textbox(label="Song", lines=16, max_lines=16, interactive=False, buttons=["copy"], elem_id="song")
        note = gr.HTML(elem_id="note", label="Note")
    with gr.Tab("Figures"):
        gr.HTML(figures(), elem_id="figures")

    buttons = [write, again, go_on, stop]
    inside = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    drawn = {"outputs": [song, note], "concurrency_id": "songs", "concurrency_limit": SONGS, "show_progress_on": note}
    asked = [prompt, temperature, length, seed, artist, title]
    begun = [
        write.click(lambda: are_busy(True), None, buttons, **inside),
        again.click(next_seed, seed, [seed, *buttons], **inside),
        go_on.click(lambda: are_busy(True), None, buttons, **inside),
    ]
    writing = [
        begun[0].then(write_song, asked, **drawn, api_name="write"),
        begun[1].then(write_song, asked, **drawn, api_visibility="private"),
        begun[2].then(continue_song, [song, temperature, length, seed], **drawn, api_name="continue"),
    ]
    for event in writing:
        event.then(lambda: are_busy(False), None, buttons, **inside)
    stop.click(lambda: are_busy(False), None, buttons, cancels=writing, **inside)

if __name__ == "__main__":
    page.queue(max_size=WAITING).launch(
        theme=THEME, css=CSS, ssr_mode=False, allowed_paths=[], max_file_size=1, footer_links=[]
    )
