"""Measures the demo page under load: `python benchmarks/space.py [RUN]` (default: `runs/sample`; Linux only).

Starts `space/app.py` on this machine. For a minute, 8 simulated users ask it for songs. Each asks for the next one as
soon as the last is written, and leaves in the middle of every fourth. Before that, the same load for another minute fills
malloc's arenas.

Prints failures, songs, the median seconds from the request to the first and to the last characters, and the server's own memory
(`Pss_Anon`, which leaves out mapped files) at the start and at the end. Fails if a song failed or memory grew by more than a
tenth.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from statistics import median

PROJECT = Path(__file__).resolve().parent.parent
PROMPTS = ("", "I walked along", "The rain", "Where did you go\n", "Café ☃ ", "x" * 1000, "Oh, ", "<|endoftext|>")
LENGTH = 600


class Load:
    """What people request from one server, and what they get."""

    def __init__(self, address: str):
        self.address = f"{address}/gradio_api/call/write"
        self.failures: list[str] = []
        self.left = 0
        self.seconds: list[tuple[float, float]] = []  # to the first and to the last characters

    def ask(self, prompt: str, seed: int, leave: bool = False) -> None:
        """Requests one song. An error is counted as a failure and not raised."""
        began, first, last, events = time.monotonic(), None, "", 0
        body = json.dumps({"data": [prompt, 0.9, LENGTH, seed, "", ""]}).encode()
        request = urllib.request.Request(self.address, data=body, headers={"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                event = json.load(response)["event_id"]
            with urllib.request.urlopen(f"{self.address}/{event}", timeout=120) as response:
                for line in response:
                    text = line.decode().strip()
                    last = text.removeprefix("event: ") if text.startswith("event: ") else last
                    if last == "error" and text.startswith("data: "):
                        self.failures.append(text)
                    events += text == "event: generating"
                    if events > 1 and first is None:  # the first event is the prompt
                        first = time.monotonic() - began
                        if leave:
                            self.left += 1
                            return
            if last == "complete":
                self.seconds.append((first or time.monotonic() - began, time.monotonic() - began))
            elif last != "error":
                self.failures.append(f"ended with {last!r}")
        except OSError as error:
            self.failures.append(repr(error))

    def keep_asking(self, person: int, end: float) -> None:
        songs = 0
        while time.monotonic() < end:
            songs += 1
            self.ask(PROMPTS[(person + songs) % len(PROMPTS)], 1000 * person + songs, leave=songs % 4 == 0)


def memory(process: subprocess.Popen) -> float:
    """A process's own memory in MiB."""
    rows = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("Pss_Anon:")) / 1024


def together(load: Load, users: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    people = [threading.Thread(target=load.keep_asking, args=(person, end)) for person in range(users)]
    for person in people:
        person.start()
    for person in people:
        person.join()


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the demo page under load.")
    parser.add_argument("run", nargs="?", default="runs/sample", help="run folder (default: runs/sample)")
    parser.add_argument("--users", type=int, default=8, help="people who write at once (default: 8)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=60,
        help="length of the measurement, and of the warm-up before it (default: 60)",
    )
    args = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"MODEL": str(Path(args.run).resolve()), "GRADIO_SERVER_PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, PROJECT / "space" / "app.py"], env=environment, stdout=subprocess.DEVNULL
    )
    try:
        address = f"http://127.0.0.1:{port}"
        while True:
            try:
                urllib.request.urlopen(address).close()
                break
            except OSError:
                if process.poll() is not None:
                    sys.exit("error: the page did not start")
                time.sleep(0.2)
        together(Load(address), args.users, args.seconds)
        before, load = memory(process), Load(address)
        together(load, args.users, args.seconds)
        after = memory(process)
    finally:
        process.kill()
        process.wait()
    first, last = (median(times) for times in zip(*load.seconds, strict=True))
    print(f"{args.users} people, {args.seconds:.0f} seconds, at most {LENGTH} characters per song")
    print(f"failures                  {len(load.failures)}")
    print(f"songs                     {len(load.seconds)} ({load.left} more were left in the middle)")
    print(f"median seconds            {first:.2f} to the first characters, {last:.2f} to the last")
    print(f"server's memory           {before:.0f} MiB at the start, {after:.0f} MiB at the end")
    for failure in load.failures[:5]:
        print(f"failed: {failure[:300]}", file=sys.stderr)
    sys.exit(bool(load.failures) or after > 1.1 * before)


if __name__ == "__main__":
    main()
