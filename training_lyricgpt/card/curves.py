"""Draws the curves of a run and writes its samples.

Both come from `metrics.jsonl`, like the card, so they always agree with each other, even after an interruption.
"""

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..engine.metrics import best_evaluation
from ..files import UNFINISHED, write_text

TRAIN_COLOR, VALIDATION_COLOR, INK, GRID = "#5b8def", "#d1495b", "#2b2d42", "#e6e8ee"


def draw_curves(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Draws loss and accuracy of both splits over the steps, with the best step marked, as `curves.png`."""
    figure = Figure(figsize=(10, 4), dpi=120, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    best = best_evaluation(rows)
    steps = [row["step"] for row in rows]
    panels = [
        ("loss", "Loss in nats per character (lower is better)"),
        ("accuracy", "Accuracy of the first guess (higher is better)"),
    ]
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
            f"best model: {value:.4f}\nstep {best['step']:,}",
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
    """Writes the sample of each evaluation, in order, as `samples.txt`."""
    blocks = [
        f"=== step {row['step']}, validation loss {row['val_loss']:.4f}, seed {row['sample_seed']} ===\n{row['sample']}\n"
        for row in rows
    ]
    write_text(folder / "samples.txt", "\n".join(blocks))
