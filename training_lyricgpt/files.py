"""Atomic writes, checksums, locks, and the cache folder for prepared corpora."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from . import LyricGPTError


def cache_folder() -> Path:
    """Returns the folder for prepared corpora: `LYRICGPT_CACHE`, or a folder in the user's cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "lyricgpt"
    return Path(os.environ.get("LYRICGPT_CACHE") or default).expanduser()


@contextlib.contextmanager
def writing_cache() -> Iterator[None]:
    """Turns a failure to write the cache into an error that says what to do.

    Raises:
        LyricGPTError: the cache cannot be written.
    """
    try:
        yield
    except Timeout:  # another process holds the lock
        raise
    except OSError as error:
        raise LyricGPTError(
            f"the cache in {cache_folder()} cannot be written: {error}. Set LYRICGPT_CACHE to a folder that you may write to "
            "and that has enough space, and run the same command again"
        ) from error


# The names of unfinished files and folders begin with this.
UNFINISHED = ".saving-"


def clear_unfinished(folder: Path) -> None:
    """Removes unfinished files and folders that a killed process left behind."""
    for path in list(folder.rglob(f"{UNFINISHED}*")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically: at any time, the file is the old one or the new one, never half of it."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=UNFINISHED)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def saving(folder: Path) -> Iterator[None]:
    """Turns a failure to write a run's files into a `LyricGPTError` that says what to do."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise LyricGPTError(
            f"{folder} cannot be written: {error}. Everything saved before is intact. Free some disk space, check "
            "that you may write there, and run the same command again, or choose another --output_dir"
        ) from error


class Place:
    """A run's folder, which somebody may move or replace while the run writes into it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.identity = self._look()

    def _look(self) -> tuple[int, int] | None:
        try:
            stat = self.folder.stat()
        except OSError:
            return None
        return stat.st_dev, stat.st_ino

    def check(self) -> None:
        """Raises LyricGPTError if the folder is gone or has been replaced."""
        if self._look() != self.identity:
            raise LyricGPTError(
                f"{self.folder} was moved or deleted while the run was training in it. Nothing more was saved. If it was moved, "
                "everything saved before is intact: move it back and run the same command again, or name its new place with "
                "--output_dir"
            )


def lock_folder(folder: Path) -> FileLock:
    """Locks a run folder for this process. The lock is released when the process ends, however it ends.

    Raises:
        LyricGPTError: another process on this machine trains in it and does not end within ten seconds.
    """
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:32]
    path = cache_folder() / "locks" / f"{name}.lock"
    lock = FileLock(path, timeout=10)
    try:
        with writing_cache():
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
    except Timeout:
        raise LyricGPTError(
            f"another process is training in {folder}; wait until it ends, or choose another --output_dir"
        ) from None
    return lock


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def hash_file(path: Path) -> str:
    """Returns the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def known_checksum(path: Path) -> str:
    """Returns the SHA-256 of a file, from an index if its path, size and modification time have not changed."""
    index_path = cache_folder() / "checksums.json"
    stat = path.stat()
    entry = {"size": stat.st_size, "modified": stat.st_mtime_ns}
    name = os.fsencode(path.resolve()).decode("utf-8", "backslashreplace")  # file names need not be UTF-8

    def read_index() -> dict[str, dict[str, Any]]:
        try:
            index = read_json(index_path)
        except (OSError, ValueError):
            return {}
        return index if isinstance(index, dict) else {}

    with writing_cache():
        index_path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{index_path}.lock"):
            known = read_index().get(name, {})
        if isinstance(known, dict) and {key: known.get(key) for key in entry} == entry and "sha256" in known:
            return known["sha256"]
        checksum = hash_file(path)
        with FileLock(f"{index_path}.lock"):
            write_json(index_path, read_index() | {name: {**entry, "sha256": checksum}})
    return checksum
