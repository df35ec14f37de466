"""Whatever stops a run: nothing is lost, a message says what happened, and the same command goes on."""

import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from conftest import PROJECT, TINY, options, run, train
from safetensors.torch import load_file
from test_bad_input import assert_refused
from test_train import TWO_PROCESSES, assert_same_run, assert_succeeds, metrics

from training_lyricgpt.checkpoints import list_checkpoints, read_checkpoint


@pytest.fixture
def start():
    """Starts commands; whatever a failed test leaves running is killed with its children."""
    processes = []

    def start(command):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen([str(part) for part in command], cwd=PROJECT, **pipes))
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
        process.communicate()


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def test_a_signal_during_an_evaluation_leaves_it_undone_and_the_next_start_does_it(start, tmp_path):
    # Everything is evaluated, which takes seconds; a checkpoint is written just before.
    values = TINY | {"hidden_size": 128, "num_hidden_layers": 3, "max_steps": 10, "eval_batches": 100_000}
    command = [sys.executable, "train_hf.py", *options(**values, output_dir=tmp_path / "stopped")]
    process = start(command)
    wait_for(lambda: list_checkpoints(tmp_path / "stopped" / "checkpoints"), process)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, output + errors
    assert "stopped by SIGTERM at step 10 of 10" in output
    assert [row["step"] for row in metrics(tmp_path / "stopped")] == [0]
    assert_succeeds(run(command))
    assert [row["step"] for row in metrics(tmp_path / "stopped")] == [0, 10]
    assert_succeeds(train(**values, output_dir=tmp_path / "whole"))
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_a_signal_during_the_first_evaluation_leaves_a_folder_that_begins_again(start, tmp_path):
    values = TINY | {"hidden_size": 128, "num_hidden_layers": 3, "max_steps": 2, "eval_batches": 100_000}
    command = [sys.executable, "train_hf.py", *options(**values, output_dir=tmp_path / "run")]
    process = start(command)
    for line in process.stdout:
        if "val loss" in line:
            break
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, output + errors
    assert not list_checkpoints(tmp_path / "run" / "checkpoints")
    assert_succeeds(train(**values | {"eval_batches": 1}, output_dir=tmp_path / "run"))


@pytest.mark.parametrize("values", [{"max_grad_norm": 0}, {"save_interval": 3, "eval_interval": 7}])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_what_was_good(tmp_path, values):
    # The published optimizer with a learning rate beyond all measure: the weights overflow within a few steps.
    absurd = {"learning_rate": 1e36, "warmup_steps": 4, "lr_schedule": "constant", "max_steps": 100, "save_interval": 1}
    result = train(output_dir=tmp_path / "run", **absurd | values)
    assert_refused(result, "not finite at step", "checkpoints and the best model are of earlier steps", "learning_rate")
    for folder in list_checkpoints(tmp_path / "run" / "checkpoints"):
        read_checkpoint(folder)
        assert all(value.isfinite().all() for value in load_file(folder / "model.safetensors").values())
    best = load_file(tmp_path / "run" / "model.safetensors")
    assert all(value.isfinite().all() for value in best.values())


@pytest.mark.parametrize("stopped", [False, True])
def test_a_gradient_that_is_not_finite_stops_the_run_at_its_step(tmp_path, stopped):
    """The loss of a step is finite, its gradient is not: a hook makes one so in the seventh step."""
    code = """
import os, signal, sys
import torch, train_hf
step = train_hf.train_step
def poisoned(args, corpus, accelerator, model, optimizers, index):
    handle = None
    if index == 6:
        handle = model.lm_head.weight.register_hook(lambda gradient: gradient * float("nan"))
    figures = step(args, corpus, accelerator, model, optimizers, index)
    if handle:
        handle.remove()
        assert figures[0].isfinite()
        if os.environ.get("STOPPED"):
            os.kill(os.getpid(), signal.SIGTERM)  # which would save
    return figures
train_hf.train_step = poisoned
from training_lyricgpt import LyricGPTError
try:
    train_hf.main()
except LyricGPTError as error:
    sys.exit(f"error: {error}")
"""
    values = TINY | {"save_interval": 5, "log_interval": 5}
    command = [sys.executable, "-c", code, *options(**values, output_dir=tmp_path / "run")]
    result = run(command, STOPPED="yes" if stopped else "")
    assert result.returncode == 1, result.stderr
    assert f"not finite at step 7 (found at step {7 if stopped else 10})" in result.stderr
    assert [folder.name for folder in list_checkpoints(tmp_path / "run" / "checkpoints")] == ["step-00000005"]
    # The cause mended, the same command goes on from before it.
    assert_succeeds(train(**values, output_dir=tmp_path / "run"))
    assert_succeeds(train(**values, output_dir=tmp_path / "whole"))
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room(tiny_run, tmp_path):
    # No file may grow beyond the weights' size: the optimizer's state, twice that, cannot be written.
    weights = (tiny_run / "model.safetensors").stat().st_size
    command = [sys.executable, "train_hf.py", *options(**TINY, lr_schedule="constant", output_dir=tmp_path / "full")]
    limited = ["bash", "-c", f'ulimit -f {weights * 3 // 2 // 1024}; exec "$@"', "bash", *command]
    assert_refused(run(limited), "checkpoint of step 10 could not be written", "run the same command again")
    assert [row["step"] for row in metrics(tmp_path / "full")] == [0]
    assert not list((tmp_path / "full").rglob(".saving-*"))
    assert_succeeds(run(command))
    assert_succeeds(train(lr_schedule="constant", output_dir=tmp_path / "whole"))
    assert_same_run(tmp_path / "full", tmp_path / "whole")


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    assert_refused(train(output_dir="/proc/lyricgpt"), "cannot be written", "same command again")


def test_the_second_of_two_runs_on_one_folder_refuses(start, tmp_path):
    values = TINY | {"max_steps": 100_000, "output_dir": tmp_path / "run"}
    command = [sys.executable, "train_hf.py", *options(**values)]
    first = start(command)
    wait_for(lambda: list_checkpoints(tmp_path / "run" / "checkpoints"), first)
    assert_refused(run(command), "another process is training in")
    assert first.poll() is None
    first.terminate()
    first.communicate(timeout=60)
    assert first.returncode == 128 + signal.SIGTERM


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_that_dies_ends_the_run_and_the_same_command_goes_on(start, tmp_path, rank):
    values = TINY | {"max_steps": 400, "save_interval": 20, "eval_interval": 200, "lr_schedule": "constant"}
    command = [*TWO_PROCESSES, "train_hf.py", *options(**values, output_dir=tmp_path / "run")]
    launcher = start(command)
    wait_for(lambda: list_checkpoints(tmp_path / "run" / "checkpoints"), launcher)
    children = [(child.environ(), child) for child in psutil.Process(launcher.pid).children()]
    workers = {environment["LOCAL_RANK"]: child for environment, child in children if "LOCAL_RANK" in environment}
    workers[str(rank)].kill()
    errors = launcher.communicate(timeout=180)[1]
    assert launcher.returncode != 0
    assert "another process of this run has ended" in errors, errors
    assert not psutil.wait_procs(workers.values(), timeout=60)[1], "a worker is left behind"
    result = assert_succeeds(run(command))
    assert "going on from step" in result.stdout
    assert [row["step"] for row in metrics(tmp_path / "run")] == [0, 200, 400]
    assert all(torch.isfinite(v).all() for v in load_file(tmp_path / "run" / "model.safetensors").values())
    assert len(list_checkpoints(tmp_path / "run" / "checkpoints")) == 2
