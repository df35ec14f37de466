"""The advice that a run on a small corpus gives."""

import json
import re

import pytest
from conftest import SAMPLE_LYRICS, train

from training_lyricgpt.arguments import parse_arguments
from training_lyricgpt.engine.advice import advise, epochs, epochs_that_help


def arguments(**values):
    """The arguments of a run that reads 4,096 characters per step."""
    values = {"dataset": SAMPLE_LYRICS, "optimizer": "muon", "batch_size": 32, "block_size": 128, "dropout": 0} | values
    return parse_arguments([f"--{name}={value}" for name, value in values.items()])


def numbers(pattern, text):
    return [float(found.replace(",", "")) for found in re.findall(pattern, text)]


@pytest.mark.parametrize(
    ("values", "dropout", "measured"),
    [
        ({}, 0.0, 4.0),
        ({}, 0.2, 11.1),
        ({"optimizer": "adamw", "learning_rate": 2e-3}, 0.0, 9.1),
        ({"optimizer": "adamw", "learning_rate": 2e-3}, 0.2, 12.1),
        ({"optimizer": "adamw", "learning_rate": 3e-4}, 0.0, 22),
        ({"optimizer": "adamw", "learning_rate": 3e-4}, 0.2, 81),
    ],
)
def test_the_estimated_epochs_are_within_a_factor_of_two_of_the_measured_ones(values, dropout, measured):
    assert measured / 2 <= epochs_that_help(arguments(**values), dropout) <= measured * 2


def test_a_run_that_repeats_a_small_corpus_gets_advice_on_dropout_steps_and_weight_decay():
    advice = advise(*2 * [arguments(max_steps=1000, warmup_steps=100)], 0.0, 202_957)
    assert "202,957 characters" in advice and "20.2 times" in advice
    assert "--dropout 0.2 --max_steps 500" in advice
    assert "--weight_decay 0.5" in advice and "--init_from" in advice
    assert numbers(r"(?m)^  --max_steps (\S+):", advice) == [200]


def test_advice_leaves_out_what_is_set_already():
    args = arguments(max_steps=5000, weight_decay=0.5, init_from="runs/x")
    advice = advise(args, args, 0.2, 202_957)
    assert "--max_steps" in advice
    assert not any(name in advice for name in ("--dropout", "--weight_decay", "--init_from"))


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("characters", [3_000, 45_000, 202_957, 1_003_848])
def test_the_advised_steps_stay_within_the_epochs_that_help_or_twice_the_warmup(optimizer, characters):
    args = arguments(optimizer=optimizer, max_steps=20_000, warmup_steps=20)
    for steps in numbers(r"--max_steps (\d+)", advise(args, args, 0.0, characters)):
        args = args.replace(max_steps=int(steps))
        assert (
            epochs(args, args.block_size, characters) <= 1.1 * epochs_that_help(args, 0.2)
            or steps == 2 * args.warmup_steps
        )


def test_a_run_that_follows_the_advice_gets_none():
    assert advise(*2 * [arguments(max_steps=500, warmup_steps=50, dropout=0.2)], 0.2, 202_957) is None
    assert advise(*2 * [arguments(max_steps=200, warmup_steps=50)], 0.0, 202_957) is None


def test_a_large_corpus_needs_no_advice():
    assert advise(*2 * [arguments(max_steps=1000)], 0.0, 1_003_848) is None


@pytest.mark.slow
def test_a_run_prints_its_advice_once_after_the_first_evaluation(tmp_path):
    command = {
        "output_dir": tmp_path / "run",
        "optimizer": "muon",
        "max_songs": 5,
        "max_steps": 200,
        "eval_interval": 100,
    }
    result = train(**command)
    assert result.returncode == 0, result.stderr
    characters = json.loads((tmp_path / "run" / "corpus.json").read_text())["tokens"]["train"]
    assert result.stdout.count("advice:") == 1
    assert f"An epoch is {characters:,} characters" in result.stdout
    first, second = (re.search(rf"(?m)^ +{step}  ", result.stdout).start() for step in (0, 100))
    assert first < result.stdout.index("advice:") < second
    again = train(**command | {"max_steps": 300})
    assert again.returncode == 0 and "advice:" not in again.stdout
    plan = train("--plan", **command | {"output_dir": tmp_path / "other"})
    assert f"An epoch is {characters:,} characters" in plan.stdout
