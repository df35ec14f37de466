"""Measures how much artist and title steer a song: `python benchmarks/steering.py [RUN]`.

Without RUN, it trains a small model on 600 songs by two artists. One uses only the vowels a and e, the other only o and u; both
have the same titles. Then it counts the vowels in the songs that the model writes for each.

With RUN, a model trained with `--conditioning artist_title`, it measures bits per character at the beginnings of validation
songs, given their own artist and title, no header, another artist, or an artist that the model has never seen.
"""

import argparse
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import set_seed

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from training_lyricgpt import LyricGPTError
from training_lyricgpt.corpus.cache import load_run_corpus
from training_lyricgpt.corpus.headers import without_header
from training_lyricgpt.corpus.streams import stream_text
from training_lyricgpt.engine.devices import use_all_cores
from training_lyricgpt.model.loading import load_run

PROJECT = Path(__file__).resolve().parent.parent
SONGS, WORDS, SAMPLES, SAMPLED = 600, 40, 16, 200
CONSONANTS, VOWELS = "lmnst", {"Ada": "ae", "Bo": "ou"}
RECIPE = {
    "conditioning": "artist_title", "max_steps": 300, "eval_interval": 300, "save_interval": 300, "dropout": 0, "batch_size": 16,
    "quality_songs": 0,
}  # fmt: skip


def write_two_artists(path: Path, seed: int) -> None:
    draw = np.random.default_rng(seed)
    rows = ["artist,song,text"]
    for _ in range(SONGS // 2):
        title = f"Song {draw.integers(100)}"
        for artist, vowels in VOWELS.items():
            syllables = draw.choice(list(CONSONANTS), (WORDS, 2)).astype(object) + draw.choice(list(vowels), (WORDS, 2))
            rows.append(f"{artist},{title},{' '.join(''.join(word) for word in syllables)}")
    path.write_text("\n".join(rows) + "\n")


def share_of_ada(songs: list[str]) -> float:
    """The share of Ada's vowels among the vowels of songs."""
    vowels = [letter for song in songs for letter in song if letter in "aeou"]
    return sum(letter in VOWELS["Ada"] for letter in vowels) / max(1, len(vowels))


def steer_two_artists(seed: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_two_artists(folder / "two.csv", seed)
        options = RECIPE | {"dataset": folder / "two.csv", "output_dir": folder / "run", "seed": seed}
        command = [sys.executable, PROJECT / "train_hf.py", *(f"--{name}={value}" for name, value in options.items())]
        result = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=PROJECT)
        if result.returncode:
            raise LyricGPTError(result.stderr or result.stdout)
        model, tokenizer = load_run(str(folder / "run"))
    print(
        f"{SAMPLES} songs of {SAMPLED} characters for each prompt\n\n| prompt | share of a and e among the vowels | beginning of a song |\n|---|---|---|"
    )
    for names in (
        {"artist": "Ada", "title": "Song 7"},
        {"artist": "Bo", "title": "Song 7"},
        {"artist": "Ada"},
        {"artist": "Bo"},
        {},
    ):
        inputs = tokenizer(tokenizer.song_prompt(**names), return_tensors="pt")
        set_seed(seed)
        ids = model.generate(**inputs, num_return_sequences=SAMPLES, max_new_tokens=SAMPLED)
        songs = [without_header(tokenizer, tokenizer.decode(song, skip_special_tokens=True)) for song in ids]
        label = ", ".join(names.values()) or "no header (the model writes one)"
        print(f"| {label} | {share_of_ada(songs):.1%} | {songs[0][:40]} |")


@torch.no_grad()
def bits_after(model: torch.nn.Module, tokenizer, prompt: str, lyrics: str) -> float:  # noqa: ANN001
    """The bits that a model needs for lyrics after a prompt."""
    before = tokenizer(prompt).input_ids
    ids = torch.tensor([*before, *tokenizer(lyrics, split_special_tokens=True).input_ids])[None]
    logits = model(ids[:, :-1]).logits[0, len(before) - 1 :].double()
    return -logits.log_softmax(-1).gather(1, ids[0, len(before) :, None]).sum().item() / math.log(2)


def steer_run(run: Path, characters: int, seed: int) -> None:
    model, tokenizer = load_run(str(run))
    corpus = load_run_corpus(run)
    if tokenizer.init_kwargs.get("song_template") is None:
        raise LyricGPTError(f"{run} was trained without headers; train one with --conditioning artist_title")
    draw = np.random.default_rng(seed)
    artists = sorted(set(corpus.train.songs["artist"].to_pylist()))
    bits: dict[str, list[float]] = {}
    for song in corpus.validation.songs.to_pylist():
        lyrics = stream_text(tokenizer, corpus.validation.ids[song["lyrics"] : song["end"]])[:characters]
        other = str(draw.choice([artist for artist in artists if artist != song["artist"]]))
        prompts = {
            "its artist and title": tokenizer.song_prompt(song["artist"], song["title"]),
            "its artist": tokenizer.song_prompt(artist=song["artist"]),
            "its title": tokenizer.song_prompt(title=song["title"]),
            "nothing": tokenizer.song_prompt(),
            "another artist": tokenizer.song_prompt(artist=other),
            "an artist never seen": tokenizer.song_prompt(artist="Nobody Ever Heard"),
        }
        for label, prompt in prompts.items():
            bits.setdefault(label, []).append(bits_after(model, tokenizer, prompt, lyrics) / len(lyrics))
    base = np.array(bits["nothing"])
    print(f"the first {characters} characters of {len(base)} validation songs of {run} (fewer bits are better)\n")
    print("| given before the song | bits per character | compared with nothing |\n|---|---|---|")
    for label, values in bits.items():
        difference = np.array(values) - base
        error = difference.std(ddof=1) / math.sqrt(len(difference))
        print(f"| {label} | {np.mean(values):.3f} | {difference.mean():+.3f} ± {error:.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", help="run folder (default: train a small model)")
    parser.add_argument("--characters", type=int, default=200, help="characters of each validation song (default: 200)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    use_all_cores()
    if args.run:
        steer_run(args.run, args.characters, args.seed)
    else:
        steer_two_artists(args.seed)


if __name__ == "__main__":
    try:
        main()
    except LyricGPTError as error:
        sys.exit(f"error: {error}")
