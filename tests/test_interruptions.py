"""Whatever stops a run, nothing is lost, a message says what happened, and the same command resumes."""

import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
import termios
import time

import psutil
import pytest
import torch
from conftest import PROJECT, TINY, options, python, run, train
from safetensors.torch import load_file
from test_bad_input import assert_refused
from test_train import TWO_PROCESSES, assert_same_run, assert_succeeds, metrics

from training_lyricgpt.engine.checkpoints import list_checkpoints, read_checkpoint


@pytest.fixture
def start():
    """Starts commands. If a failed test leaves one running, it is killed with its children."""
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


@pytest.mark.slow
def test_a_signal_during_an_evaluation_skips_it_and_the_next_start_does_it(start, tmp_path):
    # Evaluating everything takes seconds, and a checkpoint is written just before.
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


@pytest.mark.slow
def test_a_run_stopped_during_the_first_evaluation_can_start_again(start, tmp_path):
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
    # The published optimizer with an absurd learning rate: the weights overflow within a few steps.
    absurd = {"learning_rate": 1e36, "warmup_steps": 4, "lr_schedule": "constant", "max_steps": 100, "save_interval": 1}
    result = train(output_dir=tmp_path / "run", **absurd | values)
    assert_refused(
        result, "not finite at step", "checkpoints and the best model are from earlier steps", "learning_rate"
    )
    for folder in list_checkpoints(tmp_path / "run" / "checkpoints"):
        read_checkpoint(folder)
        assert all(value.isfinite().all() for value in load_file(folder / "model.safetensors").values())
    best = load_file(tmp_path / "run" / "model.safetensors")
    assert all(value.isfinite().all() for value in best.values())


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [False, True])
def test_a_gradient_that_is_not_finite_stops_the_run_at_its_step(tmp_path, stopped):
    """In the seventh step, the loss is finite, but a hook makes the gradient NaN."""
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
            os.kill(os.getpid(), signal.SIGTERM)  # on which a run usually saves
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
    # Once the cause is fixed, the same command resumes from before it.
    assert_succeeds(train(**values, output_dir=tmp_path / "run"))
    assert_succeeds(train(**values, output_dir=tmp_path / "whole"))
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_a_full_disk_is_reported_and_the_run_resumes_when_there_is_room(tiny_run, tmp_path):
    # No file may be larger than 1.5 times the weights. The optimizer's state needs twice their size.
    weights = (tiny_run / "model.safetensors").stat().st_size
    command = [sys.executable, "train_hf.py", *options(**TINY, lr_schedule="constant", output_dir=tmp_path / "full")]
    limited = ["bash", "-c", f'ulimit -f {weights * 3 // 2 // 1024}; exec "$@"', "bash", *command]
    assert_refused(run(limited), "checkpoint of step 10 could not be written", "run the same command again")
    assert [row["step"] for row in metrics(tmp_path / "full")] == [0]
    assert not list((tmp_path / "full").rglob(".saving-*"))
    assert_succeeds(run(command))
    assert_succeeds(train(lr_schedule="constant", output_dir=tmp_path / "whole"))
    assert_same_run(tmp_path / "full", tmp_path / "whole")


def test_a_folder_that_cannot_be_written_is_reported(tmp_path):
    assert_refused(train(output_dir="/proc/lyricgpt"), "cannot be written", "same command again")


@pytest.mark.slow
def test_the_second_of_two_runs_in_one_folder_is_refused(start, tmp_path):
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
def test_a_worker_that_dies_ends_the_run_and_the_same_command_resumes(start, tmp_path, rank):
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
    assert "resuming from step" in result.stdout
    assert [row["step"] for row in metrics(tmp_path / "run")] == [0, 200, 400]
    assert all(torch.isfinite(v).all() for v in load_file(tmp_path / "run" / "model.safetensors").values())
    assert len(list_checkpoints(tmp_path / "run" / "checkpoints")) == 2


# ----------------------------------------------------------------------------------------------------------------------
# The terminal, the folder and the cache go away


ENDLESS = TINY | {"max_steps": 100_000, "eval_interval": 100_000, "save_interval": 100_000, "early_stopping": 0}


def endless(folder, **values):
    return [sys.executable, "train_hf.py", *map(str, options(**ENDLESS | {"output_dir": folder} | values))]


@pytest.mark.slow
def test_a_run_whose_terminal_closes_saves_and_stops(tmp_path):
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(PROJECT)
        os.execvpe(sys.executable, endless(tmp_path / "run"), os.environ)
    termios.tcsetwinsize(terminal, (40, 200))
    seen = b""
    while b"characters/s" not in seen:  # the bar moves: it trains
        seen += os.read(terminal, 4096)
    os.close(terminal)  # the kernel sends SIGHUP, and every write to the terminal fails from now on
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) in (128 + signal.SIGHUP, 120)  # 120: Python could not flush
    (checkpoint,) = list_checkpoints(tmp_path / "run" / "checkpoints")
    assert read_checkpoint(checkpoint).step > 0
    result = train(**ENDLESS | {"max_steps": read_checkpoint(checkpoint).step}, output_dir=tmp_path / "run")
    assert_succeeds(result)


@pytest.mark.slow
def test_a_hangup_saves_like_the_other_signals_and_a_run_under_nohup_continues(start, tmp_path):
    process = start(endless(tmp_path / "run"))
    wait_for((tmp_path / "run" / "model.safetensors").exists, process)
    process.send_signal(signal.SIGHUP)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGHUP, output + errors
    assert "stopped by SIGHUP at step" in output
    process = start(["nohup", *endless(tmp_path / "other")])
    wait_for((tmp_path / "other" / "model.safetensors").exists, process)
    process.send_signal(signal.SIGHUP)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert "stopped by SIGTERM at step" in output, output + errors


def test_a_run_whose_output_is_closed_saves_and_says_so(start, tmp_path):
    process = start(endless(tmp_path / "run", eval_interval=1))
    while process.stdout.readline().split()[:1] != ["3"]:  # the evaluation at step 3
        pass
    process.stdout.close()
    process.wait(120)
    errors = process.stderr.read()
    process.stdout = None
    assert process.returncode == 128 + signal.SIGPIPE, errors
    assert "Traceback" not in errors and "stopped by SIGPIPE at step" in errors and "; saved." in errors
    assert list_checkpoints(tmp_path / "run" / "checkpoints")


@pytest.mark.slow
def test_a_run_whose_output_is_on_a_full_disk_completes_and_says_so(tmp_path):
    command = shlex.join([sys.executable, "train_hf.py", *map(str, options(**TINY, output_dir=tmp_path / "run"))])
    result = run(["sh", "-c", f"{command} > /dev/full"])
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        "error: reading or writing failed: [Errno 28] No space left on device. Check the free disk space and the permissions"
    )
    assert "Traceback" not in result.stderr
    assert [row["step"] for row in metrics(tmp_path / "run")] == [0, 10, 20]


@pytest.mark.slow
@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_that_is_moved_away_while_a_run_trains_in_it_is_noticed(start, tmp_path, replaced):
    process = start(endless(tmp_path / "run", save_interval=50))
    wait_for(lambda: list_checkpoints(tmp_path / "run" / "checkpoints"), process)
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    if replaced:
        (tmp_path / "run").mkdir()
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in errors
    assert f"error: {tmp_path / 'run'} was moved or deleted while the run was training in it" in errors
    assert "; saved" not in output
    assert not replaced or not list((tmp_path / "run").iterdir())  # nothing is written into another folder
    assert replaced or not (tmp_path / "run").exists()
    (checkpoint, *_) = list_checkpoints(tmp_path / "elsewhere" / "checkpoints")
    steps = read_checkpoint(checkpoint).step
    assert_succeeds(train(**ENDLESS | {"max_steps": steps, "save_interval": 50}, output_dir=tmp_path / "elsewhere"))


@pytest.mark.slow
def test_a_deleted_checkpoint_is_written_again_before_the_run_reports_it_as_saved(start, tmp_path):
    values = {"hidden_size": 128, "num_hidden_layers": 3, "max_steps": 10, "eval_interval": 10, "eval_batches": 100_000}
    process = start(endless(tmp_path / "run", save_interval=10, **values))
    wait_for(lambda: list_checkpoints(tmp_path / "run" / "checkpoints"), process)
    shutil.rmtree(tmp_path / "run" / "checkpoints")  # during the evaluation of everything, which takes seconds
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert "stopped by SIGTERM at step 10 of 10; saved" in output, errors
    assert list_checkpoints(tmp_path / "run" / "checkpoints")


def test_a_cache_that_cannot_be_written_gives_a_one_line_error(tmp_path):
    (tmp_path / "file").write_text("")
    for cache in (tmp_path / "file", tmp_path / "file" / "below", "/proc/none"):
        result = train_with({"LYRICGPT_CACHE": str(cache)}, output_dir=tmp_path / "run")
        assert_refused(result, f"the cache in {cache} cannot be written", "Set LYRICGPT_CACHE")
    assert not (tmp_path / "run").exists()


def train_with(environment, **values):
    return python("train_hf.py", *options(**TINY | values), **environment)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["HF_HOME", "HF_DATASETS_CACHE", "XDG_CACHE_HOME", "MPLCONFIGDIR", "TMPDIR"])
def test_another_packages_folder_that_cannot_be_written_gives_no_traceback(tmp_path, name):
    (tmp_path / "file").write_text("")
    values = TINY | {"output_dir": tmp_path / "run", "max_steps": 1}
    result = run([sys.executable, "train_hf.py", *options(**values)], **{name: str(tmp_path / "file" / "x")})
    assert "Traceback" not in result.stderr and result.returncode in (0, 1)


@pytest.mark.slow
def test_characters_that_an_output_cannot_encode_are_written_as_escapes(tmp_path):
    songs = "".join(f"Ä,夜{n},{'さくら と 海 と 風 と ' * 9}{n}\n" for n in range(30))
    (tmp_path / "ja.csv").write_text("artist,song,text\n" + songs, encoding="utf-8")
    small = {"dataset": tmp_path / "ja.csv", "max_steps": 2, "eval_interval": 1, "near_duplicates": "keep"}
    for encoding in ("cp1252", "ascii"):
        environment = os.environ | {"PYTHONIOENCODING": encoding}
        train_it = ["train_hf.py", *options(**TINY | small, output_dir=tmp_path / encoding)]
        sing = ["-m", "training_lyricgpt.sample", tmp_path / encoding, "--max_new_tokens=60"]
        for command in (train_it, sing):
            result = subprocess.run(
                [sys.executable, *command], cwd=PROJECT, capture_output=True, encoding=encoding, env=environment
            )
            assert_succeeds(result)
        assert "\\u" in result.stdout


@pytest.mark.slow
def test_sampling_ends_silently_when_nobody_reads_its_output(tiny_run):
    sample = shlex.join([sys.executable, "-m", "training_lyricgpt.sample", str(tiny_run), "--num_samples=50"])
    result = run(["sh", "-c", f"{sample} | head -c 50"])
    assert (result.stderr, len(result.stdout.encode())) == ("", 50)
    result = run(["sh", "-c", f"{sample} > /dev/full"])
    assert result.returncode == 1
    assert result.stderr.startswith("error: reading or writing failed: [Errno 28] No space left on device. Check ")
