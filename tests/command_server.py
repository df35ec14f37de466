"""Runs the project's commands for the tests without importing torch and transformers for each one.

A process imports them once and then reads commands from its standard input. For each command it forks a child, which runs
the script as `python SCRIPT ARGUMENTS` would: as `__main__`, with its own working folder, environment and output files.
"""

import json
import os
import runpy
import sys
import traceback
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def run_in_child(request: dict) -> None:
    """Runs the command in this process and exits with its status."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.argv = request["command"]
    status = 0
    try:
        if sys.argv[0] == "-m":
            module = sys.argv[1]
            sys.argv = sys.argv[1:]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as leave:
        status = leave.code
        if isinstance(status, str):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
        status = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status or 0)


def main() -> None:
    os.chdir(PROJECT)
    sys.path.insert(0, str(PROJECT))
    import train_hf  # noqa: F401

    for name in [
        name for name in sys.modules if name.split(".")[0] in ("train_hf", "push_to_hub", "training_lyricgpt")
    ]:
        del sys.modules[name]  # so that each command imports the project's own code again
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            run_in_child(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
