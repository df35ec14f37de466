"""What a run is going to take: parameters by part, FLOPs, epochs, memory, disk, and how fast this machine multiplies.

Notable:
- Memory of activations is counted, not guessed: one micro-batch goes through the model on torch's meta device, and what
  autograd saves for the backward pass is added up. There attention is written out, so for a GPU, whose kernels keep
  less, it is an upper bound.
- Model FLOPs are those of PaLM's appendix B (https://arxiv.org/abs/2204.02311): six for each weight of a matrix and
  character, and attention over the window that a layer sees. Utilisation is their share of the best rate of matrix
  products measured on this machine, so it needs no table of devices.
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

# Resident memory of Python, torch, transformers and datasets beside a model, and on a CPU what lies for a moment beside
# activations. Against the largest resident sets of nine runs on Linux, from 2 x 32 to 8 x 768, the sum is never less and at
# most 29% more.
BASE_MEMORY = 0.55e9
TEMPORARY = 2.5
PROBE_SECONDS = 0.1


def flops_per_character(config: LyricGPTConfig) -> float:
    """Floating-point operations of one character's forward and backward pass."""
    hidden, inner = config.hidden_size, config.intermediate_size
    mlp = (3 if config.variant == "modern" else 2) * hidden * inner
    weights = config.num_hidden_layers * (4 * hidden * hidden + mlp) + hidden * config.vocab_size
    window = min(config.max_position_embeddings, config.sliding_window or config.max_position_embeddings)
    return 6 * weights + 12 * config.num_hidden_layers * hidden * window


@torch.no_grad()
def matrix_product_rate(config: LyricGPTConfig, accelerator: Accelerator) -> float:
    """The best rate of matrix products of the model's shapes, over all processes, in FLOP/s.

    It takes half a second, on a CPU that needs longer for a single product a little more.
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
    """Seconds that a call takes; on a GPU until its last kernel."""
    started = time.perf_counter()
    result = function(*arguments)
    if isinstance(result, torch.Tensor):
        result.tolist()
    return time.perf_counter() - started


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def parameters_by_part(model: nn.Module) -> dict[str, int]:
    """Number of parameters of each kind of module, largest first."""
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
    """Bytes that autograd keeps of one micro-batch of `windows` whole windows in float32; nothing is computed."""
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
            # Whether there is a mask would be read from the values of positions, which are not there.
            masks = dict.fromkeys(config.layer_types)
            output = model(input_ids=ids, attention_mask=masks, labels=ids, shift_labels=ids, use_cache=False)
    kept = sum(size for storage, size in sizes.items() if storage not in weights)
    return kept + output.logits.untyped_storage().nbytes()  # the gradient of the logits


def memory_bytes(args: OptimizationArguments, model: LyricGPTForCausalLM, accelerator: Accelerator) -> int:
    """Bytes that a run needs on each process's device: weights, gradients, optimizer state and activations."""
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
    """Bytes of AdamW's two moments, or of Muon's one for the matrices of the blocks."""
    return sum(
        parameter.numel() * parameter.element_size() * (1 if uses_muon(args, name, parameter) else 2)
        for name, parameter in model.named_parameters()
    )


def disk_bytes(args: OptimizationArguments, model: nn.Module) -> int:
    """Bytes that a run folder needs: two checkpoints and a third while it is written, the best weights likewise."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return 3 * (weights + optimizer_bytes(args, model)) + 2 * weights + 10_000_000


def free_bytes(folder: Path) -> int:
    """Free space where `folder` is or will be."""
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def describe_model(
    args: OptimizationArguments, model: LyricGPTForCausalLM, accelerator: Accelerator, folder: Path
) -> str:
    """What is trained, and what a run in `folder` will need in memory and on disk, with a warning where the disk has less."""
    held = sum(path.stat().st_size for path in folder.rglob("*.safetensors")) if folder.is_dir() else 0
    needed, free = disk_bytes(args, model), free_bytes(folder)
    text = (
        f"model: {model.config.variant}, {model.num_parameters():,} parameters; "
        f"{plural(accelerator.num_processes, 'process', 'es')} on {accelerator.device.type}, precision "
        f"{accelerator.mixed_precision}\nneeds: about {size(memory_bytes(args, model, accelerator))} of memory a process, {size(needed)} on disk "
        f"({size(free)} are free)"
    )
    if free + held < needed:
        text += f"\nwarning: {folder} has less free space than this run will need; make room or choose another"
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
    """The lines of `--plan`, for which a few steps and evaluations are measured.

    Args:
        characters: Training characters.
        train: Trains a step.
        evaluate: Evaluates the model on a `share` of an evaluation's windows.
        evaluations: Of the run.
    """
    rate = matrix_product_rate(model.config, accelerator)
    seconds = [timed(train, step) for step in range(4)]
    evaluate()  # the first one is slow
    figures = {"step_seconds": statistics.median(seconds[1:]), "evaluation_seconds": timed(evaluate) / share}
    return describe_plan(args, model, characters, figures | {"rate": rate, "evaluations": evaluations})


def describe_plan(
    args: OptimizationArguments, model: LyricGPTForCausalLM, characters: int, figures: dict[str, Any]
) -> str:
    """The lines of `--plan`, but for advice.

    Args:
        characters: Training characters.
        figures: `step_seconds` and `evaluation_seconds`, measured; how many `evaluations` there are; and `rate`, FLOP/s of matrix
            products.
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
        f"  {model.num_parameters():>12,}  in all",
        f"a step: {args.batch_size} windows of {block_size} = {a_step:,} characters, "
        f"{flops * a_step / 1e12:.3g} TFLOP ({flops / 1e6:.3g} MFLOP a character)",
        f"corpus: {characters:,} training characters, read {epochs(args, block_size, characters):.3g} times in {args.max_steps:,} steps",
        f"speed here: {figures['step_seconds']:.3g} s a step (median of 3), {speed:,.0f} characters a second, "
        f"{speed * flops / figures['rate']:.0%} of the {figures['rate'] / 1e9:,.0f} GFLOP/s of its matrix products",
        f"time here: {duration(training + evaluating)}, of it {duration(evaluating)} for {evaluations} evaluations",
    ]
    return "\n".join(lines)
