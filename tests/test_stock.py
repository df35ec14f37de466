"""Stock models and imported weights of the original notebook compute the same as the models they come from."""

import json
import pickle
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import isolated, python
from torch import nn
from torch.nn import functional as F

from modeling_lyricgpt import LyricGPTConfig, LyricGPTForCausalLM
from tokenization_lyricgpt import LyricGPTTokenizer
from training_lyricgpt import LyricGPTError
from training_lyricgpt.card.stock_card import stock_card
from training_lyricgpt.model.folder import export_model
from training_lyricgpt.model.loading import generation_config
from training_lyricgpt.model.published import import_published
from training_lyricgpt.model.stock import comparison_windows, fold_head_bias, write_stock

ALPHABET = "\n !',.?ABCIOTabcdefghijklmnopqrstuvwxyz"
TEXT = "I walked along, and the lamps went out; who'd ask me why?\n" * 8

LOAD_STOCK = """
import json, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, text = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
inputs = tokenizer(text, return_tensors="pt")
with torch.no_grad():
    logits = model.eval()(**inputs).logits[0, -1].tolist()
song = model.generate(**inputs, do_sample=False, max_new_tokens=20)[0]
print(json.dumps({
    "model": type(model).__name__, "tokenizer": type(tokenizer).__name__, "ids": inputs.input_ids[0].tolist(),
    "logits": logits, "song": tokenizer.decode(song), "dtype": str(model.dtype),
    "wrong": sorted(loading["missing_keys"]) + sorted(loading["unexpected_keys"]),
}))
"""


CARD = lambda stock, difference: ""  # noqa: E731


def random_model(variant, **options):
    """A model in which every parameter, including biases and norms, differs from its initial value."""
    options = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "block_size": 64} | options
    torch.manual_seed(0)
    config = LyricGPTConfig(variant=variant, vocab_size=len(ALPHABET) + 3, initializer_range=0.2, **options)
    model = LyricGPTForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def tokens(tokenizer, text=TEXT):
    return torch.tensor(tokenizer(text).input_ids)


@pytest.mark.parametrize(("variant", "architecture"), [("classic", "GPT2LMHeadModel"), ("modern", "Qwen3ForCausalLM")])
def test_a_stock_model_loads_without_this_project_and_without_trust_remote_code(tmp_path, variant, architecture):
    tokenizer = LyricGPTTokenizer.from_alphabet(ALPHABET)
    model = random_model(variant)
    model.generation_config = generation_config(tokenizer)
    export_model(model, tokenizer, tmp_path / "run")
    result = python("-m", "training_lyricgpt.export", tmp_path / "run", tmp_path / "stock")
    assert result.returncode == 0, result.stderr
    assert architecture in result.stdout

    assert not list((tmp_path / "stock").glob("*.py"))
    for name in ("config.json", "tokenizer_config.json"):
        assert "auto_map" not in json.loads((tmp_path / "stock" / name).read_text())
    text = TEXT[:44] if variant == "classic" else TEXT[:300]  # past its sliding window
    result = isolated(LOAD_STOCK, str(tmp_path / "stock"), text)
    assert result.returncode == 0, result.stderr
    loaded = json.loads(result.stdout.splitlines()[-1])
    assert loaded["model"] == architecture
    assert loaded["wrong"] == []
    ids = tokens(tokenizer, text)[None]
    assert loaded["ids"] == ids[0].tolist()
    with torch.no_grad():
        logits = model(ids if variant == "modern" else ids[:, -64:]).logits[0, -1]
    torch.testing.assert_close(torch.tensor(loaded["logits"]), logits, rtol=0, atol=1e-5 * float(logits.abs().max()))
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20)[0]
    assert loaded["song"] == tokenizer.decode(expected)


def test_the_card_of_a_stock_model_says_what_it_cannot_do(tmp_path):
    tokenizer = LyricGPTTokenizer.from_alphabet(ALPHABET)
    model = random_model("classic")
    card = partial(stock_card, model, tokenizer, "songs", 64)
    write_stock(model, tokenizer, comparison_windows(model, tokens(tokenizer)), tmp_path / "stock", card)
    card = (tmp_path / "stock" / "README.md").read_text()
    assert "64 positions" in card
    assert "can't be longer than 64 characters" in card
    settings = json.loads((tmp_path / "stock" / "generation_config.json").read_text())
    assert settings["max_length"] == 64


def test_a_modern_stock_model_declares_its_sliding_window_for_old_and_new_transformers(tmp_path):
    tokenizer = LyricGPTTokenizer.from_alphabet(ALPHABET)
    model = random_model("modern")
    write_stock(model, tokenizer, comparison_windows(model, tokens(tokenizer)), tmp_path / "stock", CARD)
    config = json.loads((tmp_path / "stock" / "config.json").read_text())
    assert (config["use_sliding_window"], config["sliding_window"], config["max_window_layers"]) == (True, 32, 0)
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 10000.0


def test_stock_models_are_compared_past_the_sliding_window():
    model = random_model("modern")
    assert comparison_windows(model, torch.arange(1000)).shape == (3, 256)
    assert comparison_windows(random_model("classic"), torch.arange(1000)).shape == (8, 64)
    assert comparison_windows(model, torch.arange(50)).shape == (1, 50)


def test_a_head_bias_that_cannot_be_folded_is_refused_and_nothing_is_written(tmp_path):
    tokenizer = LyricGPTTokenizer.from_alphabet(ALPHABET)
    model = random_model("classic", hidden_size=24)  # narrower than the alphabet
    with pytest.raises(LyricGPTError, match=r"\(42 characters\) is not larger than the width \(24\)"):
        write_stock(model, tokenizer, comparison_windows(model, tokens(tokenizer)), tmp_path / "stock", CARD)
    assert list(tmp_path.iterdir()) == []


def test_folding_solves_the_bias_exactly():
    torch.manual_seed(0)
    weight, bias = torch.randn(40, 48), torch.randn(40)
    torch.testing.assert_close(weight @ fold_head_bias(weight, bias), bias, rtol=0, atol=1e-5)


def test_a_stock_model_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    tokenizer = LyricGPTTokenizer.from_alphabet(ALPHABET)
    model = random_model("classic")
    monkeypatch.setattr(
        "training_lyricgpt.model.stock.fold_head_bias", lambda weight, bias: torch.zeros(weight.shape[1])
    )
    with pytest.raises(LyricGPTError, match="differ by"):
        write_stock(model, tokenizer, comparison_windows(model, tokens(tokenizer)), tmp_path / "stock", CARD)
    assert list(tmp_path.iterdir()) == []


def test_an_export_never_overwrites(tmp_path, tiny_run):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    result = python("-m", "training_lyricgpt.export", tiny_run, tmp_path / "taken")
    assert result.returncode == 1
    assert "not an empty folder" in result.stderr
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["mine.txt"]


def test_a_run_and_its_stock_model_are_compared_on_validation_songs(tmp_path, tiny_run):
    result = python("-m", "training_lyricgpt.export", tiny_run, tmp_path / "stock")
    assert result.returncode == 0, result.stderr
    assert "1,024 characters of its validation text" in result.stdout


class Head(nn.Module):
    def __init__(self, width, size, block_size, scale):
        super().__init__()
        self.key, self.query, self.value = (nn.Linear(width, size, bias=False) for _ in range(3))
        self.register_buffer("tril", torch.tril(torch.ones(block_size, block_size)))
        self.scale = scale

    def forward(self, x):
        time = x.shape[1]
        scores = self.query(x) @ self.key(x).transpose(-2, -1) * self.scale**-0.5
        scores = scores.masked_fill(self.tril[:time, :time] == 0, float("-inf"))
        return F.softmax(scores, dim=-1) @ self.value(x)


class SelfAttention(nn.Module):
    def __init__(self, width, heads, block_size, scale):
        super().__init__()
        self.heads = nn.ModuleList([Head(width, width // heads, block_size, scale) for _ in range(heads)])
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        return self.proj(torch.cat([head(x) for head in self.heads], dim=-1))


class FeedForward(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))


class Block(nn.Module):
    def __init__(self, width, heads, block_size, scale):
        super().__init__()
        self.sa = SelfAttention(width, heads, block_size, scale)
        self.ffwd = FeedForward(width)
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x):
        x = x + self.sa(self.ln1(x))
        return x + self.ffwd.net(self.ln2(x))


class Notebook(nn.Module):
    """The original notebook's model, with the names of its weights."""

    def __init__(self, vocab_size, width=24, heads=3, layers=2, block_size=16, scale=None):
        super().__init__()
        self.token_embedding_table = nn.Embedding(vocab_size, width)
        self.position_embedding_table = nn.Embedding(block_size, width)
        self.blocks = nn.Sequential(*[Block(width, heads, block_size, scale or width // heads) for _ in range(layers)])
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, vocab_size)

    def forward(self, ids):
        x = self.token_embedding_table(ids) + self.position_embedding_table(torch.arange(ids.shape[1]))
        return self.lm_head(self.ln_f(self.blocks(x)))


@pytest.fixture
def notebook(tmp_path):
    """A notebook model, and its state dict and alphabet as files."""

    def make(alphabet=ALPHABET, **options):
        torch.manual_seed(0)
        model = Notebook(len(alphabet), **options)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
        torch.save(model.state_dict(), tmp_path / "model.pt")
        (tmp_path / "alphabet.txt").write_text(alphabet, encoding="utf-8", newline="")
        return model, tmp_path / "model.pt", tmp_path / "alphabet.txt"

    return make


def assert_computes_the_same(notebook_model, alphabet, model, tokenizer):
    text = "".join(alphabet)[5:21]
    theirs = torch.tensor([[alphabet.index(character) for character in text]])
    with torch.no_grad():
        expected = notebook_model(theirs)[0]
        logits = model(tokens(tokenizer, text)[None]).logits[0]
    ours = tokenizer(list(alphabet), split_special_tokens=True).input_ids
    torch.testing.assert_close(logits[:, [ids[0] for ids in ours]], expected, rtol=1e-4, atol=1e-4)


def test_the_published_weights_become_a_classic_model_that_computes_the_same(tmp_path, notebook):
    theirs, weights, alphabet = notebook()
    result = python("-m", "training_lyricgpt.export", "--import_published", weights, alphabet, tmp_path / "model")
    assert result.returncode == 0, result.stderr
    assert "--scaled_by n_embd" in result.stdout  # the weights do not show which version it was
    model = LyricGPTForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert model.config.variant == "classic"
    tokenizer = LyricGPTTokenizer.from_pretrained(tmp_path / "model")
    assert_computes_the_same(theirs, ALPHABET, model, tokenizer)


def test_the_older_notebook_divides_by_the_width(notebook):
    theirs, weights, alphabet = notebook(scale=24)
    assert_computes_the_same(theirs, ALPHABET, *import_published(weights, alphabet, scale="n_embd"))


@pytest.mark.parametrize(
    "form", ["unsorted", "with a line break at the end", "list", "character_to_id", "id_to_character", "training text"]
)
def test_an_alphabet_can_come_in_many_forms(tmp_path, notebook, form):
    order = ALPHABET[::-1] if form in ("unsorted", "with a line break at the end") else ALPHABET
    theirs, weights, path = notebook(order)
    if form == "training text":
        path.write_text(ALPHABET[::-1] * 3, encoding="utf-8", newline="")
    elif form == "with a line break at the end":
        path.write_text(order + "\n", encoding="utf-8", newline="")
    elif form != "unsorted":
        path = tmp_path / "alphabet.json"
        ids = {character: index for index, character in enumerate(order)}
        value = {
            "list": list(order),
            "character_to_id": ids,
            "id_to_character": {index: character for character, index in ids.items()},
        }[form]
        path.write_text(json.dumps(value))
    assert_computes_the_same(theirs, order, *import_published(weights, path))


def test_a_state_dict_from_a_checkpoint_or_a_compiled_model_is_found(tmp_path, notebook):
    theirs, weights, alphabet = notebook()
    state = {f"_orig_mod.{name}": tensor for name, tensor in theirs.state_dict().items()}
    torch.save({"model_state_dict": state, "step": 5999}, weights)
    assert_computes_the_same(theirs, ALPHABET, *import_published(weights, alphabet))


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "executed")


def test_a_pickle_is_never_executed(tmp_path, notebook):
    _, _, alphabet = notebook()
    for name, save in (
        ("whole.pt", torch.save),
        ("plain.pt", lambda value, path: path.write_bytes(pickle.dumps(value))),
    ):
        save({"model": Trap(tmp_path / "executed.txt")}, tmp_path / name)
        with pytest.raises(LyricGPTError, match="not a plain state dict"):
            import_published(tmp_path / name, alphabet)
    assert not (tmp_path / "executed.txt").exists()


@pytest.mark.parametrize("content", [b"", b"hello world", b".", b"PK\x03\x04"])
def test_a_file_that_is_not_a_state_dict_gives_one_clear_error(tmp_path, notebook, content):
    _, _, alphabet = notebook()
    (tmp_path / "other.pt").write_bytes(content)
    with pytest.raises(LyricGPTError, match="not a plain state dict"):
        import_published(tmp_path / "other.pt", alphabet)


@pytest.mark.parametrize("value", ["[1, 2]", "5", "null", '{"x": "a"}', '{"a": 1, "b": 2}', '{"stoi": {}}', '[["a"]]'])
def test_json_that_is_not_an_alphabet_gives_one_clear_error(tmp_path, notebook, value):
    _, weights, _ = notebook()
    (tmp_path / "alphabet.json").write_text(value)
    with pytest.raises(LyricGPTError, match=r"alphabet|ids must be"):
        import_published(weights, tmp_path / "alphabet.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("blocks.1.ffwd.net.2.bias"), r"has no blocks\.1\.ffwd\.net\.2\.bias"),
        (
            lambda state: state.update({"blocks.0.rotary": torch.ones(3)}),
            r"it has other tensors too, such as blocks\.0\.rotary",
        ),
        (lambda state: state.update({"lm_head.bias": torch.ones(3)}), r"lm_head\.bias is \(3,\), expected 39"),
        (lambda state: state["blocks.0.sa.heads.1.tril"].fill_(1), r"heads\.1\.tril is not the causal mask"),
        (
            lambda state: state["lm_head.bias"].fill_(torch.nan),
            r"lm_head\.bias has values that are infinite or not a number",
        ),
        (lambda state: state.clear(), r"has no token_embedding_table\.weight"),
    ],
)
def test_any_other_model_is_refused_with_its_first_difference(notebook, change, message):
    theirs, weights, alphabet = notebook()
    state = dict(theirs.state_dict())
    change(state)
    torch.save(state, weights)
    with pytest.raises(LyricGPTError, match=message):
        import_published(weights, alphabet)


def test_an_alphabet_of_another_size_is_refused(notebook):
    _, weights, alphabet = notebook()
    alphabet.write_text(ALPHABET[:-1], encoding="utf-8", newline="")
    with pytest.raises(LyricGPTError, match="38 distinct characters, but the model has 39"):
        import_published(weights, alphabet)
