"""The training command as a user runs it: what it writes, resuming, stopping, other recipes, trackers."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import PROJECT, TINY, options, python, run, train
from safetensors.torch import load_file

from training_lyricgpt.terminal import program

FIGURES = {
    "step", "train_loss", "val_loss", "train_accuracy", "val_accuracy", "val_bits_per_char", "learning_rate",
    "chars_per_second", "elapsed_seconds", "mfu", "evaluation_seconds",
}  # fmt: skip
MODEL_FILES = {
    "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    "compat_lyricgpt.py", "configuration_lyricgpt.py", "drafts_lyricgpt.py", "generation_lyricgpt.py", "modeling_lyricgpt.py", "tokenization_lyricgpt.py",
}  # fmt: skip
RECORDS = {
    "README.md", "curves.png", "metrics.jsonl", "samples.txt", "run.yaml", "corpus.json", "environment.json", "checkpoints"
}  # fmt: skip


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder):
    return [(row["step"], row["train_loss"], row["val_loss"], row["sample"]) for row in metrics(folder)]


def last_weights(folder):
    return load_file(max((folder / "checkpoints").iterdir()) / "model.safetensors")


TIMES = {"chars_per_second", "mfu", "elapsed_seconds", "evaluation_seconds"}


def record_but_for_times(folder):
    """The text of `metrics.jsonl` without times and speeds."""
    number = r"[-+.e\d]+"
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    return re.sub(rf'"({"|".join(TIMES)})": {number}', r'"\1": …', text)


def assert_same_run(one, other):
    assert record_but_for_times(one) == record_but_for_times(other)
    mine, yours = last_weights(one), last_weights(other)
    assert mine.keys() == yours.keys()
    for name, value in mine.items():
        assert torch.equal(value, yours[name]), name


def assert_succeeds(result):
    assert result.returncode == 0, result.stdout + result.stderr
    return result


TWO_PROCESSES = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--main_process_port", "0"]
TWO_PROCESSES += ["--config_file", "configs/accelerate/cpu_2_processes.yaml"]


def test_a_run_leaves_a_model_and_its_records(tiny_run):
    assert {path.name for path in tiny_run.iterdir()} == MODEL_FILES | RECORDS
    assert [path.name for path in sorted((tiny_run / "checkpoints").iterdir())] == ["step-00000010", "step-00000020"]


def test_each_evaluation_is_a_line_of_metrics_and_of_the_table(tiny_run):
    rows = metrics(tiny_run)
    assert [row["step"] for row in rows] == [0, 10, 20]
    assert set(rows[0]) >= FIGURES
    assert rows[-1]["val_loss"] < rows[0]["val_loss"]
    table = (tiny_run.parent / "stdout.txt").read_text()
    for row in rows:
        assert f"{row['train_loss']:.4f}  {' ' if row['val_loss'] < 10 else ''}" in table
        assert f"{row['val_loss']:.4f}" in table


def test_at_the_end_a_run_prints_a_song_and_where_everything_is(tiny_run):
    output = (tiny_run.parent / "stdout.txt").read_text()
    assert "A song from this model:" in output
    assert f"model:  {tiny_run}" in output
    assert f"curves: {tiny_run / 'curves.png'}" in output


def test_without_a_terminal_there_is_no_progress_bar(tiny_run):
    assert "it/s" not in (tiny_run.parent / "stderr.txt").read_text()
    assert "step/s" not in (tiny_run.parent / "stderr.txt").read_text()


def test_generation_config_suits_characters(tiny_run):
    config = json.loads((tiny_run / "generation_config.json").read_text())
    expected = {"do_sample": True, "temperature": 0.9, "top_k": 0, "max_new_tokens": 1000, "suppress_tokens": [1, 2]}
    assert {name: config[name] for name in expected} == expected
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (0, 0, 2)


def test_the_same_command_twice_gives_the_same_run(tiny_run, tmp_path):
    assert_succeeds(train(output_dir=tmp_path / "again"))
    assert_same_run(tmp_path / "again", tiny_run)


def test_a_complete_run_says_so_and_prints_a_song(tiny_run):
    before = (tiny_run / "metrics.jsonl").read_text()
    result = assert_succeeds(train(output_dir=tiny_run))
    assert "is complete: 20 steps" in result.stdout
    assert "A song from this model:" in result.stdout
    assert (tiny_run / "metrics.jsonl").read_text() == before


def test_a_run_that_resumes_with_more_steps_equals_one_that_never_stopped(tmp_path):
    schedule = {"lr_schedule": "constant"}  # the only one that does not depend on max_steps
    assert_succeeds(train(output_dir=tmp_path / "whole", **schedule))
    assert_succeeds(train(output_dir=tmp_path / "parts", max_steps=10, **schedule))
    result = assert_succeeds(train(output_dir=tmp_path / "parts", **schedule))
    assert "resuming from step 10 of 20" in result.stdout
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_run_without_its_last_checkpoint_goes_back_and_writes_every_step_once(tiny_run, tmp_path):
    folder = tmp_path / "copy"
    run(["cp", "-r", tiny_run, folder])
    weights = folder / "checkpoints" / "step-00000020" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    result = assert_succeeds(train(output_dir=folder))
    assert "step-00000020 is damaged" in result.stdout
    assert "resuming from step 10 of 20" in result.stdout
    assert_same_run(folder, tiny_run)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_after_a_signal_a_run_finishes_its_step_saves_and_says_how_to_resume(number, tmp_path):
    values = TINY | {"max_steps": 400, "eval_interval": 200, "lr_schedule": "constant"}
    command = [sys.executable, "train_hf.py", *options(**values, output_dir=tmp_path / "stopped")]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "stopped" / "checkpoints").glob("step-*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    by = "Ctrl-C" if number == signal.SIGINT else number.name
    assert f"stopped by {by} at step" in output
    assert f"{program('python')} train_hf.py {' '.join(command[2:])}" in output
    assert "Traceback" not in errors
    assert_succeeds(python(*command[1:]))
    assert_succeeds(python(*command[1:-1], *options(output_dir=tmp_path / "whole")))
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_a_run_whose_launcher_is_killed_saves_and_stops(tmp_path):
    values = TINY | {
        "max_steps": 100_000,
        "eval_interval": 100_000,
        "output_dir": tmp_path / "run",
    }
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/cpu.yaml"]
    output = tmp_path / "output.txt"
    with output.open("w") as file:
        launcher = subprocess.Popen([*launch, "train_hf.py", *options(**values)], cwd=PROJECT, stdout=file, stderr=file)
        deadline = time.monotonic() + 120
        while not list((tmp_path / "run" / "checkpoints").glob("step-*")):
            assert launcher.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        launcher.kill()
        launcher.wait()
    while "saved. To resume" not in output.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_accumulating_gradients_changes_nothing_but_rounding(tmp_path):
    for parts in (1, 2, 4):
        assert_succeeds(
            train(output_dir=tmp_path / str(parts), dropout=0.0, gradient_accumulation_steps=parts, variant="classic")
        )
    for parts in (2, 4):
        for one, other in zip(metrics(tmp_path / "1"), metrics(tmp_path / str(parts)), strict=True):
            assert other["train_loss"] == pytest.approx(one["train_loss"], abs=1e-4)
            assert other["val_loss"] == pytest.approx(one["val_loss"], abs=1e-4)


@pytest.mark.slow
def test_two_processes_give_the_same_curves_as_one_and_each_can_resume_the_other(tmp_path):
    values = {"dropout": 0.0, "lr_schedule": "constant"}
    two = TINY | values | {"output_dir": tmp_path / "two"}
    result = assert_succeeds(run([*TWO_PROCESSES, "train_hf.py", *options(**two)]))
    assert "2 processes on cpu" in result.stdout
    assert result.stdout.count("A song from this model") == 1
    assert_succeeds(train(**values, output_dir=tmp_path / "one"))
    for one, other in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert other["train_loss"] == pytest.approx(one["train_loss"], abs=1e-4)
        assert other["val_loss"] == pytest.approx(one["val_loss"], abs=1e-4)
    more = {"max_steps": 30}
    assert "resuming from step 20" in assert_succeeds(train(**values | more, output_dir=tmp_path / "two")).stdout
    # And the other way round: two processes resume what one has saved.
    command = [*TWO_PROCESSES, "train_hf.py", *options(**TINY | values | more, output_dir=tmp_path / "one")]
    assert "resuming from step 20" in assert_succeeds(run(command)).stdout
    for one, other in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert other["val_loss"] == pytest.approx(one["val_loss"], abs=1e-4)


@pytest.mark.parametrize(
    "values", [{"variant": "classic", "dropout": 0.2}, {"optimizer": "muon"}, {"mixed_precision": "bf16"}]
)
def test_other_recipes_train(tmp_path, values):
    assert_succeeds(train(output_dir=tmp_path / "run", **values))
    rows = metrics(tmp_path / "run")
    assert rows[-1]["val_loss"] < rows[0]["val_loss"] - 0.1


def test_the_published_recipe_runs_on_a_csv_in_its_schema(tmp_path, make_songs):
    from conftest import write_songs

    path = write_songs(tmp_path / "songs.csv", make_songs(60))
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "max_steps": 4, "eval_batches": 1}
    command = ["train_hf.py", "--config", "configs/spotify.yaml", "--dataset", path]
    assert_succeeds(python(*command, *options(**small, output_dir=tmp_path / "run")))
    assert json.loads((tmp_path / "run" / "generation_config.json").read_text())["bos_token_id"] == 0


def test_early_stopping_stops_a_run(tmp_path):
    # With next to no learning rate, the first evaluation stays the best.
    result = train(output_dir=tmp_path / "run", early_stopping=2, learning_rate=1e-12, max_steps=1000, eval_interval=5)
    assert "early stopping: no better validation loss in 2 evaluations" in assert_succeeds(result).stdout
    assert len(metrics(tmp_path / "run")) < 10


def test_eval_only_prints_the_figures_of_the_best_evaluation_and_writes_nothing(tiny_run):
    before = {path: path.stat().st_mtime_ns for path in tiny_run.rglob("*")}
    result = assert_succeeds(train("--eval_only", output_dir=tiny_run))
    best = min(metrics(tiny_run), key=lambda row: row["val_loss"])
    assert f"val_loss: {best['val_loss']:.4f}" in result.stdout
    assert f"train_accuracy: {best['train_accuracy']:.4f}" in result.stdout
    assert {path: path.stat().st_mtime_ns for path in tiny_run.rglob("*")} == before


def test_tensorboard_gets_the_names_of_the_metrics(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert_succeeds(train(output_dir=tmp_path / "run", tracker="tensorboard"))
    log = EventAccumulator(str(tmp_path / "run" / "lyricgpt"))
    log.Reload()
    names = set(log.Tags()["scalars"])
    assert names >= (FIGURES - {"step"}) | {"loss"}
    logged = {event.step: event.value for event in log.Scalars("val_loss")}
    assert logged == {row["step"]: pytest.approx(row["val_loss"]) for row in metrics(tmp_path / "run")}


def test_trackio_keeps_a_resumed_run_as_one_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    folder = tmp_path / "run"
    assert_succeeds(train(output_dir=folder, tracker="trackio", max_steps=10))
    assert_succeeds(train(output_dir=folder, tracker="trackio"))
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path / "trackio")
    from trackio.sqlite_storage import SQLiteStorage

    assert SQLiteStorage.get_runs("lyricgpt") == [str(folder)]
    logged = [row for row in SQLiteStorage.get_logs("lyricgpt", str(folder)) if "val_loss" in row]
    assert [row["step"] for row in logged] == [row["step"] for row in metrics(folder)]
    for row, record in zip(logged, metrics(folder), strict=True):
        assert {name: row[name] for name in FIGURES} == {name: pytest.approx(record[name]) for name in FIGURES}


def test_a_sample_prompt_begins_every_sample(tmp_path):
    assert_succeeds(train(output_dir=tmp_path / "run", sample_prompt="The sea"))
    assert all(row["sample"].startswith("The sea") for row in metrics(tmp_path / "run"))
