"""Loss, accuracy and bits a character of a model on fixed windows of a split.

Notable:
- The windows are the same at every evaluation, so curves are quiet and comparable; they are sharded over the processes.
- Accuracy goes through an `evaluate` metric that takes counts a batch: given single characters, `evaluate` needs
  seconds for a million of them.
- Figures are a token: a character, or the end of a song where the corpus marks it.
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

from .tokens import TokenStream


class NextCharacterAccuracy(evaluate.Metric):
    """Share of next characters predicted exactly, from counts: `predictions` are hits, `references` are characters."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of next characters that a language model predicts exactly.",
            citation="",
            inputs_description="predictions: correct characters of a batch; references: characters of the batch.",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return {"accuracy": float(np.sum(predictions) / np.sum(references))}


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
    """Figures of a model on the windows at `offsets`, the same on every process.

    Args:
        offsets: Where each window begins, shape `(windows,)`; each process reads its share.
        batch_size: Windows a forward pass on one process.
        should_stop: Asked before each forward pass, equally often on every process.

    Returns:
        `loss` (nats a token), `accuracy` (0 to 1), `bits_per_char`; None if it was to stop.
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
            continue  # others have one more
        windows = stream.windows(mine[start : start + batch_size], block_size).to(accelerator.device)
        labels = windows[:, 1:]
        with accelerator.autocast():
            logits = model(input_ids=windows[:, :-1], use_cache=False).logits  # (B, T, vocab_size)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
        hits = (logits.argmax(-1) == labels).sum()
        counts.append((loss.item() * labels.numel(), int(hits), labels.numel()))
    model.train(was_training)
    if stopped:
        return None
    counts = gather_object(counts)
    metric = NextCharacterAccuracy(keep_in_memory=True)
    metric.add_batch(predictions=[hits for _, hits, _ in counts], references=[tokens for _, _, tokens in counts])
    loss = math.fsum(loss for loss, _, _ in counts) / sum(tokens for _, _, tokens in counts)
    return {"loss": loss, **metric.compute(), "bits_per_char": loss / math.log(2)}
