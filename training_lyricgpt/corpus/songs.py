"""Reads and cleans the songs of any source, a few megabytes at a time, and draws their order for the split.

Notes:
- A table has one song per row. A text file is one document. `readers` reads each kind of file.
- No song is dropped by a heuristic: a song called "None" stays a song. Skipped rows are counted and reported.
- The order of the songs is `RandomState(split_seed).permutation(rows)`, drawn before empty rows are dropped. This is the
  order that pandas' `sample(frac=1, random_state=split_seed)` gives.
- Songs are cleaned and counted as bytes while the next ones are read. They are written to one Arrow file, which is
  memory-mapped and not loaded, so the memory doesn't grow with the corpus.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from datasets import Dataset
from tqdm import tqdm

from .. import LyricGPTError
from ..arguments import CorpusArguments
from .cleaning import clean_batch, find_missing
from .columns import SCHEMA, check_stated
from .packed import CODE_POINTS, MappedTexts, as_batch, as_strings, count_characters, count_code_points
from .readers import read_source
from .sources import Reading, find_sources

CLEANING_THREADS = 2
COUNTED_SONGS = 1000  # at once


@dataclass
class Songs:
    """Cleaned songs, and what was skipped or changed.

    Attributes:
        dataset: Columns `artist`, `song`, `text`, in the order of the files.
        order: Rows of `dataset` in the order in which they are split, int64, shape `(songs,)`.
        characters: Number of characters of each row's text, int64, shape `(songs,)`.
        counts: How often each code point occurs in all texts, int64, shape `(0x110000,)`.
        is_text: Whether these are documents from text files, not songs.
        report: Counts for `corpus.json`.
    """

    dataset: Dataset
    order: np.ndarray
    characters: np.ndarray
    counts: np.ndarray
    is_text: bool
    report: dict[str, Any]


@dataclass
class CleanedTable:
    """A batch of cleaned songs without empty rows, and counts for it."""

    table: pa.Table
    kept: np.ndarray  # bool, for each row that was read
    characters: np.ndarray  # of each kept row
    hashes: np.ndarray  # of each kept row's text
    counts: np.ndarray  # of each code point, up to the largest that occurs
    changed: int
    cleaned: dict[str, int]


def clean_table(table: pa.Table, cleaning: str) -> CleanedTable:
    """Cleans, counts and hashes the songs of a batch."""
    batch = as_batch(table["text"].combine_chunks())
    kept = ~find_missing(batch)
    cleaned = clean_batch(batch) if cleaning == "standard" else batch
    kept &= cleaned.offsets[1:] > cleaned.offsets[:-1]
    table, songs = table.set_column(table.column_names.index("text"), "text", as_strings(cleaned)), cleaned
    if not kept.all():
        table = table.filter(pa.array(kept))
        songs = as_batch(table["text"].combine_chunks())
    offsets = songs.offsets.tolist()
    texts = map(memoryview(songs.data).__getitem__, map(slice, offsets, offsets[1:]))
    hashes = list(map(xxhash.xxh3_64_intdigest, texts))
    return CleanedTable(
        table,
        kept,
        count_characters(songs),
        np.array(hashes, dtype=np.uint64),
        count_code_points(songs.data),
        cleaned.changed,
        cleaned.counts,
    )


def in_threads(function: Callable[[Any], Any], items: Iterable[Any], threads: int) -> Iterator[Any]:
    """Yields the results in the order of the items. Takes only a few items ahead."""
    with ThreadPoolExecutor(threads) as executor:
        pending = deque()
        for item in items:
            pending.append(executor.submit(function, item))
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def read_songs(args: CorpusArguments, pattern: str, folder: Path, shuffle: bool = True) -> Songs:
    """Reads and cleans all songs of the files that `pattern` names, and draws the order in which they are split.

    Args:
        folder: Where the Arrow files are written. It must exist for as long as the songs are used.

    Raises:
        LyricGPTError: if the files cannot be read, or all rows are empty.
    """
    sources = find_sources(pattern)
    is_text = sources[0].kind == "text"
    columns = {"text": args.text_column, "artist": args.artist_column, "song": args.title_column}
    reading = Reading(args.encoding, columns)
    tables = (table for source in sources for table in read_source(source, reading))
    counts, changed, cleaned, parts = np.zeros(CODE_POINTS, dtype=np.int64), 0, {}, []
    path = folder / f"songs-{len(list(folder.glob('songs-*')))}.arrow"
    progress = tqdm(desc="reading", unit=" songs", disable=None, leave=False)
    with path.open("wb") as file, pa.ipc.new_stream(file, SCHEMA) as writer, progress:
        for part in in_threads(lambda table: clean_table(table, args.cleaning), tables, CLEANING_THREADS):
            writer.write_table(part.table)
            counts[: len(part.counts)] += part.counts
            changed += part.changed
            cleaned = {kind: cleaned.get(kind, 0) + count for kind, count in part.cleaned.items()}
            parts.append((part.kept, part.characters, part.hashes))
            progress.update(len(part.kept))
    check_stated(pattern, reading)
    kept, characters, hashes = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    rows = len(kept)
    permutation = np.arange(rows)
    if shuffle and not is_text:
        permutation = np.random.RandomState(args.split_seed).permutation(rows)
    chosen = permutation[: args.max_songs if shuffle else None]
    order = (np.cumsum(kept) - 1)[chosen[kept[chosen]]]
    if len(order) == 0:
        raise LyricGPTError(
            f"{pattern}: all {len(chosen)} rows are empty{missing_column(reading)}; choose another file or --text_column"
        )
    dataset = Dataset.from_file(str(path))
    if len(order) < len(dataset):
        rest = np.sort(order)
        dataset = dataset.select(rest).flatten_indices(cache_file_name=str(path.with_suffix(".chosen.arrow")))
        order, characters, hashes = np.searchsorted(rest, order), characters[rest], hashes[rest]
        counts = count_texts(dataset)
    report = {
        "rows": rows,
        "songs": len(order),
        "skipped_empty": len(chosen) - len(order),
        "duplicates": int(np.count_nonzero(np.diff(np.sort(hashes)) == 0)),
        "changed_by_cleaning": changed,
        "cleaning_removed": cleaned if args.cleaning == "standard" else {},
        "replaced_surrogates": reading.replaced,
        "remarks": reading.remarks,
    }
    return Songs(dataset, order, characters, counts, is_text, report)


def missing_column(reading: Reading) -> str:
    return f" in column {reading.columns['text']!r}" if reading.columns["text"] else ""


def count_texts(dataset: Dataset, rows: np.ndarray | None = None) -> np.ndarray:
    """Counts each code point in the texts of the given rows, or of all rows, int64, shape `(0x110000,)`."""
    counts = np.zeros(CODE_POINTS, dtype=np.int64)
    rows = np.arange(len(dataset)) if rows is None else np.sort(rows)
    if len(rows):
        texts = MappedTexts(dataset)
        parts = (rows[begin : begin + COUNTED_SONGS] for begin in range(0, len(rows), COUNTED_SONGS))
        for found in in_threads(
            lambda part: count_code_points(as_batch(texts.take(part)).data), parts, CLEANING_THREADS
        ):
            counts[: len(found)] += found
    return counts
