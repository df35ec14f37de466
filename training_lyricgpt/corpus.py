"""Any source of lyrics becomes cleaned songs, split into training and validation.

Notable:
- A table has one song a row; a text file is one document.
- Nothing is guessed away: a song called "None" stays a song; what is skipped is counted and reported.
- The order of the songs is `RandomState(split_seed).permutation(rows)`, drawn before empty rows are dropped, which is
  what pandas' `sample(frac=1, random_state=split_seed)` gives.
- Text that is not in the stated encoding is refused with the byte, its position and its line.
"""

import codecs
import glob
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from datasets import Dataset

from . import LyricGPTError
from .arguments import Arguments

TABLES = {".csv": ",", ".tsv": "\t"}
TEXTS = (".txt",)
READ_BYTES = 1 << 24

CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff]")
TRAILING_BLANKS = re.compile(r"[^\S\n]+$", re.MULTILINE)
BLANK_LINES = re.compile(r"\n{3,}")


@dataclass
class Songs:
    """Songs in the order in which they are split, and what became of the others.

    Attributes:
        dataset: Columns `artist`, `song`, `text`.
        is_text: Whether they come from text files, which are documents and not songs.
        report: Counts for `corpus.json`.
    """

    dataset: Dataset
    is_text: bool
    report: dict[str, Any]


def find_files(pattern: str) -> list[Path]:
    """The files of a path or a glob, sorted.

    Raises:
        LyricGPTError: nothing there, a directory, an empty file, or an ending that is neither a table nor a text.
    """
    path = Path(pattern).expanduser()
    if not pattern.strip():
        raise LyricGPTError("the name of the corpus is empty; give one with --dataset path/to/lyrics.csv")
    if path.is_dir():
        raise LyricGPTError(f"{pattern} is a directory; name a file in it, or all of a kind as '{path / '*.csv'}'")
    is_glob = glob.has_magic(str(path)) and not path.exists()
    # (pathlib has no glob of an absolute pattern)
    files = sorted(Path(name) for name in glob.glob(str(path), recursive=True)) if is_glob else [path]  # noqa: PTH207
    files = [file for file in files if not file.is_dir()]
    if not files:
        raise LyricGPTError(f"no file matches {pattern!r}")
    for file in files:
        if not file.exists():
            raise LyricGPTError(f"no such file: {file} (looked in {Path.cwd()})")
        if file.stat().st_size == 0:
            raise LyricGPTError(f"{file} is empty")
        if file.suffix.lower() not in (*TABLES, *TEXTS):
            raise LyricGPTError(
                f"{file} ends in {file.suffix!r}; known are {', '.join(TABLES)} (one song a row) and {TEXTS[0]}"
            )
    if len({file.suffix.lower() in TEXTS for file in files}) > 1:
        raise LyricGPTError(f"{pattern!r} matches both tables and texts; name one kind")
    return files


def check_encoding(path: Path, encoding: str) -> None:
    """Reads a file through and raises LyricGPTError at the first byte that is not in `encoding`."""
    try:
        if not codecs.lookup(encoding)._is_text_encoding:
            raise LookupError
        decoder = codecs.getincrementaldecoder(encoding)()
    except LookupError:
        raise LyricGPTError(f"unknown encoding {encoding!r}; try utf-8, latin-1 or cp1252") from None
    position, line = 0, 1
    with path.open("rb") as file:
        while True:
            block = file.read(READ_BYTES)
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(block, final=not block)
            except UnicodeError as error:
                if not isinstance(error, UnicodeDecodeError):
                    raise LyricGPTError(f"{path} is not {encoding}: {error}") from None
                where = position - pending + error.start
                byte = error.object[error.start]
                line += error.object[: error.start].count(b"\n") - error.object[:pending].count(b"\n")
                raise LyricGPTError(
                    f"{path} is not {encoding}: byte 0x{byte:02x} at position {where} (line {line}). "
                    "Set encoding to what the file is, for example --encoding latin-1 or --encoding cp1252"
                ) from None
            if not block:
                return
            position += len(block)
            line += block.count(b"\n")


def read_table(path: Path, text_column: str, encoding: str) -> pa.Table:
    """Columns `artist`, `song`, `text` of a CSV or TSV file, as strings, nothing taken for a missing value.

    Raises:
        LyricGPTError: no such column, no rows, or a row that does not parse.
    """
    parse = pyarrow.csv.ParseOptions(delimiter=TABLES[path.suffix.lower()], newlines_in_values=True)
    read = pyarrow.csv.ReadOptions(encoding=encoding, block_size=READ_BYTES)
    try:
        with pyarrow.csv.open_csv(path, read_options=read, parse_options=parse) as reader:
            columns = reader.schema.names
    except pa.ArrowInvalid as error:
        raise LyricGPTError(f"{path} cannot be read as a table: {error}") from None
    if text_column not in columns:
        raise LyricGPTError(
            f"{path} has no column {text_column!r}; its columns are {', '.join(repr(name[:40]) for name in columns)}. "
            "Name the one with the lyrics with --text_column"
        )
    wanted = [name for name in ("artist", "song") if name in columns and name != text_column]
    convert = pyarrow.csv.ConvertOptions(
        include_columns=[*wanted, text_column],
        column_types=dict.fromkeys([*wanted, text_column], pa.large_string()),
        strings_can_be_null=False,
    )
    try:
        table = pyarrow.csv.read_csv(path, read_options=read, parse_options=parse, convert_options=convert)
    except pa.ArrowInvalid as error:
        raise LyricGPTError(f"{path} cannot be read as a table: {error}") from None
    if table.num_rows == 0:
        raise LyricGPTError(f"{path} has a header and no rows")
    empty = pa.array([""] * table.num_rows, pa.large_string())
    return pa.table(
        {
            "artist": table["artist"] if "artist" in wanted else empty,
            "song": table["song"] if "song" in wanted else empty,
            "text": table[text_column],
        }
    )


def read_text(path: Path, encoding: str) -> pa.Table:
    """A text file as one row; line endings as they are, a byte order mark taken off."""
    text = path.read_bytes().decode(encoding).removeprefix("\ufeff")
    return pa.table({"artist": [""], "song": [path.stem], "text": pa.array([text], pa.large_string())})


def clean(text: str) -> str:
    """The text with LF line endings, no trailing blanks, at most one blank line in a row, NFC, no control characters."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = CONTROL_CHARACTERS.sub("", unicodedata.normalize("NFC", text))
    return BLANK_LINES.sub("\n\n", TRAILING_BLANKS.sub("", text)).strip("\n")


def is_missing(text: str | None) -> bool:
    """Whether a cell holds no lyrics: nothing, blanks, or the `NaN` that pandas writes for a missing value."""
    return text is None or not text.strip() or text.strip().lower() == "nan"


def read_songs(args: Arguments, pattern: str, shuffle: bool = True) -> Songs:
    """All songs of the files that `pattern` names, cleaned, in the order in which they are split.

    Raises:
        LyricGPTError: nothing to read, or nothing left of it.
    """
    files = find_files(pattern)
    is_text = files[0].suffix.lower() in TEXTS
    for file in files:
        check_encoding(file, args.encoding)
    tables = [read_text(f, args.encoding) if is_text else read_table(f, args.text_column, args.encoding) for f in files]
    songs = Dataset(pa.concat_tables(tables, promote_options="permissive"))
    rows = len(songs)
    if shuffle and not is_text:
        songs = songs.select(np.random.RandomState(args.split_seed).permutation(rows))
    if args.max_songs is not None:
        songs = songs.select(range(min(args.max_songs, rows)))
    selected = len(songs)
    songs = songs.filter(lambda text: [not is_missing(one) for one in text], input_columns="text", batched=True)
    skipped = selected - len(songs)
    changed = 0
    if args.cleaning == "standard":
        cleaned = songs.map(lambda texts: {"text": [clean(one) for one in texts]}, input_columns="text", batched=True)
        changed = sum(
            sum(before != after for before, after in zip(old["text"], new["text"], strict=True))
            for old, new in zip(songs.iter(1000), cleaned.iter(1000), strict=True)
        )
        songs = cleaned.filter(lambda text: [bool(one) for one in text], input_columns="text", batched=True)
        skipped = selected - len(songs)
    if len(songs) == 0:
        raise LyricGPTError(f"{pattern}: all {selected} rows are empty in column {args.text_column!r}")
    report = {
        "rows": rows,
        "songs": len(songs),
        "skipped_empty": skipped,
        "changed_by_cleaning": changed,
    }
    return Songs(songs, is_text, report)


def split_songs(songs: Dataset, validation_fraction: float) -> tuple[Dataset, Dataset]:
    """The last share of the songs, at least one, is held out.

    Raises:
        LyricGPTError: there is only one song.
    """
    if len(songs) < 2:
        raise LyricGPTError("only one song: nothing to hold out. Set split: characters, or name a validation_file")
    held_out = min(len(songs) - 1, max(1, round(len(songs) * validation_fraction)))
    return songs.select(range(len(songs) - held_out)), songs.select(range(len(songs) - held_out, len(songs)))
