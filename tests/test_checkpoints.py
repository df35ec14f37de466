"""Checkpoints are restored bit for bit, and damage is noticed."""

import json

import pytest
import torch

from modeling_lyricgpt import LyricGPTConfig, LyricGPTForCausalLM
from training_lyricgpt import LyricGPTError
from training_lyricgpt.arguments import parse_arguments
from training_lyricgpt.engine.checkpoints import (
    _record_checksum,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from training_lyricgpt.engine.optimization import build_optimizers

IDS = torch.arange(20)[None]


def build(seed=0, hidden_size=32):
    torch.manual_seed(seed)
    model = LyricGPTForCausalLM(
        LyricGPTConfig(
            variant="modern", vocab_size=20, hidden_size=hidden_size, num_hidden_layers=1, num_attention_heads=2
        )
    )
    return model, build_optimizers(parse_arguments(["--config=/dev/null", "--dataset=a", "--optimizer=muon"]), model)


def advance(model, optimizers, steps):
    for _ in range(steps):
        model(IDS, labels=IDS, use_cache=False).loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


def test_training_resumes_from_a_checkpoint_as_if_nothing_had_happened(tmp_path):
    model, optimizers = build()
    advance(model, optimizers, 3)
    save_checkpoint(tmp_path, 3, model, optimizers, {"elapsed_seconds": 1.5})
    advance(model, optimizers, 3)

    resumed, resumed_optimizers = build(seed=1)
    checkpoint, complaints = latest_checkpoint(tmp_path)
    assert (checkpoint.step, checkpoint.state, complaints) == (3, {"elapsed_seconds": 1.5}, [])
    load_checkpoint(checkpoint, resumed, resumed_optimizers)
    advance(resumed, resumed_optimizers, 3)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, resumed.get_parameter(name)), name


def test_a_checkpoint_holds_only_safetensors_and_json(tmp_path):
    model, optimizers = build()
    advance(model, optimizers, 1)
    folder = save_checkpoint(tmp_path, 1, model, optimizers, {})
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}


def test_the_newest_two_checkpoints_are_kept(tmp_path):
    model, optimizers = build()
    advance(model, optimizers, 1)
    for step in (1, 2, 10):
        save_checkpoint(tmp_path, step, model, optimizers, {})
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000010", "step-00000002"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000010"]


def test_a_save_after_going_back_removes_the_checkpoints_of_later_steps(tmp_path):
    model, optimizers = build()
    advance(model, optimizers, 1)
    for step in (10, 20, 5):
        save_checkpoint(tmp_path, step, model, optimizers, {})
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000005"]


FILES = ["model.safetensors", "optimizer-0.safetensors", "optimizer-1.safetensors", "state.json"]


def assert_passed_over(folder):
    checkpoint, complaints = latest_checkpoint(folder)
    assert checkpoint.step == 1
    assert len(complaints) == 1
    assert "step-00000002 is damaged" in complaints[0]


@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_damaged_anywhere_is_named_and_the_one_before_it_used(tmp_path, name):
    model, optimizers = build()
    advance(model, optimizers, 1)
    save_checkpoint(tmp_path, 1, model, optimizers, {})
    path = save_checkpoint(tmp_path, 2, model, optimizers, {"elapsed_seconds": 12}) / name
    content = path.read_bytes()
    for tenth in range(10):
        place = len(content) * tenth // 10
        path.write_bytes(content[:place])
        assert_passed_over(tmp_path)
        flipped = bytearray(content)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        assert_passed_over(tmp_path)
    path.write_bytes(content)
    assert latest_checkpoint(tmp_path)[0].step == 2
    path.unlink()
    assert_passed_over(tmp_path)


def test_a_changed_step_number_is_damage_too(tmp_path):
    model, optimizers = build()
    advance(model, optimizers, 1)
    path = save_checkpoint(tmp_path, 2, model, optimizers, {}) / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"step": 3}))
    assert latest_checkpoint(tmp_path)[0] is None


ODD = {
    "another type": lambda record: record.update(state={"elapsed_seconds": "x"}),
    "no state": lambda record: record.pop("state"),
    "a file elsewhere": lambda record: record["sha256"].update({"../../secret": "0" * 64}),
    "an enormous step": lambda record: record.update(step=10**30),
    "no optimizers": lambda record: record.update(optimizers=5),
}


@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
def test_an_odd_record_whose_checksum_is_right_is_passed_over(tmp_path, change):
    model, optimizers = build()
    advance(model, optimizers, 1)
    save_checkpoint(tmp_path, 1, model, optimizers, {})
    path = save_checkpoint(tmp_path, 2, model, optimizers, {}) / "state.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record | {"record_sha256": _record_checksum(record)}))
    assert_passed_over(tmp_path)
    path.write_text("[" * 200_000)
    assert_passed_over(tmp_path)


def test_an_optimizer_state_of_another_kind_is_refused_in_one_line(tmp_path):
    model, optimizers = build()
    advance(model, optimizers, 1)
    path = save_checkpoint(tmp_path, 1, model, optimizers, {}) / "state.json"
    for odd in ([{"x": 1}, {}], [{"0.step": []}, {}], [{}]):
        record = json.loads(path.read_text()) | {"optimizers": odd}
        path.write_text(json.dumps(record | {"record_sha256": _record_checksum(record)}))
        with pytest.raises(LyricGPTError, match="does not fit this configuration") as refused:
            load_checkpoint(latest_checkpoint(tmp_path)[0], *build())
            optimizers[0].step()
        assert "\n" not in str(refused.value)


def test_an_interrupted_save_is_not_a_checkpoint(tmp_path):
    (tmp_path / ".saving-abc" / "checkpoint").mkdir(parents=True)
    assert latest_checkpoint(tmp_path) == (None, [])


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    model, optimizers = build()
    advance(model, optimizers, 1)
    save_checkpoint(tmp_path, 1, model, optimizers, {})
    with pytest.raises(LyricGPTError, match="does not fit this configuration"):
        load_checkpoint(latest_checkpoint(tmp_path)[0], *build(hidden_size=64))
