"""What a run folder shows: curves, samples, card, and how good its songs are."""

from pathlib import Path
from typing import Any

from modeling_lyricgpt import LyricGPTForCausalLM

from ..corpus.streams import TokenizedCorpus
from ..engine.metrics import best_evaluation
from ..files import saving, write_json, write_text
from ..quality.judging import QUALITY, SONGS, draw_songs, judge_run, read_quality, read_songs
from .card import model_card
from .curves import draw_curves, write_samples
from .records import read_records


def write_reports(folder: Path, corpus: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Draws everything that follows from the record: curves, samples, card."""
    draw_curves(folder, rows)
    write_samples(folder, rows)
    write_text(folder / "README.md", str(model_card(read_records(folder, corpus, rows))))


def judge_once(
    folder: Path,
    model: LyricGPTForCausalLM,
    corpus: TokenizedCorpus,
    rows: list[dict[str, Any]],
    count: int,
    prompt: str,
    seed: int,
) -> dict[str, Any]:
    """The figures of the songs of a finished run's model, which are drawn, judged and written unless that was done.

    Args:
        count: Songs that are judged.
        prompt: What those begin with that the card shows.
        seed: Of the first song.
    """
    step = best_evaluation(rows)["step"]
    quality, songs = read_quality(folder, step), read_songs(folder, step)
    is_judged = quality is not None and quality["quality_songs"] == count
    if not is_judged:
        quality = judge_run(model, corpus, step, count, seed)
    if not is_judged or songs is None:
        songs = draw_songs(model, corpus, step, prompt, seed)
        with saving(folder):
            write_json(folder / QUALITY, quality)
            write_json(folder / SONGS, songs)
            write_reports(folder, corpus.report, rows)
    return quality
