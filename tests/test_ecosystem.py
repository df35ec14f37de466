"""Hugging Face's tools work on both variants: they train, adapt, compile and inspect them, and enlarge their alphabet.

Everything is small but real: the embedded songs, the tools' own classes, and a model that trains in a second.
"""

import json

import pytest
import torch
from conftest import SAMPLE_LYRICS, isolated
from datasets import Dataset
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
    set_seed,
)

from modeling_lyricgpt import LyricGPTConfig, LyricGPTForCausalLM
from tokenization_lyricgpt import LyricGPTTokenizer

# PEFT still uses the old name of a property of transformers.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

BLOCK = 32
LAYERS = 2
HEADS = 2
WIDTH = 32

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    """The embedded songs as a `datasets.Dataset`."""
    return Dataset.from_csv(str(SAMPLE_LYRICS), cache_dir=str(tmp_path_factory.mktemp("songs")))


@pytest.fixture(scope="module")
def tokenizer(songs):
    return LyricGPTTokenizer.from_alphabet("".join(songs["text"]))


@pytest.fixture(scope="module")
def windows(songs, tokenizer):
    """The songs, cut into blocks by the tokenizer. The last block of a song is shorter."""

    def cut(batch):
        return tokenizer(batch["text"], truncation=True, max_length=BLOCK, return_overflowing_tokens=True)

    encoded = songs.map(cut, batched=True, remove_columns=songs.column_names, keep_in_memory=True)
    return encoded.select_columns(["input_ids", "attention_mask"])


@pytest.fixture(params=["classic", "modern"])
def variant(request):
    return request.param


def padding_on_the_right(tokenizer):
    right = LyricGPTTokenizer.from_alphabet(tokenizer.alphabet)
    right.padding_side = "right"
    return right


def new_model(variant, tokenizer, **options):
    set_seed(0)
    config = LyricGPTConfig(
        variant=variant,
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=BLOCK,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **options,
    )
    model = LyricGPTForCausalLM(config)
    model.generation_config.suppress_tokens = tokenizer.convert_tokens_to_ids(["<|unk|>", "<|pad|>", "<|endoftext|>"])
    return model


@pytest.fixture
def model(variant, tokenizer):
    """A model without dropout and with large weights, so that everything it reads affects its output."""
    model = new_model(variant, tokenizer, attention_dropout=0.0, hidden_dropout=0.0).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
            elif parameter.ndim == 2:
                parameter.mul_(6)
    return model


@pytest.fixture
def batch(windows, tokenizer):
    """Four windows, one of them padded, and their labels."""
    shorter = {name: values[:20] for name, values in windows[3].items()}
    collate = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    return collate([*(windows[index] for index in range(3)), shorter])


# The Trainer of transformers


def trainer(model, tokenizer, windows, folder, **options):
    settings = {
        "output_dir": str(folder),
        "max_steps": 40,
        "per_device_train_batch_size": 16,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_steps": 20,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 0,
    }
    return Trainer(
        model=model,
        args=TrainingArguments(**(settings | options)),
        train_dataset=windows,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        processing_class=tokenizer,
    )


def losses(trained):
    return [entry["loss"] for entry in trained.state.log_history if "loss" in entry]


@pytest.fixture(scope="module")
def trained(request, tokenizer, windows, tmp_path_factory):
    """A Trainer that has trained a model for forty steps, and its folder."""
    folder = tmp_path_factory.mktemp(f"trainer-{request.param}")
    model = new_model(request.param, tokenizer, attention_dropout=0.1, hidden_dropout=0.1)
    training = trainer(model, tokenizer, windows, folder)
    training.train()
    training.save_model(str(folder / "last"))
    return training, folder


both_trained = pytest.mark.parametrize("trained", ["classic", "modern"], indirect=True)


@both_trained
def test_the_trainer_trains_it_and_the_loss_falls(trained, tokenizer):
    training, _ = trained
    history = losses(training)
    assert len(history) == 40
    assert history[0] == pytest.approx(torch.tensor(float(len(tokenizer))).log().item(), abs=0.2)
    assert sum(history[-5:]) / 5 < history[0] - 1


@both_trained
def test_the_trainer_resumes_from_its_checkpoint_and_ends_at_the_same_weights(trained, tokenizer, windows, tmp_path):
    training, folder = trained
    config = training.model.config
    resumed = trainer(LyricGPTForCausalLM(config), tokenizer, windows, tmp_path)
    resumed.train(resume_from_checkpoint=str(folder / "checkpoint-20"))
    assert resumed.state.global_step == 40
    assert losses(resumed)[20:] == losses(training)[20:]
    for name, weight in resumed.model.state_dict().items():
        torch.testing.assert_close(weight, training.model.state_dict()[name], msg=name)


LOAD = """
import json
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
inputs = tokenizer("I walked along", return_tensors="pt")
print(json.dumps([type(model).__name__, type(tokenizer).__name__, model(**inputs).logits.tolist()]))
"""


@both_trained
def test_what_the_trainer_saved_loads_in_a_process_without_this_project(trained, tokenizer):
    training, folder = trained
    result = isolated(LOAD, folder / "last")
    assert result.returncode == 0, result.stderr
    *classes, logits = json.loads(result.stdout)
    assert classes == ["LyricGPTForCausalLM", "LyricGPTTokenizer"]
    model = training.model.eval()
    with torch.no_grad():
        expected = model(**tokenizer("I walked along", return_tensors="pt")).logits
    torch.testing.assert_close(torch.tensor(logits), expected)


def test_the_trainer_gives_the_same_losses_when_it_accumulates_gradients(variant, songs, tokenizer, tmp_path):
    lines = [line for text in songs["text"][:8] for line in text.split("\n") if line]
    tokenizer = padding_on_the_right(tokenizer)  # padding on the left would move the positions
    encoded = Dataset.from_dict(dict(tokenizer(lines, truncation=True, max_length=BLOCK)))
    histories = []
    for steps in (1, 4):
        model = new_model(variant, tokenizer, attention_dropout=0.0, hidden_dropout=0.0)
        accumulate = {"gradient_accumulation_steps": steps, "per_device_train_batch_size": 16 // steps}
        training = trainer(model, tokenizer, encoded, tmp_path, max_steps=5, **accumulate)
        training.train()
        histories.append(losses(training))
    assert histories[1] == pytest.approx(histories[0], rel=1e-4)


def test_label_smoothing_uses_the_next_character(model, tokenizer, windows, tmp_path):
    """The Trainer shifts labels only for models in transformers' table of causal language models."""
    few = windows.select(range(4))
    training = trainer(model, tokenizer, few, tmp_path, label_smoothing_factor=0.1, per_device_eval_batch_size=4)
    loss = training.evaluate(few)["eval_loss"]
    batch = training.data_collator([few[index] for index in range(4)])
    with torch.no_grad():
        wrong = -model(**batch).logits[:, :-1].log_softmax(-1)
    labels = batch["labels"][:, 1:]
    counted = labels != -100
    expected = 0.9 * wrong.gather(-1, labels.clamp(min=0)[..., None])[..., 0][counted] + 0.1 * wrong.mean(-1)[counted]
    assert loss == pytest.approx(expected.mean().item(), rel=1e-5)


def test_padding_does_not_count_in_the_loss_but_the_end_of_a_song_does(model, tokenizer):
    songs = ["I walked along<|endoftext|>", "You sang<|endoftext|>"]
    collate = DataCollatorForLanguageModeling(padding_on_the_right(tokenizer), mlm=False)
    padded = collate([tokenizer(song) for song in songs])
    assert padded["labels"][1].tolist() == [*tokenizer("You sang").input_ids, tokenizer.eos_token_id, *[-100] * 6]
    with torch.no_grad():
        loss = model(**padded).loss
        alone = [torch.tensor([tokenizer(song).input_ids]) for song in songs]
        total = sum(model(ids, labels=ids).loss * (ids.shape[1] - 1) for ids in alone)
    torch.testing.assert_close(loss, total / sum(ids.shape[1] - 1 for ids in alone))


# LoRA, by PEFT


def adapt(model, batch, targets=None):
    """Wraps a model with LoRA and teaches it one batch; returns the wrapped model and its losses."""
    from peft import LoraConfig, get_peft_model

    if targets is None:
        targets = [*LINEAR, "gate_proj"] if model.config.variant == "modern" else LINEAR
    set_seed(0)
    wrapped = get_peft_model(
        model, LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, lora_dropout=0.0, target_modules=targets)
    )
    optimizer = torch.optim.AdamW([weight for weight in wrapped.parameters() if weight.requires_grad], lr=1e-2)
    history = []
    wrapped.train()
    for _ in range(30):
        loss = wrapped(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        history.append(loss.item())
    return wrapped.eval(), history


def greedy(model, ids):
    return model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=2 * BLOCK, do_sample=False
    ).tolist()


def test_lora_learns_and_leaves_the_weights_beneath_it_unchanged(model, batch):
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    wrapped, history = adapt(model, batch)
    assert history[-1] < history[0] - 1
    trainable = [name for name, weight in wrapped.named_parameters() if weight.requires_grad]
    adapted = 7 if model.config.variant == "modern" else 6
    assert len(trainable) == LAYERS * adapted * 2
    assert all("lora_" in name for name in trainable)
    assert all(weight.any() for name, weight in wrapped.named_parameters() if "lora_B" in name)  # each one learnt
    beneath = {
        name.replace("base_model.model.", "").replace(".base_layer", ""): weight
        for name, weight in wrapped.state_dict().items()
        if "lora_" not in name
    }
    assert beneath.keys() == before.keys()
    for name, weight in beneath.items():
        assert torch.equal(weight, before[name]), name


def test_lora_on_all_linear_layers_adapts_every_projection_but_the_head(model, batch):
    wrapped, history = adapt(model, batch, targets="all-linear")
    assert history[-1] < history[0]
    found = {name.split(".lora_A")[0].split(".")[-1] for name in wrapped.state_dict() if ".lora_A" in name}
    assert found == set(LINEAR) | ({"gate_proj"} if model.config.variant == "modern" else set())


def test_a_saved_adapter_gives_the_same_logits_on_a_freshly_loaded_model(model, batch, tmp_path):
    from peft import PeftModel

    model.save_pretrained(tmp_path / "model")
    wrapped, _ = adapt(model, batch, targets=["q_proj", "v_proj"])
    wrapped.save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    fresh = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        expected = wrapped(batch["input_ids"]).logits
        assert not torch.allclose(fresh(batch["input_ids"]).logits, expected, atol=1e-2)
        loaded = PeftModel.from_pretrained(fresh, tmp_path / "adapter")
        torch.testing.assert_close(loaded(batch["input_ids"]).logits, expected)


def test_merged_weights_give_the_logits_and_the_song_of_the_adapter(model, batch):
    ids = batch["input_ids"][:1, :10]
    untouched = greedy(model, ids)
    wrapped, _ = adapt(model, batch)
    with torch.no_grad():
        expected = wrapped(batch["input_ids"]).logits
        sung = greedy(wrapped, ids)
        merged = wrapped.merge_and_unload()
        assert type(merged) is LyricGPTForCausalLM
        torch.testing.assert_close(merged(batch["input_ids"]).logits, expected, rtol=1e-4, atol=1e-4)
    assert greedy(merged, ids) == sung
    assert sung != untouched
    assert len(sung[0]) == 10 + 2 * BLOCK  # well past the block


def test_lora_learns_the_same_with_activation_checkpointing(model, batch):
    state = {name: weight.clone() for name, weight in model.state_dict().items()}
    _, expected = adapt(model, batch)
    again = LyricGPTForCausalLM(model.config)
    again.load_state_dict(state)
    again.activation_checkpointing_enable()
    _, history = adapt(again, batch)
    assert history == pytest.approx(expected, rel=1e-4)


# Memory and speed


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing_gives_the_same_gradients(model, batch, use_reentrant):
    model.train()
    model(**batch, use_cache=False).loss.backward()
    expected = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    passes = []
    for layer in model.model.layers:
        layer.mlp.register_forward_pre_hook(lambda *_: passes.append(1))
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": use_reentrant})
    model(**batch, use_cache=False).loss.backward()
    assert len(passes) == 2 * LAYERS  # each layer once forward and once again backward
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name], msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_it_compiles_into_one_graph_with_the_same_logits_loss_and_gradients(model, batch, attention):
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    model.set_attn_implementation(attention)
    model.train()
    expected = model(**batch, use_cache=False)
    expected.loss.backward()
    gradient = model.model.embed_tokens.weight.grad.clone()
    model.zero_grad()

    graphs = CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=graphs)
    got = compiled(**batch, use_cache=False)
    got.loss.backward()
    assert graphs.frame_count == 1
    torch.testing.assert_close(got.logits, expected.logits)
    torch.testing.assert_close(got.loss, expected.loss)
    torch.testing.assert_close(model.model.embed_tokens.weight.grad, gradient)
    compiled(**{name: values.flip(0) for name, values in batch.items()}, use_cache=False)
    assert graphs.frame_count == 1  # other characters in the same shape need no second graph


def test_a_forward_pass_is_exported_for_batches_of_any_shape(model, batch):
    shapes = {"input_ids": {0: torch.export.Dim("rows", max=64), 1: torch.export.Dim("length", min=2, max=BLOCK)}}
    ids = batch["input_ids"]
    program = torch.export.export(
        model, (), {"input_ids": ids, "use_cache": False}, dynamic_shapes=shapes | {"use_cache": None}
    )
    for inputs in (ids, ids[:2, :9]):
        exported = program.module()(input_ids=inputs, use_cache=False).logits
        torch.testing.assert_close(exported, model(inputs).logits)


# A larger alphabet

NEW = ["☃", "♫", "✿"]


@pytest.fixture
def larger(model, tokenizer, tmp_path):
    """A model and tokenizer with three more characters, a prompt, the weights and logits before, and a folder."""
    tokenizer.save_pretrained(tmp_path / "before")
    tokenizer = LyricGPTTokenizer.from_pretrained(tmp_path / "before")
    ids = tokenizer("I walked along the", return_tensors="pt").input_ids
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with torch.no_grad():
        logits = model(ids).logits
    assert tokenizer.add_tokens(NEW) == 3
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path / "after")
    tokenizer.save_pretrained(tmp_path / "after")
    return model, tokenizer, ids, before, logits, tmp_path / "after"


def test_a_larger_alphabet_keeps_the_rows_and_the_logits_of_the_old_characters(larger):
    model, tokenizer, ids, before, logits, _ = larger
    old = before["lm_head.weight"].shape[0]
    after = model.state_dict()
    assert model.config.vocab_size == old + 3 == len(tokenizer)
    assert after.keys() == before.keys()
    assert ("lm_head.bias" in after) == (model.config.variant == "classic")
    for name, weight in after.items():
        grown = name in ("model.embed_tokens.weight", "lm_head.weight", "lm_head.bias")
        assert weight.shape[0] == before[name].shape[0] + (3 if grown else 0), name
        assert torch.equal(weight[: before[name].shape[0]], before[name]), name
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits[..., :old], logits)


def test_a_larger_alphabet_is_read_written_and_learnt(larger):
    model, tokenizer, *_ = larger
    text = "☃ and ♫♫,\n✿ the"
    ids = tokenizer(text).input_ids
    assert len(ids) == len(text) and max(ids) == model.config.vocab_size - 1
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_corpus([text])[0].tolist() == ids
    inputs = torch.tensor([ids])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        loss = model(inputs, labels=inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    song = model.generate(inputs[:, :3], max_new_tokens=len(ids) - 3, do_sample=False)
    assert tokenizer.decode(song[0]) == text


def test_a_larger_alphabet_survives_saving_and_loading(larger):
    model, tokenizer, ids, _, _, folder = larger
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert loaded.config.vocab_size == model.config.vocab_size
    assert LyricGPTTokenizer.from_pretrained(folder).get_vocab() == tokenizer.get_vocab()
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits)
    assert greedy(loaded, ids) == greedy(model, ids)


# Hidden states and attention


def test_the_bare_model_returns_a_hidden_state_for_the_input_and_after_every_layer(model, batch, tmp_path):
    model.save_pretrained(tmp_path)
    bare = AutoModel.from_pretrained(tmp_path)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    seen = []
    for layer in bare.layers:
        layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.no_grad():
        output = bare(**inputs, output_hidden_states=True)
        logits = model(**inputs).logits
        torch.testing.assert_close(model.lm_head(output.last_hidden_state), logits)
    states = output.hidden_states
    assert [tuple(state.shape) for state in states] == [(4, BLOCK, WIDTH)] * (LAYERS + 1)
    for state, expected in zip(states[1:-1], seen[:-1], strict=True):
        assert torch.equal(state, expected)
    assert torch.equal(states[-1], output.last_hidden_state)  # transformers' convention: the last one is normed
    assert torch.equal(bare.norm(seen[-1]), output.last_hidden_state)
    positions = bare.embed_positions(torch.arange(BLOCK)) if model.config.variant == "classic" else 0
    assert torch.equal(states[0], bare.embed_tokens(inputs["input_ids"]) + positions)


def test_eager_attention_returns_weights_that_only_look_back(model, batch, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    ids = batch["input_ids"][:3]
    with torch.no_grad():
        attentions = loaded(ids, output_attentions=True).attentions
    assert [tuple(weights.shape) for weights in attentions] == [(3, HEADS, BLOCK, BLOCK)] * LAYERS
    window = loaded.config.sliding_window or BLOCK
    seen = torch.ones(BLOCK, BLOCK).tril().triu(1 - window).bool()
    for weights in attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(3, HEADS, BLOCK))
        assert (weights[..., ~seen] == 0).all()
        assert (weights[..., seen] > 0).all()
