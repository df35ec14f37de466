"""Measures how many near-duplicates are found, and how many end up on both sides of the split.

    python benchmarks/leaks.py --dataset songs.csv

First, each song gets a copy in which a share of the words is replaced, commas are removed, some lines are in capitals and the
last four are repeated. Then every fourth song gets such a copy with 3% of the words replaced, and the corpus is split in three
ways: with near-duplicates ignored, with groups kept together, and with copies left out. Each time, it counts the validation
songs with a near-duplicate in training.
"""

import argparse
import csv
import os
import random
import sys
import tempfile
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, Value, disable_progress_bars

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from training_lyricgpt import LyricGPTError
from training_lyricgpt.arguments import parse_arguments
from training_lyricgpt.corpus.cache import load_corpus
from training_lyricgpt.corpus.near_duplicates import find_near_duplicates

REPLACED = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2)


def copy_with_changes(text: str, share: float, draw: random.Random) -> str:
    """The song as somebody else might write it down."""
    lines = []
    for line in text.splitlines():
        words = [word if draw.random() >= share else f"{word[::-1]}{draw.randrange(1000)}" for word in line.split()]
        line = " ".join(words).replace(",", "")
        lines.append(line.upper() if draw.random() < 0.3 else line)
    return "\n".join([*lines, *lines[-4:]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--dataset", type=Path, nargs="+", default=[Path("data/sample_lyrics.csv")], help="CSVs of songs"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    disable_progress_bars()
    draw = random.Random(args.seed)
    texts = []
    for path in args.dataset:
        with path.open(encoding="utf-8", newline="") as file:
            texts += [row["text"] for row in csv.DictReader(file)]
    print(f"{len(texts)} songs\n\n| words replaced | copies found | false pairs found |\n|---|---|---|")
    for share in REPLACED:
        songs = [*texts, *(copy_with_changes(text, share, draw) for text in texts)]
        with tempfile.TemporaryDirectory() as folder:
            features = Features({"text": Value("large_string")})
            cluster = find_near_duplicates(Dataset.from_dict({"text": songs}, features=features), Path(folder))
        originals, copies = np.split(cluster, 2)
        found = originals == copies
        others = len(texts) - len(np.unique(originals)) + int((~found & np.isin(copies, originals)).sum())
        print(f"| {share:.0%} | {found.mean():.0%} | {others} |")

    print(
        "\n| near_duplicates | training songs | validation songs | of these with a near-duplicate in training |\n|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LYRICGPT_CACHE"] = folder
        path = Path(folder) / "songs.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text"])
            writer.writerows([text] for text in texts)
            writer.writerows([copy_with_changes(text, 0.03, draw)] for text in texts[::4])
        for mode in ("keep", "group", "drop"):
            corpus = load_corpus(
                parse_arguments([f"--dataset={path}", "--output_dir=unused", f"--near_duplicates={mode}"])
            )
            straddling = corpus.report["near_duplicates"]["validation_songs_with_twin_in_training"]
            songs = corpus.report["songs_in"]
            print(
                f"| {mode} | {songs['train']} | {songs['validation']} | {straddling.get('as_split', straddling['as_drawn'])} |"
            )


if __name__ == "__main__":
    try:
        main()
    except LyricGPTError as error:
        sys.exit(f"error: {error}")
