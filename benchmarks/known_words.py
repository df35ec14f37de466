"""Measures how many of a model's words occur in the training songs: `python benchmarks/known_words.py runs/sample`.

A character model spells every word letter by letter, so this is the first sign that it has learned to write. There are two
references: validation songs (real words, some of which are not in the training songs), and random letters with the same
frequencies as in the training songs.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from tqdm import trange

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from training_lyricgpt import LyricGPTError
from training_lyricgpt.corpus.cache import load_run_corpus
from training_lyricgpt.engine.devices import use_all_cores
from training_lyricgpt.model.loading import load_run
from training_lyricgpt.model.songs import write_song
from training_lyricgpt.quality.metrics import words


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", default="runs/sample", help="run folder (default: runs/sample)")
    parser.add_argument("--characters", type=int, default=5000, help="characters to sample")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    args = parser.parse_args()
    use_all_cores()
    if args.characters < 1:
        raise LyricGPTError(f"--characters is {args.characters}; it must be at least 1")
    corpus = load_run_corpus(Path(args.run))
    model, tokenizer = load_run(args.run)
    training = tokenizer.decode(corpus.train.ids.tolist(), skip_special_tokens=True)
    held_out = tokenizer.decode(corpus.validation.ids.tolist(), skip_special_tokens=True)
    known = set(words(training))

    text, song = "", 0
    with trange(args.characters, disable=not sys.stderr.isatty(), unit="char") as bar:
        while len(text) < args.characters:
            text += write_song(model, tokenizer, seed=args.seed + song) + "\n\n"
            song += 1
            bar.update(min(len(text), args.characters) - bar.n)
    text = text[: args.characters]
    letters = np.random.default_rng(args.seed).choice(list(training), size=args.characters)

    shares = {
        name: sum(word in known for word in words(sample)) / max(1, len(words(sample)))
        for name, sample in (("sampled", text), ("held_out", held_out), ("random_letters", "".join(letters)))
    }
    if args.json:
        print(json.dumps({"run": args.run, "characters": len(text), "songs": song, **shares}))
        return
    print(
        f"share of words that occur in the training songs ({len(known):,} different words); {len(text):,} characters of {song} songs:"
    )
    for name, share in shares.items():
        print(f"  {name.replace('_', ' '):<15} {share:.1%}")


if __name__ == "__main__":
    try:
        main()
    except LyricGPTError as error:
        sys.exit(f"error: {error}")
