"""How much memory there is for what must be read whole: a text document, a line of JSON, a table packed by columns.

A small compressed file may unpack to more than any machine holds. It is refused while there is still memory to say so.
"""

import contextlib
from pathlib import Path
from typing import BinaryIO

import psutil

from .. import LyricGPTError
from ..wording import size

# Bytes of memory for each byte of a document while it is decoded, cleaned and counted: 200 MB took 1.5 GB.
NEEDED = 8
BLOCK_BYTES = 1 << 23  # what is read at once, and so the longest row of a table
# Limit and use of a container, in the two versions of Linux's control groups.
GROUPS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))


def available_memory(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this process may still take: of the machine, of its container, and of its own limit."""
    available = [psutil.virtual_memory().available]
    for limit, used in GROUPS:
        with contextlib.suppress(OSError, ValueError):  # no such file; "max"
            available.append(int((groups / limit).read_text()) - int((groups / used).read_text()))
    with contextlib.suppress(ImportError, OSError):  # (Windows has no such limits)
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            available.append(limit - psutil.Process().memory_info().vms)
    return max(0, min(available))


def longest_document() -> int:
    """Bytes of a document that there is memory for."""
    return available_memory() // NEEDED


def refuse_large(name: str, longest: int) -> LyricGPTError:
    return LyricGPTError(
        f"{name} holds more than {size(longest)} in one piece, and there is no memory for more: each byte of it takes about "
        f"{NEEDED}. Use a part of it, or a table with one song a row, which is read a few megabytes at a time"
    )


def read_whole(name: str, file: BinaryIO) -> bytes:
    """All that is left of a file.

    Raises:
        LyricGPTError: there is no memory for it.
    """
    longest, length, blocks = longest_document(), 0, []
    while block := file.read(BLOCK_BYTES):
        blocks.append(block)
        length += len(block)
        if length > longest:
            blocks.clear()
            raise refuse_large(name, longest)
    return b"".join(blocks)
