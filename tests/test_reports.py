"""Curves, samples, and the sentence about overfitting."""

import json

import pytest
from matplotlib.image import imread

from training_lyricgpt import LyricGPTError
from training_lyricgpt.card.curves import draw_curves
from training_lyricgpt.engine.metrics import best_evaluation, overfitting, read_metrics, write_metrics


def rows(validation, training=None):
    training = training or [loss - 0.1 for loss in validation]
    return [
        {
            "step": 500 * index, "train_loss": t, "val_loss": v, "train_accuracy": 0.5, "val_accuracy": 0.4,
            "val_bits_per_char": v * 1.4427, "learning_rate": 1e-3, "chars_per_second": 1000.0, "elapsed_seconds": 1.0,
            "sample_seed": 1, "sample": "la\u2028la",
        }
        for index, (t, v) in enumerate(zip(training, validation, strict=True))
    ]  # fmt: skip


def test_a_validation_loss_that_rises_again_is_called_overfitting_with_its_figures():
    sentence = overfitting(rows([4.66, 1.66, 1.41, 1.409, 1.59, 2.58], [4.7, 1.4, 1.1, 0.9, 0.4, 0.08]))
    assert "lowest at step 1500 (1.4090)" in sentence
    assert "risen to 2.5800" in sentence
    assert "keeps the model of step 1500" in sentence


@pytest.mark.parametrize("validation", [[4, 2, 1], [4, 2, 1, 1.2], [4, 2, 1, 1.005, 1.004], [4]])
def test_a_falling_or_noisy_loss_is_not_called_overfitting(validation):
    assert overfitting(rows(validation, [4 / (index + 1) for index in range(len(validation))])) is None


def test_divergence_is_not_called_overfitting():
    assert overfitting(rows([1, 2, 3], [0.9, 1.9, 2.9])) is None


def test_the_best_evaluation_is_the_earliest_of_equals():
    assert best_evaluation(rows([3, 1, 1, 2]))["step"] == 500


@pytest.mark.parametrize("damage", ['{"step": 1000, "train_l', "3", '{"step": 0}', "\x00\xff"])
def test_metrics_are_read_back_and_a_damaged_line_is_named(tmp_path, damage):
    write_metrics(tmp_path, rows([3.0, 2.0]))
    assert read_metrics(tmp_path) == rows([3.0, 2.0])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(damage)
    with pytest.raises(LyricGPTError, match="damaged in line 3"):
        read_metrics(tmp_path)


@pytest.mark.parametrize("count", [1, 2, 13])
def test_curves_are_drawn_for_any_number_of_evaluations(tmp_path, count):
    picture = imread(draw_curves(tmp_path, rows([3 / (index + 1) for index in range(count)])))
    assert picture.shape[:2] == (480, 1200)
    assert len({tuple(pixel) for row in picture[::4, ::4] for pixel in row.round(2)}) > 10


def test_samples_are_written_by_step(tiny_run):
    text = (tiny_run / "samples.txt").read_text()
    steps = [json.loads(line)["step"] for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    assert [f"=== step {step}," in text for step in steps] == [True] * len(steps)
