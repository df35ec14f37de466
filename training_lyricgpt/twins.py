"""Exact twins: the same function as a stock architecture of transformers, so that no custom code is needed to load it.

Notable:
- `classic` is a `GPT2LMHeadModel`, `modern` a `Qwen3ForCausalLM` with its sliding window declared.
- GPT-2's head has no bias. Where the head W has full row rank, some u solves W u = b, and u added to the bias of the
  last LayerNorm does the same: W (x + u) = W x + b. It needs `vocab_size <= hidden_size`.
- Equality is not assumed but measured, on real text, before anything is written.
- It trades what stock GPT-2 cannot do: the twin of `classic` stops at its block.
"""

import json
import tempfile
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from modeling_lyricgpt import LyricGPTForCausalLM
from tokenization_lyricgpt import LyricGPTTokenizer

from . import LyricGPTError
from .files import UNFINISHED
from .markdown import code_span, escape

# Largest difference of a logit between model and twin, as a share of the largest logit.
TOLERANCE = 1e-5
# Qwen3's rotary positions have no end; the number only keeps `generate` from warning.
QWEN3_POSITIONS = 1 << 20


def fold_head_bias(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The shortest u `(hidden_size,)` with `weight @ u == bias`, solved in float64.

    Raises:
        LyricGPTError: there is none, because the head's rows do not have full rank.
    """
    weight, bias = weight.double(), bias.double()
    solution = torch.linalg.lstsq(weight, bias, driver="gelsd").solution
    rest = (weight @ solution - bias).abs().max()
    if rest > 1e-6 * bias.abs().max():
        rows, columns = weight.shape
        raise LyricGPTError(
            f"GPT-2's head has no bias, and this one's ({rows} characters, width {columns}) cannot be moved into the last "
            f"LayerNorm: {rest:.1e} would be left over. It can where the alphabet is not larger than the width and the "
            "head's rows are independent; publish the model itself, which needs trust_remote_code"
        )
    return solution.float()


def gpt2_twin(model: LyricGPTForCausalLM) -> GPT2LMHeadModel:
    """The `GPT2LMHeadModel` that computes what a `classic` model computes."""
    config = model.config
    twin = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.max_position_embeddings,
            n_embd=config.hidden_size,
            n_layer=config.num_hidden_layers,
            n_head=config.num_attention_heads,
            n_inner=config.intermediate_size,
            activation_function=config.hidden_act,
            attn_pdrop=config.attention_dropout,
            resid_pdrop=config.hidden_dropout,
            embd_pdrop=0.0,
            layer_norm_epsilon=config.norm_eps,
            initializer_range=config.initializer_range,
            tie_word_embeddings=False,
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
            pad_token_id=config.pad_token_id,
        )
    )
    source = {name: tensor.float() for name, tensor in model.state_dict().items()}
    weights = {
        "transformer.wte.weight": source["model.embed_tokens.weight"],
        "transformer.wpe.weight": source["model.embed_positions.weight"],
        "transformer.ln_f.weight": source["model.norm.weight"],
        "transformer.ln_f.bias": source["model.norm.bias"]
        + fold_head_bias(source["lm_head.weight"], source["lm_head.bias"]),
        "lm_head.weight": source["lm_head.weight"],
    }
    for index in range(config.num_hidden_layers):
        ours, theirs = f"model.layers.{index}", f"transformer.h.{index}"
        for norm, name in (("input_layernorm", "ln_1"), ("post_attention_layernorm", "ln_2")):
            for part in ("weight", "bias"):
                weights[f"{theirs}.{name}.{part}"] = source[f"{ours}.{norm}.{part}"]
        qkv = torch.cat([source[f"{ours}.self_attn.{name}_proj.weight"] for name in "qkv"])
        # GPT-2 stores its matrices input first.
        weights[f"{theirs}.attn.c_attn.weight"] = qkv.T
        weights[f"{theirs}.attn.c_attn.bias"] = torch.zeros(len(qkv))
        for module, name in (("self_attn.o_proj", "attn.c_proj"), ("mlp.up_proj", "mlp.c_fc")):
            weights[f"{theirs}.{name}.weight"] = source[f"{ours}.{module}.weight"].T
            weights[f"{theirs}.{name}.bias"] = source[f"{ours}.{module}.bias"]
        weights[f"{theirs}.mlp.c_proj.weight"] = source[f"{ours}.mlp.down_proj.weight"].T
        weights[f"{theirs}.mlp.c_proj.bias"] = source[f"{ours}.mlp.down_proj.bias"]
    twin.load_state_dict(weights)
    return twin


def qwen3_twin(model: LyricGPTForCausalLM) -> Qwen3ForCausalLM:
    """The `Qwen3ForCausalLM` that computes what a `modern` model computes; the names of its weights are the same."""
    config = model.config
    rope_parameters = dict(config.rope_parameters)
    scaled = rope_parameters["rope_type"] != "default"  # which may depend on the length declared
    twin_config = Qwen3Config(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_attention_heads,
        head_dim=config.hidden_size // config.num_attention_heads,
        hidden_act=config.hidden_act,
        max_position_embeddings=config.max_position_embeddings if scaled else QWEN3_POSITIONS,
        initializer_range=config.initializer_range,
        rms_norm_eps=config.norm_eps,
        rope_parameters=rope_parameters,
        attention_dropout=config.attention_dropout,
        use_sliding_window=True,
        sliding_window=config.sliding_window,
        max_window_layers=0,
        layer_types=list(config.layer_types),
        tie_word_embeddings=False,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )
    twin_config.rope_theta = rope_parameters["rope_theta"]  # where transformers 4 looks for it
    twin = Qwen3ForCausalLM(twin_config)
    twin.load_state_dict({name: tensor.float() for name, tensor in model.state_dict().items()})
    return twin


def make_twin(model: LyricGPTForCausalLM) -> PreTrainedModel:
    """The stock model of the same function, in float32 and evaluation mode, generation settings included.

    Raises:
        LyricGPTError: see `fold_head_bias`.
    """
    classic = model.config.variant == "classic"
    twin = gpt2_twin(model) if classic else qwen3_twin(model)
    settings = model.generation_config.to_dict()
    if classic:  # it has no position for anything further
        settings |= {"max_new_tokens": None, "max_length": model.config.max_position_embeddings}
    twin.generation_config = twin.generation_config.from_dict(settings)
    return twin.eval()


@torch.no_grad()
def logit_difference(model: PreTrainedModel, twin: PreTrainedModel, input_ids: torch.Tensor) -> float:
    """Largest difference of a logit over `input_ids` `(B, T)`, as a share of the largest logit."""
    expected = model(input_ids).logits.float()
    return float((twin(input_ids).logits.float() - expected).abs().max() / expected.abs().max())


def comparison_windows(model: LyricGPTForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """Rows `(B, T)` of a text's ids `(N,)` to compare logits on: a block each; several in `modern`, so that it slides."""
    block_size = model.config.max_position_embeddings
    length = block_size if model.config.variant == "classic" else 4 * block_size
    length = min(length, len(ids))
    rows = min(8, len(ids) // length)
    return ids[: rows * length].view(rows, length)


def write_twin(
    model: LyricGPTForCausalLM, tokenizer: LyricGPTTokenizer, windows: torch.Tensor, folder: Path, source: str
) -> tuple[PreTrainedModel, float]:
    """Writes a model's twin and its tokenizer into a new folder; returns the twin and its logit difference.

    Args:
        windows: Ids `(B, T)` of real text; twin and model are compared on them, the twin as it loads back.
        source: What the card says the weights come from.

    Raises:
        LyricGPTError: the twin does not compute the same; nothing is written.
    """
    model = model.float().eval()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=UNFINISHED) as temporary:
        staged = Path(temporary) / "twin"
        make_twin(model).save_pretrained(staged)
        save_stock_tokenizer(tokenizer, staged)
        twin = AutoModelForCausalLM.from_pretrained(staged).eval()
        difference = logit_difference(model, twin, windows)
        if not difference <= TOLERANCE:
            raise LyricGPTError(
                f"the twin's logits differ by {difference:.1e} of the largest, more than {TOLERANCE:.0e}; nothing was "
                "written. The head's rows may be nearly dependent; publish the model itself, which needs trust_remote_code"
            )
        text = tokenizer.decode(windows[0])
        if AutoTokenizer.from_pretrained(staged)(text).input_ids != tokenizer(text).input_ids:
            raise LyricGPTError("the stock tokenizer gives other ids than the model's own; nothing was written")
        card = twin_card(model, tokenizer, twin, difference, windows.numel(), source)
        (staged / "README.md").write_text(card, encoding="utf-8")
        staged.chmod(0o755)
        for path in staged.iterdir():
            path.chmod(0o644)
        staged.replace(folder)
    return twin, difference


def save_stock_tokenizer(tokenizer: LyricGPTTokenizer, folder: Path) -> None:
    """Saves a tokenizer so that it loads without this project's code, which no longer lies beside it."""
    tokenizer.save_pretrained(folder)
    for path in folder.glob("*.py"):
        path.unlink()
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("auto_map", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def twin_card(
    model: LyricGPTForCausalLM,
    tokenizer: LyricGPTTokenizer,
    twin: PreTrainedModel,
    difference: float,
    characters: int,
    source: str,
) -> str:
    """The twin's model card: what it is, how equal it was measured to be, and what it cannot do."""
    config = model.config
    if config.variant == "classic":
        limits = (
            f"GPT-2 has a table of {config.max_position_embeddings} positions and **stops there**. Prompt and max_new_tokens "
            f"together must stay within {config.max_position_embeddings}, or it fails with `IndexError: index out of range in "
            "self`; without max_new_tokens a song ends there by itself. The model it was made of goes on, by moving its "
            "window. GPT-2's key/value cache also makes a song cost more the longer it is."
        )
    else:
        limits = (
            f"It sees the last {config.sliding_window} characters in each layer and goes on for as long as you like. Qwen3 "
            "has no dropout on its residual branches: to train it further with dropout, take the model it was made of."
        )
    unknown = f"becomes {code_span(tokenizer.unk_token)}" if tokenizer.unk_token else "is dropped without a word"
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags:
- lyrics
- character-level
---

# {escape(source)}, as a stock {type(twin).__name__}

A character-level GPT on song lyrics, {twin.num_parameters():,} parameters, in an architecture that ships with transformers:
nothing has to be trusted to load it.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("this folder or repository")
model = AutoModelForCausalLM.from_pretrained("this folder or repository")
```

It was made of a LyricGPT model (`{config.variant}`) and computes the same: over {characters:,} characters of text the
largest difference of a logit was {difference:.1e} of the largest logit, in float32.

## What it cannot do

{limits}

A character outside the alphabet {unknown}. And a single song is written more slowly: LyricGPT's own loop reads drafts
of several characters at once.
"""
