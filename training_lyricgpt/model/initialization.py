"""Builds the model that a run starts with: a new one, or one with the weights and the alphabet of another model.

Notes:
- `init_from` adds characters to the alphabet if the new corpus needs them. Ids follow the order of the alphabet, so
  they may change. Rows of embedding and head move with their characters. A new character starts with the mean of all rows
  (transformers' `resize_token_embeddings` uses it as the mean of its random rows).
- The new model has the same shape as the one it starts from. Only dropout comes from the new run. Headers with artist
  and title are kept too, unless the command line says otherwise.
- Such a run saves its first checkpoint at once. From then on it doesn't need the model it started from, which may be
  deleted or trained further.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

from modeling_lyricgpt import LyricGPTConfig, LyricGPTForCausalLM
from tokenization_lyricgpt import LyricGPTTokenizer
from tokenization_lyricgpt.tokenization_lyricgpt import describe_characters

from ..arguments import ModelArguments, load_arguments
from ..corpus.headers import SONG_TEMPLATES
from ..engine.checkpoints import latest_checkpoint
from ..record_types import Corpus, read_record
from ..wording import plural
from .loading import generation_config, load_run

# Parameters with one row per character.
BY_CHARACTER = ("model.embed_tokens.weight", "lm_head.weight", "lm_head.bias")
# Entries of a saved configuration that describe the file, not the model.
NOT_SHAPE = ("auto_map", "architectures", "dtype", "model_type", "transformers_version", "_name_or_path")


@dataclass
class Parent:
    """The model that a run starts from.

    Attributes:
        alphabet: The characters that it knew before this run.
    """

    model: LyricGPTForCausalLM
    tokenizer: LyricGPTTokenizer
    alphabet: str

    @property
    def shape(self) -> dict[str, str | int | bool | None]:
        """The settings that define a model's shape, with this model's values."""
        config = self.model.config
        return {
            "variant": config.variant,
            "block_size": config.max_position_embeddings,
            "hidden_size": config.hidden_size,
            "num_hidden_layers": config.num_hidden_layers,
            "num_attention_heads": config.num_attention_heads,
            "sliding_window": config.sliding_window,
            "special_tokens": self.tokenizer.unk_token_id is not None,
        }

    def describe_new(self, tokenizer: LyricGPTTokenizer) -> str | None:
        """Says which characters of `tokenizer` this model did not know, or returns None if it knew all."""
        if new := sorted(set(tokenizer.alphabet).difference(self.alphabet)):
            return f"did not know {plural(len(new), 'character')} of this corpus: {describe_characters(new)}"
        return None

    @property
    def conditioning(self) -> str | None:
        """The value of the setting `conditioning` that fits its songs' headers, or None if none does."""
        template = self.tokenizer.init_kwargs.get("song_template")
        return next((kind for kind, known in SONG_TEMPLATES.items() if known == template), None)


def load_parent(init_from: str | None, folder: Path) -> Parent | None:
    """Loads the model of `init_from`, if any.

    If the run in `folder` has already started from it, it loads that run's own model instead.

    Raises:
        LyricGPTError: there is no such model.
    """
    if init_from is None:
        return None
    source = init_from
    began_with = load_arguments(folder / "run.yaml").init_from if (folder / "run.yaml").exists() else None
    if began_with == init_from and latest_checkpoint(folder / "checkpoints")[0] is not None:
        source = str(folder)
    model, tokenizer = load_run(source)
    alphabet = (
        tokenizer.alphabet
        if source == init_from
        else read_record(folder / "corpus.json", Corpus).get("base_alphabet", "")
    )
    return Parent(model, tokenizer, alphabet)


def build_model(
    args: ModelArguments, seed: int, tokenizer: LyricGPTTokenizer, parent: Parent | None = None
) -> LyricGPTForCausalLM:
    """Builds a model for an alphabet, with `parent`'s weights or with new ones that depend only on the seed."""
    transformers.set_seed(seed)
    shape = {
        "variant": args.variant,
        "hidden_size": args.hidden_size,
        "num_hidden_layers": args.num_hidden_layers,
        "num_attention_heads": args.num_attention_heads,
        "max_position_embeddings": args.block_size,
        "sliding_window": args.sliding_window,
    }
    if parent is not None:
        shape = {name: value for name, value in parent.model.config.to_dict().items() if name not in NOT_SHAPE}
    config = LyricGPTConfig(
        **shape
        | {
            "vocab_size": len(tokenizer),
            "attention_dropout": args.dropout if args.variant == "classic" else None,
            "hidden_dropout": args.dropout,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
    )
    model = LyricGPTForCausalLM(config)
    if parent is not None:
        copy_weights(model, tokenizer, parent)
    elif args.initialization == "torch":
        initialize_as_torch(model, args.scores_scaled_by)
    model.generation_config = generation_config(tokenizer)
    return model


@torch.no_grad()
def initialize_as_torch(model: LyricGPTForCausalLM, scores_scaled_by: str) -> None:
    """Draws all weights again, as PyTorch does by default.

    Embeddings are normal with a standard deviation of 1, matrices and biases are uniform. If scores are divided by the
    square root of the width, the query projection is made smaller by the square root of the number of heads, which
    gives the same scores. `build_optimizers` makes it learn more slowly by the same factor.
    """
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    if scores_scaled_by == "n_embd":
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.mul_(model.config.num_attention_heads**-0.5)


@torch.no_grad()
def copy_weights(model: LyricGPTForCausalLM, tokenizer: LyricGPTTokenizer, parent: Parent) -> None:
    """Copies `parent`'s weights into `model`. Rows stay with their characters. New ones get the mean of all rows."""
    old_ids, ids = parent.tokenizer.get_vocab(), tokenizer.get_vocab()
    known = [token for token in ids if token in old_ids]
    to = torch.tensor([ids[token] for token in known])
    source = torch.tensor([old_ids[token] for token in known])
    for name, parameter in model.named_parameters():
        old = parent.model.get_parameter(name).to(parameter.dtype)
        if name in BY_CHARACTER:
            parameter.copy_(old.mean(0).expand_as(parameter))
            parameter[to] = old[source]
        else:
            parameter.copy_(old)
