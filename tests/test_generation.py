"""Generation: every mode of `generate`, within the block and past it, and our fast loop, with the same songs."""

import itertools
import logging

import numpy as np
import pytest
import torch
from conftest import BLOCK, isolated, prompts
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CompileConfig,
    DynamicCache,
    GenerationConfig,
    TextIteratorStreamer,
    pipeline,
)
from transformers.generation.streamers import BaseStreamer

from modeling_lyricgpt import LyricGPTConfig, LyricGPTForCausalLM, drafts_lyricgpt, generation_lyricgpt
from modeling_lyricgpt.compat_lyricgpt import CACHE_NAME
from modeling_lyricgpt.drafts_lyricgpt import NgramDrafts, noise_ahead
from modeling_lyricgpt.generation_lyricgpt import IncrementalDecoder
from tokenization_lyricgpt import LyricGPTTokenizer

PIPELINE = """
import sys
from transformers import pipeline
from transformers.utils import logging
logging.disable_progress_bar()
write = pipeline("text-generation", model=sys.argv[1], trust_remote_code=True)
song = write("I walked along", max_new_tokens=300)[0]["generated_text"]
assert song.startswith("I walked along"), song
assert "<|" not in song, song
assert write("", max_new_tokens=30)[0]["generated_text"] != ""
assert len(write(["I walked", "You sang a much longer line"], max_new_tokens=50, batch_size=2)) == 2
"""
ALPHABET = "\n abcdefghijklmnopqrstuvwxyzé"

MODES = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "temperature": 0.8},
    "top p, min p, top k": {"do_sample": True, "top_p": 0.9, "min_p": 0.01, "top_k": 20},
    "repetition": {"do_sample": True, "repetition_penalty": 1.3, "no_repeat_ngram_size": 4},
    "an end, but not before 20": {"do_sample": True, "eos_token_id": [5, 9], "min_new_tokens": 20},
    "suppressed": {"do_sample": True, "suppress_tokens": [3, 4], "bad_words_ids": [[7], [8, 9]]},
}


def tokenizer():
    return LyricGPTTokenizer.from_alphabet(ALPHABET)  # 32 ids, fewer than the `model` fixture has


def both_loops(model, inputs, **options):
    """The songs of our loop and of transformers' for the same seed, and the next random number after each."""
    results = []
    for return_dict in (False, True):  # with it, transformers' loop is used
        torch.manual_seed(3)
        output = model.generate(
            **inputs, **{"top_k": 0, "pad_token_id": 0} | options, return_dict_in_generate=return_dict
        )
        results.append((output.sequences if return_dict else output, torch.rand(1)))
    return results


@pytest.fixture
def model(model):
    """In float64, so that rounding never makes two ways of computing a character disagree."""
    return model.double()


@pytest.fixture
def passes(monkeypatch):
    """Counts the passes of the fast loop."""
    counted = []
    read = IncrementalDecoder.read

    def counting(self, input_ids, keep):
        counted.append(keep)
        return read(self, input_ids, keep)

    monkeypatch.setattr(IncrementalDecoder, "read", counting)
    return counted


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "lengths", [(5,), (70,), (45, 7, 31), (40, 9)], ids=["short", "past the block", "batch", "alone, padded"]
)
def test_a_seed_gives_the_same_song_as_transformers_own_loop(model, mode, lengths, passes):
    inputs = prompts(*lengths)
    if lengths == (40, 9):
        inputs = {name: value[1:] for name, value in inputs.items()}
    length = 400 if lengths == (70,) else 150  # so that the buffer of a sliding window fills up
    (ours, ours_next), (theirs, theirs_next) = both_loops(model, inputs, max_new_tokens=length, **MODES[mode])
    assert passes  # the fast loop was used
    assert torch.equal(ours, theirs)
    assert torch.equal(ours_next, theirs_next)  # both drew the same number of random numbers


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["classic", "modern"])
def test_drafts_do_not_change_the_distribution(variant):
    """Compares how often each song of three characters is drawn with its computed probability."""
    torch.manual_seed(0)
    config = LyricGPTConfig(
        variant=variant, vocab_size=3, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, block_size=16
    )
    model = LyricGPTForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    prompt = torch.tensor([[0, 1, 2, 0, 1, 2, 0]])  # so repetitive that drafts are proposed
    songs = torch.tensor(list(itertools.product(range(3), repeat=3)))
    with torch.no_grad():
        logits = model(torch.cat([prompt.expand(27, -1), songs], dim=1)).logits[:, 6:9].log_softmax(-1)
    expected = logits.gather(-1, songs[..., None]).sum((1, 2)).exp()
    torch.testing.assert_close(expected.sum(), torch.tensor(1.0))

    draws = 1500
    drawn = torch.zeros(27)
    torch.manual_seed(0)
    for _ in range(draws):
        song = model.generate(prompt, do_sample=True, top_k=0, max_new_tokens=3)[0, -3:]
        drawn[int(song @ torch.tensor([9, 3, 1]))] += 1
    chi_squared = ((drawn - draws * expected) ** 2 / (draws * expected)).sum()
    assert chi_squared < 54.05  # 26 degrees of freedom: chance exceeds this once in a thousand times


def test_drafts_save_passes_when_a_text_repeats(passes):
    torch.manual_seed(0)
    config = LyricGPTConfig(variant="modern", hidden_size=32, num_hidden_layers=1, num_attention_heads=2, block_size=64)
    model = LyricGPTForCausalLM(config).eval()
    inputs = prompts(4)
    model.generate(**inputs, do_sample=False, max_new_tokens=400)  # an untrained model falls into a loop
    assert len(passes) < 1.4 * 400 / (1 + generation_lyricgpt.DRAFT_LENGTH)


def test_drafts_continue_the_longest_context_they_know_and_remember_only_so_many(monkeypatch):
    drafts = NgramDrafts([1, 2, 3, 4, 9, 2, 3, 5, 0, 2, 3, 5, 1, 2, 3], vocab_size=60)
    assert drafts.propose([None] * 4) == [4, 9, 2, 3]  # after 1 2 3, though 5 came more often after 2 3
    monkeypatch.setattr(drafts_lyricgpt, "MEMORY", 100 * 60)
    drafts = NgramDrafts(list(range(60)) * 3, vocab_size=60)
    assert len(drafts.contexts) == 100
    drafts.ids += [55]
    assert drafts.propose([None] * 4) == [56, 57, 58, 59]  # the latest are kept


def test_drafts_average_what_the_model_predicted():
    drafts = NgramDrafts([0], vocab_size=3)
    drafts.append(1, np.array([0.2, 0.5, 0.3], dtype=np.float32))
    drafts.ids.append(0)
    # Half is what followed 0, and half the mean of a uniform guess and what is known of both ids.
    uniform, known = np.full(3, 1 / 3), np.array([0.2, 0.5, 0.3])
    empty = (uniform + (np.array([1, 0, 0]) + known)) / 3
    np.testing.assert_allclose(drafts.predict((0,)), (empty + known) / 2, rtol=1e-5)


def test_noise_ahead_is_the_noise_that_multinomial_will_draw_with():
    torch.manual_seed(1)
    probabilities = torch.rand(5, 50).softmax(-1)
    noise = noise_ahead(5, 50, torch.device("cpu"))
    drawn = [int(torch.multinomial(row[None], num_samples=1)) for row in probabilities]
    assert drawn == [int((row.numpy() / ahead).argmax()) for row, ahead in zip(probabilities, noise, strict=True)]


def test_weights_changed_between_two_songs_are_used_for_the_second(model, passes):
    inputs = prompts(9)
    before = model.generate(**inputs, do_sample=False, max_new_tokens=50, pad_token_id=0)
    names = {name: tensor.shape for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        if name.endswith((".k_proj.weight", ".up_proj.weight")):
            with torch.no_grad():
                parameter.copy_(-parameter.flip(0))
    (ours, _), (theirs, _) = both_loops(model, inputs, do_sample=False, max_new_tokens=50)
    assert passes
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, before)
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == names


def test_a_module_that_somebody_hooked_or_replaced_is_used(model, passes):
    inputs = prompts(9)
    plain = model.generate(**inputs, do_sample=False, max_new_tokens=40, pad_token_id=0)
    fast = len(passes)
    seen = []
    handle = model.model.layers[0].mlp.register_forward_hook(lambda module, arguments, output: seen.append(1))
    hooked = model.generate(**inputs, do_sample=False, max_new_tokens=40, pad_token_id=0)
    handle.remove()
    assert len(seen) == 40
    assert torch.equal(hooked, plain)

    class Adapter(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base = base

        def forward(self, hidden_states):
            return 2 * self.base(hidden_states)

    model.model.layers[1].self_attn.v_proj = Adapter(model.model.layers[1].self_attn.v_proj)
    (adapted, _), (theirs, _) = both_loops(model, inputs, do_sample=False, max_new_tokens=40)
    assert torch.equal(adapted, theirs)
    assert not torch.equal(adapted, plain)
    assert len(passes) == fast  # neither went through the fast loop


def dropout_on(model, inputs):
    model.model.layers[0].dropout.p = 0.5
    model.model.layers[0].dropout.train()


def another_activation(model, inputs):
    model.model.layers[0].mlp.act_fn = nn.Tanh()


def another_scale(model, inputs):
    model.model.layers[0].self_attn.scaling *= 2


def another_epsilon(model, inputs):
    for name in ("eps", "variance_epsilon"):
        if hasattr(model.model.norm, name):
            setattr(model.model.layers[0].input_layernorm, name, 0.5)


def a_bias_more(model, inputs):
    model.model.layers[0].self_attn.q_proj.bias = nn.Parameter(torch.full((32,), 2.0, dtype=model.dtype))


def a_method_replaced(model, inputs):
    prepare = model.prepare_inputs_for_generation
    model.prepare_inputs_for_generation = lambda ids, **kwargs: prepare(ids.clamp(max=20), **kwargs)


def a_prompt_with_a_hole(model, inputs):
    inputs["attention_mask"] = inputs["attention_mask"].bool()
    inputs["attention_mask"][:, 2:4] = False


def positions_of_the_users_own(model, inputs):
    inputs["position_ids"] = 2 * torch.arange(9)[None]


@pytest.mark.parametrize(
    "change",
    [
        dropout_on,
        another_activation,
        another_scale,
        another_epsilon,
        a_bias_more,
        a_method_replaced,
        a_prompt_with_a_hole,
        positions_of_the_users_own,
    ],
)
def test_changes_that_our_loop_does_not_know_go_through_transformers_loop(model, change, passes):
    inputs = prompts(9)
    plain = model.generate(**inputs, do_sample=False, max_new_tokens=15, pad_token_id=0)
    count = len(passes)
    change(model, inputs)
    (ours, _), (theirs, _) = both_loops(model, inputs, do_sample=False, max_new_tokens=15)
    assert len(passes) == count
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, plain)


def test_asking_for_hidden_states_once_does_not_slow_later_songs_down(model, passes):
    inputs = prompts(9)
    model(**inputs, output_hidden_states=True)
    model.generate(**inputs, do_sample=False, max_new_tokens=9, pad_token_id=0)
    assert passes


def test_invalid_probabilities_are_an_error_and_not_a_song(model):
    with torch.no_grad():
        model.lm_head.weight[3, 0] = float("nan")
    with pytest.raises(RuntimeError, match="probability tensor contains"):
        model.generate(**prompts(9), do_sample=True, top_k=0, max_new_tokens=9, pad_token_id=0)


def test_another_attention_implementation_writes_the_same_song_without_the_fast_loop(model, passes):
    inputs = prompts(9, 30)
    options = {"do_sample": False, "max_new_tokens": 60, "pad_token_id": 0}
    sdpa = model.generate(**inputs, **options)
    model.set_attn_implementation("eager")
    count = len(passes)
    assert torch.equal(model.generate(**inputs, **options), sdpa)
    assert len(passes) == count


def test_flash_attention_is_used_where_it_is_installed(model, monkeypatch):
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    windows = []

    def flash(module, query, key, value, attention_mask, sliding_window=None, **kwargs):
        windows.append((module.layer_idx, sliding_window))
        assert attention_mask is None or attention_mask.dim() == 2  # it does its own masking
        return query.transpose(1, 2), None

    assert model._supports_flash_attn
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._local_mapping, "flash_attention_2", flash)
    model.config._attn_implementation_internal = "flash_attention_2"
    model(**prompts(9))
    assert windows == [(0, model.config.sliding_window), (1, model.config.sliding_window)]


def test_a_batch_with_left_padding_equals_its_rows_alone(model):
    inputs = prompts(20, 3, 11)
    options = {"do_sample": False, "pad_token_id": 0, "max_new_tokens": 10}
    together = model.generate(**inputs, **options)
    for row, length in enumerate((20, 3, 11)):
        alone = model.generate(inputs["input_ids"][row : row + 1, 20 - length :], **options)
        assert torch.equal(together[row, 20 - length :], alone[0])


def test_several_songs_from_one_prompt_begin_alike_and_differ(model):
    inputs = prompts(6)
    torch.manual_seed(0)
    songs = model.generate(**inputs, do_sample=True, top_k=0, num_return_sequences=4, max_new_tokens=60, pad_token_id=0)
    assert songs.shape == (4, 66)
    assert (songs[:, :6] == inputs["input_ids"]).all()
    assert len({tuple(song) for song in songs.tolist()}) == 4


def test_scores_and_logits_are_the_same_as_from_reading_the_song(model):
    inputs = prompts(6)
    output = model.generate(
        **inputs,
        do_sample=True,
        top_k=0,
        temperature=0.5,
        max_new_tokens=20,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
    )
    logits = model(output.sequences).logits[0, 5:-1].float()
    torch.testing.assert_close(torch.cat(output.logits), logits)
    torch.testing.assert_close(torch.cat(output.scores), logits / 0.5)


class Recorder(BaseStreamer):
    def __init__(self):
        self.pieces, self.ended = [], False

    def put(self, value):
        self.pieces.append(value.clone())

    def end(self):
        self.ended = True


def test_a_streamer_gets_the_prompt_and_then_each_character_once(model):
    recorder = Recorder()
    inputs = prompts(6)
    song = model.generate(**inputs, do_sample=False, max_new_tokens=50, pad_token_id=0, streamer=recorder)
    assert torch.equal(recorder.pieces[0], inputs["input_ids"])
    assert [piece.shape for piece in recorder.pieces[1:]] == [(1,)] * 50
    assert torch.equal(torch.cat(recorder.pieces[1:]), song[0, 6:])
    assert recorder.ended


def test_transformers_text_streamer_gives_the_whole_song(model):
    streamer = TextIteratorStreamer(tokenizer())
    inputs = prompts(6)
    inputs["input_ids"] %= 30
    options = {"do_sample": False, "pad_token_id": 2, "suppress_tokens": list(range(32, 40))}
    song = model.generate(**inputs, **options, max_new_tokens=30, streamer=streamer)
    assert "".join(streamer) == tokenizer().decode(song[0])


@pytest.mark.parametrize("alphabet", [ALPHABET, "абвгдежзийклмнопрстуфхцчш. \n"])
def test_a_stop_string_ends_a_song_whatever_the_alphabet(model, alphabet):
    tokenizer = LyricGPTTokenizer.from_alphabet(alphabet)
    size = len(tokenizer)
    options = {"do_sample": False, "pad_token_id": 2, "suppress_tokens": [0, 1, 2, *range(size, 40)]}
    inputs = tokenizer(alphabet[5:9], return_tensors="pt")
    free = tokenizer.decode(model.generate(**inputs, **options, max_new_tokens=60)[0])
    stop = free[20:22]
    for text in (stop, ["☃", stop]):  # an impossible stop string is ignored beside a possible one
        song = model.generate(**inputs, **options, max_new_tokens=60, stop_strings=text, tokenizer=tokenizer)
        assert tokenizer.decode(song[0]) == free[: free.index(stop, 3) + 2]
    with pytest.raises(ValueError, match=r"can never write .* has no \['☃'\]"):
        model.generate(**inputs, max_new_tokens=9, stop_strings="☃", tokenizer=tokenizer)


def test_a_song_can_end_and_never_contains_unk_or_padding(tiny_run):
    model = LyricGPTForCausalLM.from_pretrained(tiny_run)
    with torch.no_grad():  # makes the special tokens likely
        model.lm_head.weight[1:3] = 0
        model.lm_head.weight[0] /= 4
    tokenizer = LyricGPTTokenizer.from_pretrained(tiny_run)
    inputs = tokenizer(["<|endoftext|>"] * 24, return_tensors="pt")
    torch.manual_seed(0)
    songs = model.generate(**inputs, temperature=50.0, max_new_tokens=100)
    endings = 0
    for song in songs[:, 1:].tolist():
        if 0 in song:
            endings += 1
            assert set(song[song.index(0) + 1 :]) <= {2}  # padding after the end, as everywhere in transformers
            song = song[: song.index(0)]
        assert not {1, 2} & set(song)
    assert endings > 3


@sdpa_kernel(SDPBackend.MATH)  # torch's other kernel needs instructions that some processors lack
def test_bfloat16_writes_songs_in_both_loops(model):
    model = model.to(torch.bfloat16)
    inputs = prompts(12, 40)
    song = model.generate(**inputs, do_sample=False, max_new_tokens=60, pad_token_id=0)
    assert song.shape == (2, 100)
    logits = model(song).logits if model.config.variant == "modern" else model(song[:, :BLOCK]).logits
    assert logits.dtype == torch.bfloat16
    decoder = IncrementalDecoder(model, padding=torch.zeros(2, dtype=torch.long))
    with torch.no_grad():
        incremental = torch.cat([decoder.read(song[:, : index + 1], keep=1) for index in range(20)], dim=1)
        whole = model(song[:, :20]).logits
        exact = model.float()(song[:, :20]).logits
    # The fast loop is about as exact as the model itself in this precision.
    assert (incremental - exact).abs().max() < 1.5 * (whole - exact).abs().max()


@pytest.mark.parametrize("length", [BLOCK - 9, 3 * BLOCK])
def test_a_static_cache_and_a_compiled_model_write_the_same_song(model, length):
    inputs = prompts(9, 4)
    options = {"do_sample": False, "pad_token_id": 0, "max_new_tokens": length}
    plain = model.generate(**inputs, **options)
    compiled = CompileConfig(backend="eager", fullgraph=False)
    compiled._compile_all_devices = True
    torch._dynamo.reset()
    static = model.generate(**inputs, **options, cache_implementation="static", compile_config=compiled)
    assert torch.equal(static, plain)


@pytest.mark.parametrize("length", [9, 3 * BLOCK], ids=["within the block", "past it"])
def test_an_assistant_and_prompt_lookup_write_the_same_song(model, length):
    torch.manual_seed(1)
    config = LyricGPTConfig(**model.config.to_diff_dict() | {"num_hidden_layers": 1, "layer_types": None})
    assistant = LyricGPTForCausalLM(config).eval()
    inputs = prompts(length)
    for new in (BLOCK - 9, 2 * BLOCK):
        options = {"do_sample": False, "pad_token_id": 0, "max_new_tokens": new}
        plain = model.generate(**inputs, **options)
        assert torch.equal(model.generate(**inputs, **options, assistant_model=assistant), plain)
        assert torch.equal(model.generate(**inputs, **options, assistant_model=model), plain)
        assert torch.equal(model.generate(**inputs, **options, prompt_lookup_num_tokens=4), plain)
    sampled = {**options, "do_sample": True, "top_k": 0}
    assert model.generate(**inputs, **sampled, assistant_model=assistant).shape == (1, length + 2 * BLOCK)


def test_a_song_of_5000_characters_costs_no_more_memory_than_one_of_300(model, monkeypatch):
    sizes = []
    read = IncrementalDecoder.read

    def measuring(self, input_ids, keep):
        sizes.append(self.buffer.numel())
        return read(self, input_ids, keep)

    monkeypatch.setattr(IncrementalDecoder, "read", measuring)
    for length in (300, 5000):
        song = model.generate(**prompts(9), do_sample=True, top_k=0, max_new_tokens=length, pad_token_id=0)
        assert song.shape == (1, 9 + length)
    assert len(set(sizes)) == 1
    assert sizes[0] <= 2 * 2 * 32 * (3 * BLOCK + generation_lyricgpt.CHUNK_LENGTH)


@pytest.mark.parametrize("beams", [1, 3])
def test_past_the_block_cached_equals_uncached_and_batched_equals_single(model, beams):
    inputs = prompts(45, 7, 31)
    options = {"max_new_tokens": 4 * BLOCK, "do_sample": False, "num_beams": beams, "pad_token_id": 0}
    cached = model.generate(**inputs, **options)
    assert cached.shape[1] == 45 + 4 * BLOCK
    assert torch.equal(cached, model.generate(**inputs, use_cache=False, **options))
    for row, length in enumerate((45, 7, 31)):
        alone = model.generate(inputs["input_ids"][row : row + 1, 45 - length :], **options)
        assert torch.equal(alone[0], cached[row, 45 - length :])


def test_classic_reads_between_half_a_block_and_a_block():
    config = LyricGPTConfig(vocab_size=40, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, block_size=BLOCK)
    model = LyricGPTForCausalLM(config)
    lengths = torch.arange(1, 500)
    seen = lengths - model._window_start(lengths)
    assert seen.max() == BLOCK
    assert seen[BLOCK:].min() == BLOCK // 2 + 1
    assert (model._window_start(lengths) % (BLOCK // 2) == 0).all()


def test_the_cache_never_holds_more_than_the_window(model):
    output = model.generate(
        **prompts(5), max_new_tokens=6 * BLOCK, do_sample=False, pad_token_id=0, return_dict_in_generate=True
    )
    assert output.past_key_values.layers[0].keys.shape[-2] <= BLOCK


def test_a_cache_that_was_passed_in_works_past_the_block(model):
    options = {"do_sample": False, "pad_token_id": 0, "max_new_tokens": 30}
    ids = prompts(10)["input_ids"]
    cache = DynamicCache(config=model.config)
    text = ids
    for _ in range(3):
        text = model.generate(text, attention_mask=torch.ones_like(text), past_key_values=cache, **options)
        assert cache.get_seq_length() > 0
    at_once = model.generate(ids, do_sample=False, pad_token_id=0, max_new_tokens=90)
    assert torch.equal(text, at_once)


def test_a_cache_that_was_reset_between_two_songs_keeps_nothing_of_the_first(model):
    options = {"do_sample": False, "pad_token_id": 0}
    first, second = (torch.randint(1, 40, (1, 40)) for _ in range(2))
    cache = DynamicCache(config=model.config)
    model.generate(first, cache=cache, max_new_tokens=2, **options)  # past the block: the window begins at half a block
    cache.reset()
    with torch.no_grad():
        model(second[:, :20], cache=cache)
    song = model.generate(second, attention_mask=torch.ones_like(second), cache=cache, max_new_tokens=8, **options)
    assert torch.equal(song, model.generate(second, max_new_tokens=8, **options))


def test_a_static_cache_gives_the_same_songs_even_if_padding_fills_the_block(model):
    inputs = prompts(BLOCK)
    inputs["attention_mask"][:, : BLOCK - 10] = 0
    options = {"do_sample": False, "pad_token_id": 0, "max_new_tokens": 2 * BLOCK}
    static = model.generate(**inputs, **options, cache_implementation="static", disable_compile=True)
    assert torch.equal(static, model.generate(**inputs, **options))


def test_a_mode_that_cannot_go_past_the_block_says_so_before_it_starts(model):
    inputs = prompts(10)
    options = {"do_sample": False, "pad_token_id": 0}
    plain = model.generate(**inputs, **options, max_new_tokens=90)
    embeddings = model.get_input_embeddings()(inputs["input_ids"])
    within = model.generate(inputs_embeds=embeddings, **options, max_new_tokens=BLOCK - 10)
    assert torch.equal(within, plain[:, 10:BLOCK])
    recorder = Recorder()
    if model.config.variant == "modern":
        assert torch.equal(model.generate(inputs_embeds=embeddings, **options, max_new_tokens=90), plain[:, 10:])
    else:
        with pytest.raises(ValueError, match=r"need 100 positions, but this model has only 32\. .* pass input_ids"):
            model.generate(inputs_embeds=embeddings, **options, max_new_tokens=90, streamer=recorder)
        assert len(recorder.pieces) <= 1


def test_a_prompt_read_in_chunks_gives_the_same_song(model):
    inputs = prompts(3 * BLOCK)
    options = {"do_sample": False, "pad_token_id": 0, "max_new_tokens": 50}
    assert torch.equal(model.generate(**inputs, **options, prefill_chunk_size=10), model.generate(**inputs, **options))


# Callers' arguments, whatever a release of transformers calls them


def test_an_empty_prompt_starts_a_song_alone_and_in_a_batch(tiny_run):
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_run), AutoModelForCausalLM.from_pretrained(tiny_run)
    options = {"do_sample": False, "max_new_tokens": 40}
    begun = model.generate(torch.tensor([[tokenizer.bos_token_id]]), **options)
    assert torch.equal(model.generate(**tokenizer("", return_tensors="pt"), **options), begun)
    both = model.generate(**tokenizer(["", "I walked"], return_tensors="pt", padding=True), **options)
    width = len("I walked")
    assert torch.equal(both[:1, width - 1 :], begun)
    assert torch.equal(both[1:], model.generate(**tokenizer("I walked", return_tensors="pt"), **options))
    write = pipeline("text-generation", model=model, tokenizer=tokenizer)
    songs = [song[0]["generated_text"] for song in write(["", "I walked"], **options)]
    assert songs == [tokenizer.decode(row, skip_special_tokens=True) for row in both]
    model.generation_config.bos_token_id = None
    with pytest.raises(ValueError, match="no token that begins a song: pass at least one character"):
        model.generate(**tokenizer("", return_tensors="pt"), **options)


def test_a_callers_max_length_is_kept(tiny_run):
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_run), AutoModelForCausalLM.from_pretrained(tiny_run)
    inputs = tokenizer("I walked", return_tensors="pt")
    model.generation_config.suppress_tokens = tokenizer.all_special_ids
    write = pipeline("text-generation", model=model, tokenizer=tokenizer)
    assert len(write("I walked", max_length=20)[0]["generated_text"]) == 20
    assert model.generate(**inputs, max_length=20).shape[1] == 20
    assert model.generate(**inputs, generation_config=GenerationConfig(max_length=30)).shape[1] == 30
    assert model.generate(**inputs, max_length=20, max_new_tokens=30).shape[1] == 38
    assert model.generate(**inputs).shape[1] == 1008
    with pytest.raises(ValueError, match="the prompt is 8 characters long, so max_length=8 leaves no room for a song"):
        model.generate(**inputs, max_length=8)


def test_a_cache_is_accepted_under_each_of_its_names_and_no_other(model, caplog):
    ids = prompts(12)["input_ids"]
    with torch.no_grad():
        expected = model(ids).logits[:, -1]
        for name in ("past_key_values", "cache"):
            output = model(ids[:, :8], **{name: DynamicCache(config=model.config)})
            torch.testing.assert_close(model(ids[:, 8:], **{name: output.get(CACHE_NAME)}).logits[:, -1], expected)
        cache = model(ids[:, :8], use_cache=True).get(CACHE_NAME)
        for unknown in (cache, ((ids, ids), (ids, ids))):
            with pytest.raises(RuntimeError, match=r"a cache was passed as 'memory', .* transformers .* pip install"):
                model(ids[:, 8:], memory=unknown)
        with pytest.raises(
            ValueError,
            match=r"covers 12 .* 0 are cached and 4 were passed\. Pass a mask with 4 columns.*\(this is transformers",
        ):
            model(ids[:, 8:], attention_mask=torch.ones_like(ids))
        with pytest.raises(ValueError, match="two caches are given"):
            model(ids[:, 8:], past_key_values=cache, cache=DynamicCache(config=model.config))


def test_any_other_unknown_keyword_is_ignored_with_one_warning(model, caplog, monkeypatch):
    ids = prompts(12)["input_ids"]
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with torch.no_grad():
        for _ in range(2):
            assert torch.equal(model(ids, **{f"hue_{model.config.variant}": 1}).logits, model(ids).logits)
        model(ids, num_items_in_batch=12, output_hidden_states=True, return_dict=True, logits_to_keep=1)
    (warning,) = caplog.messages
    assert "does not know 'hue_" in warning


def test_pipeline_writes_past_the_block_and_prints_no_warning(tiny_run):
    result = isolated(PIPELINE, tiny_run)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout == ""
