"""Songs become token streams, token streams become batches.

Notable:
- One flat stream a split, memory-mapped, of the smallest unsigned type that holds the alphabet; 64-bit offsets.
- Prepared streams are cached under the checksum of their content and settings, so that a second start prepares nothing;
  an index of path, size and modification time spares hashing a file again.
- A batch is a pure function of (seed, step): its window offsets are raw Philox output (a counter-based generator,
  https://numpy.org/doc/stable/reference/random/bit_generators/philox.html) keyed by them. There is no sampler state.
- Evaluation windows are fixed by (seed, split); a split with fewer windows than asked for is read whole (its last window overlaps
  the one before it).
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from datasets import Dataset
from filelock import FileLock

from tokenization_lyricgpt import LyricGPTTokenizer
from tokenization_lyricgpt.tokenization_lyricgpt import UnknownCharacterError

from . import LyricGPTError
from .arguments import Arguments, load_arguments
from .corpus import Songs, find_files, read_songs, split_songs
from .files import cache_folder, known_checksum, read_json, saving, write_json

FORMAT = 1  # of the cache; a change of cleaning, splitting or layout raises it
SPLITS = ("train", "validation")
# Keys of the counter-based generator: what is drawn never shares a stream with anything else that is drawn.
TRAIN_STREAM, EVALUATION_STREAM = 1, 2


@dataclass
class TokenStream:
    """The ids of one split, one after the other, memory-mapped and read-only."""

    ids: np.ndarray  # (tokens,), unsigned

    def __len__(self) -> int:
        return len(self.ids)

    def windows(self, offsets: np.ndarray, block_size: int) -> torch.Tensor:
        """The windows that begin at `offsets`, int64, shape `(len(offsets), block_size + 1)`."""
        positions = offsets.astype(np.int64)[:, None] + np.arange(block_size + 1, dtype=np.int64)
        return torch.from_numpy(self.ids[positions].astype(np.int64))


@dataclass
class TokenizedCorpus:
    """What training needs of a corpus."""

    tokenizer: LyricGPTTokenizer
    train: TokenStream
    validation: TokenStream
    report: dict[str, Any]


def random_offsets(stream_key: int, seed: int, counter: int, count: int, starts: int) -> np.ndarray:
    """`count` offsets below `starts`, int64: a pure function of the arguments.

    The bias of the modulo is below `starts / 2**64`.
    """
    generator = np.random.Philox(key=[seed % 2**64, stream_key], counter=[0, 0, counter, 0])
    return (generator.random_raw(count) % np.uint64(starts)).astype(np.int64)


def batch_offsets(seed: int, step: int, batch_size: int, tokens: int, block_size: int) -> np.ndarray:
    """Window offsets of the global batch of a training step, shape `(batch_size,)`."""
    return random_offsets(TRAIN_STREAM, seed, step, batch_size, tokens - block_size)


def evaluation_offsets(seed: int, split: str, windows: int, tokens: int, block_size: int) -> np.ndarray:
    """Window offsets of an evaluation: `windows` random ones, or those that cover the split if it holds no more."""
    if windows * block_size >= tokens - 1:
        return np.minimum(np.arange(0, tokens - 1, block_size), tokens - 1 - block_size)
    return random_offsets(EVALUATION_STREAM, seed, SPLITS.index(split), windows, tokens - block_size)


# ----------------------------------------------------------------------------------------------------------------------
# Preparing, and the cache


def describe_files(pattern: str) -> list[dict[str, Any]]:
    """Name, size and checksum of each file of a pattern; names without folders, which are nobody else's business."""
    return [
        {"name": path.name, "bytes": path.stat().st_size, "sha256": known_checksum(path)}
        for path in find_files(pattern)
    ]


def corpus_settings(args: Arguments, base_alphabet: str) -> dict[str, Any]:
    """Everything that the token streams depend on, content first."""
    names = (
        "text_column", "encoding", "cleaning", "split", "split_seed", "validation_fraction", "alphabet",
        "special_tokens", "max_songs",
    )  # fmt: skip
    return {
        "format": FORMAT,
        "files": describe_files(args.dataset),
        "validation_files": describe_files(args.validation_file) if args.validation_file else [],
        **{name: getattr(args, name) for name in names},
        **({"base_alphabet": base_alphabet} if base_alphabet else {}),
    }


def load_corpus(args: Arguments, base_alphabet: str = "") -> TokenizedCorpus:
    """The corpus of a run as token streams: from the cache, or prepared and put there.

    Any number of processes may call this at once; one prepares, the others wait.

    Args:
        base_alphabet: Characters that are in the alphabet besides those of the corpus.

    Raises:
        LyricGPTError: whatever is wrong with the corpus, and a split shorter than `block_size + 1`.
    """
    settings = corpus_settings(args, base_alphabet)
    # Where a file lies and what it is called change nothing of the streams.
    content = json.dumps(
        settings
        | {
            key: [(file["sha256"], Path(file["name"]).suffix.lower()) for file in settings[key]]
            for key in ("files", "validation_files")
        }
    )
    checksum = hashlib.sha256(content.encode()).hexdigest()
    folder = cache_folder() / "tokens" / checksum[:32]
    with saving(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
    if not is_prepared(folder):
        with saving(folder.parent), FileLock(f"{folder}.lock"):
            if not is_prepared(folder):
                with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".preparing-") as temporary:
                    try:
                        prepare(args, settings | {"checksum": checksum}, Path(temporary) / "prepared")
                    except UnknownCharacterError as error:
                        raise LyricGPTError(f"a split has characters that the alphabet lacks: {error}") from None
                    shutil.rmtree(folder, ignore_errors=True)
                    os.replace(Path(temporary) / "prepared", folder)
    report = read_json(folder / "corpus.json")
    report["files"] = settings["files"]
    tokenizer = LyricGPTTokenizer.from_pretrained(folder)
    streams = {}
    for split in SPLITS:
        tokens = report["tokens"][split]
        if tokens < args.block_size + 1:
            raise LyricGPTError(
                f"the {split} split has {tokens} characters, but a window needs block_size + 1 = {args.block_size + 1}: "
                f"choose a smaller block_size, {'a larger corpus' if split == 'train' else 'more validation data'}"
                " (validation_fraction, validation_file)"
            )
        streams[split] = TokenStream(np.memmap(folder / f"{split}.bin", dtype=tokenizer.id_dtype, mode="r"))
    return TokenizedCorpus(tokenizer, **streams, report=report)


def load_run_corpus(folder: Path) -> TokenizedCorpus:
    """The corpus that a run was trained on, if it still lies where it did.

    Raises:
        LyricGPTError: it does not, or is another now.
    """
    report = read_json(folder / "corpus.json")
    corpus = load_corpus(load_arguments(folder / "run.yaml"), report.get("base_alphabet", ""))
    if corpus.report["checksum"] != report["checksum"]:
        raise LyricGPTError(f"the corpus of {folder} has changed since; restore it")
    return corpus


def is_prepared(folder: Path) -> bool:
    """Whether a corpus lies in the cache whole: its report, its tokenizer, and streams of the length that it states."""
    try:
        tokens = read_json(folder / "corpus.json")["tokens"]
        itemsize = LyricGPTTokenizer.from_pretrained(folder).id_dtype.itemsize
        return all((folder / f"{split}.bin").stat().st_size == tokens[split] * itemsize for split in SPLITS)
    except Exception:  # whatever is wrong with it, it is prepared again
        return False


def count_characters(songs: Dataset) -> np.ndarray:
    """How often each code point occurs, int64, shape `(0x110000,)`."""
    counts = np.zeros(0x110000, dtype=np.int64)
    for batch in songs.iter(1000):
        text = "".join(batch["text"])
        counts += np.bincount(np.frombuffer(text.encode("utf-32-le"), dtype="<u4"), minlength=0x110000)
    return counts


def song_separator(args: Arguments) -> str:
    """What stands between songs where there is no `<|endoftext|>`; raw songs end in blank lines of their own."""
    return " " if args.cleaning == "none" else "\n\n"


def tokenize_songs(songs: Dataset, tokenizer: LyricGPTTokenizer) -> Dataset:
    """Column `input_ids`, a list of the smallest unsigned type for each song, through `Dataset.map` in batches."""
    dtype = tokenizer.id_dtype.name

    def tokenize(texts: list[str]) -> dict[str, list[np.ndarray]]:
        ids, lengths = tokenizer.encode_corpus(texts)
        return {"input_ids": np.split(ids, np.cumsum(lengths)[:-1])}

    return songs.map(
        tokenize,
        input_columns="text",
        batched=True,
        remove_columns=songs.column_names,
        features=datasets.Features({"input_ids": datasets.List(datasets.Value(dtype))}),
        desc="tokenizing",
    )


def flat_ids(tokenized: Dataset, separator: list[int], dtype: np.dtype) -> Iterator[np.ndarray]:
    """All songs' ids in order with `separator` between two songs, in pieces."""
    for index, column in enumerate(tokenized.with_format("arrow").iter(1000)):
        songs = column["input_ids"].combine_chunks()
        values = songs.flatten().to_numpy().astype(dtype, copy=False)
        starts = np.asarray(songs.offsets)[:-1] - songs.offsets[0].as_py()
        starts = starts[1:] if index == 0 else starts
        yield np.insert(values, np.repeat(starts, len(separator)), np.tile(separator, len(starts)))


def prepare(args: Arguments, settings: dict[str, Any], folder: Path) -> None:
    """Reads, cleans, splits and tokenizes a corpus into `folder`: two streams, the tokenizer, `corpus.json`."""
    songs = read_songs(args, args.dataset)
    by_characters = args.split == "characters" or songs.is_text
    held_out: Songs | None = read_songs(args, args.validation_file, shuffle=False) if args.validation_file else None
    if held_out is not None:
        parts = {"train": songs.dataset, "validation": held_out.dataset}
    elif by_characters:
        parts = {"train": songs.dataset}
    else:
        parts = dict(zip(SPLITS, split_songs(songs.dataset, args.validation_fraction), strict=True))

    cut = None
    counts = {split: count_characters(part) for split, part in parts.items()}
    separator = "" if args.special_tokens else song_separator(args)
    if by_characters and held_out is None:
        # The figures of the published run: songs joined, the first 90% of the characters are for training.
        characters = int(counts["train"].sum()) + len(separator) * (len(songs.dataset) - 1)
        cut = int((1 - args.validation_fraction) * characters)
        if args.alphabet == "train":
            counts["train"] = count_characters(leading_characters(songs.dataset, separator, cut))
    alphabet_counts = counts["train"] if args.alphabet == "train" else sum(counts.values())
    alphabet = {chr(point) for point in np.flatnonzero(alphabet_counts)} | set(separator)
    alphabet |= set(settings.get("base_alphabet", ""))
    tokenizer = LyricGPTTokenizer.from_alphabet(alphabet, special_tokens=args.special_tokens)
    between = [tokenizer.eos_token_id] if args.special_tokens else tokenizer.encode_corpus([separator])[0].tolist()
    around = between if args.special_tokens else []

    folder.mkdir()
    tokens = {}
    for split, part in parts.items():
        path = folder / f"{split}.bin"
        tokenized = tokenize_songs(part, tokenizer)
        with path.open("wb") as file:
            np.asarray(around, dtype=tokenizer.id_dtype).tofile(file)
            for ids in flat_ids(tokenized, between, tokenizer.id_dtype):
                ids.tofile(file)
            np.asarray(around, dtype=tokenizer.id_dtype).tofile(file)
        tokens[split] = path.stat().st_size // tokenizer.id_dtype.itemsize
    if cut is not None:
        # Special tokens count as characters here: they are predicted like any other.
        cut = int((1 - args.validation_fraction) * tokens["train"])
        ids = np.fromfile(folder / "train.bin", dtype=tokenizer.id_dtype)
        ids[:cut].tofile(folder / "train.bin")
        ids[cut:].tofile(folder / "validation.bin")
        tokens = {"train": cut, "validation": len(ids) - cut}
    if not all(tokens.values()):
        raise LyricGPTError(f"a split has no characters: {tokens}; change validation_fraction or the corpus")

    unknown = {}
    if args.special_tokens:
        for split in SPLITS:
            ids = np.memmap(folder / f"{split}.bin", dtype=tokenizer.id_dtype, mode="r")
            unknown[split] = int(np.count_nonzero(ids == tokenizer.unk_token_id))
    tokenizer.save_pretrained(folder)
    report = {
        **settings,
        "split": "characters" if by_characters and held_out is None else "songs",
        **songs.report,
        "songs_in": {split: len(part) for split, part in parts.items()},
        "validation_rows": held_out.report if held_out else None,
        "alphabet_size": len(alphabet),
        "alphabet_characters": "".join(sorted(alphabet)),
        "vocab_size": len(tokenizer),
        "tokens": tokens,
        "unknown": unknown,
    }
    write_json(folder / "corpus.json", report)


def leading_characters(songs: Dataset, separator: str, characters: int) -> Dataset:
    """The songs, joined, up to `characters`."""
    lengths = np.array([len(text) for batch in songs.iter(1000) for text in batch["text"]])
    ends = np.cumsum(lengths + len(separator))
    whole = int(np.searchsorted(ends, characters, side="right"))
    rest = characters - (int(ends[whole - 1]) if whole else 0)
    texts = [text for batch in songs.select(range(whole)).iter(1000) for text in batch["text"]]
    if whole < len(songs) and rest > 0:
        texts.append(songs[whole]["text"][:rest])
    return Dataset.from_dict({"text": texts})
