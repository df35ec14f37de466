"""Songs become token streams: read, cleaned, searched for twins, split, tokenized, written in the order of the split.

Notable:
- Every step is a pass over mapped files; memory does not grow with the corpus, but for some bytes a song.
- Tokenizing is `Dataset.map` over Arrow buffers in several processes; a song's ids are then copied to their place.
- What is written depends on nothing but content and settings; started again after a kill, it gives the same bytes.
"""

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute
from datasets import Dataset

from tokenization_lyricgpt import LyricGPTTokenizer
from tokenization_lyricgpt.tokenization_lyricgpt import UnknownCharacterError

from . import LyricGPTError
from .arguments import Arguments
from .cleaning import clean
from .conditioning import SONG_TEMPLATES, choose_headers, header_names
from .corpus import CODE_POINTS, Songs, as_batch, count_characters, count_texts, read_songs
from .files import write_json
from .splitting import Part, lay_out, song_separator, split_corpus, text_bytes, worker_count

SPLITS = ("train", "validation")
COPIED_BYTES = 1 << 24  # of a stream at once
BATCH_BYTES = 1 << 22  # of text that one call of the tokenizer gets
# Of one song: artist and title; its first token, its first after the header, and one past its last.
SONG_SCHEMA = pa.schema(
    [("artist", pa.large_string()), ("title", pa.large_string())]
    + [(name, pa.int64()) for name in ("begin", "lyrics", "end")]
)


# ----------------------------------------------------------------------------------------------------------------------
# The alphabet


def count_part(args: Arguments, part: Part, cut: int | None) -> np.ndarray:
    """How often each code point occurs in a split, or before the cut, int64, shape `(0x110000,)`."""
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
    if 2 * rest.sum() > len(rest):  # counting it is less than counting the others
        counts = count_texts(songs.dataset, np.flatnonzero(~rest))
    elif rest.any():
        counts -= count_texts(songs.dataset, np.flatnonzero(rest))
    counts[: len(tail)] -= tail
    return counts


def count_headers(args: Arguments, part: Part, kinds: np.ndarray) -> np.ndarray:
    """How often each code point occurs in the headers of a split, int64, shape `(0x110000,)`."""
    tokenizer = LyricGPTTokenizer.from_alphabet("\n", song_template=SONG_TEMPLATES[args.conditioning])
    names = part.songs.dataset.select_columns(["artist", "song"])
    counts: Counter[str] = Counter()
    wanted = np.zeros(len(names), dtype=bool)
    wanted[part.rows] = True
    for index, name in enumerate(names):
        if wanted[index]:
            counts.update(render_header(args, tokenizer, kinds[index], name["artist"], name["song"]))
    points = np.zeros(CODE_POINTS, dtype=np.int64)
    for character, count in counts.items():
        points[ord(character)] = count
    return points


def render_header(args: Arguments, tokenizer: LyricGPTTokenizer, kind: int, artist: str, title: str) -> str:
    names = header_names(kind, artist, title)
    if args.cleaning == "standard":
        names = {name: clean(value) for name, value in names.items()}
    return tokenizer.render_song("", **names)


# ----------------------------------------------------------------------------------------------------------------------
# Tokens


def tokenize_songs(
    args: Arguments, songs: Songs, tokenizer: LyricGPTTokenizer, kinds: np.ndarray, folder: Path, workers: int
) -> Dataset:
    """Columns `input_ids`, a list of the smallest unsigned type for each row, and `header`, how many of them it takes.

    Through `Dataset.map` in batches; `kinds` says which header each row has.
    """
    dtype = tokenizer.id_dtype.name
    conditioned = args.conditioning != "none"

    def tokenize(table: pa.Table, indices: list[int]) -> pa.Table:
        texts = table["text"].combine_chunks()
        lengths = np.zeros(len(table), dtype=np.int64)
        if conditioned:
            names = zip(kinds[indices].tolist(), table["artist"].to_pylist(), table["song"].to_pylist(), strict=True)
            headers = [render_header(args, tokenizer, *name) for name in names]
            lengths = np.array([len(header) for header in headers], dtype=np.int64)
            texts = pa.compute.binary_join_element_wise(
                pa.array(headers, pa.large_string()), texts, pa.scalar("", pa.large_string())
            )
        batch = as_batch(texts)
        offsets = np.concatenate([[0], np.cumsum(count_characters(batch))])
        ids = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(tokenizer.encode_utf8(batch.data)))
        return pa.table({"input_ids": ids, "header": lengths})

    mean = max(1, text_bytes(songs) // len(songs.dataset))
    features = {"input_ids": datasets.LargeList(datasets.Value(dtype)), "header": datasets.Value("int64")}
    return songs.dataset.with_format("arrow").map(
        tokenize,
        with_indices=True,
        batched=True,
        batch_size=int(min(4000, max(1, BATCH_BYTES // mean))),
        num_proc=workers if workers > 1 else None,
        remove_columns=songs.dataset.column_names,
        features=datasets.Features(features),
        cache_file_name=str(folder / f"tokens-{len(list(folder.glob('tokens-*')))}.arrow"),
        new_fingerprint="tokens",
        desc="tokenizing",
    )


def song_slices(tokenized: Dataset, rows: np.ndarray, itemsize: int) -> Iterator[memoryview]:
    """The ids of some rows as bytes, not copied."""
    values, begins, ends, first_rows = [], [], [], []
    for chunk in tokenized.data.column("input_ids").chunks:
        offsets = np.asarray(chunk.offsets, dtype=np.int64)
        begins.append(offsets[:-1] * itemsize)
        ends.append(offsets[1:] * itemsize)
        first_rows.append(len(chunk))
        values.append(memoryview(chunk.values.to_numpy()).cast("B"))
    first_rows = np.concatenate([[0], np.cumsum(first_rows)])
    begins, ends = np.concatenate(begins), np.concatenate(ends)
    chunks = np.searchsorted(first_rows, rows, side="right") - 1
    for chunk, begin, end in zip(chunks.tolist(), begins[rows].tolist(), ends[rows].tolist(), strict=True):
        yield values[chunk][begin:end]


def write_stream(path: Path, songs: Iterator[memoryview], between: bytes, around: bytes) -> None:
    """Writes songs one after the other, in large pieces."""
    with path.open("wb") as file:
        pieces, size = [around], len(around)
        for index, song in enumerate(songs):
            if index:
                pieces.append(between)
            pieces.append(song)
            size += len(song)
            if size > COPIED_BYTES:
                file.write(b"".join(pieces))
                pieces, size = [], 0
        file.write(b"".join([*pieces, around]))


def cut_stream(folder: Path, cut: int, dtype: np.dtype) -> None:
    """Moves what stands in the training stream from token `cut` on to the validation stream."""
    with (folder / "train.bin").open("r+b") as train, (folder / "validation.bin").open("wb") as validation:
        train.seek(cut * dtype.itemsize)
        while block := train.read(COPIED_BYTES):
            validation.write(block)
        train.truncate(cut * dtype.itemsize)


def write_songs(path: Path, part: Part, begins: np.ndarray, lyrics: np.ndarray, ends: np.ndarray) -> None:
    """Writes where each song of a stream stands and what it is called."""
    names = part.songs.dataset.select_columns(["artist", "song"]).with_format("arrow")[:].combine_chunks()
    names = names.take(pa.array(part.rows))
    table = pa.table([names["artist"], names["song"], begins, lyrics, ends], schema=SONG_SCHEMA)
    with path.open("wb") as file, pa.ipc.new_file(file, SONG_SCHEMA) as writer:
        writer.write_table(table)


def write_cut_songs(folder: Path, part: Part, begins: np.ndarray, ends: np.ndarray, cut: int) -> None:
    """Writes the songs of both sides of a cut; the one that it divides is on both."""
    sides = {"train": (begins < cut, 0, cut), "validation": (ends > cut, cut, int(ends[-1]))}
    for split, (mask, first, last) in sides.items():
        begin, end = (np.clip(places[mask], first, last) - first for places in (begins, ends))
        write_songs(folder / f"{split}_songs.arrow", Part(part.songs, part.rows[mask]), begin, begin, end)


# ----------------------------------------------------------------------------------------------------------------------
# All of it


def prepare(args: Arguments, settings: dict[str, Any], folder: Path) -> None:
    """Reads, cleans, splits and tokenizes a corpus into `folder`: two streams with their songs, the tokenizer, `corpus.json`.

    Args:
        settings: What the corpus is known by, for the report.
        folder: Made anew; its parent is where intermediate files lie.

    Raises:
        LyricGPTError: whatever is wrong with the corpus.
    """
    workspace = folder.parent
    songs = read_songs(args, args.dataset, workspace)
    held_out = read_songs(args, args.validation_file, workspace, shuffle=False) if args.validation_file else None
    check_names(args, songs, held_out)
    parts, cut, near_duplicates = split_corpus(args, songs, held_out, workspace)

    # (held out or cut off: both keep the alphabet of training apart from the rest)
    kinds = {id(part.songs): np.zeros(len(part.songs.dataset), dtype=np.int64) for part in parts.values()}
    if args.conditioning != "none":
        for source in kinds:
            rows = [(split, part.rows) for split, part in parts.items() if id(part.songs) == source]
            in_training = np.zeros(len(kinds[source]), dtype=bool)
            for split, numbers in rows:
                in_training[numbers] = split == "train"
            kinds[source] = choose_headers(args, in_training)
    wanted = parts if args.alphabet == "corpus" else {"train": parts["train"]}
    counts = sum(count_part(args, part, cut if args.alphabet == "train" else None) for part in wanted.values())
    if args.conditioning != "none":
        counts += sum(count_headers(args, part, kinds[id(part.songs)]) for part in wanted.values())
    separator = song_separator(args)
    base = set(settings.get("base_alphabet", ""))
    rare = [
        chr(point) for point in np.flatnonzero((counts > 0) & (counts < args.min_char_count)) if chr(point) not in base
    ]
    alphabet = {chr(point) for point in np.flatnonzero(counts)}.difference(rare) | set(separator) | base
    if not alphabet:
        raise LyricGPTError(f"no character occurs {args.min_char_count} times; lower min_char_count")
    tokenizer = LyricGPTTokenizer.from_alphabet(
        alphabet, special_tokens=args.special_tokens, song_template=SONG_TEMPLATES[args.conditioning]
    )
    between = [tokenizer.eos_token_id] if args.special_tokens else tokenizer.encode_corpus([separator])[0].tolist()
    around = between if args.special_tokens else []

    folder.mkdir()
    tokens, tokenized = {}, {}
    dtype = tokenizer.id_dtype
    as_bytes = lambda ids: np.array(ids, dtype=dtype).tobytes()  # noqa: E731
    for split, part in parts.items():
        source = id(part.songs)
        if source not in tokenized:
            workers = worker_count(text_bytes(part.songs))
            try:
                tokenized[source] = tokenize_songs(args, part.songs, tokenizer, kinds[source], workspace, workers)
            except UnknownCharacterError as error:
                raise LyricGPTError(f"a split has characters that the alphabet lacks: {error}") from None
        slices = song_slices(tokenized[source], part.rows, dtype.itemsize)
        write_stream(folder / f"{split}.bin", slices, as_bytes(between), as_bytes(around))
        headers = np.asarray(tokenized[source].data.column("header"))[part.rows]
        lengths = part.songs.characters[part.rows] + headers
        begins, ends, tokens[split] = lay_out(lengths, len(around), len(between))
        if cut is None:
            write_songs(folder / f"{split}_songs.arrow", part, begins, begins + headers, ends)
        else:
            write_cut_songs(folder, part, begins, ends, cut)
    if cut is not None:
        cut_stream(folder, cut, dtype)
        tokens = {"train": cut, "validation": tokens["train"] - cut}
    if not all(tokens.values()):
        raise LyricGPTError(f"a split has no characters: {tokens}; change validation_fraction or the corpus")

    tokenizer.save_pretrained(folder)
    in_order = sorted(alphabet.union(rare), key=lambda character: (-counts[ord(character)], character))
    report = {
        **settings,
        "split": "songs" if cut is None else "characters",
        **songs.report,
        "songs_in": {split: len(part.rows) for split, part in parts.items()},
        "validation_rows": held_out.report if held_out else None,
        "near_duplicates": near_duplicates,
        "alphabet_size": len(alphabet),
        "alphabet_characters": "".join(sorted(alphabet)),
        "character_counts": {character: int(counts[ord(character)]) for character in in_order},
        "rare_characters": "".join(sorted(rare)),
        "vocab_size": len(tokenizer),
        "tokens": tokens,
        "unknown": count_unknown(folder, tokenizer) if args.special_tokens else {},
    }
    write_json(folder / "corpus.json", report)


def check_names(args: Arguments, songs: Songs, held_out: Songs | None) -> None:
    """Raises LyricGPTError if headers are asked for and there is nothing to write into them."""
    wanted = {"none": (), "title": ("song",), "artist_title": ("artist", "song")}[args.conditioning]
    if wanted and songs.is_text:
        raise LyricGPTError(
            f"conditioning is {args.conditioning!r}, but a text file is one document and not songs with names; use a table, "
            "or --conditioning none"
        )
    for part, name in itertools.product(filter(None, (songs, held_out)), wanted):
        if not any(value.strip() for batch in part.dataset.select_columns(name).iter(1000) for value in batch[name]):
            option = {"song": "title_column", "artist": "artist_column"}[name]
            raise LyricGPTError(
                f"conditioning is {args.conditioning!r}, but the corpus names no {option[:-7]}; say which column does with "
                f"--{option}"
            )


def count_unknown(folder: Path, tokenizer: LyricGPTTokenizer) -> dict[str, int]:
    """How often `<|unk|>` stands in each stream."""
    counts = {}
    for split in SPLITS:
        ids = np.memmap(folder / f"{split}.bin", dtype=tokenizer.id_dtype, mode="r")
        pieces = range(0, len(ids), COPIED_BYTES)
        counts[split] = sum(int((ids[i : i + COPIED_BYTES] == tokenizer.unk_token_id).sum()) for i in pieces)
    return counts
