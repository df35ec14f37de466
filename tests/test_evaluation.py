"""Loss and accuracy on fixed windows."""

import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from modeling_lyricgpt import LyricGPTConfig, LyricGPTForCausalLM
from training_lyricgpt.corpus.streams import TokenStream
from training_lyricgpt.engine.evaluation import NextCharacterAccuracy, evaluate_split

BLOCK = 16


@pytest.fixture
def model():
    torch.manual_seed(0)
    return LyricGPTForCausalLM(
        LyricGPTConfig(vocab_size=12, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, block_size=BLOCK)
    )


def test_figures_count_every_window_whatever_the_batch_size(model):
    stream = TokenStream(np.random.default_rng(0).integers(0, 12, 500).astype(np.uint8))
    offsets = np.arange(0, 480, 23)
    results = [evaluate_split(Accelerator(cpu=True), model, stream, offsets, BLOCK, size) for size in (1, 4, 64)]
    model.eval()
    losses, hits = [], []
    for offset in offsets:
        window = torch.from_numpy(stream.ids[offset : offset + BLOCK + 1].astype(np.int64))[None]
        logits = model(window[:, :-1]).logits[0].double()
        losses += (-logits.log_softmax(-1).gather(1, window[0, 1:, None])).flatten().tolist()
        hits += (logits.argmax(-1) == window[0, 1:]).tolist()
    for result in results:
        assert result["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
        assert result["accuracy"] == np.mean(hits)
        assert result["bits_per_char"] == pytest.approx(result["loss"] / math.log(2))


def test_the_loss_of_a_blind_guess_is_the_logarithm_of_the_alphabet(model):
    torch.nn.init.zeros_(model.lm_head.weight)
    stream = TokenStream(np.random.default_rng(0).integers(0, 12, 500).astype(np.uint8))
    result = evaluate_split(Accelerator(cpu=True), model, stream, np.arange(20), BLOCK, 8)
    assert result["loss"] == pytest.approx(math.log(12), rel=1e-5)
    assert result["bits_per_char"] == pytest.approx(math.log2(12), rel=1e-5)


def test_evaluation_leaves_training_mode_as_it_was(model):
    stream = TokenStream(np.zeros(100, dtype=np.uint8))
    for mode in (True, False):
        model.train(mode)
        evaluate_split(Accelerator(cpu=True), model, stream, np.arange(3), BLOCK, 2)
        assert model.training is mode


def test_the_metric_weighs_batches_by_their_characters():
    metric = NextCharacterAccuracy(keep_in_memory=True)
    assert metric.compute(predictions=[9, 0], references=[10, 90])["accuracy"] == pytest.approx(0.09)
