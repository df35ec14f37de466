"""Tests that take minutes: kills at random moments, compilation, and a new user's first run."""

import contextlib
import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import PROJECT, TINY, options, run
from safetensors.torch import load_file
from test_train import TIMES

from training_lyricgpt.files import UNFINISHED

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def state(folder):
    """Losses and samples of every evaluation, and every tensor of the last checkpoint."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    figures = [{k: v for k, v in row.items() if k not in TIMES} for row in rows]
    checkpoint = max((folder / "checkpoints").glob("step-*"))
    return figures, {path.name: load_file(path) for path in checkpoint.glob("*.safetensors")}


def newest_file(folder):
    """When a file in a folder was last written. Files may come and go meanwhile."""
    times = [0.0]
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                times.append((Path(root) / name).stat().st_mtime)
    return max(times)


def unfinished(folder):
    """Names of files and folders that were not written to the end."""
    names = []
    for _, folders, files in os.walk(folder):
        names += [name for name in folders + files if name.startswith(UNFINISHED)]
    return names


def test_a_run_killed_at_random_moments_equals_the_run_that_was_never_killed(tmp_path):
    values = TINY | {"max_steps": 150, "eval_interval": 30, "save_interval": 7, "dropout": 0.2, "optimizer": "muon"}
    whole = [sys.executable, "train_hf.py", *options(**values, output_dir=tmp_path / "whole")]
    assert run(whole).returncode == 0
    killed = [sys.executable, "train_hf.py", *options(**values, output_dir=tmp_path / "killed")]
    draw = random.Random(0)
    cut_off = 0
    for kill in range(10):
        process = subprocess.Popen(killed, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        before = newest_file(tmp_path / "killed")
        while process.poll() is None and newest_file(tmp_path / "killed") == before:
            time.sleep(0.02)  # until it has written something
        if kill % 2:  # while a checkpoint is written
            while process.poll() is None and not unfinished(tmp_path / "killed" / "checkpoints"):
                time.sleep(0.001)
        else:
            time.sleep(draw.uniform(0, 2))
        process.kill()
        errors = process.communicate()[1]
        assert "Traceback" not in errors, errors
        left = unfinished(tmp_path / "killed")
        cut_off += bool(left)
        saved = sorted(path.name for path in (tmp_path / "killed" / "checkpoints").glob("step-*"))
        print(f"kill {kill + 1}: saved {', '.join(saved) or 'nothing'}; cut off: {', '.join(left) or 'nothing'}")
    assert cut_off, "no kill came during a save"
    result = run(killed)
    assert result.returncode == 0, result.stderr
    (figures, tensors), (other_figures, other_tensors) = state(tmp_path / "whole"), state(tmp_path / "killed")
    assert other_figures == figures
    assert other_tensors.keys() == tensors.keys()
    for file, values in tensors.items():
        for name, value in values.items():
            assert torch.equal(value, other_tensors[file][name]), (file, name)
    assert not unfinished(tmp_path / "killed"), "the next start did not remove what a kill cut off"
    clock = re.compile(r"^\| (training|time|speed) \|.*\n", flags=re.M)  # lines of the card that depend on time
    for name in ("samples.txt", "README.md", "environment.json"):
        ours, theirs = (clock.sub("", (tmp_path / folder / name).read_text()) for folder in ("killed", "whole"))
        ours = ours.replace(str(tmp_path / "killed"), str(tmp_path / "whole")).replace(
            "lyricgpt-killed", "lyricgpt-whole"
        )
        assert ours == theirs, f"{name} differs from the run that was never killed"


def test_a_compiled_model_trains_to_the_same_figures(tmp_path):
    rows = {}
    for compiled in ("true", "false"):
        folder = tmp_path / compiled
        command = [sys.executable, "train_hf.py", *options(**TINY, dropout=0.0, compile=compiled, output_dir=folder)]
        result = run(command, timeout=900)
        assert result.returncode == 0, result.stderr
        rows[compiled] = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for one, other in zip(rows["true"], rows["false"], strict=True):
        assert one["val_loss"] == pytest.approx(other["val_loss"], abs=1e-3)
    assert run([sys.executable, "-m", "training_lyricgpt.sample", tmp_path / "true"]).returncode == 0


def test_the_sample_configuration_learns_to_spell(tmp_path):
    command = ["train_hf.py", "--config", "configs/sample.yaml", f"--output_dir={tmp_path / 'sample'}"]
    result = run([sys.executable, *command], timeout=1500)
    assert result.returncode == 0, result.stderr
    assert "A song from this model:" in result.stdout
    share = run([sys.executable, "benchmarks/known_words.py", tmp_path / "sample", "--json"])
    assert json.loads(share.stdout)["sampled"] >= 0.85
