"""The model: its shape, its two variants, and what the Auto classes load."""

import pytest
import torch
from conftest import BLOCK, isolated, prompts
from transformers import AutoModelForCausalLM

from modeling_lyricgpt import LyricGPTConfig, LyricGPTForCausalLM


def test_the_published_model_has_exactly_10798157_parameters():
    assert LyricGPTForCausalLM(LyricGPTConfig(variant="classic", vocab_size=77)).num_parameters() == 10_798_157


def test_modern_has_as_many_parameters_in_its_mlp_as_classic_without_biases():
    counts = {}
    for variant in ("classic", "modern"):
        mlp = LyricGPTForCausalLM(LyricGPTConfig(variant=variant)).model.layers[0].mlp
        counts[variant] = sum(parameter.numel() for parameter in mlp.parameters() if parameter.ndim == 2)
    assert counts["classic"] == counts["modern"]


def test_classic_starts_at_normal_002_and_modern_scales_its_residual_projections_down():
    for variant, expected in (("classic", 0.02), ("modern", 0.02 / 12**0.5)):
        model = LyricGPTForCausalLM(LyricGPTConfig(variant=variant))
        for layer in model.model.layers:
            assert layer.self_attn.o_proj.weight.std().item() == pytest.approx(expected, rel=0.03)
            assert layer.mlp.down_proj.weight.std().item() == pytest.approx(expected, rel=0.03)
            assert layer.self_attn.q_proj.weight.std().item() == pytest.approx(0.02, rel=0.03)


def test_nanogpt_names_are_aliases():
    config = LyricGPTConfig(n_embd=64, n_layer=3, n_head=4, block_size=128)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (64, 3, 4)
    assert config.max_position_embeddings == config.block_size == 128


def test_heads_that_do_not_divide_the_width_are_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"hidden_size 100 .* num_attention_heads 6"):
        LyricGPTConfig(hidden_size=100, num_attention_heads=6)


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="'baroque'"):
        LyricGPTConfig(variant="baroque")


def test_no_character_sees_the_ones_after_it(model):
    ids = prompts(BLOCK)["input_ids"]
    changed = ids.clone()
    changed[0, 20:] = (changed[0, 20:] + 1) % 40
    before, after = model(ids).logits, model(changed).logits
    torch.testing.assert_close(before[:, :20], after[:, :20])
    assert not torch.allclose(before[:, 20:], after[:, 20:])


def test_dropout_acts_in_training_and_not_in_evaluation():
    model = LyricGPTForCausalLM(
        LyricGPTConfig(vocab_size=40, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    )
    ids = prompts(16)["input_ids"]
    assert not torch.equal(model.train()(ids).logits, model(ids).logits)
    assert torch.equal(model.eval()(ids).logits, model(ids).logits)


def test_attention_implementations_agree(model):
    ids = prompts(BLOCK)["input_ids"]
    model.set_attn_implementation("eager")
    eager = model(ids).logits
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(model(ids).logits, eager, rtol=1e-4, atol=1e-4)


def test_the_cache_gives_the_same_logits_as_reading_everything(model):
    ids = prompts(BLOCK)["input_ids"]
    whole = model(ids).logits
    cache, parts = None, []
    for part in ids.split([10, 1, 5, 1, 15], dim=1):
        output = model(part, cache=cache, use_cache=True)
        cache = output.cache
        parts.append(output.logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-4)


def test_cached_and_new_characters_together_past_the_positions_are_refused():
    model = LyricGPTForCausalLM(
        LyricGPTConfig(block_size=BLOCK, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    )
    cache = model(prompts(30)["input_ids"], use_cache=True).cache
    with pytest.raises(ValueError, match=rf"35 characters, including cached ones, .* {BLOCK} positions"):
        model(prompts(5)["input_ids"], cache=cache)


def test_more_characters_than_positions_in_one_pass_are_refused_with_both_numbers():
    model = LyricGPTForCausalLM(
        LyricGPTConfig(block_size=BLOCK, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    )
    with pytest.raises(ValueError, match=rf"40 characters, .* {BLOCK} positions"):
        model(prompts(40)["input_ids"])


def test_importing_the_package_registers_the_auto_classes(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is LyricGPTForCausalLM
    ids = prompts(10)["input_ids"]
    assert torch.equal(loaded(ids).logits, model(ids).logits)


LOAD_EVERYTHING = """
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, pipeline
try:
    import modeling_lyricgpt
except ImportError:
    pass
else:
    raise AssertionError("the project is importable")
run = sys.argv[1]
config = AutoConfig.from_pretrained(run, trust_remote_code=True)
base = AutoModel.from_pretrained(run, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(run, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(run, trust_remote_code=True)
ids = tokenizer("I walked along", return_tensors="pt").input_ids
assert torch.equal(base(ids).last_hidden_state, model.model(ids).last_hidden_state)
print(type(config).__name__, type(base).__name__, type(model).__name__, type(tokenizer).__name__)
"""


def test_a_run_folder_alone_loads_in_a_process_without_this_project(tiny_run):
    result = isolated(LOAD_EVERYTHING, tiny_run)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["LyricGPTConfig", "LyricGPTModel", "LyricGPTForCausalLM", "LyricGPTTokenizer"]
    assert "unexpected" not in result.stderr.lower()
