"""Writes the reports of a run folder: curves, samples, card, and how good its songs are."""

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
    """Writes everything that is made from the records: curves, samples and card."""
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
    """Returns the figures of the songs of a finished run's model. If there are none yet, draws and judges songs first.

    Args:
        count: How many songs to judge.
        prompt: How the songs on the card begin.
        seed: Seed of the first song.
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
