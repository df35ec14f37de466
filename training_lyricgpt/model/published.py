"""Imports the original notebook's model: turns a plain state dict and an alphabet into a `classic` LyricGPT.

Notes:
- No code in the file can run: it is `.safetensors`, or a `.pt` that `torch.load` reads with `weights_only=True`.
- The notebook's model has one small matrix per head. Here they are stacked into one projection. Its causal masks are
  left out.
- There are two versions of the notebook, and the weights don't show which one made them. Attention scores are divided
  by the square root of the head size or, in the older version, of the width. LyricGPT uses the head size. For the older
  version, the query weights are scaled to make up for it.
"""

import json
import re
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file

from modeling_lyricgpt import LyricGPTConfig, LyricGPTForCausalLM
from tokenization_lyricgpt import LyricGPTTokenizer

from .. import LyricGPTError

# Keys under which training scripts save a state dict if they save other things too.
NESTED = ("model_state_dict", "state_dict", "model")
# Attention scores are divided by the square root of one of these.
SCALES = ("head_size", "n_embd")


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Reads the tensors of a `.pt`, `.pth` or `.safetensors` file by name, without running code from it.

    Raises:
        LyricGPTError: there is no such file, or it is not a plain state dict.
    """
    if not path.is_file():
        raise LyricGPTError(f"STATE_DICT is {path}, but there is no such file; name a .pt, .pth or .safetensors file")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many kinds of errors
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise LyricGPTError(
            f"{path} is not a plain state dict of tensors: {reason}. (Other files are not read, because that could run "
            "code.) Save one with torch.save(model.state_dict(), …)"
        ) from error
    for name in NESTED:
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            state = state[name]
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise LyricGPTError(
            f"{path} contains a {type(state).__name__}, not a state dict of tensors. Save one with "
            "torch.save(model.state_dict(), …)"
        )
    renamed = {re.sub(r"^(_orig_mod\.|module\.)+", "", name): value for name, value in state.items()}
    if len(renamed) < len(state):
        raise LyricGPTError(f"{path} contains the same weight under two names; delete one of them")
    for name, value in renamed.items():
        if value.layout != torch.strided:
            problem = f"has the layout {value.layout}, not torch.strided"
        elif not value.is_floating_point():
            problem = f"has the type {value.dtype}, not a floating-point type"
        elif not torch.isfinite(value).all():
            problem = "has values that are infinite or not a number"
        else:
            continue
        raise LyricGPTError(f"{path}: {name} {problem}; save the model again, with dense and finite weights")
    return {name: value.float() for name, value in renamed.items()}


def read_alphabet(path: Path, size: int) -> list[str]:
    """Reads the characters of an alphabet, in the order of their ids.

    The file is a JSON list of characters, a JSON object (character to id, or id to character), a text with each
    character once in the order of the ids, or the training text itself, whose sorted characters are the alphabet.

    Raises:
        LyricGPTError: the file does not have `size` different characters.
    """
    if not path.is_file():
        raise LyricGPTError(
            f"ALPHABET is {path}, but there is no such file; name the training text, or a file with its characters"
        )
    try:
        text = path.read_bytes().decode("utf-8-sig")
        entries = json.loads(text) if path.suffix == ".json" else text
        if isinstance(entries, dict):
            if all(type(value) is int for value in entries.values()):
                entries = {index: character for character, index in entries.items()}
            entries = {int(index): character for index, character in entries.items()}
            if sorted(entries) != list(range(len(entries))):
                raise LyricGPTError(
                    f"{path}: the ids must be 0 to {len(entries) - 1}, each once; found {sorted(entries)}"
                )
            entries = [entries[index] for index in range(len(entries))]
        if not isinstance(entries, str) and not all(isinstance(entry, str) and len(entry) == 1 for entry in entries):
            raise TypeError("it contains something other than single characters")
    except (ValueError, TypeError) as error:
        raise LyricGPTError(f"{path} cannot be read as an alphabet: {error}. Use the training text") from error
    if isinstance(entries, str) and len(entries) == size + 1 and len(set(entries)) == size:
        entries = entries.removesuffix("\n")  # added by an editor
    characters = list(entries)
    if isinstance(entries, str) and len(set(characters)) < len(characters):
        characters = sorted(set(characters))
    if len(characters) != size or len(set(characters)) != size:
        raise LyricGPTError(
            f"{path} has {len(set(characters))} distinct characters, but the model has {size}. Use the training text, "
            "or a file with each character once in the order of the ids, and no extra line break at the end"
        )
    return characters


def take_tensor(path: Path, state: dict[str, torch.Tensor], name: str, *shape: int | None) -> torch.Tensor:
    """Takes a tensor out of the state dict of a file and checks its shape. None allows any size."""
    if name not in state:
        raise LyricGPTError(
            f"{path} is not the original notebook's model: it has no {name}. It has {', '.join(sorted(state)[:3])} …. Choose a "
            "state dict of that model"
        )
    tensor = state.pop(name)
    if tensor.dim() != len(shape) or any(
        want not in (None, have) for want, have in zip(shape, tensor.shape, strict=True)
    ):
        wanted = " × ".join("any" if size is None else str(size) for size in shape)
        raise LyricGPTError(
            f"{path} is not the original notebook's model: {name} is {tuple(tensor.shape)}, expected {wanted}. Choose a state dict "
            "of that model"
        )
    return tensor


def import_published(
    state_dict: Path, alphabet: Path, scale: str = "head_size"
) -> tuple[LyricGPTForCausalLM, LyricGPTTokenizer]:
    """Builds a model and a tokenizer from the original notebook's state dict.

    Args:
        state_dict: A file of tensors with names like `blocks.0.sa.heads.0.key.weight`.
        alphabet: See `read_alphabet`.
        scale: Attention scores were divided by the square root of this: `"head_size"` or `"n_embd"`.

    Raises:
        LyricGPTError: it is another model. The message names the first tensor that differs.
    """
    state = read_state_dict(state_dict)
    take = partial(take_tensor, state_dict, state)
    embedding = take("token_embedding_table.weight", None, None)
    vocab_size, width = embedding.shape
    positions = take("position_embedding_table.weight", None, width)
    numbers = [re.match(r"blocks\.(\d+)\.sa\.heads\.(\d+)\.", name) for name in state]
    found = [(int(number[1]), int(number[2])) for number in numbers if number]
    mask = torch.tril(torch.ones(len(positions), len(positions)))
    for layer, head in found:
        tril = state.pop(f"blocks.{layer}.sa.heads.{head}.tril", mask)
        if not torch.equal(tril, mask):
            raise LyricGPTError(
                f"{state_dict} is not the original notebook's model: blocks.{layer}.sa.heads.{head}.tril is not the causal "
                f"mask of its {len(positions)} positions"
            )
    num_layers, num_heads = (max((pair[part] for pair in found), default=0) + 1 for part in (0, 1))
    if width % num_heads:
        raise LyricGPTError(
            f"{state_dict} is not the original notebook's model: its width {width} is not a multiple of its {num_heads} heads"
        )
    head_size = width // num_heads
    inner = state.get("blocks.0.ffwd.net.0.bias", torch.empty(0)).numel()
    characters = read_alphabet(alphabet, vocab_size)
    tokenizer = LyricGPTTokenizer.from_alphabet(characters, special_tokens=False)
    # Our ids are in the order of code points. Theirs are in the order of the alphabet file.
    order = torch.tensor([characters.index(character) for character in tokenizer.alphabet])

    weights = {
        "model.embed_tokens.weight": embedding[order],
        "model.embed_positions.weight": positions,
        "lm_head.weight": take("lm_head.weight", vocab_size, width)[order],
        "lm_head.bias": take("lm_head.bias", vocab_size)[order],
        "model.norm.weight": take("ln_f.weight", width),
        "model.norm.bias": take("ln_f.bias", width),
    }
    for layer in range(num_layers):
        theirs, ours = f"blocks.{layer}", f"model.layers.{layer}"
        for name in ("query", "key", "value"):
            heads = [take(f"{theirs}.sa.heads.{head}.{name}.weight", head_size, width) for head in range(num_heads)]
            weights[f"{ours}.self_attn.{name[0]}_proj.weight"] = torch.cat(heads)
        if scale == "n_embd":
            weights[f"{ours}.self_attn.q_proj.weight"] *= (head_size / width) ** 0.5
        shapes = {
            "sa.proj": ("self_attn.o_proj", width, width),
            "ffwd.net.0": ("mlp.up_proj", inner, width),
            "ffwd.net.2": ("mlp.down_proj", width, inner),
        }
        for name, (module, rows, columns) in shapes.items():
            weights[f"{ours}.{module}.weight"] = take(f"{theirs}.{name}.weight", rows, columns)
            weights[f"{ours}.{module}.bias"] = take(f"{theirs}.{name}.bias", rows)
        for name, module in (("ln1", "input_layernorm"), ("ln2", "post_attention_layernorm")):
            for part in ("weight", "bias"):
                weights[f"{ours}.{module}.{part}"] = take(f"{theirs}.{name}.{part}", width)
    if state:
        raise LyricGPTError(
            f"{state_dict} is not the original notebook's model: it has other tensors too, such as "
            f"{', '.join(sorted(state)[:3])}"
        )
    config = LyricGPTConfig(
        variant="classic",
        vocab_size=vocab_size,
        hidden_size=width,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        max_position_embeddings=len(positions),
        intermediate_size=inner,
    )
    model = LyricGPTForCausalLM(config).eval()
    model.load_state_dict(weights)
    return model, tokenizer
