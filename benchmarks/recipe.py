"""Compares recipes at equal data, batch, steps and parameters: their validation losses, and the steps that each needs.

    python benchmarks/recipe.py                                      # published and modern, embedded songs, seed 1337
    python benchmarks/recipe.py --corpora songs hymns.csv --seeds 1 2 3 --recipes modern adamw
    python benchmarks/recipe.py --recipes modern --vary dropout=0,0.1 weight_decay=0.01,0.1

4 layers x 192, batch 32 x 128, 1,000 steps. Notes:
- Each run is trained by `train_hf.py` in its own folder below --output_dir. Whatever stops the benchmark, the same command
  resumes it. Complete runs are not trained again.
- `published` is the original notebook's recipe (`configs/spotify.yaml`, with its classic model). `first_version` is the same
  before its initialization was changed (`configs/shakespeare.yaml`). `modern` is the recipe of `configs/spotify_modern.yaml`.
  `adamw` is the modern model with AdamW alone, at 2e-3 with a cosine schedule.
- Evaluations come every 50 steps. A loss counts as reached at the first evaluation that shows it.
"""

import argparse
import itertools
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from training_lyricgpt.engine.metrics import read_metrics

PROJECT = Path(__file__).resolve().parent.parent
SHAPE = {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 4, "block_size": 128, "batch_size": 32}
RECIPES = {
    "published": ("spotify.yaml", {}),
    "first_version": ("shakespeare.yaml", {}),
    "modern": ("spotify_modern.yaml", {}),
    "adamw": ("spotify_modern.yaml", {"optimizer": "adamw", "learning_rate": 2e-3, "lr_schedule": "cosine"}),
}
EVERY = 50


def corpus_options(corpus: str) -> dict[str, str | bool]:
    """The settings for a corpus. Both kinds are cleaned; tables are split by song, texts by characters."""
    path = PROJECT / "data" / "sample_lyrics.csv" if corpus == "songs" else Path(corpus).resolve()
    is_text = path.suffix == ".txt"
    return {
        "dataset": str(path),
        "cleaning": "standard",
        "split": "characters" if is_text else "songs",
        "special_tokens": not is_text,
        "alphabet": "corpus",
    }


def train(folder: Path, config: str, options: dict) -> list[dict]:
    """Trains a run unless it is complete, and returns its evaluations."""
    options = {"config": PROJECT / "configs" / config, "output_dir": folder, **options}
    command = [sys.executable, PROJECT / "train_hf.py", *(f"--{name}={value}" for name, value in options.items())]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"{folder}: {result.stderr or result.stdout}")
    return read_metrics(folder)


def variants(recipes: list[str], vary: list[str]) -> dict[str, tuple[str, dict]]:
    """The recipes by name, in every combination with the values in `vary` (FIELD=VALUE,VALUE)."""
    axes = [
        [(field, value) for value in values.split(",")] for field, _, values in (part.partition("=") for part in vary)
    ]
    found = {}
    for recipe in recipes:
        config, options = RECIPES[recipe]
        for settings in itertools.product(*axes):
            name = "-".join([recipe, *(f"{field}={value}" for field, value in settings)])
            found[name] = (config, options | dict(settings))
    return found


def main() -> None:
    """Trains the runs that are missing and prints a table for each corpus."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpora", nargs="+", default=["songs"], help="files, or `songs` for the embedded songs")
    parser.add_argument(
        "--recipes",
        nargs="+",
        choices=RECIPES,
        default=["published", "modern"],
        help="recipes to compare (default: published modern)",
    )
    parser.add_argument("--vary", nargs="+", default=[], help="FIELD=VALUE,VALUE: try each recipe with each value")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1337], help="one run per seed (default: 1337)")
    parser.add_argument("--steps", type=int, default=1000, help="steps of each run (default: 1000)")
    parser.add_argument("--eval_batches", type=int, default=20, help="batches per evaluation (default: 20)")
    parser.add_argument(
        "--output_dir", type=Path, default=Path("runs/recipe"), help="where runs are kept (default: runs/recipe)"
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    args = parser.parse_args()
    if args.steps < EVERY:
        parser.error(f"--steps is {args.steps}; it must be at least {EVERY}")
    recipes = variants(args.recipes, args.vary)
    results = {}
    jobs = list(itertools.product(args.corpora, args.seeds, recipes))
    for corpus, seed, name in tqdm(jobs, disable=not sys.stderr.isatty(), unit="run"):
        config, options = recipes[name]
        common = {"seed": seed, "max_steps": args.steps, "eval_interval": EVERY, "eval_batches": args.eval_batches}
        folder = args.output_dir / f"{Path(corpus).stem}-{name}-{args.steps}-{seed}"
        record = train(folder, config, SHAPE | corpus_options(corpus) | common | {"save_interval": 250} | options)
        results.setdefault((corpus, name), []).append({row["step"]: row["val_loss"] for row in record})
    if args.json:
        print(json.dumps([{"corpus": c, "recipe": n, "val_loss": losses} for (c, n), losses in results.items()]))
        return
    quarters = sorted({max(EVERY, args.steps * part // 4 // EVERY * EVERY) for part in (1, 2, 3)} | {args.steps})
    for corpus in args.corpora:
        reference = results.get((corpus, "published"))
        print(
            f"\n{Path(corpus).name}, {len(args.seeds)} seed(s): validation loss in nats per character (lower is better)\n"
        )
        print(
            f"| recipe | {' | '.join(f'step {step}' for step in quarters)} | lowest | step at which all seeds match `published` |"
        )
        print("|---|" + "---|" * (len(quarters) + 2))
        for name in recipes:
            runs = results[corpus, name]
            cells = [spread([losses[step] for losses in runs]) for step in quarters]
            cells.append(spread([min(losses.values()) for losses in runs]))
            if reference is None:
                cells.append("")
            else:
                goals = [losses[args.steps] for losses in reference]
                first = [
                    next((step for step, loss in sorted(losses.items()) if loss <= goal), math.inf)
                    for losses, goal in zip(runs, goals, strict=True)
                ]
                cells.append(f"{max(first)}" if max(first) < math.inf else "never")
            print(f"| {name} | {' | '.join(cells)} |")


def spread(values: list[float]) -> str:
    """The mean and standard deviation over the seeds."""
    text = f"{statistics.mean(values):.3f}"
    return text if len(values) == 1 else f"{text} ± {statistics.stdev(values):.3f}"


if __name__ == "__main__":
    main()
