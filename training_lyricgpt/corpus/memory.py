"""Limits the size of what must be read into memory whole: a text document, a line of JSON, a part of a Parquet file.

A small compressed file can unpack to more than fits in memory. Such a file is refused before the memory runs out.
"""

import contextlib
from pathlib import Path
from typing import BinaryIO

import psutil

from .. import LyricGPTError
from ..wording import size

# Bytes of memory per byte of a document while it is decoded, cleaned and counted: 200 MB took 1.5 GB.
NEEDED = 8
BLOCK_BYTES = 1 << 23  # read at once, so no row of a table may be longer
# Files with a container's memory limit and use, in versions 2 and 1 of Linux's control groups.
GROUPS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))


def available_memory(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Returns how many more bytes this process may use, within the limits of the machine, its container and itself."""
    available = [psutil.virtual_memory().available]
    for limit, used in GROUPS:
        with contextlib.suppress(OSError, ValueError):  # (no such file, or the limit is "max")
            available.append(int((groups / limit).read_text()) - int((groups / used).read_text()))
    with contextlib.suppress(ImportError, OSError):  # (Windows has no such limits)
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            available.append(limit - psutil.Process().memory_info().vms)
    return max(0, min(available))


def longest_document() -> int:
    """Returns the size in bytes of the longest document that fits in memory."""
    return available_memory() // NEEDED


def refuse_large(name: str, longest: int) -> LyricGPTError:
    return LyricGPTError(
        f"{name} holds more than {size(longest)} in one piece, which does not fit in memory: reading it takes about {NEEDED} "
        "times its size. Use a part of it, or a table with one song per row, which is read a few megabytes at a time"
    )


def read_whole(name: str, file: BinaryIO) -> bytes:
    """Reads the rest of a file.

    Raises:
        LyricGPTError: if it doesn't fit in memory.
    """
    longest, length, blocks = longest_document(), 0, []
    while block := file.read(BLOCK_BYTES):
        blocks.append(block)
        length += len(block)
        if length > longest:
            blocks.clear()
            raise refuse_large(name, longest)
    return b"".join(blocks)
