"""Forward and backward passes for training on a CPU in float32: attention, dropout, RMSNorm, rotary positions, SwiGLU.

Notes:
- On a CPU, everything except matrix products is limited by memory: an operation that writes to new memory takes four
  times as long as one that writes to a buffer in the caches. So these passes work in place, save little for the
  backward pass, and recompute the rest.
- torch draws a dropout mask on a CPU one Bernoulli number at a time. At 7.4 ns per number, this takes a quarter of a
  step of the original notebook's model. Here, each 64-bit word from the same generator is split into four 16-bit lanes,
  and a threshold decides whether each lane is kept or dropped: 1.1 ns per number. The probability is rounded to
  1/65536, and the scale of the kept elements follows the rounded probability.
- Attention processes blocks of rows, each with only the columns that it can see. So it does no work above the diagonal
  or left of a sliding window. torch's own attention computes the whole score matrix if there is dropout.
- `cpu_kernels(model)` replaces a model's forward methods inside a `with` block and restores them afterwards. The
  model's own code does not use these kernels, and nor does sampling or anything that is saved or published. They only
  support whole windows, without padding and without a cache.

Times were measured with 8 windows of 256 characters and 6 heads of size 64, on two cores.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers.activations import SiLUActivation

from modeling_lyricgpt.modeling_lyricgpt import LyricGPTAttention, LyricGPTMLP, LyricGPTRMSNorm

from ..arguments import OptimizationArguments

BLOCK_ROWS = 64  # with 32 or 128, attention takes the same time to within 10%; with 256, a third longer
LANE = 2**16

Tensor = torch.Tensor


@functools.lru_cache
def _buffer(elements: int, slot: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty(elements, dtype=dtype, device=device)


def scratch(like: Tensor, slot: int) -> Tensor:
    """Returns a reused buffer with the shape of `like`, which stays in the caches. The next use overwrites it."""
    return _buffer(like.numel(), slot, like.dtype, like.device).view(like.shape)


# ----------------------------------------------------------------------------------------------------------------------
# Dropout


def drop_threshold(p: float) -> tuple[int, float]:
    """Returns how many of a lane's 65536 values are dropped, and the factor by which to scale kept elements."""
    dropped = min(max(1, round(p * LANE)), LANE - 1)
    return dropped, LANE / (LANE - dropped)


def draw_kept(like: Tensor, dropped: int) -> Tensor:
    """Draws a uint8 mask with the shape of `like`: each element is 1 with probability `1 - dropped / 65536`, else 0.

    This advances torch's generator. Multiplying floats by bytes takes a third of the time of multiplying them by bools.
    """
    count = like.numel()
    words = torch.empty((count + 3) // 4, dtype=torch.int64, device=like.device).random_(-(2**63), None)
    lanes = words.view(torch.int16)[:count].view(like.shape)
    return torch.ge(lanes, dropped - LANE // 2, out=torch.empty(like.shape, dtype=torch.uint8, device=like.device))


class Dropout(torch.autograd.Function):
    """Dropout for any shape. Saves only a mask of bytes for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        dropped, ctx.scale = drop_threshold(p)
        kept = draw_kept(x, dropped)
        ctx.save_for_backward(kept)
        return (x * kept).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return (gradient * kept).mul_(ctx.scale), None


# ----------------------------------------------------------------------------------------------------------------------
# Attention


@functools.lru_cache
def row_blocks(
    length: int, window: int, dtype: torch.dtype, device: torch.device
) -> list[tuple[int, int, int, Tensor]]:
    """Returns start row, end row, first column and the mask to add to the scores (0 or -inf) of each block of rows."""
    blocks = []
    for start in range(0, length, BLOCK_ROWS):
        end = min(length, start + BLOCK_ROWS)
        first = max(0, start - window + 1)
        rows, columns = torch.arange(start, end, device=device)[:, None], torch.arange(first, end, device=device)
        hidden = (columns > rows) | (columns <= rows - window)
        added = torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, float("-inf"))
        blocks.append((start, end, first, added))
    return blocks


class Attention(torch.autograd.Function):
    """Causal attention of contiguous `(B, heads, T, head_dim)` tensors.

    Each row sees `window` columns, including its own. The output has the shape `(B, T, heads, head_dim)`, which the
    output projection needs.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float, p: float, window: int) -> Tensor:
        batch, heads, length, head_dim = query.shape
        query, key, value = (x.view(-1, length, head_dim) for x in (query, key, value))
        output = query.new_empty(batch, length, heads, head_dim)
        dropped, scale = drop_threshold(p) if p else (0, 1.0)
        saved = []
        for start, end, first, added in row_blocks(length, window, query.dtype, query.device):
            keys = key[:, first:end].transpose(1, 2)
            scores = torch.baddbmm(added, query[:, start:end], keys, alpha=scaling)
            weights = torch.softmax(scores, dim=-1)
            saved.append(weights)
            if dropped:
                saved.append(draw_kept(weights, dropped))
                weights = torch.mul(weights, saved[-1], out=scores)
            rows = torch.bmm(weights, value[:, first:end]).mul_(scale)
            output[:, start:end].copy_(rows.view(batch, heads, -1, head_dim).transpose(1, 2))
        ctx.save_for_backward(query, key, value, output, *saved)
        ctx.scaling, ctx.scale, ctx.dropped, ctx.window = scaling, scale, dropped, window
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, *saved = ctx.saved_tensors
        batch, length, heads, head_dim = gradient.shape
        # sum(weights * gradient of weights) over a row, as in FlashAttention (https://arxiv.org/abs/2205.14135)
        products = torch.mul(gradient, output, out=scratch(output, 0))
        row_sums = products.sum(-1).transpose(1, 2).reshape(-1, length, 1)
        gradients = scratch(query, 1)
        torch.mul(gradient.transpose(1, 2), ctx.scale, out=gradients.view(batch, heads, length, head_dim))
        d_query, d_key, d_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        saved_parts = iter(saved)
        for start, end, first, _ in row_blocks(length, ctx.window, query.dtype, query.device):
            rows, weights = gradients[:, start:end], next(saved_parts)
            d_scores = torch.bmm(rows, value[:, first:end].transpose(1, 2))
            if ctx.dropped:
                kept_weights = weights * next(saved_parts)
                d_scores.mul_(kept_weights).addcmul_(weights, row_sums[:, start:end], value=-1)
            else:
                kept_weights = weights
                d_scores.sub_(row_sums[:, start:end]).mul_(weights)
            d_value[:, first:end].add_(torch.bmm(kept_weights.transpose(1, 2), rows))
            torch.mul(torch.bmm(d_scores, key[:, first:end]), ctx.scaling, out=d_query[:, start:end])
            d_key[:, first:end].add_(torch.bmm(d_scores.transpose(1, 2), query[:, start:end]), alpha=ctx.scaling)
        shape = (batch, heads, length, head_dim)
        return d_query.view(shape), d_key.view(shape), d_value.view(shape), None, None, None


class Rotary(torch.autograd.Function):
    """Rotates `(B, T, heads, head_dim)` by cos and sin `(1, T, head_dim)`; the output is `(B, heads, T, head_dim)`."""

    @staticmethod
    def rotate(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor, sign: int) -> None:
        half = x.shape[-1] // 2
        torch.mul(x, cos, out=out)
        out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-sign)
        out[..., half:].addcmul_(x[..., :half], sin[..., half:], value=sign)

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        batch, length, heads, head_dim = x.shape
        output = x.new_empty(batch, heads, length, head_dim)
        Rotary.rotate(x.transpose(1, 2), cos[:, None], sin[:, None], output, 1)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        batch, heads, length, head_dim = gradient.shape
        output = gradient.new_empty(batch, length, heads, head_dim)
        Rotary.rotate(gradient.transpose(1, 2), cos[:, :, None], sin[:, :, None], output, -1)
        return output, None, None


def attention_forward(
    self: LyricGPTAttention,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    past_key_values: None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Replaces `LyricGPTAttention.forward`. It ignores the attention mask: `Attention` masks by position."""
    if past_key_values is not None:
        raise ValueError("the CPU kernels for training do not support a cache")
    shape = (*hidden_states.shape[:-1], -1, self.head_dim)
    query, key, value = (project(hidden_states).view(shape) for project in (self.q_proj, self.k_proj, self.v_proj))
    if position_embeddings is None:
        query, key = query.transpose(1, 2).contiguous(), key.transpose(1, 2).contiguous()
    else:
        query = Rotary.apply(self.q_norm(query), *position_embeddings)
        key = Rotary.apply(self.k_norm(key), *position_embeddings)
    output = Attention.apply(
        query,
        key,
        value.transpose(1, 2).contiguous(),
        self.scaling,
        self.attention_dropout if self.training else 0.0,
        self.sliding_window or shape[1],
    )
    return self.o_proj(output.flatten(2)), None


# ----------------------------------------------------------------------------------------------------------------------
# Norm and MLP


class RMSNorm(torch.autograd.Function):
    """RMSNorm over the last dimension. Saves its input and one number per row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        squares = torch.mul(x, x, out=scratch(x, 0))
        scale = squares.mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        width = x.shape[-1]
        normed = torch.mul(x, scale, out=scratch(x, 0))
        products = torch.mul(gradient, normed, out=scratch(x, 1)).view(-1, width)
        along = torch.mv(products, weight).div_(-width).view(scale.shape)
        return (gradient * weight).addcmul_(normed, along).mul_(scale), products.sum(0), None


class SwiGLU(torch.autograd.Function):
    """`silu(gate) * up`. Saves only `gate` and `up`, and recomputes the rest."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        sigmoid = torch.sigmoid(gate, out=scratch(gate, 0))
        silu = torch.mul(gate, sigmoid, out=scratch(gate, 1))
        d_up = gradient * silu
        d_silu = sigmoid.addcmul_(silu, sigmoid, value=-1).add_(silu)  # s + g s (1 - s)
        return (gradient * up).mul_(d_silu), d_up


class Perceptron(torch.autograd.Function):
    """`relu(x @ up.T + up_bias) @ down.T + down_bias` for each row. Saves its input and the output of the ReLU.

    It replaces torch's own operations: an in-place ReLU after a `Linear` with more than two dimensions copies gradients
    twice, and an out-of-place ReLU writes to new memory.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        inner = torch.addmm(up_bias, rows, up.t()).relu_()
        ctx.save_for_backward(rows, up, inner, down)
        return torch.addmm(down_bias, inner, down.t()).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        rows, up, inner, down = ctx.saved_tensors
        d_output = gradient.flatten(0, -2)
        d_inner = torch.mm(d_output, down)
        torch.ops.aten.threshold_backward.grad_input(d_inner, inner, 0, grad_input=d_inner)
        d_x = torch.mm(d_inner, up).view(*gradient.shape[:-1], -1)
        return d_x, d_inner.t() @ rows, d_inner.sum(0), d_output.t() @ inner, d_output.sum(0)


def dropout_forward(self: nn.Dropout, x: Tensor) -> Tensor:
    """Replaces `nn.Dropout.forward`."""
    return Dropout.apply(x, self.p) if self.training and self.p else x


def rms_norm_forward(self: LyricGPTRMSNorm, hidden_states: Tensor) -> Tensor:
    """Replaces `LyricGPTRMSNorm.forward`."""
    return RMSNorm.apply(hidden_states, self.weight, self.variance_epsilon)


def mlp_forward(self: LyricGPTMLP, hidden_states: Tensor) -> Tensor:
    """Replaces `LyricGPTMLP.forward`."""
    if self.gate_proj is None:
        if type(self.act_fn) is not nn.ReLU:
            return self.down_proj(self.act_fn(self.up_proj(hidden_states)))
        up, down = self.up_proj, self.down_proj
        return Perceptron.apply(hidden_states, up.weight, up.bias, down.weight, down.bias)
    gate, up = self.gate_proj(hidden_states), self.up_proj(hidden_states)
    return self.down_proj(SwiGLU.apply(gate, up) if type(self.act_fn) in SILU else self.act_fn(gate) * up)


SILU = (nn.SiLU, SiLUActivation)
FORWARDS: dict[type[nn.Module], Callable] = {
    nn.Dropout: dropout_forward,
    LyricGPTRMSNorm: rms_norm_forward,
    LyricGPTMLP: mlp_forward,
    LyricGPTAttention: attention_forward,
}


# ----------------------------------------------------------------------------------------------------------------------
# Using the kernels in a model


def fits(args: OptimizationArguments, accelerator: Accelerator) -> bool:
    """Returns whether a run uses these kernels: in float32 on a CPU, without torch.compile (which makes its own)."""
    return accelerator.device.type == "cpu" and accelerator.mixed_precision == "no" and not args.compile


@contextlib.contextmanager
def cpu_kernels(model: nn.Module, enabled: bool = True) -> Iterator[None]:
    """Makes `model` compute with these kernels inside the `with` block."""
    replaced = [module for module in model.modules() if enabled and type(module) in FORWARDS]
    for module in replaced:
        module.forward = MethodType(FORWARDS[type(module)], module)
    try:
        yield
    finally:
        for module in replaced:
            del module.forward
