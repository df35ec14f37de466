"""Worker processes: how many to start, and how to end them together with the process that they work for."""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterator


def core_count() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_count(text_bytes: int, worthwhile: int) -> int | None:
    """Returns how many processes a `Dataset.map` over `text_bytes` bytes should use (its `num_proc`).

    There is one process per `worthwhile` bytes, and at most one per core. None means that this process does the work
    itself, because a second one would not be worth starting.
    """
    workers = min(core_count(), text_bytes // worthwhile)
    return workers if workers > 1 else None


PR_SET_PDEATHSIG = 1  # from <sys/prctl.h>
_workers_end_with = 0  # id of the process whose children end with it, or 0


def _end_with_parent() -> None:
    """In a child: asks Linux to kill it when its parent ends, and exits if the parent has ended already."""
    if _workers_end_with and (prctl := getattr(ctypes.CDLL(None), "prctl", None)):
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != _workers_end_with:
            os._exit(1)


if sys.platform == "linux":
    os.register_at_fork(after_in_child=_end_with_parent)


@contextlib.contextmanager
def workers_end_with_us() -> Iterator[None]:
    """Makes workers that are forked inside the `with` block end when this process is killed. Otherwise they would wait for work forever."""
    global _workers_end_with
    before, _workers_end_with = _workers_end_with, os.getpid()
    try:
        yield
    finally:
        _workers_end_with = before
