"""Attention and dropout for training on a CPU.

Notable:
- torch draws a dropout mask on a CPU one Bernoulli number at a time: 7.4 ns each, a quarter of a step of the published
  model. Here a 64-bit word of the same generator is cut into four lanes of 16 bits, each kept or dropped by a threshold:
  1.1 ns. The probability is rounded to 1/65536, and the scale of what is kept follows the rounded one.
- Attention goes by blocks of rows, each with the columns that it sees only: no work above the diagonal or left of a
  sliding window, and what is in flight stays in the caches. With dropout it takes less than half of the time of torch's,
  which falls back to attention written out; without, three quarters.
- It is an attention function of transformers (`model.set_attn_implementation(BLOCKWISE)`) for whole windows without
  padding or cache; sampling goes back to `sdpa`.

The figures are of 8 windows of 256 x 6 heads of 64 on two cores, float32.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface

from .arguments import Arguments

BLOCKWISE = "lyricgpt_blockwise"
BLOCK_ROWS = 64  # 32 and 128 take as long to a tenth, 256 a third longer
LANE = 2**16


def drop_threshold(p: float) -> tuple[int, float]:
    """Of 65536 lanes the number that is dropped, and the factor that makes up for them."""
    dropped = min(max(1, round(p * LANE)), LANE - 1)
    return dropped, LANE / (LANE - dropped)


def draw_kept(shape: torch.Size, dropped: int) -> torch.Tensor:
    """A mask of `shape`, bool: each element is kept with probability `1 - dropped / 65536`; torch's generator moves on."""
    count = math.prod(shape)
    words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    return words.view(torch.int16)[:count].view(shape) >= dropped - LANE // 2


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, p: float) -> torch.Tensor:
        dropped, ctx.scale = drop_threshold(p)
        kept = draw_kept(x.shape, dropped)
        ctx.save_for_backward(kept)
        return (x * kept).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (kept,) = ctx.saved_tensors
        return (gradient * kept).mul_(ctx.scale), None


class FastDropout(TorchFunctionMode):
    """Inside it, `torch.nn.functional.dropout` of a float32 tensor on a CPU draws its mask as above; others are torch's."""

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function is nn.functional.dropout:
            return self.dropout(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))

    def dropout(self, input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        if training and 0 < p < 1 and not inplace and input.dtype is torch.float32 and input.device.type == "cpu":
            return _Dropout.apply(input, p)
        return nn.functional.dropout(input, p, training, inplace)


@functools.lru_cache
def row_blocks(length: int, window: int) -> list[tuple[int, int, int, torch.Tensor]]:
    """For each block of rows: its first and last, its first column, and what is added to its scores (0 or -inf)."""
    blocks = []
    for start in range(0, length, BLOCK_ROWS):
        end = min(length, start + BLOCK_ROWS)
        first = max(0, start - window + 1)
        rows, columns = torch.arange(start, end)[:, None], torch.arange(first, end)
        hidden = (columns > rows) | (columns <= rows - window)
        blocks.append((start, end, first, torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf"))))
    return blocks


class _Attention(torch.autograd.Function):
    """Causal attention on `(B, heads, T, head_dim)`; each row sees `window` columns, itself included."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, p: float, window: int
    ) -> torch.Tensor:
        shape = query.shape
        query, key, value = (
            x.reshape(-1, *shape[2:]) for x in (query * scaling, key, value)
        )  # (B * heads, T, head_dim)
        output, saved = torch.empty_like(query), []
        dropped, scale = drop_threshold(p) if p else (0, 1.0)
        for start, end, first, hidden in row_blocks(shape[2], window):
            scores = torch.bmm(query[:, start:end], key[:, first:end].transpose(1, 2)).add_(hidden)
            weights = torch.softmax(scores, dim=-1)
            saved.append(weights)
            if dropped:
                saved.append(draw_kept(weights.shape, dropped))
                weights = torch.mul(weights, saved[-1], out=scores)
            output[:, start:end] = torch.bmm(weights, value[:, first:end])
        if dropped:
            output.mul_(scale)
        ctx.save_for_backward(query, key, value, output, *saved)
        ctx.scaling, ctx.scale, ctx.dropped, ctx.window = scaling, scale, dropped, window
        return output.view(shape)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, output, *saved = ctx.saved_tensors
        shape, gradient = gradient.shape, gradient.reshape(query.shape)
        # sum(weights * gradient of weights) over a row, as in FlashAttention (https://arxiv.org/abs/2205.14135)
        row_sums = (gradient * output).sum(-1, keepdim=True)
        if ctx.dropped:
            gradient = gradient * ctx.scale
        d_query, d_key, d_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        saved_parts = iter(saved)
        for start, end, first, _ in row_blocks(query.shape[1], ctx.window):
            rows = gradient[:, start:end]
            weights = next(saved_parts)
            d_scores = torch.bmm(rows, value[:, first:end].transpose(1, 2))
            if ctx.dropped:
                kept_weights = weights * next(saved_parts)
                d_scores.mul_(kept_weights).addcmul_(weights, row_sums[:, start:end], value=-1)
            else:
                kept_weights = weights
                d_scores.sub_(row_sums[:, start:end]).mul_(weights)
            d_value[:, first:end] += torch.bmm(kept_weights.transpose(1, 2), rows)
            d_query[:, start:end] = torch.bmm(d_scores, key[:, first:end])
            d_key[:, first:end] += torch.bmm(d_scores.transpose(1, 2), query[:, start:end])
        d_query.mul_(ctx.scaling)
        return d_query.view(shape), d_key.view(shape), d_value.view(shape), None, None, None


def blockwise_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface; the output is `(B, T, heads, head_dim)`.

    Raises:
        ValueError: there is padding or a cache.
    """
    if attention_mask is not None or query.shape != key.shape:
        raise ValueError(f"{BLOCKWISE} attention is for whole windows, without padding or cache; use sdpa")
    output = _Attention.apply(query, key, value, scaling, dropout, sliding_window or query.shape[2])
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(BLOCKWISE, blockwise_attention)


def training_attention(args: Arguments, accelerator: Accelerator) -> str:
    """The attention implementation that a run trains and evaluates with: ours in float32 on a CPU, else torch's."""
    ours = accelerator.device.type == "cpu" and accelerator.mixed_precision == "no" and not args.compile
    return BLOCKWISE if ours else "sdpa"
