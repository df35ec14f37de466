"""What `dataset` may name: files, globs, compressed files, archives, or a dataset of the Hub.

Notable:
- A file is what its first bytes say: one that is named for another kind is refused, not read as noise.
- Files come in the order of their names, members of an archive too, so that a corpus is the same everywhere.
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
# A Hub id, then the configuration, then the split (which may be a slice with colons of its own).
HUB_ID = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(?::(?P<config>[^:]*)(?::(?P<split>.+))?)?")
MAGIC = {
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"PK\x03\x04": "a zip archive (or an Excel table)",
    b"\xd0\xcf\x11\xe0": "an old Excel table",
    b"%PDF": "a PDF",
    b"\x89PNG": "a PNG picture",
    b"SQLite": "an SQLite database",
}
EXPECTED_MAGIC = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd", ".zip": b"PK\x03\x04", ".parquet": b"PAR1"}
READING_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError, NotImplementedError)


@dataclass
class Source:
    """One file, or one member of an archive, or a dataset of the Hub.

    Attributes:
        name: What messages call it.
        kind: `table`, `text`, `json`, `parquet` or `hub`.
        suffix: The ending that says so, without that of a compression.
        path: The file; None for a dataset of the Hub.
        member: Its name in a zip archive.
    """

    name: str
    kind: str
    suffix: str = ""
    path: Path | None = None
    member: str | None = None

    def open(self) -> BinaryIO:
        """Its bytes, decompressed."""
        ending = self.path.suffix.lower()
        if ending == ".gz":
            return gzip.open(self.path)
        if ending == ".zst":
            return io.BufferedReader(pa.input_stream(str(self.path), compression="zstd"))  # (Arrow's has no lines)
        if ending == ".zip":
            return zipfile.ZipFile(self.path).open(self.member)
        return self.path.open("rb")


@dataclass
class Told:
    """What the run's configuration says about its sources, and what reading them found.

    Attributes:
        columns: Column of the text, of the artist and of the title; None is found by name.
        found: Those of them that are told and are there.
        replaced: Halves of surrogate pairs that became U+FFFD.
        remarks: What a reader of the report should know.
    """

    encoding: str
    columns: dict[str, str | None]
    found: set[str] = field(default_factory=set)
    replaced: int = 0
    remarks: list[str] = field(default_factory=list)


# ----------------------------------------------------------------------------------------------------------------------
# Finding them


def kind_suffix(path: Path) -> str:
    """The ending that says what a file holds: `.csv` of `a.csv.gz`; empty for a bare `a.zip`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def find_files(pattern: str) -> list[Path]:
    """The files of a path or a glob, sorted.

    Raises:
        LyricGPTError: nothing there, a directory, an empty file, or an ending that is not known.
    """
    path = Path(os.path.expanduser(pattern))  # noqa: PTH111  (pathlib's has no answer for an unknown user)
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
            raise LyricGPTError(
                f"no such file: {file} (looked in {Path.cwd()}); a dataset of the Hub is user/name, user/name:config or "
                "user/name:config:split"
            )
        if file.stat().st_size == 0:
            raise LyricGPTError(f"{file} is empty")
        if kind_suffix(file) not in KINDS and file.suffix.lower() != ".zip":
            raise LyricGPTError(
                f"{file} ends in {file.suffix!r}; known are {', '.join(KINDS)}, each also with {', '.join(COMPRESSIONS)}"
            )
    return files


def is_hub_id(pattern: str) -> bool:
    """Whether a corpus is named by its id on the Hub: not a file that is there, nor named like one."""
    match = HUB_ID.fullmatch(pattern)
    path = Path(os.path.expanduser(pattern))  # noqa: PTH111
    named_like_file = (
        kind_suffix(path) in KINDS or path.suffix.lower() in COMPRESSIONS or path.parts[:1] in ((), ("..",))
    )
    return bool(match) and not named_like_file and not path.exists()


def find_sources(pattern: str) -> list[Source]:
    """What `dataset` names, in order: files, members of archives, or a dataset of the Hub.

    Raises:
        LyricGPTError: as `find_files`; an archive with nothing known in it; tables and texts at once; what may not be read.
    """
    try:
        return [Source(pattern, "hub")] if is_hub_id(pattern) else list_sources(pattern)
    except OSError as error:
        raise unreadable(shown(pattern), error) from None


def list_sources(pattern: str) -> list[Source]:
    """The files, or members of archives, of a path or a glob."""
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
            raise LyricGPTError(f"{path} holds two members called {twice[0]!r}; unpack the archive first")
        known = [name for name in names if Path(name).suffix.lower() in KINDS]
        if not known:
            raise LyricGPTError(f"{path} holds nothing that ends in {', '.join(KINDS)}; it holds {names[:5]}")
        for name in known:
            suffix = Path(name).suffix.lower()
            sources.append(Source(f"{path}: {name}", KINDS[suffix], suffix, path, name))
    if len({source.kind == "text" for source in sources}) > 1:
        raise LyricGPTError(f"{pattern!r} matches both tables and texts; name one kind")
    return sources


def check_magic(path: Path) -> None:
    """Raises LyricGPTError if the first bytes of a file are those of another kind than its name says."""
    with path.open("rb") as file:
        begin = file.read(8)
    expected = EXPECTED_MAGIC.get(path.suffix.lower())
    if expected and not begin.startswith(expected):
        raise LyricGPTError(f"{path} is not {MAGIC[expected]}, as its name says: it begins with {begin!r}")
    for magic, what in MAGIC.items():
        if begin.startswith(magic) and magic != expected:
            raise LyricGPTError(f"{path} is {what} by its first bytes, not a {path.suffix}; name it what it is")


def unreadable(name: str, error: BaseException) -> LyricGPTError:
    question = "" if isinstance(error, PermissionError) else " Is it whole?"
    return LyricGPTError(f"{name} cannot be read: {shown(str(error) or type(error).__name__)}.{question}")


def load_hub(name: str) -> datasets.Dataset:
    """A dataset of the Hub, or of its cache where there is no network; the split is `train` unless it is named.

    Raises:
        LyricGPTError: no such dataset, configuration or split, or none in the cache while offline.
    """
    parts = HUB_ID.fullmatch(name)
    try:
        return datasets.load_dataset(parts["id"], parts["config"] or None, split=parts["split"] or "train")
    except Exception as error:  # of a dozen kinds, and each says what it is
        raise LyricGPTError(
            f"{name} is no file here, and as a dataset of the Hub it cannot be loaded: {type(error).__name__}: {error}. "
            "A dataset is user/name, user/name:config or user/name:config:split; offline it must lie in the cache already"
        ) from None
