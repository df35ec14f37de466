"""Measures a model's loss, accuracy and bits per character on fixed windows of a split.

Notes:
- The windows are the same at every evaluation, so curves are smooth and comparable. The processes share them.
- Accuracy is an `evaluate` metric that takes counts per batch. With single characters, `evaluate` needs seconds for a
  million of them.
- Figures are per token: a character, or the end of a song if the corpus marks it. Headers with artist and title are
  read but not counted, so figures describe the lyrics alone, with or without headers.
"""

import math
from collections.abc import Callable

import datasets
import evaluate
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from ..corpus.streams import TokenizedCorpus, TokenStream, evaluation_offsets

SPLIT_NAMES = {"train": "train", "val": "validation"}
IGNORED = -100  # label of a character that is not counted


class NextCharacterAccuracy(evaluate.Metric):
    """Share of next characters predicted exactly. Takes counts: `predictions` are hits, `references` are characters."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of next characters that a language model predicts exactly.",
            citation="",
            inputs_description="predictions: correct characters of a batch; references: characters of the batch.",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return {"accuracy": float(np.sum(predictions) / np.sum(references))}


# ----------------------------------------------------------------------------------------------------------------------
# Windows of a split


@torch.no_grad()
def evaluate_split(
    accelerator: Accelerator,
    model: nn.Module,
    stream: TokenStream,
    offsets: np.ndarray,
    block_size: int,
    batch_size: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """Returns a model's figures on the windows at `offsets`, the same on every process.

    Args:
        offsets: Where each window begins, shape `(windows,)`. Each process reads its share.
        batch_size: Windows per forward pass on one process.
        should_stop: Called before each forward pass, equally often on every process.

    Returns:
        `loss` (nats per token, lower is better), `accuracy` (0 to 1) and `bits_per_char`, or None if it was stopped.
    """
    was_training = model.training
    model.eval()
    mine = offsets[accelerator.process_index :: accelerator.num_processes]
    counts = []  # (summed loss, hits, tokens) of each batch
    stopped = False
    for start in range(0, math.ceil(len(offsets) / accelerator.num_processes), batch_size):
        if stopped := should_stop():
            break
        if start >= len(mine):
            continue  # other processes have another batch, and call should_stop again
        offsets_here = mine[start : start + batch_size]
        windows = stream.windows(offsets_here, block_size).to(accelerator.device)
        labels = windows[:, 1:]
        tokens, headers = labels.numel(), stream.is_header(offsets_here, block_size)
        if headers is not None:
            labels = labels.masked_fill(headers.to(labels.device), IGNORED)
            tokens -= int(headers.sum())
        with accelerator.autocast():
            logits = model(input_ids=windows[:, :-1], use_cache=False).logits  # (B, T, vocab_size)
        loss = nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        hits = (logits.argmax(-1) == labels).sum()
        counts.append((loss.item(), int(hits), tokens))
    model.train(was_training)
    if stopped:
        return None
    counts = gather_object(counts)
    metric = NextCharacterAccuracy(keep_in_memory=True)
    metric.add_batch(predictions=[hits for _, hits, _ in counts], references=[tokens for _, _, tokens in counts])
    loss = math.fsum(loss for loss, _, _ in counts) / sum(tokens for _, _, tokens in counts)
    return {"loss": loss, **metric.compute(), "bits_per_char": loss / math.log(2)}


def windows_to_evaluate(corpus: TokenizedCorpus, seed: int, windows: int, block_size: int) -> dict[str, np.ndarray]:
    """Returns where the windows of an evaluation begin, for `train` and `val`: see `evaluation_offsets`."""
    return {
        split: evaluation_offsets(seed, name, windows, len(getattr(corpus, name)), block_size)
        for split, name in SPLIT_NAMES.items()
    }


def evaluate_model(
    accelerator: Accelerator,
    model: nn.Module,
    corpus: TokenizedCorpus,
    offsets: dict[str, np.ndarray],
    block_size: int,
    batch_size: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """Returns a model's figures on both splits, with names like `val_loss`, or None if it was stopped.

    Args:
        offsets: See `windows_to_evaluate`.
        batch_size: Windows per training step, over all processes and micro-batches.
        should_stop: See `evaluate_split`.
    """
    size, figures = batch_size // accelerator.num_processes // accelerator.gradient_accumulation_steps, {}
    for split, name in SPLIT_NAMES.items():
        stream = getattr(corpus, name)
        result = evaluate_split(accelerator, model, stream, offsets[split], block_size, size, should_stop)
        if result is None:
            return None
        figures |= {f"{split}_{key}": value for key, value in result.items()}
    return figures
