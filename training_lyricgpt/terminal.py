"""How a command speaks and ends: what it was told wrong becomes one line, and output that nobody can read is no crash.

Notable:
- A character that a terminal or a file cannot hold is written as an escape, for example `\\u3042`.
- When the reader of a pipe has gone (`| head`), a command ends without a word. A training saves first: see `Output`.
"""

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from . import LyricGPTError

NOBODY_READS = 128 + signal.SIGPIPE if hasattr(signal, "SIGPIPE") else 1


def drop_output() -> None:
    """Sends what would still be written to standard output nowhere: Python's own flush at the end would fail again."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def command() -> Iterator[None]:
    """Runs a command's `main`: turns what ends it into a line on standard error and an exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
        sys.stdout.flush()
    except LyricGPTError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # of several processes one says it
            print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        drop_output()
        sys.exit(NOBODY_READS)
    except OSError as error:
        drop_output()
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def program(name: str) -> str:
    """How a program of this environment is called from here, whether or not the environment is activated."""
    path = Path(sys.executable).with_name(name) if name != "python" else Path(sys.executable)
    return shlex.quote(os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path))


class Output:
    """Standard output of a run that must not die of it: once a line cannot be written, the rest is dropped.

    Attributes:
        error: What happened to the first line that could not be written; None while all could.
    """

    def __init__(self):
        self.error: OSError | None = None

    def write(self, message: str) -> None:
        """Writes a line beside the progress bar."""
        if self.error is not None:
            return
        try:
            tqdm.write(message)
            sys.stdout.flush()
        except OSError as error:
            self.error = error
            drop_output()

    def write_last(self, message: str) -> None:
        """Writes the line that a run ends with; on standard error where nothing else can be written."""
        self.write(message)
        if self.error is not None:
            with contextlib.suppress(OSError, ValueError):
                print(message, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Ends as a command does whose output could not be written, if some could not.

        Raises:
            OSError: what happened to it.
        """
        if self.error is not None:
            raise self.error
