"""Starting from another model: its weights, its alphabet and its shape."""

import json
import shutil

import pytest
import torch
from conftest import SAMPLE_LYRICS, options, train, write_songs

from modeling_lyricgpt import LyricGPTConfig, LyricGPTForCausalLM
from tokenization_lyricgpt import LyricGPTTokenizer
from training_lyricgpt.arguments import parse_arguments
from training_lyricgpt.corpus.cache import load_corpus
from training_lyricgpt.model.folder import export_model
from training_lyricgpt.model.initialization import build_model, load_parent


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def foreign(tmp_path, make_songs):
    """A corpus with characters that the embedded songs lack, and without many that they have."""
    verse = "ночь ♥ sea\nund über Brücken gehn\n"
    return write_songs(tmp_path / "foreign.csv", [verse + song for song in make_songs(40, lines=30)])


def begin(tiny_run, tmp_path, foreign, **values):
    args = parse_arguments(
        [f"--dataset={foreign}", *options(init_from=tiny_run, output_dir=tmp_path / "new", **values)]
    )
    parent = load_parent(args.init_from, tmp_path / "new")
    args = args.begin_with(parent.shape, parent.conditioning)
    corpus = load_corpus(args, parent.alphabet)
    return args, parent, corpus, build_model(args, args.seed, corpus.tokenizer, parent)


def test_old_characters_keep_their_rows_and_new_ones_start_with_the_mean(tiny_run, tmp_path, foreign):
    _, parent, corpus, model = begin(tiny_run, tmp_path, foreign)
    old, new = parent.tokenizer.get_vocab(), corpus.tokenizer.get_vocab()
    assert set(old) < set(new)
    assert "♥" in new and "♥" not in old
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        before, after = parent.model.get_parameter(name), model.get_parameter(name)
        for token, index in new.items():
            expected = before[old[token]] if token in old else before.mean(0)
            torch.testing.assert_close(after[index], expected, msg=token)


def test_before_its_first_step_it_predicts_old_text_like_the_old_model(tiny_run, tmp_path, foreign):
    _, parent, corpus, model = begin(tiny_run, tmp_path, foreign)
    text = "I walked along"
    old, new = parent.tokenizer.get_vocab(), corpus.tokenizer.get_vocab()
    shared = sorted(old)
    with torch.no_grad():
        before = parent.model(**parent.tokenizer(text, return_tensors="pt")).logits[0]
        after = model.eval()(**corpus.tokenizer(text, return_tensors="pt")).logits[0]
    columns = [old[token] for token in shared], [new[token] for token in shared]
    torch.testing.assert_close(after[:, columns[1]], before[:, columns[0]])


def test_the_shape_comes_from_the_model_and_dropout_from_the_run(tiny_run, tmp_path, foreign):
    args, parent, _, model = begin(tiny_run, tmp_path, foreign, dropout=0.3)
    assert (args.hidden_size, args.block_size, args.num_hidden_layers) == (32, 32, 2)
    assert model.config.hidden_dropout == 0.3
    assert model.config.sliding_window == parent.model.config.sliding_window


@pytest.mark.parametrize("variant", ["classic", "modern"])
def test_parts_of_the_shape_that_are_no_option_come_from_the_model_too(tmp_path, foreign, variant):
    unusual = {"rope_parameters": {"rope_type": "default", "rope_theta": 777.0}} if variant == "modern" else {}
    config = LyricGPTConfig(
        variant=variant, vocab_size=13, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=40,
        norm_eps=1e-3, max_position_embeddings=16, bos_token_id=None, eos_token_id=None, pad_token_id=None, **unusual,
    )  # fmt: skip
    export_model(
        LyricGPTForCausalLM(config),
        LyricGPTTokenizer.from_alphabet("abcdefghijk \n", special_tokens=False),
        tmp_path / "old",
    )
    args, parent, corpus, model = begin(tmp_path / "old", tmp_path, foreign)
    assert not args.special_tokens and corpus.tokenizer.unk_token_id is None
    assert (model.config.intermediate_size, model.config.norm_eps) == (40, 1e-3)
    assert model.config.to_dict().get("rope_parameters") == parent.model.config.to_dict().get("rope_parameters")
    ids = (
        corpus.tokenizer("back", return_tensors="pt").input_ids,
        parent.tokenizer("back", return_tensors="pt").input_ids,
    )
    new, old = (one.eval()(ids).logits[0] for one, ids in zip((model, parent.model), ids, strict=True))
    columns = [corpus.tokenizer.get_vocab()[character] for character in parent.tokenizer.alphabet]
    torch.testing.assert_close(new[:, columns], old)


def test_on_the_same_songs_it_starts_where_the_other_run_was_best(tiny_run, tmp_path):
    result = train(init_from=tiny_run, output_dir=tmp_path / "new", max_steps=2)
    assert result.returncode == 0, result.stderr
    best = min(metrics(tiny_run), key=lambda row: row["val_loss"])
    assert metrics(tmp_path / "new")[0]["val_loss"] == pytest.approx(best["val_loss"], abs=1e-6)


def test_it_learns_a_corpus_with_new_characters_and_names_them(tiny_run, tmp_path, foreign):
    values = {"config": "configs/sample.yaml", "dataset": foreign, "block_size": 32, "batch_size": 8}
    common = {"max_steps": 20, "eval_interval": 10, "save_interval": 10, "warmup_steps": 2, "eval_batches": 2}
    result = train(**values | common, init_from=tiny_run, output_dir=tmp_path / "new")
    assert result.returncode == 0, result.stderr
    assert "did not know" in result.stdout and "♥" in result.stdout
    rows = metrics(tmp_path / "new")
    assert rows[-1]["val_loss"] < rows[0]["val_loss"] - 0.5


@pytest.mark.parametrize("stopped_at", [0, 20])
def test_it_resumes_without_the_model_that_it_started_from(tiny_run, tmp_path, stopped_at):
    """It does not matter when it was stopped: the first checkpoint is of step 0."""
    parent, folder = tmp_path / "parent", tmp_path / "new"
    shutil.copytree(tiny_run, parent)
    values = {"init_from": parent, "output_dir": folder, "save_interval": 20}
    first = train(**values)
    assert first.returncode == 0, first.stderr
    finished = [row["val_loss"] for row in metrics(folder)]
    for path in (folder / "checkpoints").iterdir():
        if int(path.name.removeprefix("step-")) > stopped_at:
            shutil.rmtree(path)
    shutil.rmtree(parent)
    again = train(**values)
    assert again.returncode == 0, again.stderr
    assert [row["val_loss"] for row in metrics(folder)] == finished


def test_another_shape_on_the_command_line_is_refused(tiny_run, tmp_path):
    result = train(init_from=tiny_run, output_dir=tmp_path / "new", hidden_size=64)
    assert result.returncode == 1
    assert "hidden_size is 64" in result.stderr and "has 32" in result.stderr


def test_a_missing_model_is_named(tmp_path):
    result = train(init_from=tmp_path / "nowhere", output_dir=tmp_path / "new")
    assert result.returncode == 1
    assert f"no such run folder: {tmp_path / 'nowhere'}" in result.stderr
    assert not (tmp_path / "new").exists()


def test_a_run_does_not_switch_to_another_model_halfway(tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "run")
    result = train(init_from=tiny_run, output_dir=tmp_path / "run", dataset=SAMPLE_LYRICS)
    assert result.returncode == 1
    assert "init_from: None in the run" in result.stderr
