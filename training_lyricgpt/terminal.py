"""How a command prints and exits. A user's mistake gives an error of one line. A failure to print gives no traceback.

Notes:
- A character that the terminal or file can't represent is written as an escape, for example `\\u3042`.
- When the reader of a pipe is gone (`| head`), a command exits silently. A training run saves first: see `Output`.
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
    """Discards all further standard output. Otherwise, Python's flush at exit would fail again."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def command() -> Iterator[None]:
    """Runs a command's `main`, and turns errors into a line on standard error and an exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
        sys.stdout.flush()
    except LyricGPTError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # of several processes, only one prints it
            print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        drop_output()
        sys.exit(NOBODY_READS)
    except OSError as error:
        drop_output()
        sys.exit(f"error: reading or writing failed: {error}. Check the free disk space and the permissions")
    except KeyboardInterrupt:
        sys.exit(130)


def program(name: str) -> str:
    """Returns how to call a program of this environment from here, whether or not the environment is activated."""
    path = Path(sys.executable).with_name(name) if name != "python" else Path(sys.executable)
    return shlex.quote(os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path))


class Output:
    """Standard output of a run. A failure to print must not end the run, so after the first failure nothing more is printed.

    Attributes:
        error: The error from the first line that could not be written, or None.
    """

    def __init__(self):
        self.error: OSError | None = None

    def write(self, message: str) -> None:
        """Writes a line without breaking the progress bar."""
        if self.error is not None:
            return
        try:
            tqdm.write(message)
            sys.stdout.flush()
        except OSError as error:
            self.error = error
            drop_output()

    def write_last(self, message: str) -> None:
        """Writes the last line of a run, on standard error if standard output doesn't work."""
        self.write(message)
        if self.error is not None:
            with contextlib.suppress(OSError, ValueError):
                print(message, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Raises the error, if there was one, now that the run is over.

        Raises:
            OSError: a line could not be written.
        """
        if self.error is not None:
            raise self.error
