"""Turns songs into token streams: reads and cleans them, finds near-duplicates, splits, tokenizes and writes them.

Notes:
- Every step is a pass over memory-mapped files, so that a larger corpus needs only a few more bytes of memory per song. (A
  text file is one document. Several copies of it are in memory at once.)
- The output depends only on the content and the settings. If the preparation is killed and started again, it gives the same
  bytes.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tokenization_lyricgpt import LyricGPTTokenizer
from tokenization_lyricgpt.tokenization_lyricgpt import UnknownCharacterError

from .. import LyricGPTError
from ..arguments import CorpusArguments
from ..files import write_json
from ..processes import worker_count
from .columns import OPTIONS
from .headers import SONG_TEMPLATES, render_headers
from .packed import as_batch, count_characters, count_code_points
from .songs import Songs, count_texts, read_songs
from .splitting import Part, Split, lay_out, song_separator, split_corpus
from .streams import SPLITS
from .writing import COPIED_BYTES, cut_stream, write_cut_songs, write_songs, write_stream

# ----------------------------------------------------------------------------------------------------------------------
# The alphabet


def count_part(args: CorpusArguments, part: Part, cut: int | None) -> np.ndarray:
    """Counts each code point in a split, or before the cut, int64, shape `(0x110000,)`."""
    songs = part.songs
    rest = np.ones(len(songs.dataset), dtype=bool)
    rest[part.rows] = False
    counts = songs.counts.copy()
    tail = np.zeros(0, dtype=np.int64)
    if cut is not None:
        around = int(args.special_tokens)
        begins, ends, _ = lay_out(songs.characters[part.rows], around, around or len(song_separator(args)))
        rest[part.rows[begins >= cut]] = True
        for index in np.flatnonzero((begins < cut) & (ends > cut)):
            text = songs.dataset[int(part.rows[index])]["text"][cut - begins[index] :]
            tail = np.bincount(np.frombuffer(text.encode("utf-32-le"), "<u4"), minlength=1)
    if 2 * rest.sum() > len(rest):  # (then counting the others is less work)
        counts = count_texts(songs.dataset, np.flatnonzero(~rest))
    elif rest.any():
        counts -= count_texts(songs.dataset, np.flatnonzero(rest))
    counts[: len(tail)] -= tail
    return counts


@dataclass
class Alphabet:
    """The characters of a corpus.

    Attributes:
        characters: The characters that the model knows.
        rare: Characters that occur less often than `min_char_count`. They become `<|unk|>`.
        counts: How often each code point occurs, int64, shape `(0x110000,)`.
    """

    characters: set[str]
    rare: set[str]
    counts: np.ndarray


def find_alphabet(args: CorpusArguments, split: Split, base: str) -> Alphabet:
    """Returns the characters of the training songs, or of all songs, with their headers, and those of `base`.

    Raises:
        LyricGPTError: if there are none.
    """
    wanted = split.parts if args.alphabet == "corpus" else {"train": split.parts["train"]}
    cut = split.cut if args.alphabet == "train" else None
    counts = sum(count_part(args, part, cut) for part in wanted.values())
    if args.conditioning != "none":
        for part in wanted.values():
            found = count_code_points(as_batch(part.headers).data)
            counts[: len(found)] += found
    rare = {chr(point) for point in np.flatnonzero((counts > 0) & (counts < args.min_char_count))}.difference(base)
    characters = {chr(point) for point in np.flatnonzero(counts)} - rare | {*song_separator(args), *base}
    if not characters:
        raise LyricGPTError(
            f"no character occurs {args.min_char_count} times, so the alphabet is empty; lower min_char_count"
        )
    return Alphabet(characters, rare, counts)


# ----------------------------------------------------------------------------------------------------------------------
# The whole preparation


def prepare(args: CorpusArguments, settings: dict[str, Any], folder: Path) -> None:
    """Prepares a corpus and writes it to `folder`: both token streams and their songs, the tokenizer, and `corpus.json`.

    Args:
        settings: The settings and files that identify the corpus, for `corpus.json`.
        folder: Must not exist yet. Intermediate files are written to its parent.

    Raises:
        LyricGPTError: if the corpus cannot be used.
    """
    workspace = folder.parent
    songs = read_songs(args, args.dataset, workspace)
    validation = read_songs(args, args.validation_file, workspace, shuffle=False) if args.validation_file else None
    check_names(args, songs, validation)
    split = split_corpus(args, songs, validation, workspace)
    if args.conditioning != "none":
        render_headers(args, split.parts)
    alphabet = find_alphabet(args, split, settings.get("base_alphabet", ""))
    tokenizer = LyricGPTTokenizer.from_alphabet(
        alphabet.characters, special_tokens=args.special_tokens, song_template=SONG_TEMPLATES[args.conditioning]
    )
    folder.mkdir()
    tokens = write_streams(folder, split, tokenizer, song_separator(args))
    tokenizer.save_pretrained(folder)

    counts, both = alphabet.counts, alphabet.characters | alphabet.rare
    in_order = sorted(both, key=lambda character: (-counts[ord(character)], character))
    report = {
        **settings,
        "split": "songs" if split.cut is None else "characters",
        **songs.report,
        "songs_in": {name: len(part.rows) for name, part in split.parts.items()},
        "validation_rows": validation.report if validation else None,
        "near_duplicates": split.near_duplicates,
        "alphabet_size": len(alphabet.characters),
        "alphabet_characters": "".join(sorted(alphabet.characters)),
        "character_counts": {character: int(counts[ord(character)]) for character in in_order},
        "rare_characters": "".join(sorted(alphabet.rare)),
        "vocab_size": len(tokenizer),
        "tokens": tokens,
        "unknown": count_unknown(folder, tokenizer, bool(alphabet.rare)) if args.special_tokens else {},
    }
    write_json(folder / "corpus.json", report)


def write_streams(folder: Path, split: Split, tokenizer: LyricGPTTokenizer, separator: str) -> dict[str, int]:
    """Writes the token stream of each split and the positions of its songs. Returns the number of tokens of each split.

    Raises:
        LyricGPTError: if the alphabet lacks a character, or a split is empty.
    """
    tokens, around = {}, 0 if separator else 1
    for name, part in split.parts.items():
        headers = count_characters(as_batch(part.headers))
        lengths = part.songs.characters[part.rows] + headers
        begins, ends, tokens[name] = lay_out(lengths, around, around or len(separator))
        num_proc = worker_count(int(lengths.sum()), worthwhile=1 << 28)
        try:
            write_stream(folder / f"{name}.bin", part, tokenizer, begins, tokens[name], separator, num_proc)
        except UnknownCharacterError as error:
            raise LyricGPTError(f"the songs cannot be encoded: {error}") from None
        if split.cut is None:
            write_songs(folder / f"{name}_songs.arrow", part, begins, begins + headers, ends)
        else:
            write_cut_songs(folder, part, begins, ends, split.cut)
    if split.cut is not None:
        cut_stream(folder, split.cut, tokenizer.id_dtype)
        tokens = {"train": split.cut, "validation": tokens["train"] - split.cut}
    if not all(tokens.values()):
        raise LyricGPTError(
            f"a split is empty: {tokens['train']:,} characters are for training and {tokens['validation']:,} for validation. "
            "Change validation_fraction, or use a larger corpus"
        )
    return tokens


def check_names(args: CorpusArguments, songs: Songs, validation: Songs | None) -> None:
    """Raises LyricGPTError if songs should get headers, but have no artists or titles."""
    wanted = {"none": (), "title": ("song",), "artist_title": ("artist", "song")}[args.conditioning]
    if wanted and songs.is_text:
        raise LyricGPTError(
            f"conditioning is {args.conditioning!r}, but a text file has no artists and titles; use a table, or "
            "--conditioning none"
        )
    for part, name in itertools.product(filter(None, (songs, validation)), wanted):
        if not any(value.strip() for batch in part.dataset.select_columns(name).iter(1000) for value in batch[name]):
            what = {"song": "a title", "artist": "an artist"}[name]
            source = args.dataset if part is songs else args.validation_file
            raise LyricGPTError(
                f"conditioning is {args.conditioning!r}, but no song in {source} has {what}; name the right column with "
                f"--{OPTIONS[name]}, or use --conditioning none"
            )


def count_unknown(folder: Path, tokenizer: LyricGPTTokenizer, in_training: bool) -> dict[str, int]:
    """Counts `<|unk|>` in each stream.

    Args:
        in_training: Whether the training stream can have any, because rare characters were replaced.
    """
    counts = dict.fromkeys(SPLITS, 0)
    for split in SPLITS if in_training else SPLITS[1:]:
        ids = np.memmap(folder / f"{split}.bin", dtype=tokenizer.id_dtype, mode="r")
        pieces = range(0, len(ids), COPIED_BYTES)
        counts[split] = sum(int((ids[i : i + COPIED_BYTES] == tokenizer.unk_token_id).sum()) for i in pieces)
    return counts
