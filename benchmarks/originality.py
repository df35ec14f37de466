"""How long it takes to find everything that songs copy from a training corpus: `python benchmarks/originality.py`.

A corpus of the size of the Spotify lyrics is generated and prepared; songs are made of it, a quarter of their characters copied
word for word and the rest in an order of their own. Beside the index stands Python's own search for each window of 50
characters, which finds no longest run and names no song; the shares that both find have to be equal.
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
    """Songs of lines of the corpus drawn one by one, and at the end of each a passage as it stands in a song."""
    draw, songs = np.random.default_rng(0), []
    for number in draw.integers(len(training) - 100, size=count).tolist():
        lines = [line for song in training[number : number + 100] for line in song.split("\n")]
        drawn = "\n".join(draw.permutation(lines))[: characters - characters // 4]
        songs.append(drawn + training[number][: characters // 4])
    return songs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size_mb", type=float, default=85)
    parser.add_argument("--songs", type=int, default=16)
    parser.add_argument("--characters", type=int, default=1000, help="of each song")
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
        index.longest_runs([songs[0][:WINDOW]])  # the array is made for the first search
        made = time.perf_counter()
        runs = index.longest_runs(songs)
        searched = time.perf_counter()

    text = "\0".join(training)  # what no song contains, so that none is found across two
    windows = [songs[0][i : i + WINDOW] for i in range(len(songs[0]) - WINDOW + 1)]
    begun = time.perf_counter()
    by_hand = [window in text for window in windows]
    ended = time.perf_counter()
    if (runs[0].lengths[: len(windows)] >= WINDOW).tolist() != by_hand:
        sys.exit("error: the two searches disagree")
    copied = np.concatenate([run.lengths[: len(run.lengths) - WINDOW + 1] >= WINDOW for run in runs])
    print(f"{len(text):,} training characters; {args.songs} songs of {args.characters:,} characters")
    print(f"index made                   {made - started:8.2f} s")
    print(f"all songs searched           {searched - made:8.2f} s")
    print(f"by Python's search           {(ended - begun) * args.songs:8.2f} s (measured for one song)")
    print(f"windows of {WINDOW} copied         {copied.mean():8.1%}")
    print(f"longest run                  {max(run.lengths.max() for run in runs):8}")


if __name__ == "__main__":
    main()
