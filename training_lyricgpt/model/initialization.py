"""The model that a run begins with: fresh, or with the weights and the alphabet of another.

Notable:
- `init_from` grows the alphabet where the new corpus needs it. Ids follow the alphabet and so may change: rows of
  embedding and head go along with their characters, and a new character begins with the mean of all rows (what
  transformers' `resize_token_embeddings` takes for the mean of its draws).
- The shape is that of the model begun with; only dropout is the new run's. Headers of artist and title go on too, unless the
  command line says otherwise.
- Such a run saves its first checkpoint at once and then needs the model it began with no more: that may be gone, or
  trained on.
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

# Parameters with a row for each character.
BY_CHARACTER = ("model.embed_tokens.weight", "lm_head.weight", "lm_head.bias")
# What a saved configuration says of its file and not of its model.
NOT_SHAPE = ("auto_map", "architectures", "dtype", "model_type", "transformers_version", "_name_or_path")


@dataclass
class Parent:
    """The model that a run begins with.

    Attributes:
        alphabet: Its characters.
    """

    model: LyricGPTForCausalLM
    tokenizer: LyricGPTTokenizer
    alphabet: str

    @property
    def shape(self) -> dict[str, str | int | bool | None]:
        """The settings of a run that say a model's shape, as this model has them."""
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
        """What is new to it of an alphabet, if anything."""
        if new := sorted(set(tokenizer.alphabet).difference(self.alphabet)):
            return f"did not know {plural(len(new), 'character')} of this corpus: {describe_characters(new)}"
        return None

    @property
    def conditioning(self) -> str | None:
        """The headers that its songs begin with; None if no run has such."""
        template = self.tokenizer.init_kwargs.get("song_template")
        return next((kind for kind, known in SONG_TEMPLATES.items() if known == template), None)


def load_parent(init_from: str | None, folder: Path) -> Parent | None:
    """The model of `init_from`, if any; once a run in `folder` has begun with it, that run's own.

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
    """A model for an alphabet: freshly initialised, the same for the same seed, or with `parent`'s weights."""
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
    """Draws all weights anew as PyTorch's modules do: embeddings of deviation 1, uniform matrices and biases.

    With scores divided by the root of the width, the query projection is born smaller by the root of the number of heads,
    which makes the same scores; `build_optimizers` lets it learn slower by as much.
    """
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    if scores_scaled_by == "n_embd":
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.mul_(model.config.num_attention_heads**-0.5)


@torch.no_grad()
def copy_weights(model: LyricGPTForCausalLM, tokenizer: LyricGPTTokenizer, parent: Parent) -> None:
    """Puts the weights of `parent` into `model`, rows by character; characters new to it get the mean of all rows."""
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
