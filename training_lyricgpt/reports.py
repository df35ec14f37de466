"""What a run shows of itself: metrics, curves and samples.

Notable:
- `metrics.jsonl` is the one record; `curves.png`, `samples.txt` and the card are drawn from it, so that they agree with each
  other after any interruption.
- Overfitting is said in words, not left to be read off a curve.
"""

import json
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .files import UNFINISHED, write_text
from .record_types import Evaluation, parse_record, read_text_of
from .wording import duration

METRICS = "metrics.jsonl"
SAMPLE_CHARACTERS = 300  # of the song at each evaluation
# Validation loss above its best by this many nats, in two evaluations or more, is overfitting and not noise.
OVERFITTING_MARGIN = 0.01
TRAIN_COLOR, VALIDATION_COLOR, INK, GRID = "#5b8def", "#d1495b", "#2b2d42", "#e6e8ee"

TABLE_HEAD = (
    f"{'step':>7}  {'train loss':>10}  {'val loss':>9}  {'train acc':>9}  {'val acc':>8}  {'bits/char':>9}"
    f"  {'learn. rate':>11}  {'chars/s':>9}"
)


def table_line(row: dict[str, Any]) -> str:
    """One evaluation as a line under `TABLE_HEAD`."""
    return (
        f"{row['step']:>7}  {row['train_loss']:>10.4f}  {row['val_loss']:>9.4f}  {row['train_accuracy']:>9.4f}"
        f"  {row['val_accuracy']:>8.4f}  {row['val_bits_per_char']:>9.4f}  {row['learning_rate']:>11.2e}"
        f"  {row['chars_per_second']:>9,.0f}"
    )


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The evaluations of a run in order; none if there is no record.

    Raises:
        LyricGPTError: a line is damaged. The file is written whole, so that is no crash but somebody's doing.
    """
    path = folder / METRICS
    text = read_text_of(path) if path.exists() else ""
    lines = text.removesuffix("\n").split("\n") if text else []  # (a sample may hold line breaks of other kinds)
    return [parse_record(line, Evaluation, path, "restore it", number) for number, line in enumerate(lines, start=1)]


def write_metrics(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Writes all evaluations, atomically, one JSON object a line."""
    write_text(folder / METRICS, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def best_evaluation(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The evaluation with the lowest validation loss, the earliest of equals."""
    return min(rows, key=lambda row: row["val_loss"])


def overfitting(rows: list[dict[str, Any]]) -> str | None:
    """A sentence if the validation loss has turned while the training loss goes on falling, in two evaluations or more."""
    best = best_evaluation(rows)
    later = [row for row in rows if row["step"] > best["step"]]
    rise = min((row["val_loss"] - best["val_loss"] for row in later[-2:]), default=0.0)
    if len(later) < 2 or rise < OVERFITTING_MARGIN or rows[-1]["train_loss"] >= best["train_loss"]:
        return None
    return (
        f"overfitting: the validation loss was lowest at step {best['step']} ({best['val_loss']:.4f}) and has risen to "
        f"{rows[-1]['val_loss']:.4f} while the training loss fell to {rows[-1]['train_loss']:.4f}. The run folder keeps "
        f"the model of step {best['step']}; fewer steps, more dropout or more songs would help"
    )


def time_spent(rows: list[dict[str, Any]]) -> str:
    """How long a run took, the starts of its processes apart, and the share of its evaluations."""
    seconds, evaluating = rows[-1]["elapsed_seconds"], sum(row.get("evaluation_seconds", 0.0) for row in rows)
    return f"{duration(seconds)}, of it {evaluating / max(seconds, 1e-9):.0%} evaluations"


def draw_curves(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Draws loss and accuracy of both splits over the steps, the best step marked, as `curves.png`."""
    figure = Figure(figsize=(10, 4), dpi=120, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    best = best_evaluation(rows)
    steps = [row["step"] for row in rows]
    panels = [("loss", "Loss (nats a character)"), ("accuracy", "Accuracy (next character)")]
    for axes, (key, title) in zip(figure.subplots(1, 2), panels, strict=True):
        for split, color in (("train", TRAIN_COLOR), ("val", VALIDATION_COLOR)):
            label = {"train": "training", "val": "validation"}[split]
            values = [row[f"{split}_{key}"] for row in rows]
            axes.plot(steps, values, color=color, linewidth=1.8, marker="o", markersize=3, label=label)
        value = best[f"val_{key}"]
        axes.axvline(best["step"], color=INK, linewidth=0.8, linestyle=":", zorder=0)
        axes.scatter([best["step"]], [value], s=70, facecolors="none", edgecolors=INK, linewidths=1.4, zorder=5)
        above = key == "loss"
        late = best["step"] > 0.6 * max(steps)
        axes.annotate(
            f"best: {value:.4f}\nstep {best['step']:,}",
            (best["step"], value),
            xytext=(-10 if late else 10, 26 if above else -26),
            textcoords="offset points",
            ha="right" if late else "left",
            va="bottom" if above else "top",
            fontsize=9,
            color=INK,
            bbox={"boxstyle": "square,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
            zorder=6,
        )
        axes.set_title(title, fontsize=11, color=INK, loc="left")
        axes.set_xlabel("step", color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.grid(color=GRID)
        axes.set_axisbelow(True)
        axes.tick_params(colors=INK, labelsize=9)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.margins(y=0.12)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=9, loc="outside upper right", ncols=2)
    temporary = folder / f"{UNFINISHED}curves.png"
    figure.savefig(temporary, format="png", metadata={"Software": None})
    temporary.replace(folder / "curves.png")
    return folder / "curves.png"


def write_samples(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Writes the sample of each evaluation, by step, as `samples.txt`."""
    blocks = [
        f"=== step {row['step']}, validation loss {row['val_loss']:.4f}, seed {row['sample_seed']} ===\n{row['sample']}\n"
        for row in rows
    ]
    write_text(folder / "samples.txt", "\n".join(blocks))
