"""`metrics.jsonl`, the record of a run's evaluations, and the lines that are printed about them.

`curves.png`, `samples.txt` and the model card are made from it, so they agree with each other after any interruption.
"""

import json
from pathlib import Path
from typing import Any

from ..files import write_text
from ..record_types import Evaluation, parse_record, read_text_of
from ..wording import duration

METRICS = "metrics.jsonl"
SAMPLE_CHARACTERS = 300  # length of the song at each evaluation
# If the validation loss is this many nats above its best in two evaluations or more, that is overfitting, not noise.
OVERFITTING_MARGIN = 0.01


TABLE_HEAD = (
    "train: measured on text that the model learns from\n"
    "val: measured on text that the model never learns from\n"
    "loss: how surprised the model is, in nats per character (lower is better)\n"
    "acc: share of the next characters guessed right (higher is better)\n"
    "bits/char: the val loss in bits\n"
    f"{'step':>7}  {'train loss':>10}  {'val loss':>9}  {'train acc':>9}  {'val acc':>8}  {'bits/char':>9}"
    f"  {'learn. rate':>11}  {'chars/s':>9}"
)


def table_line(row: dict[str, Any]) -> str:
    """Returns one evaluation as a line under `TABLE_HEAD`."""
    return (
        f"{row['step']:>7}  {row['train_loss']:>10.4f}  {row['val_loss']:>9.4f}  {row['train_accuracy']:>9.4f}"
        f"  {row['val_accuracy']:>8.4f}  {row['val_bits_per_char']:>9.4f}  {row['learning_rate']:>11.2e}"
        f"  {row['chars_per_second']:>9,.0f}"
    )


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Returns the evaluations of a run in order, or none if there is no record.

    Raises:
        LyricGPTError: a line is damaged. The file is written atomically, so a crash cannot cause this.
    """
    path = folder / METRICS
    text = read_text_of(path) if path.exists() else ""
    lines = text.removesuffix("\n").split("\n") if text else []  # (a sample may contain other kinds of line breaks)
    return [parse_record(line, Evaluation, path, "restore it", number) for number, line in enumerate(lines, start=1)]


def write_metrics(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Writes all evaluations atomically, one JSON object per line."""
    write_text(folder / METRICS, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def best_evaluation(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the evaluation with the lowest validation loss, or the first of them if several are equal."""
    return min(rows, key=lambda row: row["val_loss"])


def overfitting(rows: list[dict[str, Any]]) -> str | None:
    """Returns a warning if the validation loss rose while the training loss fell, in two evaluations or more."""
    best = best_evaluation(rows)
    later = [row for row in rows if row["step"] > best["step"]]
    rise = min((row["val_loss"] - best["val_loss"] for row in later[-2:]), default=0.0)
    if len(later) < 2 or rise < OVERFITTING_MARGIN or rows[-1]["train_loss"] >= best["train_loss"]:
        return None
    return (
        f"overfitting: the validation loss was lowest at step {best['step']} ({best['val_loss']:.4f}). Since then it "
        f"has risen to {rows[-1]['val_loss']:.4f}, while the training loss fell to {rows[-1]['train_loss']:.4f}. The "
        f"run folder keeps the model of step {best['step']}. Fewer steps, more dropout or more songs would help"
    )


def describe_end(rows: list[dict[str, Any]]) -> str:
    """Summarizes a finished run in a line or two."""
    best = best_evaluation(rows)
    line = f"best validation loss: {best['val_loss']:.4f} at step {best['step']:,}; time: {time_spent(rows)}"
    sentence = overfitting(rows)
    return f"{line}\n{sentence}" if sentence else line


def time_spent(rows: list[dict[str, Any]]) -> str:
    """Returns how long a run trained, without the start of its processes, and what share of that was evaluating."""
    seconds, evaluating = rows[-1]["elapsed_seconds"], sum(row.get("evaluation_seconds", 0.0) for row in rows)
    return f"{duration(seconds)} ({evaluating / max(seconds, 1e-9):.0%} of that in evaluation)"
