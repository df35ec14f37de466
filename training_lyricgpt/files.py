"""Files that are whole or not there: atomic writes, checksums, and the folder that prepared corpora are kept in."""

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
    """Where prepared corpora are kept: `LYRICGPT_CACHE`, or a folder of the user's cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "lyricgpt"
    return Path(os.environ.get("LYRICGPT_CACHE") or default).expanduser()


@contextlib.contextmanager
def writing_cache() -> Iterator[None]:
    """Says what to do when the cache cannot be written.

    Raises:
        LyricGPTError: it cannot.
    """
    try:
        yield
    except Timeout:  # of a lock that another process holds
        raise
    except OSError as error:
        raise LyricGPTError(
            f"the cache in {cache_folder()} cannot be written: {error}. Set LYRICGPT_CACHE to a folder with room that you may "
            "write to, and run the same command again"
        ) from error


# Whatever is being written carries this name until it is whole.
UNFINISHED = ".saving-"


def clear_unfinished(folder: Path) -> None:
    """Removes what a killed process left half-written."""
    for path in list(folder.rglob(f"{UNFINISHED}*")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically: it is the old one or the new one, never half of one."""
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
    """Says what to do when a run's files cannot be written."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise LyricGPTError(
            f"{folder} cannot be written: {error}. What was saved before is whole; mend the cause and run the same "
            "command again"
        ) from error


class Place:
    """A folder as it was when a run began to write into it: it may be moved away or replaced meanwhile."""

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
        """Raises LyricGPTError if the folder is no longer there, or is another one now."""
        if self._look() != self.identity:
            raise LyricGPTError(
                f"{self.folder} is not the folder that this run began in: it was moved or deleted meanwhile. Nothing more was "
                "saved; what was saved before is whole wherever it lies now. Move it back and run the same command again, or "
                "go on there with --output_dir"
            )


def lock_folder(folder: Path) -> FileLock:
    """Takes a run folder for this process; the lock goes with the process, whatever ends it.

    Raises:
        LyricGPTError: another process of this machine trains in it and does not end within ten seconds.
    """
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:32]
    path = cache_folder() / "locks" / f"{name}.lock"
    lock = FileLock(path, timeout=10)
    try:
        with writing_cache():
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
    except Timeout:
        raise LyricGPTError(f"another process is training in {folder}; wait for it, or choose another folder") from None
    return lock


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def hash_file(path: Path) -> str:
    """SHA-256 of a file, read through."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def known_checksum(path: Path) -> str:
    """SHA-256 of a file, from the index if path, size and modification time are those it was hashed with."""
    index_path = cache_folder() / "checksums.json"
    stat = path.stat()
    entry = {"size": stat.st_size, "modified": stat.st_mtime_ns}
    name = os.fsencode(path.resolve()).decode("utf-8", "backslashreplace")  # (a name need not be UTF-8)

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
