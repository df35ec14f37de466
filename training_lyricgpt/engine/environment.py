"""`environment.json`: what a run was trained with.

Notes:
- Versions and devices are recorded when training starts, because the process that makes the model card later may have
  different ones.
- A start adds an entry only if it differs from the one before it. So an interrupted run has the same record as one that
  was never interrupted. If a run resumes from an earlier step, entries from that step on are dropped.
- It contains no machine name and no paths.
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
    """Returns the entries of `environment.json` in order, or none if there is no such file.

    Raises:
        LyricGPTError: the file is damaged.
    """
    remedy = "restore it, or delete it: only the model card needs it"
    entries = read_record(folder / ENVIRONMENT, list[Start], remedy) if (folder / ENVIRONMENT).exists() else []
    return sorted(entries, key=lambda entry: entry["from_step"])


def note_start(
    folder: Path, accelerator: Accelerator, step: int, max_steps: int, eval_interval: int, init_from: str | None = None
) -> None:
    """Records what this process trains with from `step` on, unless the entry before it says the same."""
    entries = read_environment(folder)
    now = describe_environment(accelerator) | {"max_steps": max_steps, "eval_interval": eval_interval}
    if init_from:
        # When a run resumes, the model it started from may be gone, and a folder's name may look like a Hub id.
        kinds = [entry["init_from"] for entry in entries if "init_from" in entry]
        now["init_from"] = kinds[0] if kinds else "folder" if step or Path(init_from).exists() else "hub"
    entries = [entry for entry in entries if entry["from_step"] < step]
    if not entries or {**entries[-1], "from_step": step} != {"from_step": step, **now}:
        entries.append({"from_step": step, **now})
    write_json(folder / ENVIRONMENT, entries)


def describe_environment(accelerator: Accelerator) -> dict[str, Any]:
    """Returns versions and device."""
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
    """Returns the commit of this project's clone, with `-dirty` if files were changed, or None if it is not a clone."""
    if not (PROJECT / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    except OSError:  # git is not installed
        return None
    return result.stdout.strip() or None


def processor_name() -> str:
    """Returns the processor's own name for itself."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
