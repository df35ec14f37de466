"""Reads each kind of source in batches of songs, with the columns `artist`, `song` and `text`, all of them strings.

Notes:
- Each line of a JSON file may use different names for its columns.
- If a source cannot be read, the error names the file, the line if it is known, and what to do.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from .. import LyricGPTError
from ..wording import shown
from .columns import SCHEMA, check_once, choose_columns, refuse_columns, song_table
from .decoding import as_texts, checked_text, find_encoding, locate_bad_byte, open_utf8, repair
from .memory import BLOCK_BYTES, longest_document, read_whole, refuse_large
from .sources import COMPRESSIONS, READING_ERRORS, Reading, Source, load_hub, no_rows, unreadable
from .tables import read_table

BATCH_SONGS = 1000


def read_json_lines(source: Source, reading: Reading) -> Iterator[pa.Table]:
    encoding = find_encoding(source, reading.encoding)
    by_keys: dict[tuple[str, ...], dict[str, str]] = {}
    songs: list[dict[str, str]] = []
    has_text, size, longest = False, 0, longest_document()
    with open_utf8(source, encoding) as file:
        for number, line in enumerate(iter(lambda: file.readline(longest + 1), b""), start=1):
            if len(line) > longest:
                raise refuse_large(f"{source.name}, line {number},", longest)
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8", "surrogatepass"))
            except UnicodeDecodeError:
                locate_bad_byte(source, encoding)
                raise
            except (ValueError, RecursionError) as error:
                raise LyricGPTError(
                    f"{source.name}, line {number}, is not JSON: {shown(str(error))}. Correct the line"
                ) from None
            if not isinstance(row, dict):
                raise LyricGPTError(
                    f"{source.name}, line {number}, is a JSON {type(row).__name__}; each line must be an object in braces"
                )
            keys = tuple(row)
            if keys not in by_keys:
                by_keys[keys] = choose_columns(keys, reading)
            has_text |= "text" in by_keys[keys]
            song = dict.fromkeys(SCHEMA.names, "")
            for role, name in by_keys[keys].items():
                value = row[name]
                if role == "text" and not (value is None or isinstance(value, str)):
                    raise LyricGPTError(
                        f"{source.name}, line {number}: {name!r} must be a string, but is of type {type(value).__name__}. "
                        "Correct the line, or set --text_column to the column with the lyrics"
                    )
                song[role], replaced = repair(as_name(value))
                reading.replaced += replaced
            songs.append(song)
            size += len(line)
            if len(songs) == BATCH_SONGS or size > BLOCK_BYTES:
                yield json_table(songs)
                songs, size = [], 0
    if not by_keys:
        raise no_rows(source)
    if not has_text:
        raise refuse_columns(source, next(iter(by_keys)), reading)
    if songs:
        yield json_table(songs)


def json_table(songs: list[dict[str, str]]) -> pa.Table:
    columns = {role: pa.array([song[role] for song in songs], pa.large_string()) for role in SCHEMA.names}
    return song_table(columns, len(songs))


def as_name(value: Any) -> str:
    """Converts a value from JSON or Parquet to text. Joins lists with commas; nulls and objects become empty strings."""
    if isinstance(value, list):
        return ", ".join(filter(None, map(as_name, value)))
    return "" if value is None or isinstance(value, dict) else str(value)


def as_text(source: Source, role: str, name: str, values: pa.Array, reading: Reading) -> pa.Array:
    """Converts a column of a Parquet file or a Hub dataset to strings.

    Raises:
        LyricGPTError: if lyrics aren't strings, or a text isn't UTF-8.
    """
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind = values.type
    if pa.types.is_null(kind):
        return pa.array([""] * len(values), pa.large_string())
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if not (is_text or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        if role == "text":
            raise LyricGPTError(
                f"{source.name}: column {name!r} holds {kind}, not text. Set --text_column to the column with the lyrics"
            )
        return pa.array(map(as_name, values.to_pylist()), pa.large_string())
    values = values.cast(pa.large_string() if pa.types.is_string_view(kind) else pa.large_binary()).cast(
        pa.large_binary()
    )
    try:
        return as_texts(values, reading).fill_null("")
    except UnicodeDecodeError as error:
        raise LyricGPTError(
            f"{source.name}: column {name!r} is not UTF-8: byte 0x{error.object[error.start]:02x} in "
            f"{shown(repr(error.object), 60)}. Save its texts as UTF-8"
        ) from None


def read_parquet(source: Source, reading: Reading) -> Iterator[pa.Table]:
    with source.open() as stream:
        compressed = source.path.suffix.lower() in COMPRESSIONS
        file = pyarrow.parquet.ParquetFile(
            pa.BufferReader(read_whole(source.name, stream)) if compressed else source.path
        )
    names = file.schema_arrow.names
    chosen = choose_columns(names, reading)
    if "text" not in chosen:
        raise refuse_columns(source, names, reading)
    check_once(source, names, chosen)
    groups = [file.metadata.row_group(index).total_byte_size for index in range(file.metadata.num_row_groups)]
    if groups and max(groups) > (longest := longest_document()):
        raise refuse_large(source.name, longest)
    if file.metadata.num_rows == 0:
        raise no_rows(source)
    for batch in file.iter_batches(BATCH_SONGS, columns=list(chosen.values())):
        columns = {role: as_text(source, role, name, batch.column(name), reading) for role, name in chosen.items()}
        yield song_table(columns, batch.num_rows)


def read_text(source: Source, reading: Reading) -> Iterator[pa.Table]:
    """Reads a text file as one row, with its line endings unchanged."""
    encoding = find_encoding(source, reading.encoding)
    with open_utf8(source, encoding) as file:
        content = read_whole(source.name, file)
    title = Path(source.member or source.path.name).name.split(".")[0]
    text = checked_text(source, encoding, pa.array([content], pa.large_binary()), reading)
    yield song_table({"song": pa.array([title], pa.large_string()), "text": text}, 1)


def read_hub(source: Source, reading: Reading) -> Iterator[pa.Table]:
    dataset = load_hub(source.name)
    chosen = choose_columns(dataset.column_names, reading)
    if "text" not in chosen:
        raise refuse_columns(source, dataset.column_names, reading)
    for batch in dataset.select_columns(list(chosen.values())).with_format("arrow").iter(BATCH_SONGS):
        columns = {
            role: as_text(source, role, name, batch[name].combine_chunks(), reading) for role, name in chosen.items()
        }
        yield song_table(columns, batch.num_rows)


READERS = {
    "table": read_table,
    "json": read_json_lines,
    "parquet": read_parquet,
    "text": read_text,
    "hub": read_hub,
}


def read_source(source: Source, reading: Reading) -> Iterator[pa.Table]:
    """Reads the songs of a source in batches with the columns `artist`, `song` and `text`, all of them strings.

    Raises:
        LyricGPTError: if the source cannot be read.
    """
    try:
        yield from READERS[source.kind](source, reading)
    except (*READING_ERRORS, pa.ArrowException) as error:
        raise unreadable(source.name, error) from None
