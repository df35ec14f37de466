"""Finds what `dataset` names: files, globs, compressed files, archives, or a dataset on the Hub.

Notes:
- The first bytes of a file show what it is. If its name says something else, it is rejected rather than read as
  garbage.
- Files and the members of archives are sorted by name, so that a corpus is the same on every computer.
"""

import glob
import gzip
import io
import itertools
import lzma
import os
import re
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import datasets
import pyarrow as pa

from .. import LyricGPTError
from ..wording import shown

KINDS = {".csv": "table", ".tsv": "table", ".txt": "text", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet"}
COMPRESSIONS = (".gz", ".zst", ".zip")
# A Hub id, then the configuration, then the split (which may be a slice and have colons too).
HUB_ID = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(?::(?P<config>[^:]*)(?::(?P<split>.+))?)?")
MAGIC = {
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"PK\x03\x04": "a zip archive, or a Word or Excel document",
    b"\xd0\xcf\x11\xe0": "an old Excel table",
    b"%PDF": "a PDF",
    b"\x89PNG": "a PNG picture",
    b"SQLite": "an SQLite database",
}
EXPECTED_MAGIC = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd", ".zip": b"PK\x03\x04", ".parquet": b"PAR1"}
READING_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError, NotImplementedError)


@dataclass
class Source:
    """One file, one member of an archive, or a dataset on the Hub.

    Attributes:
        name: Its name in messages.
        kind: `table`, `text`, `json`, `parquet` or `hub`.
        suffix: The ending that shows the kind, without that of a compression.
        path: The file; None for a dataset on the Hub.
        member: Its name in a zip archive, if it is in one.
    """

    name: str
    kind: str
    suffix: str = ""
    path: Path | None = None
    member: str | None = None

    def open(self) -> BinaryIO:
        """Opens the source and decompresses it."""
        ending = self.path.suffix.lower()
        if ending == ".gz":
            return gzip.open(self.path)
        if ending == ".zst":
            # (Arrow's stream can't read lines)
            return io.BufferedReader(pa.input_stream(str(self.path), compression="zstd"))
        if ending == ".zip":
            return zipfile.ZipFile(self.path).open(self.member)
        return self.path.open("rb")


@dataclass
class Reading:
    """What the settings say about the sources, and what was found while reading them.

    Attributes:
        columns: Names of the columns with text, artist and title; None: found by the usual names.
        found: Which of the named columns exist.
        replaced: Number of halves of surrogate pairs that became U+FFFD.
        remarks: Notes for the report.
    """

    encoding: str
    columns: dict[str, str | None]
    found: set[str] = field(default_factory=set)
    replaced: int = 0
    remarks: list[str] = field(default_factory=list)


# ----------------------------------------------------------------------------------------------------------------------
# Finding sources


def kind_suffix(path: Path) -> str:
    """Returns the ending that shows what a file holds: `.csv` for `a.csv.gz`, nothing for `a.zip`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def find_files(pattern: str) -> list[Path]:
    """Returns the files that a path or a glob names, sorted.

    Raises:
        LyricGPTError: if there is no such file, or one is a directory, is empty or has an unknown ending.
    """
    path = Path(os.path.expanduser(pattern))  # noqa: PTH111  (pathlib's raises RuntimeError for an unknown user)
    if not pattern.strip():
        raise LyricGPTError("the name of the corpus is empty; name a file, such as --dataset path/to/lyrics.csv")
    if path.is_dir():
        raise LyricGPTError(f"{pattern} is a directory; name a file in it, or several with '{path / '*.csv'}'")
    is_glob = glob.has_magic(str(path)) and not path.exists()
    # (pathlib can't glob an absolute pattern)
    files = sorted(Path(name) for name in glob.glob(str(path), recursive=True)) if is_glob else [path]  # noqa: PTH207
    files = [file for file in files if not file.is_dir()]
    if not files:
        raise LyricGPTError(f"no file matches {pattern!r}; check the folder and the pattern")
    for file in files:
        if not file.exists():
            raise LyricGPTError(
                f"no such file: {file} (looked in {Path.cwd()}). Check the path. A dataset on the Hub is written as "
                "user/name, user/name:config or user/name:config:split"
            )
        if file.stat().st_size == 0:
            raise LyricGPTError(f"{file} is empty; choose a file with lyrics")
        if kind_suffix(file) not in KINDS and file.suffix.lower() != ".zip":
            raise LyricGPTError(
                f"{file} ends in {file.suffix!r}; use {', '.join(KINDS)}, or one of these compressed "
                f"({', '.join(COMPRESSIONS)})"
            )
    return files


def is_hub_id(pattern: str) -> bool:
    """Whether a corpus is named by its id on the Hub: no such file exists, and the name doesn't look like a file's."""
    match = HUB_ID.fullmatch(pattern)
    path = Path(os.path.expanduser(pattern))  # noqa: PTH111
    named_like_file = (
        kind_suffix(path) in KINDS or path.suffix.lower() in COMPRESSIONS or path.parts[:1] in ((), ("..",))
    )
    return bool(match) and not named_like_file and not path.exists()


def find_sources(pattern: str) -> list[Source]:
    """Returns the sources that `dataset` names, in order: files, members of archives, or a dataset on the Hub.

    Raises:
        LyricGPTError: as in `find_files`, and if an archive has no file of a known kind, if tables are mixed with text files,
            or if a file may not be read.
    """
    try:
        return [Source(pattern, "hub")] if is_hub_id(pattern) else list_sources(pattern)
    except OSError as error:
        raise unreadable(shown(pattern), error) from None


def list_sources(pattern: str) -> list[Source]:
    """Returns the files, or the members of archives, that a path or a glob names."""
    sources = []
    for path in find_files(pattern):
        check_magic(path)
        if path.suffix.lower() != ".zip":
            suffix = kind_suffix(path)
            sources.append(Source(str(path), KINDS[suffix], suffix, path))
            continue
        try:
            with zipfile.ZipFile(path) as archive:
                members = [info for info in archive.infolist() if not info.is_dir()]
        except READING_ERRORS as error:
            raise unreadable(str(path), error) from None
        members = [info for info in members if not info.filename.startswith("__MACOSX/")]
        names = sorted(info.filename for info in members)
        if packed := [name for name in names if Path(name).suffix.lower() in COMPRESSIONS]:
            raise LyricGPTError(f"{path} holds {packed[0]!r}, which is compressed itself; unpack the archive first")
        if twice := [name for name, after in itertools.pairwise(names) if name == after]:
            raise LyricGPTError(f"{path} holds two files called {twice[0]!r}; unpack the archive first")
        known = [name for name in names if Path(name).suffix.lower() in KINDS]
        if not known:
            some = f"only {shown(', '.join(names[:5]), 200)}" if names else "no files"
            raise LyricGPTError(f"{path} holds {some}; put a file in it that ends in {', '.join(KINDS)}")
        for name in known:
            suffix = Path(name).suffix.lower()
            sources.append(Source(f"{path}: {name}", KINDS[suffix], suffix, path, name))
    if len({source.kind == "text" for source in sources}) > 1:
        raise LyricGPTError(f"{pattern!r} matches both tables and text files; name only one kind, such as '*.csv'")
    return sources


def check_magic(path: Path) -> None:
    """Raises LyricGPTError if a file's first bytes don't fit its name."""
    with path.open("rb") as file:
        begin = file.read(8)
    expected = EXPECTED_MAGIC.get(path.suffix.lower())
    if expected and not begin.startswith(expected):
        raise LyricGPTError(
            f"{path} is not {MAGIC[expected]}, although its name says so: it begins with {begin!r}. Rename or replace it"
        )
    for magic, what in MAGIC.items():
        if begin.startswith(magic) and magic != expected:
            raise LyricGPTError(
                f"{path} is {what}, as its first bytes show, not a {path.suffix} file; open it in its own program and save it as {path.suffix}"
            )


def unreadable(name: str, error: BaseException) -> LyricGPTError:
    if isinstance(error, PermissionError):
        remedy = "Give yourself the permission to read it, or copy it to a folder of your own"
    else:
        remedy = "The file may be incomplete: get a new copy of it"
    return LyricGPTError(f"{name} cannot be read: {shown(str(error) or type(error).__name__)}. {remedy}")


def no_rows(source: Source) -> LyricGPTError:
    return LyricGPTError(f"{source.name} has no rows; set --dataset to a file with songs")


def load_hub(name: str) -> datasets.Dataset:
    """Loads a dataset from the Hub, or from the local cache if there is no network. The default split is `train`.

    Raises:
        LyricGPTError: if there is no such dataset, configuration or split, or, without a network, if it isn't in the cache.
    """
    parts = HUB_ID.fullmatch(name)
    try:
        return datasets.load_dataset(parts["id"], parts["config"] or None, split=parts["split"] or "train")
    except Exception as error:  # (datasets raises a dozen kinds of errors, and each has a clear message)
        raise LyricGPTError(
            f"{name} is not a file here, and it cannot be loaded as a dataset on the Hub: {type(error).__name__}: {error}. "
            "Write user/name, user/name:config or user/name:config:split. Without a network, it must already be in the cache"
        ) from None
