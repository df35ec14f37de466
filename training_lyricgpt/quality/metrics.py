"""Measures texts, with metrics for `evaluate`: bits per character, known words, repeated lines, copied passages."""

import math
import re
from collections.abc import Iterable
from typing import Any

import datasets
import evaluate
import numpy as np
import torch
from torch import nn

from modeling_lyricgpt import LyricGPTForCausalLM
from tokenization_lyricgpt import LyricGPTTokenizer

from .copies import TrainingIndex

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


WINDOW = 50  # characters; no two songs share so many by chance


SCORED_WINDOWS = 16  # at a time


def words(text: str) -> list[str]:
    """Returns the words of a text in lower case."""
    return WORD.findall(text.lower())


class SongMetric(evaluate.Metric):
    """A metric of texts: `compute(predictions=texts)`."""

    description = ""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, keep_in_memory=True, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.description,
            citation="",
            inputs_description="predictions: texts.",
            features=datasets.Features({"predictions": datasets.Value("string")}),
        )


class BitsPerCharacter(SongMetric):
    """`bits_per_char`: the loss of a model on texts, in bits per character (lower means easier to predict).

    The model reads at least half a block before each character, or all of the text before it if there is less.
    """

    description = "Loss of a character-level language model on texts, in bits per character."

    def __init__(self, model: LyricGPTForCausalLM, tokenizer: LyricGPTTokenizer):
        super().__init__()
        self.model, self.tokenizer = model, tokenizer

    def _compute(self, predictions: list[str]) -> dict[str, float]:
        nats, characters = 0.0, 0
        for text in predictions:
            ids = self.tokenizer.encode_corpus([text])[0].astype(np.int64)
            if self.tokenizer.bos_token_id is not None:
                ids = np.insert(ids, 0, self.tokenizer.bos_token_id)
            if len(ids) > 1:
                nats += self._nats(torch.from_numpy(ids).to(self.model.device))
                characters += len(ids) - 1
        return {"bits_per_char": nats / characters / math.log(2) if characters else math.nan}

    @torch.no_grad()
    def _nats(self, ids: torch.Tensor) -> float:
        block = self.model.config.max_position_embeddings
        if len(ids) <= block + 1:
            windows, first = ids[None], torch.zeros(1, dtype=torch.int64)
        else:
            stride = max(1, block // 2)
            begins = torch.arange(0, len(ids) - block - 1 + stride, stride).clamp(max=len(ids) - block - 1)
            windows = ids[begins[:, None].to(ids.device) + torch.arange(block + 1, device=ids.device)]
            # Windows overlap. Each counts only the characters after the end of the one before.
            first = torch.cat([begins[:1], begins[:-1] + block - begins[1:]])
        nats = 0.0
        for part, skipped in zip(windows.split(SCORED_WINDOWS), first.split(SCORED_WINDOWS), strict=True):
            logits = self.model(input_ids=part[:, :-1], use_cache=False).logits
            losses = nn.functional.cross_entropy(logits.transpose(1, 2).float(), part[:, 1:], reduction="none")
            counted = torch.arange(losses.shape[1]) >= skipped[:, None]
            nats += losses[counted.to(losses.device)].double().sum().item()
        return nats


class KnownWords(SongMetric):
    """`known_words`: the share of the texts' words that occur in the training texts."""

    description = "Share of words that occur in the training songs."

    def __init__(self, training_texts: Iterable[str]):
        super().__init__()
        self.vocabulary: set[str] = set()
        for text in training_texts:
            self.vocabulary.update(words(text))

    def _compute(self, predictions: list[str]) -> dict[str, float]:
        found = [word in self.vocabulary for text in predictions for word in words(text)]
        return {"known_words": sum(found) / len(found) if found else math.nan}


class ReturningLines(SongMetric):
    """`returning_lines`: the share of lines that occurred earlier in the same text, like those of a chorus."""

    description = "Share of lines that occurred earlier in the same song."

    def _compute(self, predictions: list[str]) -> dict[str, float]:
        lines = [[" ".join(words(line)) for line in text.splitlines()] for text in predictions]
        lines = [[line for line in text if line] for text in lines]
        count = sum(map(len, lines))
        return {"returning_lines": sum(len(text) - len(set(text)) for text in lines) / count if count else math.nan}


class Originality(SongMetric):
    """Measures exactly what texts copy from the training songs.

    `longest_copy`: the length of the longest copied run, in characters; `copied_windows`: the share of windows of 50 characters
    that occur word for word in a training song; `passages`: the copied runs of at least 50 characters, the longest first, or
    only the longest run if all are shorter. Each passage has the number of its text, its characters, and the artist and title
    of a song that contains it.
    """

    description = "Longest run copied from the training songs, and share of 50-character windows that are copied."

    def __init__(self, index: TrainingIndex):
        super().__init__()
        self.index = index

    def _compute(self, predictions: list[str]) -> dict[str, Any]:
        runs = self.index.longest_runs(predictions)
        windows = sum(max(0, len(run.lengths) - WINDOW + 1) for run in runs)
        copied = sum(int((run.lengths >= WINDOW).sum()) for run in runs)
        longest = max((int(run.lengths.max(initial=0)) for run in runs), default=0)
        passages = self.index.passages(runs, min(WINDOW, longest)) if longest else []
        return {
            "longest_copy": longest,
            "copied_windows": copied / windows if windows else math.nan,
            "passages": [
                {
                    "text": passage.text,
                    "characters": predictions[passage.text][passage.begin : passage.end],
                    "artist": passage.artist,
                    "title": passage.title,
                }
                for passage in (passages if longest >= WINDOW else passages[:1])
            ],
        }
