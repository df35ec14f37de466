"""Tables of text, CSV and TSV, through pyarrow's reader a few megabytes at a time.

Notable:
- What separates columns is read off the header; quotes that are escaped by backslashes, and a first line `sep=;` as Excel
  writes it, are recognised. What was recognised is a remark in the report.
- pyarrow drops the line feed of a CR LF that two of its blocks divide within quotes, so no block ends in a carriage return.
- What cannot be read is an error that names the file, the row, and what to do.
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
from .sources import Source, Told

DELIMITERS = {".csv": ",", ".tsv": "\t"}
OTHER_DELIMITERS = ";\t|,"
LAST_READ = 0.5  # seconds that a read which has begun is waited for, once the file has been ended
EXCEL_SEPARATOR = re.compile(r"sep=(.)")
# A backslash and a quote within a field, and a quote doubled within one.
BACKSLASHED, DOUBLED = re.compile(rb'\\"[^,;|\t\r\n"]'), re.compile(rb'[^,;|\t\r\n"]""[^,;|\t\r\n"]')


@dataclass
class Dialect:
    """How a table is written.

    Attributes:
        names: Of its columns.
        skipped: Lines before the header.
        escape: What stands before a quote within quotes; False where it is doubled.
        quotes: How many there are; an even number, if each that opens is closed.
    """

    delimiter: str
    names: list[str]
    skipped: int = 0
    escape: str | bool = False
    quotes: int = 0


class UndividedLineEnds(io.RawIOBase):
    """A file whose reads never end in a carriage return: it comes with what is read next.

    pyarrow reads ahead in a thread of its own. One that is still reading when Python ends takes the process down with it
    ("terminate called without an active exception"), so whoever stops before the end of the file calls `stop`.
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
        """Ends the file here, and waits for the thread that may be reading it."""
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
    """The first row that is not empty, after so many lines."""
    with open_utf8(source, encoding) as file:
        for _ in range(skipped):
            file.readline()
        head = io.BytesIO(file.read(BLOCK_BYTES))  # (a file may be one endless line)
        text = io.TextIOWrapper(head, encoding="utf-8", errors="surrogateescape", newline="")
        try:
            names = next((row for row in csv.reader(text, delimiter=delimiter) if row), [])
        except csv.Error as error:
            raise LyricGPTError(f"{source.name}: its first row cannot be read: {error}") from None
    if any("\udc80" <= character <= "\udcff" for name in names for character in name):
        locate_bad_byte(source, encoding)
    return names


def find_dialect(source: Source, encoding: str, told: Told) -> Dialect:
    """How a table is written, by its header and its quotes; what is unusual becomes a remark."""
    name = Path(source.name).name
    delimiter, skipped = DELIMITERS[source.suffix], 0
    with open_utf8(source, encoding) as file:
        first_line = file.readline(BLOCK_BYTES).decode("utf-8", "replace").strip()
    if match := EXCEL_SEPARATOR.fullmatch(first_line):
        delimiter, skipped = match[1], 1
    names = read_header(source, encoding, delimiter, skipped)
    if len(names) == 1 or "text" not in choose_columns(names, told):
        for other in OTHER_DELIMITERS.replace(delimiter, ""):
            others = read_header(source, encoding, other, skipped)
            if len(others) > 1 and "text" in choose_columns(others, told):
                delimiter, names = other, others
                break
    dialect = Dialect(delimiter, names, skipped)
    if delimiter != DELIMITERS[source.suffix]:
        told.remarks.append(f"{name} is separated by {delimiter!r}")
    inspect_quotes(source, encoding, dialect)
    if dialect.escape:
        told.remarks.append(f"{name} has quotes that are escaped by backslashes")
    return dialect


def inspect_quotes(source: Source, encoding: str, dialect: Dialect) -> None:
    """Reads a table through once for its quotes."""
    backslashed = doubled = False
    with open_utf8(source, encoding) as file:
        while block := file.read(BLOCK_BYTES):
            dialect.quotes += np.count_nonzero(np.frombuffer(block, np.uint8) == ord('"'))
            backslashed |= b"\\" in block and bool(
                BACKSLASHED.search(block)
            )  # (one byte is found at once, two are not)
            doubled |= backslashed and bool(DOUBLED.search(block))
    if backslashed and not doubled:
        dialect.escape, dialect.quotes = "\\", 0


def choose_or_refuse(source: Source, dialect: Dialect, told: Told) -> dict[str, str]:
    """The columns of a table; of one with a single column, that one."""
    chosen = choose_columns(dialect.names, told)
    if "text" not in chosen and not told.columns.get("text") and len(dialect.names) == 1:
        chosen["text"] = dialect.names[0]
        told.remarks.append(
            f"{Path(source.name).name} was read as one column of lyrics, called {shown(dialect.names[0], 40)!r} by its first row"
        )
    if "text" not in chosen:
        raise refuse_columns(source, dialect.names, told)
    check_once(source, dialect.names, chosen)
    return chosen


def read_table(source: Source, told: Told) -> Iterator[pa.Table]:
    encoding = find_encoding(source, told.encoding)
    dialect = find_dialect(source, encoding, told)
    if not dialect.names:
        raise LyricGPTError(f"{source.name} has no rows")
    chosen = choose_or_refuse(source, dialect, told)

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
            columns = {role: checked_text(source, encoding, batch.column(name), told) for role, name in chosen.items()}
            rows += batch.num_rows
            longest = max(longest, pa.compute.max(pa.compute.binary_length(columns["text"])).as_py() or 0)
            yield song_table(columns, batch.num_rows)
    except pa.ArrowInvalid as error:
        reason = str(error)
        if "CSV parse error" in reason:  # a single thread knows the row
            try:
                for _ in batches(threads=False):
                    pass
            except pa.ArrowInvalid as exact:
                reason = str(exact)
        if "straddling object" in reason:
            reason = (
                f"after row {rows:,} comes one of more than {BLOCK_BYTES >> 20} MB. A quote that opens there and is never "
                "closed? (One document, and not one song a row, belongs into a .txt file)"
            )
        if "Empty CSV file" not in reason:
            raise LyricGPTError(
                f"{source.name} cannot be read as a table with {dialect.delimiter!r} between columns: {shown(reason)}"
            ) from None
    if rows == 0:
        raise LyricGPTError(f"{source.name} has a header and no rows")
    if dialect.quotes % 2:
        told.remarks.append(
            f"{Path(source.name).name} has an odd number of quotes: if one opens and never closes, songs after it were read as "
            f"one (the longest has {longest:,} bytes)"
        )
