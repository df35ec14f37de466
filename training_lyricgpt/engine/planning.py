"""Estimates what a run takes: parameters, FLOPs, epochs, memory, disk space, and the speed of this machine.

Notes:
- Activation memory is counted: one micro-batch runs through the model on torch's meta device, and the tensors that
  autograd saves for the backward pass are added up. On that device, attention saves its whole score matrix. A GPU's
  kernels save less, so for a GPU the result is an upper bound.
- Model FLOPs follow PaLM's appendix B (https://arxiv.org/abs/2204.02311): six per matrix weight and character, plus
  attention over the window that a layer sees. Utilization is their share of the fastest matrix products measured on
  this machine, so no table of devices is needed.
"""

import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from modeling_lyricgpt import LyricGPTConfig, LyricGPTForCausalLM

from ..arguments import OptimizationArguments
from ..wording import duration, plural, size
from .advice import epochs
from .cpu_kernels import cpu_kernels, fits
from .optimization import uses_muon

# BASE_MEMORY is the resident memory of Python, torch, transformers and datasets, in bytes. On a CPU, activations and
# temporary tensors together take TEMPORARY times the memory of the activations. In nine runs on Linux, from 2 layers of
# width 32 to 8 of width 768, the estimate was never below the largest resident set, and at most 29% above it.
BASE_MEMORY = 0.55e9
TEMPORARY = 2.5
PROBE_SECONDS = 0.1


def flops_per_character(config: LyricGPTConfig) -> float:
    """Returns the floating-point operations of one character's forward and backward pass."""
    hidden, inner = config.hidden_size, config.intermediate_size
    mlp = (3 if config.variant == "modern" else 2) * hidden * inner
    weights = config.num_hidden_layers * (4 * hidden * hidden + mlp) + hidden * config.vocab_size
    window = min(config.max_position_embeddings, config.sliding_window or config.max_position_embeddings)
    return 6 * weights + 12 * config.num_hidden_layers * hidden * window


@torch.no_grad()
def matrix_product_rate(config: LyricGPTConfig, accelerator: Accelerator) -> float:
    """Measures the best rate of matrix products with the model's shapes, over all processes, in FLOP/s.

    This takes half a second, or a little more on a CPU that is slow at a single product.
    """
    device, hidden, best = accelerator.device, config.hidden_size, 0.0
    on_cpu = device.type == "cpu"
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision, torch.float32)
    for rows in (1024, 2048) if on_cpu else (16384, 65536):
        for inputs, outputs in ((hidden, 4 * hidden), (4 * hidden, hidden)):
            x = torch.randn(rows, inputs, device=device, dtype=dtype)
            weight = torch.randn(outputs, inputs, device=device, dtype=dtype)

            def product(x: torch.Tensor = x, weight: torch.Tensor = weight) -> None:
                nn.functional.linear(x, weight)

            product()
            count = 0
            _synchronize(device)
            started = time.perf_counter()
            while time.perf_counter() - started < PROBE_SECONDS:
                for _ in range(1 if on_cpu else 10):
                    product()
                    count += 1
                _synchronize(device)
            best = max(best, 2 * rows * inputs * outputs * count / (time.perf_counter() - started))
    return best * accelerator.num_processes


def timed(function: Callable, *arguments: Any) -> float:
    """Returns the seconds that a call takes. On a GPU, it waits until the returned tensor is computed."""
    started = time.perf_counter()
    result = function(*arguments)
    if isinstance(result, torch.Tensor):
        result.tolist()
    return time.perf_counter() - started


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def parameters_by_part(model: nn.Module) -> dict[str, int]:
    """Returns the number of parameters in each kind of module, largest first."""
    parts = {
        "embed_tokens": "character embeddings",
        "embed_positions": "position embeddings",
        "self_attn": "attention",
        "mlp": "MLP",
        "norm": "norms",
        "lm_head": "head",
    }
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = next(text for key, text in parts.items() if key in name)
        counts[part] = counts.get(part, 0) + parameter.numel()
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def activation_bytes(config: LyricGPTConfig, windows: int, kernels: bool) -> int:
    """Counts the bytes that autograd saves for one micro-batch of `windows` whole windows in float32."""
    sizes: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        sizes[storage._cdata] = storage.nbytes()
        return tensor

    with torch.device("meta"):
        model = LyricGPTForCausalLM(config).train()
        ids = torch.zeros((windows, config.max_position_embeddings), dtype=torch.int64)
        weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
        with hooks, cpu_kernels(model, kernels):
            # Without these, the model would choose masks by the values of the positions. Meta tensors have none.
            masks = dict.fromkeys(config.layer_types)
            output = model(input_ids=ids, attention_mask=masks, labels=ids, shift_labels=ids, use_cache=False)
    kept = sum(size for storage, size in sizes.items() if storage not in weights)
    return kept + output.logits.untyped_storage().nbytes()  # the gradient of the logits


def memory_bytes(args: OptimizationArguments, model: LyricGPTForCausalLM, accelerator: Accelerator) -> int:
    """Returns the bytes that each process needs on its device: weights, gradients, optimizer state and activations."""
    windows = args.batch_size // accelerator.num_processes // accelerator.gradient_accumulation_steps
    activations = activation_bytes(model.config, windows, fits(args, accelerator))
    if accelerator.mixed_precision != "no":
        activations /= 2
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    needed = 2 * weights + optimizer_bytes(args, model) + activations
    if accelerator.device.type == "cpu":
        needed += BASE_MEMORY + (TEMPORARY - 1) * activations
    return int(needed)


def optimizer_bytes(args: OptimizationArguments, model: nn.Module) -> int:
    """Returns the bytes of AdamW's two moments, or of Muon's one for the matrices of the layers."""
    return sum(
        parameter.numel() * parameter.element_size() * (1 if uses_muon(args, name, parameter) else 2)
        for name, parameter in model.named_parameters()
    )


def disk_bytes(args: OptimizationArguments, model: nn.Module) -> int:
    """Returns the bytes that a run folder needs.

    It has two checkpoints and the best weights, and one more of each while that is written. All else fits in 10 MB.
    """
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return 3 * (weights + optimizer_bytes(args, model)) + 2 * weights + 10_000_000


def free_bytes(folder: Path) -> int:
    """Returns the free disk space where `folder` is or will be."""
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def describe_model(
    args: OptimizationArguments, model: LyricGPTForCausalLM, accelerator: Accelerator, folder: Path
) -> str:
    """Describes the model and what a run in `folder` needs in memory and on disk. Warns if the disk is too full."""
    held = sum(path.stat().st_size for path in folder.rglob("*.safetensors")) if folder.is_dir() else 0
    needed, free = disk_bytes(args, model), free_bytes(folder)
    text = (
        f"model: {model.config.variant}, {model.num_parameters():,} parameters; "
        f"{plural(accelerator.num_processes, 'process', 'es')} on {accelerator.device.type}; mixed precision: "
        f"{accelerator.mixed_precision}\nneeds: about {size(memory_bytes(args, model, accelerator))} of memory per "
        f"process and {size(needed)} on disk ({size(free)} free)"
    )
    if free + held < needed:
        text += (
            f"\nwarning: the disk of {folder} has less free space than this run needs; delete something there, or "
            "choose another --output_dir"
        )
    return text


def measure_plan(
    args: OptimizationArguments,
    model: LyricGPTForCausalLM,
    accelerator: Accelerator,
    characters: int,
    train: Callable[[int], torch.Tensor],
    evaluate: Callable[[], Any],
    share: float,
    evaluations: int,
) -> str:
    """Measures a few steps and evaluations, and returns the lines of `--plan`.

    Args:
        characters: Number of training characters.
        train: Trains one step.
        evaluate: Evaluates the model on a `share` of an evaluation's windows.
        evaluations: Number of evaluations in the run.
    """
    rate = matrix_product_rate(model.config, accelerator)
    seconds = [timed(train, step) for step in range(4)]
    evaluate()  # the first one is slow
    figures = {"step_seconds": statistics.median(seconds[1:]), "evaluation_seconds": timed(evaluate) / share}
    return describe_plan(args, model, characters, figures | {"rate": rate, "evaluations": evaluations})


def describe_plan(
    args: OptimizationArguments, model: LyricGPTForCausalLM, characters: int, figures: dict[str, Any]
) -> str:
    """Returns the lines of `--plan`, without the advice.

    Args:
        characters: Number of training characters.
        figures: The measured `step_seconds` and `evaluation_seconds`, the number of `evaluations`, and `rate`, the
            FLOP/s of matrix products.
    """
    block_size = model.config.max_position_embeddings
    a_step = args.batch_size * block_size
    flops, evaluations = flops_per_character(model.config), figures["evaluations"]
    training = args.max_steps * figures["step_seconds"]
    evaluating = evaluations * figures["evaluation_seconds"]
    speed = a_step / figures["step_seconds"]
    lines = ["parameters:"]
    lines += [f"  {count:>12,}  {part}" for part, count in parameters_by_part(model).items()]
    lines += [
        f"  {model.num_parameters():>12,}  total",
        f"one step: {args.batch_size} blocks of {block_size} characters = {a_step:,} characters, "
        f"{flops * a_step / 1e12:.3g} TFLOP ({flops / 1e6:.3g} MFLOP per character)",
        f"corpus: {characters:,} training characters, read {epochs(args, block_size, characters):.3g} times in "
        f"{args.max_steps:,} steps",
        f"speed on this computer: {figures['step_seconds']:.3g} s per step (median of 3), {speed:,.0f} characters per "
        f"second, {speed * flops / figures['rate']:.0%} of this computer's peak of {figures['rate'] / 1e9:,.0f} "
        "GFLOP/s",
        f"time on this computer: about {duration(training + evaluating)} ({duration(evaluating)} of it for "
        f"{plural(evaluations, 'evaluation')})",
    ]
    return "\n".join(lines)
