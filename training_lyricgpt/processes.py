"""Processes of this machine: how many are worth their start, and that none outlives what it works for."""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterator


def core_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_count(text_bytes: int, worthwhile: int) -> int | None:
    """`num_proc` of `Dataset.map` for a stage over so many bytes: one process for `worthwhile` bytes each, as far as there are cores.

    None, this process itself, where a second one is not worth the start of both.
    """
    workers = min(core_count(), text_bytes // worthwhile)
    return workers if workers > 1 else None


PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
_workers_end_with = 0  # the process whose children do, if any


def _end_with_parent() -> None:
    """In a child: asks Linux for a SIGKILL when its parent is gone, and sees whether it is already."""
    if _workers_end_with and (prctl := getattr(ctypes.CDLL(None), "prctl", None)):
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != _workers_end_with:
            os._exit(1)


if sys.platform == "linux":
    os.register_at_fork(after_in_child=_end_with_parent)


@contextlib.contextmanager
def workers_end_with_us() -> Iterator[None]:
    """Worker processes forked meanwhile end when this process is killed: those of a pool would wait for work forever."""
    global _workers_end_with
    before, _workers_end_with = _workers_end_with, os.getpid()
    try:
        yield
    finally:
        _workers_end_with = before
