"""Stock models: the same model in an architecture that comes with transformers, so that it loads without custom code.

Notes:
- `classic` becomes a `GPT2LMHeadModel`, and `modern` a `Qwen3ForCausalLM` with a sliding window.
- GPT-2's head has no bias. If the head W has full row rank, some u solves W u = b. Adding u to the bias of the last
  LayerNorm then has the same effect: W (x + u) = W x + b. This needs `vocab_size <= hidden_size`.
- Both models are compared on a text before anything is written.
- GPT-2 has no positions after its block, so a stock `classic` model stops there.
"""

import json
import tempfile
from collections.abc import Callable
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

from .. import LyricGPTError
from ..corpus.cache import load_run_corpus
from ..files import UNFINISHED
from .songs import write_song

# Largest allowed difference between a logit of the model and of the stock model, as a share of the largest logit.
TOLERANCE = 1e-5
# Qwen3's rotary positions have no limit. This number only keeps `generate` from warning.
QWEN3_POSITIONS = 1 << 20


def fold_head_bias(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Returns the shortest u `(hidden_size,)` with `weight @ u == bias`, solved in float64.

    Raises:
        LyricGPTError: there is none, because the head does not have full row rank.
    """
    weight, bias = weight.double(), bias.double()
    solution = torch.linalg.lstsq(weight, bias, driver="gelsd").solution
    rest = (weight @ solution - bias).abs().max()
    if rest > 1e-6 * bias.abs().max():
        rows, columns = weight.shape
        raise LyricGPTError(
            "this model cannot become a stock GPT-2. Its head has a bias, GPT-2's has none, and the bias cannot be "
            f"moved into the last LayerNorm ({rest:.1e} would be left over). That only works if the alphabet ({rows} "
            f"characters) is not larger than the width ({columns}) and the head's rows are independent. Publish the "
            "model itself, which needs trust_remote_code"
        )
    return solution.float()


def stock_gpt2(model: LyricGPTForCausalLM) -> GPT2LMHeadModel:
    """Returns the `GPT2LMHeadModel` that computes the same as a `classic` model."""
    config = model.config
    stock = GPT2LMHeadModel(
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
        # GPT-2 stores its matrices transposed.
        weights[f"{theirs}.attn.c_attn.weight"] = qkv.T
        weights[f"{theirs}.attn.c_attn.bias"] = torch.zeros(len(qkv))
        for module, name in (("self_attn.o_proj", "attn.c_proj"), ("mlp.up_proj", "mlp.c_fc")):
            weights[f"{theirs}.{name}.weight"] = source[f"{ours}.{module}.weight"].T
            weights[f"{theirs}.{name}.bias"] = source[f"{ours}.{module}.bias"]
        weights[f"{theirs}.mlp.c_proj.weight"] = source[f"{ours}.mlp.down_proj.weight"].T
        weights[f"{theirs}.mlp.c_proj.bias"] = source[f"{ours}.mlp.down_proj.bias"]
    stock.load_state_dict(weights)
    return stock


def stock_qwen3(model: LyricGPTForCausalLM) -> Qwen3ForCausalLM:
    """Returns the `Qwen3ForCausalLM` that computes the same as a `modern` model. Its weights have the same names."""
    config = model.config
    rope_parameters = dict(config.rope_parameters)
    scaled = rope_parameters["rope_type"] != "default"  # scaled positions may depend on max_position_embeddings
    stock_config = Qwen3Config(
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
    stock_config.rope_theta = rope_parameters["rope_theta"]  # where transformers 4 looks for it
    stock = Qwen3ForCausalLM(stock_config)
    stock.load_state_dict({name: tensor.float() for name, tensor in model.state_dict().items()})
    return stock


def make_stock(model: LyricGPTForCausalLM) -> PreTrainedModel:
    """Returns the stock model that computes the same, in float32 and evaluation mode, with its generation settings.

    Raises:
        LyricGPTError: see `fold_head_bias`.
    """
    classic = model.config.variant == "classic"
    stock = stock_gpt2(model) if classic else stock_qwen3(model)
    settings = model.generation_config.to_dict()
    if classic:  # it has no positions after that
        settings |= {"max_new_tokens": None, "max_length": model.config.max_position_embeddings}
    stock.generation_config = stock.generation_config.from_dict(settings)
    return stock.eval()


@torch.no_grad()
def logit_difference(model: PreTrainedModel, stock: PreTrainedModel, input_ids: torch.Tensor) -> float:
    """Returns the largest difference of a logit over `input_ids` `(B, T)`, as a share of the largest logit."""
    expected = model(input_ids).logits.float()
    return float((stock(input_ids).logits.float() - expected).abs().max() / expected.abs().max())


def comparison_windows(model: LyricGPTForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """Cuts a text's ids `(N,)` into rows `(B, T)` of one block, or of four in `modern`, so that its window slides."""
    block_size = model.config.max_position_embeddings
    length = block_size if model.config.variant == "classic" else 4 * block_size
    length = min(length, len(ids))
    rows = min(8, len(ids) // length)
    return ids[: rows * length].view(rows, length)


def text_to_compare(run: str, model: LyricGPTForCausalLM, tokenizer: LyricGPTTokenizer) -> tuple[torch.Tensor, str]:
    """Returns ids `(N,)` of a text on which to compare a model with its stock model, and the name of that text.

    This is the run's validation text if its corpus can be loaded, otherwise a song that the model writes.
    """
    if (Path(run) / "run.yaml").exists():
        try:
            corpus = load_run_corpus(Path(run))
        except LyricGPTError:  # it was moved, or is on another machine
            corpus = None
        if corpus is not None and corpus.tokenizer.alphabet == tokenizer.alphabet:
            ids = corpus.validation.ids[: 64 * model.config.max_position_embeddings]
            return torch.from_numpy(ids.astype("int64")), "its validation text"
    length = 4 * model.config.max_position_embeddings
    song = write_song(model, tokenizer, min_new_tokens=length, max_new_tokens=length)
    ids = tokenizer(song, split_special_tokens=True).input_ids
    return torch.tensor(ids), "a song that it wrote (its corpus was not found)"


def write_stock(
    model: LyricGPTForCausalLM,
    tokenizer: LyricGPTTokenizer,
    windows: torch.Tensor,
    folder: Path,
    card: Callable[[PreTrainedModel, float], str],
) -> tuple[PreTrainedModel, float]:
    """Writes the stock model and its tokenizer into a new folder. Returns the stock model and its logit difference.

    Args:
        windows: Ids `(B, T)` of a text on which to compare both models. The stock model is saved and loaded first.
        card: Returns the text of the model card, given the stock model and the difference.

    Raises:
        LyricGPTError: the stock model does not compute the same. Nothing is written.
    """
    model = model.float().eval()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=UNFINISHED) as temporary:
        staged = Path(temporary) / "stock"
        make_stock(model).save_pretrained(staged)
        save_stock_tokenizer(tokenizer, staged)
        stock = AutoModelForCausalLM.from_pretrained(staged).eval()
        difference = logit_difference(model, stock, windows)
        if not difference <= TOLERANCE:
            raise LyricGPTError(
                f"the stock model's logits differ by {difference:.1e} of the largest, more than the allowed "
                f"{TOLERANCE:.0e}, so nothing was written. The head's rows may be nearly dependent. Publish the model "
                "itself, which needs trust_remote_code"
            )
        text = tokenizer.decode(windows[0])
        if AutoTokenizer.from_pretrained(staged)(text).input_ids != tokenizer(text).input_ids:
            raise LyricGPTError(
                "the stock tokenizer gives other ids than the model's tokenizer, so nothing was written. Publish the "
                "model without --stock, or install the versions in constraints.txt"
            )
        (staged / "README.md").write_text(card(stock, difference), encoding="utf-8")
        staged.chmod(0o755)
        for path in staged.iterdir():
            path.chmod(0o644)
        staged.replace(folder)
    return stock, difference


def save_stock_tokenizer(tokenizer: LyricGPTTokenizer, folder: Path) -> None:
    """Saves a tokenizer without this project's code, so that it loads without it."""
    tokenizer.save_pretrained(folder)
    for path in folder.glob("*.py"):
        path.unlink()
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("auto_map", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
