"""Reads CSV and TSV tables with pyarrow's reader, a few megabytes at a time.

Notes:
- The header shows which character separates the columns. Quotes escaped with backslashes, and a first line `sep=;` as Excel
  writes it, are recognized. The report mentions what is unusual.
- If a CR LF within quotes is divided between two blocks, pyarrow drops its line feed. So no block ends in a carriage return.
- If a table cannot be read, the error names the file, the row, and what to do.
"""

import csv
import io
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv

from .. import LyricGPTError
from ..wording import shown
from .columns import check_once, choose_columns, refuse_columns, song_table
from .decoding import checked_text, find_encoding, locate_bad_byte, open_utf8
from .memory import BLOCK_BYTES
from .sources import Reading, Source, no_rows

DELIMITERS = {".csv": ",", ".tsv": "\t"}
OTHER_DELIMITERS = ";\t|,"
LAST_READ = 0.5  # seconds to wait for a read that is still going on when the file is stopped
EXCEL_SEPARATOR = re.compile(r"sep=(.)")
# Within a field: a quote after a backslash, and a doubled quote.
BACKSLASHED, DOUBLED = re.compile(rb'\\"[^,;|\t\r\n"]'), re.compile(rb'[^,;|\t\r\n"]""[^,;|\t\r\n"]')


@dataclass
class Dialect:
    """The format of a table.

    Attributes:
        names: Names of the columns.
        skipped: Number of lines before the header.
        escape: Character before a quote within quotes; False if such a quote is doubled instead.
        quotes: Number of quotes in the file; even if every quote that opens is closed.
    """

    delimiter: str
    names: list[str]
    skipped: int = 0
    escape: str | bool = False
    quotes: int = 0


class UndividedLineEnds(io.RawIOBase):
    """A file whose reads never end in a carriage return: it is left for the next read.

    pyarrow reads ahead in its own thread. If that thread is still reading when Python exits, the process crashes
    ("terminate called without an active exception"). So call `stop` if you don't read to the end of the file.
    """

    def __init__(self, file: BinaryIO):
        self.file, self.pending = file, b""
        self.reading, self.has_ended, self.is_stopped = threading.Lock(), threading.Event(), False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        with self.reading:
            data = b"" if self.is_stopped else self._read(size)
        if not data:
            self.has_ended.set()
        return data

    def stop(self) -> None:
        """Ends the file here, and waits for a thread that may still be reading it."""
        with self.reading:
            self.is_stopped = True
        self.has_ended.wait(LAST_READ)

    def _read(self, size: int) -> bytes:
        block = self.file.read(size if size < 0 else max(1, size - len(self.pending)))
        data, self.pending = self.pending + block, b""
        while block and data.endswith(b"\r"):
            if len(data) > 1:
                self.pending = b"\r"
                return data[:-1]
            block = self.file.read(1)
            data += block
        return data

    def close(self) -> None:
        self.file.close()
        super().close()


def read_header(source: Source, encoding: str, delimiter: str, skipped: int) -> list[str]:
    """Returns the first row that isn't empty, after the `skipped` lines."""
    with open_utf8(source, encoding) as file:
        for _ in range(skipped):
            file.readline()
        head = io.BytesIO(file.read(BLOCK_BYTES))  # (a file may be a single, very long line)
        text = io.TextIOWrapper(head, encoding="utf-8", errors="surrogateescape", newline="")
        try:
            names = next((row for row in csv.reader(text, delimiter=delimiter) if row), [])
        except csv.Error as error:
            raise LyricGPTError(
                f"{source.name}: its first row cannot be read: {error}. It should name the columns"
            ) from None
    if any("\udc80" <= character <= "\udcff" for name in names for character in name):
        locate_bad_byte(source, encoding)
    return names


def find_dialect(source: Source, encoding: str, reading: Reading) -> Dialect:
    """Finds the format of a table from its header and its quotes. Adds a remark for anything unusual."""
    name = Path(source.name).name
    delimiter, skipped = DELIMITERS[source.suffix], 0
    with open_utf8(source, encoding) as file:
        first_line = file.readline(BLOCK_BYTES).decode("utf-8", "replace").strip()
    if match := EXCEL_SEPARATOR.fullmatch(first_line):
        delimiter, skipped = match[1], 1
    names = read_header(source, encoding, delimiter, skipped)
    if len(names) == 1 or "text" not in choose_columns(names, reading):
        for other in OTHER_DELIMITERS.replace(delimiter, ""):
            others = read_header(source, encoding, other, skipped)
            if len(others) > 1 and "text" in choose_columns(others, reading):
                delimiter, names = other, others
                break
    dialect = Dialect(delimiter, names, skipped)
    if delimiter != DELIMITERS[source.suffix]:
        reading.remarks.append(f"the columns of {name} are separated by {delimiter!r}")
    inspect_quotes(source, encoding, dialect)
    if dialect.escape:
        reading.remarks.append(f"the quotes in {name} are escaped with backslashes")
    return dialect


def inspect_quotes(source: Source, encoding: str, dialect: Dialect) -> None:
    """Reads a table once to count its quotes and to see how they are escaped."""
    backslashed = doubled = False
    with open_utf8(source, encoding) as file:
        while block := file.read(BLOCK_BYTES):
            dialect.quotes += np.count_nonzero(np.frombuffer(block, np.uint8) == ord('"'))
            # (looking for a single byte first is faster)
            backslashed |= b"\\" in block and bool(BACKSLASHED.search(block))
            doubled |= backslashed and bool(DOUBLED.search(block))
    if backslashed and not doubled:
        dialect.escape, dialect.quotes = "\\", 0


def choose_or_refuse(source: Source, dialect: Dialect, reading: Reading) -> dict[str, str]:
    """Chooses the columns of a table. If it has only one, that is the column of lyrics."""
    chosen = choose_columns(dialect.names, reading)
    if "text" not in chosen and not reading.columns.get("text") and len(dialect.names) == 1:
        chosen["text"] = dialect.names[0]
        reading.remarks.append(
            f"the only column of {Path(source.name).name} was read as lyrics, and its first row as the name of the column: "
            f"{shown(dialect.names[0], 40)!r}"
        )
    if "text" not in chosen:
        raise refuse_columns(source, dialect.names, reading)
    check_once(source, dialect.names, chosen)
    return chosen


def read_table(source: Source, reading: Reading) -> Iterator[pa.Table]:
    encoding = find_encoding(source, reading.encoding)
    dialect = find_dialect(source, encoding, reading)
    if not dialect.names:
        raise no_rows(source)
    chosen = choose_or_refuse(source, dialect, reading)

    def batches(threads: bool = True) -> Iterator[pa.RecordBatch]:
        options: dict[str, Any] = {
            "include_columns": list(chosen.values()),
            "column_types": dict.fromkeys(chosen.values(), pa.large_binary()),
            "strings_can_be_null": False,
        }
        file = UndividedLineEnds(open_utf8(source, encoding))
        try:
            yield from pyarrow.csv.open_csv(
                pa.PythonFile(file, mode="r"),
                read_options=pyarrow.csv.ReadOptions(
                    block_size=BLOCK_BYTES, use_threads=threads, skip_rows=dialect.skipped
                ),
                parse_options=pyarrow.csv.ParseOptions(
                    delimiter=dialect.delimiter, newlines_in_values=True, escape_char=dialect.escape
                ),
                convert_options=pyarrow.csv.ConvertOptions(**options),
            )
        finally:
            file.stop()

    rows, longest = 0, 0
    try:
        for batch in batches():
            columns = {
                role: checked_text(source, encoding, batch.column(name), reading) for role, name in chosen.items()
            }
            rows += batch.num_rows
            longest = max(longest, pa.compute.max(pa.compute.binary_length(columns["text"])).as_py() or 0)
            yield song_table(columns, batch.num_rows)
    except pa.ArrowInvalid as error:
        reason = str(error)
        if "CSV parse error" in reason:  # (only a single thread reports the row)
            try:
                for _ in batches(threads=False):
                    pass
            except pa.ArrowInvalid as exact:
                reason = str(exact)
        if "straddling object" in reason:
            reason = (
                f"the row after row {rows:,} is longer than {BLOCK_BYTES >> 20} MB. Look there for a quote that is never "
                "closed. If the file is one long text, give it the ending .txt"
            )
        if "Empty CSV file" not in reason:
            raise LyricGPTError(
                f"{source.name} cannot be read as a table with {dialect.delimiter!r} between columns: {shown(reason)}. "
                "Correct that row, or save the table again as CSV with quotes around the lyrics"
            ) from None
    if rows == 0:
        raise LyricGPTError(f"{source.name} has a header but no rows; set --dataset to a file with songs")
    if dialect.quotes % 2:
        reading.remarks.append(
            f"there is an odd number of quotes in {Path(source.name).name}. If one is never closed, the songs after it were "
            f"read as one song (the longest song has {longest:,} bytes)"
        )
