"""Checkpoints from which a run resumes exactly. They hold only data, so loading one never runs code.

Notes:
- A checkpoint is safetensors and JSON files with checksums. (`Accelerator.save_state` pickles optimizer and generator
  states.) Batches and dropout are functions of (seed, step), so weights, optimizer moments and the step number are the
  whole state.
- A checkpoint is written under a temporary name and then renamed, so it is either complete or missing.
- A damaged checkpoint is reported, and the one before it is used.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from .. import LyricGPTError
from ..files import UNFINISHED, hash_file, write_json
from ..record_types import SavedCheckpoint, parse_record, read_text_of

KEEP = 2
NAME = re.compile(r"step-(\d{8})")


@dataclass
class Checkpoint:
    """A checkpoint whose files match their checksums.

    Attributes:
        step: Number of optimizer steps taken.
        state: The `state` that was given to `save_checkpoint`.
    """

    folder: Path
    step: int
    state: dict[str, Any]


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Returns an optimizer's state: its tensors by name, and its other values by name.

    Hyperparameters are left out, because they follow from the configuration and the step.
    """
    tensors, values = {}, {}
    for index, entries in optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}.{key}"] = value.detach().cpu().contiguous()
            else:
                values[f"{index}.{key}"] = value
    return tensors, values


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], values: dict[str, Any]
) -> None:
    """Loads a state that `optimizer_tensors` returned into an optimizer."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **values}.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def checkpoint_path(folder: Path, step: int) -> Path:
    """Returns the path of a step's checkpoint in a run's `checkpoints` folder."""
    return folder / f"step-{step:08d}"


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    state: dict[str, Any],
) -> Path:
    """Writes `folder/step-XXXXXXXX/` and deletes all checkpoints except this one and the one before it.

    Args:
        folder: The run's `checkpoints` folder.
        state: What else to save: see `TrainingState`.

    Raises:
        LyricGPTError: the checkpoint cannot be written. Earlier checkpoints are untouched.
    """
    target = checkpoint_path(folder, step)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=UNFINISHED) as temporary:
            staging = Path(temporary) / "checkpoint"
            staging.mkdir()
            weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
            save_file(weights, staging / "model.safetensors")
            others = []
            for index, optimizer in enumerate(optimizers):
                tensors, values = optimizer_tensors(optimizer)
                save_file(tensors, staging / f"optimizer-{index}.safetensors")
                others.append(values)
            sums = {path.name: hash_file(path) for path in sorted(staging.iterdir())}
            record = {"step": step, "state": state, "optimizers": others, "sha256": sums}
            record["record_sha256"] = _record_checksum(record)
            write_json(staging / "state.json", record)
            for path in staging.iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            if target.exists():
                shutil.rmtree(target)
            os.replace(staging, target)
    except (OSError, SafetensorError) as error:
        raise LyricGPTError(
            f"the checkpoint of step {step} could not be written to {folder}: {error}. Earlier checkpoints are "
            "untouched. Free some disk space and run the same command again"
        ) from error
    # Checkpoints of later steps are deleted too. They are damaged, because this run would have resumed from them otherwise.
    kept = [path for path in list_checkpoints(folder) if path.name <= target.name][:KEEP]
    for old in list_checkpoints(folder):
        if old not in kept:
            shutil.rmtree(old)
    return target


def _record_checksum(record: dict[str, Any]) -> str:
    content = {key: value for key, value in record.items() if key != "record_sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def list_checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoints of a run, newest first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if NAME.fullmatch(path.name)), reverse=True)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Reads a checkpoint's record and checks its files against their checksums.

    Raises:
        ValueError: the checkpoint is damaged. The message says how.
    """
    try:
        text = read_text_of(folder / "state.json")
        record = parse_record(text, SavedCheckpoint, folder / "state.json", "it is skipped")
        if record["record_sha256"] != _record_checksum(json.loads(text)):
            raise ValueError("state.json does not match its checksum")
        for name, expected in record["sha256"].items():
            if hash_file(folder / name) != expected:
                raise ValueError(f"{name} does not match its checksum")
    except (OSError, LyricGPTError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return Checkpoint(folder, record["step"], record["state"])


def latest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Returns the newest undamaged checkpoint, if any, and a sentence about each damaged one that was skipped."""
    complaints = []
    for path in list_checkpoints(folder):
        try:
            return read_checkpoint(path), complaints
        except ValueError as error:
            complaints.append(f"checkpoint {path.name} is damaged ({error})")
    return None, complaints


def load_checkpoint(checkpoint: Checkpoint, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
    """Loads a checkpoint's weights and optimizer states into `model` and `optimizers`.

    Raises:
        LyricGPTError: the checkpoint belongs to a different model.
    """
    record = json.loads((checkpoint.folder / "state.json").read_text(encoding="utf-8"))
    try:
        model.load_state_dict(load_file(checkpoint.folder / "model.safetensors"))
        for index, (optimizer, values) in enumerate(zip(optimizers, record["optimizers"], strict=True)):
            restore_optimizer(optimizer, load_file(checkpoint.folder / f"optimizer-{index}.safetensors"), values)
    except Exception as error:  # torch raises many kinds of errors if a state does not fit
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise LyricGPTError(
            f"{checkpoint.folder} does not fit this configuration: {what}. Choose another --output_dir"
        ) from error
