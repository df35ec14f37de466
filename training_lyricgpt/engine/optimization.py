"""Optimizers and learning rates.

Notes:
- The learning rate is a pure function of (configuration, step), so a schedule has no state to save.
- AdamW is torch's own, fused where possible. Muon (https://kellerjordan.github.io/posts/muon/) is ours, because torch's
  orthogonalizes in bfloat16, which a CPU emulates. Ours uses float32, and processes matrices of the same shape
  together, as many as fit in a CPU's caches.
- Muon updates the matrices of the layers. AdamW updates embeddings, head, norms and biases.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn

from modeling_lyricgpt import LyricGPTForCausalLM

from ..arguments import OptimizationArguments

# Quintic Newton-Schulz coefficients of the Muon reference: they push all singular values into about [0.7, 1.2].
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
# On a CPU, the square matrices that are processed together have at most this many elements.
CACHED_SQUARES = 4 * 384 * 384


def schedule(args: OptimizationArguments, step: int) -> float:
    """Returns the learning rate of `step` (counted from 0) as a share of its peak, ignoring `min_learning_rate`."""
    if step < args.warmup_steps:
        return (step + 1) / args.warmup_steps
    if args.lr_schedule == "constant":
        return 1.0
    progress = min(1.0, (step - args.warmup_steps) / max(1, args.max_steps - args.warmup_steps))
    if args.lr_schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return min(1.0, (args.max_steps - step) / max(1, args.decay_fraction * args.max_steps))


def learning_rate(args: OptimizationArguments, step: int, peak: float | None = None) -> float:
    """Returns the learning rate of a step. `peak` defaults to AdamW's; any peak falls to the same share as AdamW's."""
    peak = args.learning_rate if peak is None else peak
    floor = args.min_learning_rate / args.learning_rate
    share = schedule(args, step)
    return peak * (share if step < args.warmup_steps else floor + (1 - floor) * share)


@torch.no_grad()
def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """Returns roughly the nearest (semi-)orthogonal matrices, by Newton-Schulz iteration; shape `(N, rows, columns)`.

    It computes in float32, or in float64 for float64 matrices.

    Each step multiplies `x` from the left by a polynomial of `x @ x.mT`. If one side of a matrix is at least twice as
    long as the other, the polynomials are multiplied with each other first, because they are small and square, and the
    product with `x` at the end. At 384 x 1024, that is 30% less work, and the result differs by 4e-5.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices if matrices.dtype == torch.float64 else matrices.float()
    tall = x.size(-2) > x.size(-1)
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    if x.size(-1) < 2 * x.size(-2):
        for _ in range(NEWTON_SCHULZ_STEPS):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    else:
        gram = x @ x.mT
        product = torch.eye(x.size(-2), dtype=x.dtype, device=x.device).expand_as(gram)
        for step in range(NEWTON_SCHULZ_STEPS):
            polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
            product = torch.baddbmm(product, polynomial, product, beta=a)
            if step < NEWTON_SCHULZ_STEPS - 1:
                for _ in range(2):
                    gram = torch.baddbmm(gram, polynomial, gram, beta=a)
        x = product @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalized: each update moves a matrix by the same amount in every direction.

    Args:
        params: Parameters with two dimensions.
        lr: Step size. An update is scaled by `sqrt(max(1, rows / columns))`, as in the reference.
        momentum: Nesterov momentum.
        weight_decay: Decoupled weight decay.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                updates = []
                for parameter in parameters:
                    state = self.state[parameter]
                    if "momentum_buffer" not in state:
                        state["momentum_buffer"] = torch.zeros_like(parameter)
                    buffer = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
                    updates.append(parameter.grad.lerp(buffer, group["momentum"]))
                # A GPU processes all of them at once. A CPU can cache the squares of four matrices of width 384.
                together = len(updates) if parameters[0].is_cuda else max(1, CACHED_SQUARES // min(shape) ** 2)
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                moves = [move for part in torch.stack(updates).split(together) for move in orthogonalize(part)]
                for parameter, move in zip(parameters, moves, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(move, alpha=-group["lr"] * scale)
        return loss


def uses_muon(args: OptimizationArguments, name: str, parameter: torch.Tensor) -> bool:
    """Returns whether Muon updates a parameter: it updates the matrices of the layers."""
    return args.optimizer == "muon" and parameter.ndim == 2 and ".layers." in name


def build_optimizers(
    args: OptimizationArguments, model: LyricGPTForCausalLM, scores_scaled_by: str = "head_size"
) -> list[torch.optim.Optimizer]:
    """Builds AdamW for all parameters, or Muon for the layers' matrices and AdamW for the rest.

    Each parameter group has its own `peak_lr`.

    Args:
        scores_scaled_by: Attention scores are divided by the square root of this: `"head_size"` or `"n_embd"`.
    """
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    muon = {n: p for n, p in parameters.items() if uses_muon(args, n, p)}
    rest = {n: p for n, p in parameters.items() if n not in muon}
    decayed = [p for p in rest.values() if args.decay_parameters == "all" or p.ndim >= 2]
    plain = [p for p in rest.values() if args.decay_parameters != "all" and p.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": args.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    if scores_scaled_by == "n_embd":
        # Scores are divided by the square root of the width instead of the head size. q_proj contains this factor, so
        # its AdamW steps must be smaller by the same factor. Then it learns as it would without the factor.
        factor = model.config.num_attention_heads**-0.5
        queries = [p for n, p in rest.items() if ".q_proj." in n]
        groups[0]["params"] = [p for p in decayed if all(p is not query for query in queries)]
        groups.append(
            {"params": queries, "lr": args.learning_rate * factor, "weight_decay": args.weight_decay / factor}
        )
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=args.learning_rate,
            betas=(args.beta1, args.beta2),
            fused=next(iter(parameters.values())).device.type in ("cpu", "cuda"),
        )
    ]
    if muon:
        optimizers.append(Muon(muon.values(), lr=args.muon_learning_rate, weight_decay=args.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def set_learning_rate(args: OptimizationArguments, optimizers: list[torch.optim.Optimizer], step: int) -> float:
    """Sets every group's learning rate for a step and returns AdamW's."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(args, step, group["peak_lr"])
    return learning_rate(args, step)
