"""Measures what the songs of a run are like, compared with validation songs, for `quality.json`, the terminal and the card.

Notes:
- It compares equally many sampled and validation songs, cut to the same length, because the longest copy grows with both.
- The songs come from the best weights and the run's seed, so the same run gives the same figures.
- The card shows the first songs that were drawn. Each has its own seed, so anybody can draw it again.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from transformers import set_seed

from modeling_lyricgpt import LyricGPTForCausalLM
from tokenization_lyricgpt import LyricGPTTokenizer

from ..corpus.headers import without_header
from ..corpus.streams import TokenizedCorpus, TokenStream, stream_text
from ..model.songs import write_song
from ..record_types import Quality, Songs, read_record
from ..wording import plural
from .copies import TrainingIndex
from .metrics import BitsPerCharacter, KnownWords, Originality, ReturningLines

QUALITY, SONGS = "quality.json", "songs.json"
SONG_CHARACTERS = 1000
READ_CHARACTERS = 1 << 22  # characters of training text that are read at a time
SHOWN_CHARACTERS = 120
CARD_SONGS, CARD_SONG_CHARACTERS = 3, 500
ASKED_SONGS = 100  # validation songs whose names are candidates for the card's songs


def sample_songs(model: LyricGPTForCausalLM, tokenizer: LyricGPTTokenizer, count: int, seed: int) -> list[str]:
    """Returns the first 1,000 characters of songs that a model writes without a prompt."""
    set_seed(seed % 2**32)
    ids = model.generate(num_return_sequences=count, max_new_tokens=SONG_CHARACTERS)
    return [without_header(tokenizer, tokenizer.decode(song, skip_special_tokens=True)) for song in ids]


def validation_songs(tokenizer: LyricGPTTokenizer, stream: TokenStream, count: int) -> list[str]:
    """Returns the first 1,000 characters of evenly spread validation songs.

    If there are fewer songs than `count`, it returns evenly spread pieces of a long enough text instead.
    """
    begins, ends = (stream.songs[name].to_numpy() for name in ("lyrics", "end"))
    if len(begins) < count and len(stream) >= 2 * SONG_CHARACTERS:
        begins = np.linspace(0, len(stream) - SONG_CHARACTERS, count).astype(np.int64)
        ends = begins + SONG_CHARACTERS
    chosen = np.unique(np.linspace(0, len(begins) - 1, min(count, len(begins))).astype(np.int64))
    cut = np.minimum(ends[chosen], begins[chosen] + SONG_CHARACTERS)
    return [stream_text(tokenizer, stream.ids[begin:end]) for begin, end in zip(begins[chosen], cut, strict=True)]


def training_texts(corpus: TokenizedCorpus) -> Iterator[str]:
    """Yields the training stream as text, in pieces."""
    for begin in range(0, len(corpus.train), READ_CHARACTERS):
        yield stream_text(corpus.tokenizer, corpus.train.ids[begin : begin + READ_CHARACTERS])


def judge_songs(
    model: LyricGPTForCausalLM, corpus: TokenizedCorpus, songs: dict[str, list[str]]
) -> dict[str, dict[str, Any]]:
    """Measures lists of texts.

    Args:
        songs: Lists of texts by name, for example of sampled and of validation songs.

    Returns:
        For each name: `songs`, `characters`, `bits_per_char`, `known_words`, `returning_lines`, `longest_copy`,
        `copied_windows`, `passages`.
    """
    metrics = [
        BitsPerCharacter(model, corpus.tokenizer),
        KnownWords(training_texts(corpus)),
        ReturningLines(),
        Originality(TrainingIndex(corpus.train, corpus.tokenizer)),
    ]
    figures = {}
    for name, texts in songs.items():
        figures[name] = {"songs": len(texts), "characters": sum(map(len, texts))}
        for metric in metrics:
            figures[name] |= metric.compute(predictions=texts)
    return figures


def judge_run(model: LyricGPTForCausalLM, corpus: TokenizedCorpus, step: int, count: int, seed: int) -> dict[str, Any]:
    """Returns the content of `quality.json`: figures of songs that the best model of a run writes, and of validation songs.

    Args:
        step: The step at which the model was best.
        count: How many songs of each kind to compare.
        seed: Seed of the sampled songs.
    """
    songs = {
        "sampled": sample_songs(model, corpus.tokenizer, count, seed),
        "held_out": validation_songs(corpus.tokenizer, corpus.validation, count),
    }
    return {"step": step, "seed": seed, "quality_songs": count} | judge_songs(model, corpus, songs)


def names_to_ask_for(tokenizer: LyricGPTTokenizer, stream: TokenStream) -> list[tuple[str, str]]:
    """Returns artist and title of a few evenly spread validation songs, to ask the model for songs by these names.

    Names that the alphabet cannot spell or that cannot be typed on a command line are skipped. If the model was trained without
    headers, or too few names are left, all names are empty.
    """
    template = tokenizer.init_kwargs.get("song_template") or ""
    asked = [f"if {key}" in template for key in ("artist", "title")]
    rows = np.unique(np.linspace(0, len(stream.songs) - 1, ASKED_SONGS).astype(np.int64)) if any(asked) else []
    found = []
    for row in rows:
        names = [
            stream.songs[key][int(row)].as_py() if is_asked else ""
            for key, is_asked in zip(("artist", "title"), asked, strict=True)
        ]
        names = [" ".join(name.split()) for name in names]
        text = "".join(names)
        is_spelled = not tokenizer.unknown_characters(text) and not any(
            token in text for token in tokenizer.all_special_tokens
        )
        if text and text.isprintable() and is_spelled:
            found.append(tuple(names))
    if len(found) < CARD_SONGS:
        return [("", "")] * CARD_SONGS
    return [found[index] for index in np.linspace(0, len(found) - 1, CARD_SONGS).astype(np.int64)]


def draw_songs(
    model: LyricGPTForCausalLM, corpus: TokenizedCorpus, step: int, prompt: str, seed: int
) -> dict[str, Any]:
    """Returns the content of `songs.json`: songs for the card, drawn as `python -m training_lyricgpt.sample` draws them.

    Args:
        step: The step at which the model was best.
        prompt: How each song begins, after its header.
        seed: Seed of the first song. Each further song has the next number.
    """
    songs = []
    for index, (artist, title) in enumerate(names_to_ask_for(corpus.tokenizer, corpus.validation)):
        header = corpus.tokenizer.song_prompt(artist, title) if artist or title else ""
        text = write_song(
            model, corpus.tokenizer, header + prompt, seed=seed + index, max_new_tokens=CARD_SONG_CHARACTERS
        )
        songs.append({"seed": seed + index, "artist": artist, "title": title, "song": text})
    return {"step": step, "prompt": prompt, "max_new_tokens": CARD_SONG_CHARACTERS, "songs": songs}


def read_of_step(path: Path, kind: Any, step: int) -> dict[str, Any] | None:
    """Reads a record of songs; returns None if there is none, or if it is not about the model of `step`.

    Raises:
        LyricGPTError: the file is damaged.
    """
    if not path.exists():
        return None
    record = read_record(path, kind, "delete it and run the same command again, which writes a new one")
    return record if record["step"] == step else None


def read_quality(folder: Path, step: int) -> dict[str, Any] | None:
    """Reads the figures of a run's songs; returns None if there are none for the model of `step`."""
    return read_of_step(folder / QUALITY, Quality, step)


def read_songs(folder: Path, step: int) -> dict[str, Any] | None:
    """Reads the songs that the card shows; returns None if there are none from the model of `step`."""
    return read_of_step(folder / SONGS, Songs, step)


def share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1%}"


def quality_rows(quality: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Returns rows to show: a name, the figure of the sampled songs, and that of the validation songs."""
    sides = quality["sampled"], quality["held_out"]
    figures = [
        ("loss in bits per character", lambda side: f"{side['bits_per_char']:.3f}"),
        ("words that occur in training songs", lambda side: share(side["known_words"])),
        ("repeated lines", lambda side: share(side["returning_lines"])),
        ("longest copy, in characters", lambda side: f"{side['longest_copy']}"),
        ("50-character pieces copied", lambda side: share(side["copied_windows"])),
    ]
    return [(name, *(figure(side) for side in sides)) for name, figure in figures]


def longest_passage(quality: dict[str, Any]) -> str | None:
    """Returns a line about the longest passage that the sampled songs copy; None if they copy nothing."""
    passages = quality["sampled"]["passages"]
    if not passages:
        return None
    passage = passages[0]
    text = passage["characters"]
    shown = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
    source = " by ".join(repr(passage[name]) for name in ("title", "artist") if passage[name])
    return f"the longest copy: {shown!r}" + (f", from {source}" if source else "")


def describe_quality(quality: dict[str, Any]) -> str:
    """Returns the figures as lines for the terminal."""
    counts = [f"{plural(quality[side]['songs'], 'song')}" for side in ("sampled", "held_out")]
    lines = [
        f"{'':<34}{'this model':>12}{'real songs':>12}   ({counts[0]}, {counts[1]} set aside for validation; at most {SONG_CHARACTERS} characters each)"
    ]
    lines += [f"  {name:<34}{sampled:>10}{validation:>12}" for name, sampled, validation in quality_rows(quality)]
    if sentence := longest_passage(quality):
        lines.append(f"  {sentence}")
    return "\n".join(lines)
