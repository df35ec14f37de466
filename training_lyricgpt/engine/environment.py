"""`environment.json`: what a run was trained with.

Notable:
- Versions and devices are noted when training starts: the process that draws a card later may have others.
- A start adds an entry only if it differs from the one before it, so that a run that was interrupted keeps the record of
  one that never was. What a start left undone is dropped with the steps that it left undone.
- Neither the machine's name nor a path is in it.
"""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ..files import write_json
from ..record_types import PACKAGES, Start, read_record

ENVIRONMENT = "environment.json"


PROJECT = Path(__file__).resolve().parents[2]


def read_environment(folder: Path) -> list[dict[str, Any]]:
    """The entries of `environment.json` in order; none where there is no such file.

    Raises:
        LyricGPTError: the file is damaged.
    """
    remedy = "restore it, or remove it: it is only read for the card"
    entries = read_record(folder / ENVIRONMENT, list[Start], remedy) if (folder / ENVIRONMENT).exists() else []
    return sorted(entries, key=lambda entry: entry["from_step"])


def note_start(
    folder: Path, accelerator: Accelerator, step: int, max_steps: int, eval_interval: int, init_from: str | None = None
) -> None:
    """Writes what this process trains with from `step` on, unless the one before it trained with the same."""
    entries = read_environment(folder)
    now = describe_environment(accelerator) | {"max_steps": max_steps, "eval_interval": eval_interval}
    if init_from:
        # What it began with may be gone by now, and a folder's name may look like one of the Hub.
        kinds = [entry["init_from"] for entry in entries if "init_from" in entry]
        now["init_from"] = kinds[0] if kinds else "folder" if step or Path(init_from).exists() else "hub"
    entries = [entry for entry in entries if entry["from_step"] < step]
    if not entries or {**entries[-1], "from_step": step} != {"from_step": step, **now}:
        entries.append({"from_step": step, **now})
    write_json(folder / ENVIRONMENT, entries)


def describe_environment(accelerator: Accelerator) -> dict[str, Any]:
    """Versions and device."""
    device = accelerator.device
    return {
        "python": platform.python_version(),
        "lyricgpt": known_version("lyricgpt"),
        "commit": project_commit(),
        "packages": {name: known_version(name) for name in PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
    }


def known_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def project_commit() -> str | None:
    """The commit of this project's clone, with `-dirty` where files differ from it; None if it is no clone."""
    if not (PROJECT / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    except OSError:  # no git here
        return None
    return result.stdout.strip() or None


def processor_name() -> str:
    """The kind of processor, as it names itself."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
