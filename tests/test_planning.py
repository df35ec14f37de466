"""Estimates of what a run needs, checked against what it does need."""

import pytest
import torch
from accelerate import Accelerator
from conftest import PROJECT, SAMPLE_LYRICS, options, train
from torch.utils.flop_counter import FlopCounterMode

from modeling_lyricgpt import LyricGPTConfig, LyricGPTForCausalLM
from training_lyricgpt.arguments import parse_arguments
from training_lyricgpt.engine.checkpoints import save_checkpoint
from training_lyricgpt.engine.cpu_kernels import cpu_kernels
from training_lyricgpt.engine.optimization import build_optimizers
from training_lyricgpt.engine.planning import (
    activation_bytes,
    describe_model,
    disk_bytes,
    flops_per_character,
    matrix_product_rate,
    optimizer_bytes,
    parameters_by_part,
)


def config(variant, **values):
    shape = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 3, "max_position_embeddings": 64}
    return LyricGPTConfig(variant=variant, vocab_size=40, **shape | values)


@pytest.mark.parametrize(("variant", "values"), [("classic", {}), ("modern", {"sliding_window": 64})])
def test_estimated_flops_are_what_torch_counts(variant, values):
    model = LyricGPTForCausalLM._from_config(config(variant, **values), attn_implementation="eager").train()
    ids = torch.zeros((2, 64), dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(ids, labels=ids, use_cache=False).loss.backward()
    assert counter.get_total_flops() == pytest.approx(flops_per_character(model.config) * ids.numel(), rel=1e-6)


def test_a_sliding_window_saves_attention():
    narrow, wide = (flops_per_character(config("modern", sliding_window=window)) for window in (16, 64))
    assert wide - narrow == 12 * 3 * 96 * 48


def test_the_parts_of_the_published_model_add_up_to_its_parameters():
    published = LyricGPTConfig(
        variant="classic", vocab_size=77, bos_token_id=None, eos_token_id=None, pad_token_id=None
    )
    parts = parameters_by_part(LyricGPTForCausalLM(published))
    assert sum(parts.values()) == 10_798_157
    assert next(iter(parts)) == "MLP"


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("variant", ["classic", "modern"])
def test_estimated_activations_are_what_autograd_keeps(variant, kernels):
    model = LyricGPTForCausalLM(config(variant)).train()
    ids = torch.zeros((2, 64), dtype=torch.long)
    kept = {}

    def note(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), cpu_kernels(model, kernels):
        logits = model(ids, labels=ids, shift_labels=ids, use_cache=False).logits
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    expected = sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in weights) + logits.nbytes
    assert activation_bytes(model.config, 2, kernels) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_estimated_disk_and_optimizer_bytes_are_what_is_written(optimizer, tmp_path):
    model = LyricGPTForCausalLM(config("modern"))
    args = parse_arguments([f"--dataset={SAMPLE_LYRICS}", *options(optimizer=optimizer, output_dir=tmp_path)])
    optimizers = build_optimizers(args, model)
    ids = torch.zeros((1, 8), dtype=torch.long)
    model(ids, labels=ids, use_cache=False).loss.backward()
    for one in optimizers:
        one.step()
    folder = save_checkpoint(tmp_path, 1, model, optimizers, {})
    written = sum(path.stat().st_size for path in folder.glob("optimizer-*"))
    assert written == pytest.approx(optimizer_bytes(args, model), rel=0.05)
    weights = (folder / "model.safetensors").stat().st_size
    assert disk_bytes(args, model) == pytest.approx(3 * (written + weights) + 2 * weights + 1e7, rel=0.05)


def test_too_little_disk_space_is_reported(monkeypatch, tmp_path):
    from training_lyricgpt.engine import planning

    monkeypatch.setattr(planning, "free_bytes", lambda folder: 1_000_000)
    args = parse_arguments([f"--dataset={SAMPLE_LYRICS}", f"--output_dir={tmp_path}"])
    model = LyricGPTForCausalLM(config("modern"))
    assert "has less free space than this run needs" in describe_model(args, model, Accelerator(cpu=True), tmp_path)


def test_the_rate_of_matrix_products_is_plausible():
    assert matrix_product_rate(config("modern"), Accelerator(cpu=True)) > 1e8


def test_plan_does_not_mind_another_run_in_the_folder(tiny_run):
    before = (tiny_run / "run.yaml").read_bytes()
    result = train("--plan", output_dir=tiny_run, seed=3)
    assert result.returncode == 0 and "time on this computer" in result.stdout, result.stderr
    assert (tiny_run / "run.yaml").read_bytes() == before


def test_plan_prints_what_would_run_and_leaves_nothing(tmp_path):
    result = train("--plan", output_dir=tmp_path / "run")
    assert result.returncode == 0, result.stderr
    for part in (
        "parameters:",
        "total",
        "MFLOP per character",
        "times in 20 steps",
        "GFLOP/s",
        "time on this",
        "on disk",
    ):
        assert part in result.stdout, part
    assert "A song from this model" not in result.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["sample", "spotify_modern"])
def test_evaluations_cost_at_most_a_tenth_of_a_run(name):
    """A forward pass takes a third of a step's operations."""
    args = parse_arguments([f"--config={PROJECT / 'configs' / name}.yaml", "--dataset=a.csv"])
    evaluations = 1 + -(-args.max_steps // args.eval_interval)
    steps = evaluations * 2 * args.eval_batches / 3
    assert steps <= 0.1 * (args.max_steps + steps)
