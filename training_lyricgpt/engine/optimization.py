"""Optimizers and learning rates.

Notable:
- The learning rate is a pure function of (configuration, step), so a schedule has no state to save.
- AdamW is torch's own, fused where it can be. Muon (https://kellerjordan.github.io/posts/muon/) is ours: torch's
  orthogonalises in bfloat16, which a CPU emulates; here it is float32, and matrices of one shape go through together, as
  many as a CPU keeps in its caches.
- Muon takes the matrices of the blocks; embeddings, head, norms and biases stay with AdamW.
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
# Elements of the square matrices that go through together on a CPU.
CACHED_SQUARES = 4 * 384 * 384


def schedule(args: OptimizationArguments, step: int) -> float:
    """Learning rate of `step` (the first is 0) as a share of the peak, from 0 to 1; `min_learning_rate` apart."""
    if step < args.warmup_steps:
        return (step + 1) / args.warmup_steps
    if args.lr_schedule == "constant":
        return 1.0
    progress = min(1.0, (step - args.warmup_steps) / max(1, args.max_steps - args.warmup_steps))
    if args.lr_schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return min(1.0, (args.max_steps - step) / max(1, args.decay_fraction * args.max_steps))


def learning_rate(args: OptimizationArguments, step: int, peak: float | None = None) -> float:
    """Learning rate of a step: `peak` (AdamW's by default) by the schedule, ending at the same share of it as AdamW's."""
    peak = args.learning_rate if peak is None else peak
    floor = args.min_learning_rate / args.learning_rate
    share = schedule(args, step)
    return peak * (share if step < args.warmup_steps else floor + (1 - floor) * share)


@torch.no_grad()
def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """The nearest (semi-)orthogonal matrices, roughly, by Newton-Schulz; shape `(N, rows, columns)`.

    It computes in float32, or in float64 for matrices of that type.

    Each step multiplies `x` from the left by a polynomial of `x @ x.mT`. A matrix twice as long as wide or longer waits
    for the product of them all, which is small and square: 30% less work at 384 x 1024, and 4e-5 off.
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
    """Momentum, orthogonalised: each matrix moves by the same amount in every direction.

    Args:
        params: Parameters of two dimensions.
        lr: Step size; a wide matrix's update is scaled by `sqrt(max(1, rows / columns))` as in the reference.
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
                # A GPU takes all of them at once; on a CPU the squares of four of width 384 stay in its caches.
                together = len(updates) if parameters[0].is_cuda else max(1, CACHED_SQUARES // min(shape) ** 2)
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                moves = [move for part in torch.stack(updates).split(together) for move in orthogonalize(part)]
                for parameter, move in zip(parameters, moves, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(move, alpha=-group["lr"] * scale)
        return loss


def uses_muon(args: OptimizationArguments, name: str, parameter: torch.Tensor) -> bool:
    """Whether Muon takes a parameter: the matrices of the blocks."""
    return args.optimizer == "muon" and parameter.ndim == 2 and ".layers." in name


def build_optimizers(
    args: OptimizationArguments, model: LyricGPTForCausalLM, scores_scaled_by: str = "head_size"
) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the blocks' matrices and AdamW for the rest.

    Each parameter group carries its own `peak_lr`.

    Args:
        scores_scaled_by: What attention scores are divided by the root of: `"head_size"` or `"n_embd"`.
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
        # Scores divided by the root of the width and not of the head size: AdamW moves a smaller q_proj, which holds the
        # factor, by steps as much smaller, so that it takes the path of the larger one.
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
