"""Measures how long it takes to find everything that songs copy from a corpus: `python benchmarks/originality.py`.

It makes and prepares a corpus of the size of the Spotify lyrics, and songs from it: a quarter of their characters are copied
word for word, the rest are lines in random order. The index is compared with Python's own search for each window of 50
characters, which finds no longest run and names no song. Both must find the same windows.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from corpus import write_corpus

from training_lyricgpt.arguments import parse_arguments
from training_lyricgpt.corpus.cache import load_corpus
from training_lyricgpt.corpus.streams import stream_text
from training_lyricgpt.quality.copies import TrainingIndex

WINDOW = 50


def make_songs(training: list[str], count: int, characters: int) -> list[str]:
    """Songs made of random lines from the corpus. Each ends with a passage copied from one song."""
    draw, songs = np.random.default_rng(0), []
    for number in draw.integers(len(training) - 100, size=count).tolist():
        lines = [line for song in training[number : number + 100] for line in song.split("\n")]
        drawn = "\n".join(draw.permutation(lines))[: characters - characters // 4]
        songs.append(drawn + training[number][: characters // 4])
    return songs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size_mb", type=float, default=85, help="size of the corpus in MB (default: 85)")
    parser.add_argument("--songs", type=int, default=16, help="songs to search for copies (default: 16)")
    parser.add_argument("--characters", type=int, default=1000, help="length of each song (default: 1000)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "songs.csv"
        write_corpus(path, args.size_mb)
        os.environ["LYRICGPT_CACHE"] = folder
        corpus = load_corpus(parse_arguments([f"--dataset={path}", "--output_dir=unused", "--near_duplicates=ignore"]))
        places = (corpus.train.songs[name].to_numpy().tolist() for name in ("lyrics", "end"))
        training = [
            stream_text(corpus.tokenizer, corpus.train.ids[begin:end]) for begin, end in zip(*places, strict=True)
        ]
        songs = make_songs(training, args.songs, args.characters)

        started = time.perf_counter()
        index = TrainingIndex(corpus.train, corpus.tokenizer)
        index.longest_runs([songs[0][:WINDOW]])  # the first search makes the array
        made = time.perf_counter()
        runs = index.longest_runs(songs)
        searched = time.perf_counter()

    text = "\0".join(training)  # no song contains it, so no window is found across two songs
    windows = [songs[0][i : i + WINDOW] for i in range(len(songs[0]) - WINDOW + 1)]
    begun = time.perf_counter()
    by_hand = [window in text for window in windows]
    ended = time.perf_counter()
    if (runs[0].lengths[: len(windows)] >= WINDOW).tolist() != by_hand:
        sys.exit("error: the index and Python's search find different windows")
    copied = np.concatenate([run.lengths[: len(run.lengths) - WINDOW + 1] >= WINDOW for run in runs])
    print(f"{len(text):,} training characters; {args.songs} songs of {args.characters:,} characters")
    print(f"making the index             {made - started:8.2f} s")
    print(f"searching all songs          {searched - made:8.2f} s")
    print(
        f"with Python's search         {(ended - begun) * args.songs:8.2f} s (measured on one song, times {args.songs})"
    )
    print(f"copied windows of {WINDOW}         {copied.mean():8.1%}")
    print(f"longest copy                 {max(run.lengths.max() for run in runs):8} characters")


if __name__ == "__main__":
    main()
