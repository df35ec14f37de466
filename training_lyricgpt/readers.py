"""Sources of each kind as batches of songs: columns `artist`, `song` and `text`, every one a string.

Notable:
- Which columns of a source they are is found by name, file by file, or told.
- Tables go through pyarrow's reader a few megabytes at a time; one of another dialect is recognised by its header.
- What cannot be read is an error that names the file, the row where the reader knows it, and what to do.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from . import LyricGPTError
from .decoding import checked_text, find_encoding, is_utf8, locate_bad_byte, open_utf8, repair
from .sources import BLOCK_BYTES, COMPRESSIONS, READING_ERRORS, Source, Told, load_hub, unreadable

TABLES = {".csv": ",", ".tsv": "\t"}
OTHER_DELIMITERS = ";\t|,"
# In the order of preference, compared without regard to case.
COLUMNS = {
    "text": ("text", "lyrics", "lyric", "song_lyrics", "lyrics_text", "content"),
    "artist": ("artist", "artist_name", "artists", "singer", "performer", "band"),
    "song": ("song", "title", "song_title", "song_name", "track", "track_name", "name"),
}
SCHEMA = pa.schema([(name, pa.large_string()) for name in ("artist", "song", "text")])
BATCH_SONGS = 1000
HEADER_BYTES = 1 << 16


def choose_columns(names: Iterable[str], told: Told) -> dict[str, str]:
    """Which of a source's columns are `artist`, `song` and `text`; those that it lacks are left out."""
    names = list(names)
    folded = {name.strip().casefold().replace(" ", "_"): name for name in reversed(names)}
    chosen = {}
    for role in ("text", "artist", "song"):
        stated = told.columns.get(role)
        candidates = [stated] if stated else [folded[known] for known in COLUMNS[role] if known in folded]
        for name in candidates:
            if name in names and name not in chosen.values():
                chosen[role] = name
                break
    if "text" not in chosen and not told.columns.get("text") and len(names) == 1:
        chosen["text"] = names[0]
    return chosen


def refuse_columns(source: Source, names: Iterable[str], told: Told) -> LyricGPTError:
    stated = told.columns.get("text")
    lacks = f"no column {stated!r}" if stated else f"no column called {', '.join(COLUMNS['text'][:3])} or the like"
    shown = ", ".join(repr(name[:40]) for name in list(names)[:20])
    return LyricGPTError(
        f"{source.name} has {lacks}; its columns are {shown}. Name the one with the lyrics with --text_column"
    )


def song_table(columns: dict[str, Any], rows: int) -> pa.Table:
    """A batch with all three columns; what is missing is the empty string."""
    empty = pa.array([""] * rows, pa.large_string())
    return pa.table([columns.get(name, empty) for name in SCHEMA.names], schema=SCHEMA)


# ----------------------------------------------------------------------------------------------------------------------
# The kinds


def read_header(source: Source, encoding: str, delimiter: str) -> list[str]:
    """The first row of a table that is not empty."""
    with open_utf8(source, encoding) as file:
        begin = file.read(HEADER_BYTES).decode("utf-8", "replace")
    rows = csv.reader(io.StringIO(begin, newline=""), delimiter=delimiter)
    return next((row for row in rows if row), [])


def find_dialect(source: Source, encoding: str, told: Told) -> tuple[str, list[str]]:
    """What separates the columns of a table, and what they are called."""
    delimiter = TABLES[source.suffix]
    names = read_header(source, encoding, delimiter)
    if len(names) == 1 or "text" not in choose_columns(names, told):
        for other in OTHER_DELIMITERS.replace(delimiter, ""):
            others = read_header(source, encoding, other)
            if len(others) > 1 and "text" in choose_columns(others, told):
                told.remarks.append(f"{Path(source.name).name} is separated by {other!r}")
                return other, others
    return delimiter, names


def count_quotes(source: Source, encoding: str) -> int:
    """How many quotes a table has; an even number, if each that opens is closed."""
    count = 0
    with open_utf8(source, encoding) as file:
        while block := file.read(BLOCK_BYTES):
            count += block.count(b'"')
    return count


def read_table(source: Source, told: Told) -> Iterator[pa.Table]:
    encoding = find_encoding(source, told.encoding)
    delimiter, names = find_dialect(source, encoding, told)
    chosen = choose_columns(names, told)

    def reader(threads: bool = True) -> pyarrow.csv.CSVStreamingReader:
        is_plain = is_utf8(encoding) and source.path.suffix.lower() not in COMPRESSIONS
        return pyarrow.csv.open_csv(
            str(source.path) if is_plain else open_utf8(source, encoding),
            read_options=pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=threads),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=list(chosen.values()),
                column_types=dict.fromkeys(chosen.values(), pa.large_binary()),
                strings_can_be_null=False,
            ),
        )

    rows, longest = 0, 0
    try:
        if "text" not in chosen:
            raise refuse_columns(source, names, told)
        if twice := [name for name in chosen.values() if names.count(name) > 1]:
            raise LyricGPTError(f"{source.name} has {names.count(twice[0])} columns called {twice[0]!r}; rename one")
        for batch in reader():
            columns = {role: checked_text(source, encoding, batch.column(name), told) for role, name in chosen.items()}
            rows += batch.num_rows
            longest = max(longest, pa.compute.max(pa.compute.binary_length(columns["text"])).as_py() or 0)
            yield song_table(columns, batch.num_rows)
    except pa.ArrowInvalid as error:
        reason = str(error)
        if "CSV parse error" in reason:  # a single thread knows the row
            try:
                for _ in reader(threads=False):
                    pass
            except pa.ArrowInvalid as exact:
                reason = str(exact)
        if "straddling object" in reason:
            reason = (
                f"after row {rows:,} comes one of more than {BLOCK_BYTES >> 20} MB. A quote that opens there and is never "
                "closed? (One document, and not one song a row, belongs into a .txt file)"
            )
        raise LyricGPTError(
            f"{source.name} cannot be read as a table with {delimiter!r} between columns: {reason[:400]}"
        ) from None
    if rows == 0:
        raise LyricGPTError(f"{source.name} has a header and no rows")
    if count_quotes(source, encoding) % 2:
        told.remarks.append(
            f"{Path(source.name).name} has an odd number of quotes: one may open and never close, so that songs after it are "
            f"read as one (the longest has {longest:,} bytes)"
        )


def read_json_lines(source: Source, told: Told) -> Iterator[pa.Table]:
    encoding = find_encoding(source, told.encoding)
    chosen: dict[str, str] = {}
    songs: list[dict[str, str]] = []
    number = 0
    with open_utf8(source, encoding) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except UnicodeDecodeError:
                locate_bad_byte(source, encoding)
                raise
            except (ValueError, RecursionError) as error:
                raise LyricGPTError(f"{source.name}, line {number}, is not JSON: {error}") from None
            if not isinstance(row, dict):
                raise LyricGPTError(
                    f"{source.name}, line {number}, is a JSON {type(row).__name__}; JSON lines have one object a line"
                )
            if "text" not in chosen:
                chosen = choose_columns(row, told)
                if "text" not in chosen:
                    raise refuse_columns(source, row, told)
            chosen |= {role: name for role, name in choose_columns(row, told).items() if role not in chosen}
            song = {}
            for role, name in chosen.items():
                value = row.get(name)
                if role == "text" and value is not None and not isinstance(value, str):
                    raise LyricGPTError(
                        f"{source.name}, line {number}: {name!r} is a {type(value).__name__}, not a text"
                    )
                song[role], replaced = repair("" if value is None else str(value))
                told.replaced += replaced
            songs.append(song)
            if len(songs) == BATCH_SONGS:
                yield json_table(songs)
                songs = []
    if songs:
        yield json_table(songs)
    elif number == 0:
        raise LyricGPTError(f"{source.name} has no rows")


def json_table(songs: list[dict[str, str]]) -> pa.Table:
    columns = {role: pa.array([song.get(role, "") for song in songs], pa.large_string()) for role in SCHEMA.names}
    return song_table(columns, len(songs))


def as_text(source: Source, name: str, values: pa.Array) -> pa.Array:
    """A column of Parquet or of the Hub as strings.

    Raises:
        LyricGPTError: it holds something else.
    """
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type) or pa.types.is_null(values.type)):
        raise LyricGPTError(f"{source.name}: column {name!r} holds {values.type}, not texts")
    return values.cast(pa.large_string()).fill_null("")


def read_parquet(source: Source, told: Told) -> Iterator[pa.Table]:
    with source.open() as stream:
        compressed = source.path.suffix.lower() in COMPRESSIONS
        file = pyarrow.parquet.ParquetFile(pa.BufferReader(stream.read()) if compressed else source.path)
    chosen = choose_columns(file.schema_arrow.names, told)
    if "text" not in chosen:
        raise refuse_columns(source, file.schema_arrow.names, told)
    if file.metadata.num_rows == 0:
        raise LyricGPTError(f"{source.name} has no rows")
    for batch in file.iter_batches(BATCH_SONGS, columns=list(chosen.values())):
        columns = {role: as_text(source, name, batch.column(name)) for role, name in chosen.items()}
        yield song_table(columns, batch.num_rows)


def read_text(source: Source, told: Told) -> Iterator[pa.Table]:
    """A text as one row; line endings as they are."""
    encoding = find_encoding(source, told.encoding)
    with open_utf8(source, encoding) as file:
        content = file.read()
    title = Path(source.member or source.path.name).name.split(".")[0]
    text = checked_text(source, encoding, pa.array([content], pa.large_binary()), told)
    yield song_table({"song": pa.array([title], pa.large_string()), "text": text}, 1)


def read_hub(source: Source, told: Told) -> Iterator[pa.Table]:
    dataset = load_hub(source.name)
    chosen = choose_columns(dataset.column_names, told)
    if "text" not in chosen:
        raise refuse_columns(source, dataset.column_names, told)
    for batch in dataset.select_columns(list(chosen.values())).with_format("arrow").iter(BATCH_SONGS):
        columns = {role: as_text(source, name, batch[name].combine_chunks()) for role, name in chosen.items()}
        yield song_table(columns, batch.num_rows)


READERS = {
    "table": read_table,
    "json": read_json_lines,
    "parquet": read_parquet,
    "text": read_text,
    "hub": read_hub,
}


def read_source(source: Source, told: Told) -> Iterator[pa.Table]:
    """The songs of a source in batches with the columns `artist`, `song`, `text`, every one a string.

    Raises:
        LyricGPTError: whatever is wrong with it.
    """
    try:
        yield from READERS[source.kind](source, told)
    except (*READING_ERRORS, pa.ArrowException) as error:
        raise unreadable(source.name, error) from None
