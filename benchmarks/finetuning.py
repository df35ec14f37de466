"""Compares training on a small corpus from a trained model and from scratch, at equal steps.

    python benchmarks/finetuning.py --base runs/sample --dataset path/to/songs.csv

Takes the first songs of --dataset, up to --kilobytes of text, trains on them with the recipe of `configs/sample.yaml` in
the shape of --base, and prints the validation losses. Notes:
- Every variant has the same songs, split, steps, batch and seeds. Those that start from --base have a larger alphabet.
- Runs are kept below --output_dir, and the same command resumes them.
"""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from training_lyricgpt import LyricGPTError
from training_lyricgpt.engine.metrics import read_metrics
from training_lyricgpt.model.initialization import Parent
from training_lyricgpt.model.loading import load_run

PROJECT = Path(__file__).resolve().parent.parent
VARIANTS = {
    "from scratch": {},
    "from the trained model": {"init_from": True},
    "from the trained model, a third of the learning rates": {
        "init_from": True,
        "learning_rate": 1e-3,
        "muon_learning_rate": 0.02 / 3,
    },
}


def cut_corpus(dataset: Path, kilobytes: float, target: Path) -> int:
    """Writes the first songs of a table, up to this many kilobytes of text, and returns their number."""
    songs = pd.read_csv(dataset, keep_default_na=False)
    size = songs["text"].map(lambda text: len(text.encode())).cumsum()
    songs = songs[size <= kilobytes * 1000]
    if len(songs) < 10:
        raise LyricGPTError(
            f"the first {kilobytes:g} KB of {dataset} hold {len(songs)} songs; at least 10 are needed; raise --kilobytes or use another table"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    songs.to_csv(target, index=False)
    return len(songs)


def main() -> None:
    """Trains the runs that are missing and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--base", default="runs/sample", help="run folder or Hub id of the trained model (default: runs/sample)"
    )
    parser.add_argument("--dataset", type=Path, required=True, help="table of songs that --base was not trained on")
    parser.add_argument("--kilobytes", type=float, default=50, help="size of the corpus (default: 50)")
    parser.add_argument("--steps", type=int, default=200, help="steps of each run (default: 200)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="one run per seed (default: 1 2 3)")
    parser.add_argument(
        "--output_dir",
        type=Path,
        default=Path("runs/finetuning"),
        help="where runs are kept (default: runs/finetuning)",
    )
    args = parser.parse_args()
    if args.steps < 4:
        parser.error(f"--steps is {args.steps}; it must be at least 4")
    shape = {name: value for name, value in Parent(*load_run(args.base), "").shape.items() if value is not None}
    corpus = args.output_dir / f"{args.dataset.stem}-{args.kilobytes:g}.csv"
    count = cut_corpus(args.dataset, args.kilobytes, corpus)
    every = args.steps // 4
    print(f"{count} songs of {args.dataset.name}, {args.steps} steps, mean of {len(args.seeds)} seed(s)")
    print("validation loss in nats per character (lower is better)\n")
    print(f"| | {' | '.join(f'step {step}' for step in range(0, 4 * every + 1, every))} | lowest |")
    print("|---|" + "---|" * 6)
    for label, settings in VARIANTS.items():
        losses = []
        for seed in args.seeds:
            name = f"{Path(args.base).name}-{corpus.stem}-{4 * every}-{label.replace(' ', '-')}-{seed}"
            options = shape | {
                "dataset": corpus, "seed": seed, "max_steps": 4 * every, "eval_interval": every, "save_interval": every,
                "warmup_steps": min(50, every), "output_dir": args.output_dir / name,
            }  # fmt: skip
            options |= settings
            if settings:
                options["init_from"] = args.base
            command = [sys.executable, PROJECT / "train_hf.py", *(f"--{key}={value}" for key, value in options.items())]
            result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
            if result.returncode:
                raise SystemExit(f"{label}: {result.stderr or result.stdout}")
            losses.append(
                [row["val_loss"] for row in read_metrics(Path(options["output_dir"])) if row["step"] % every == 0]
            )
        cells = [statistics.mean(column) for column in zip(*losses, strict=True)]
        lowest = statistics.mean(min(row) for row in losses)
        print(f"| {label} | {' | '.join(f'{value:.3f}' for value in [*cells, lowest])} |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except LyricGPTError as error:
        sys.exit(f"error: {error}")
