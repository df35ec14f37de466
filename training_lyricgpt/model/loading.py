"""Loads a run folder or a model of the Hub: its weights, with this installation's code.

Notable:
- Of a folder's settings only those are read that `settings` lists, and each is checked; transformers sees none of the
  files themselves but the weights. So a setting that somebody else wrote can neither fetch code nor be published.
- Where a folder says nothing of it, songs are drawn as suits characters: at temperature 0.9 over the whole alphabet
  (transformers' default of top_k 50 would cut it), 1,000 characters, and neither `<|unk|>` nor `<|pad|>`.
"""

from pathlib import Path

import torch
from transformers import GenerationConfig
from transformers.utils import logging

from modeling_lyricgpt import LyricGPTConfig, LyricGPTForCausalLM
from tokenization_lyricgpt import LyricGPTTokenizer
from tokenization_lyricgpt.tokenization_lyricgpt import END_OF_TEXT, SPECIAL_TOKENS

from .. import LyricGPTError
from ..record_types import read_record
from .folder import model_folder, read_settings
from .settings import GenerationSettings, ModelSettings, TokenizerFile, TokenizerSettings

TEMPERATURE = 0.9
MAX_NEW_TOKENS = 1000


def load_run(run: str) -> tuple[LyricGPTForCausalLM, LyricGPTTokenizer]:
    """Model (in evaluation mode) and tokenizer of a run folder or a Hub id; the code is that of this installation.

    Raises:
        LyricGPTError: there is none, or it is no LyricGPT, or its code is not this project's.
    """
    return load_model(model_folder(run), run)


def load_model(folder: Path, run: str) -> tuple[LyricGPTForCausalLM, LyricGPTTokenizer]:
    """As `load_run`, of a folder that was looked at, or that this process has written itself.

    Args:
        run: What messages call it.
    """
    logging.disable_progress_bar()
    tokenizer, config = read_tokenizer(folder), read_config(folder)
    options = {"config": config, "generation_config": read_generation_config(folder, tokenizer)}
    options |= {"use_safetensors": True, "trust_remote_code": False, "output_loading_info": True}
    try:
        model, loading = LyricGPTForCausalLM.from_pretrained(folder, **options)
    except Exception as error:  # of a dozen kinds, and each says what it is
        raise LyricGPTError(f"no model could be loaded from {run!r}: {one_line(error)}") from error
    if wrong := [name for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in loading[kind]]:
        raise LyricGPTError(f"the weights in {run} do not fit its config.json; the first that differs: {wrong[0]}")
    if model.config.vocab_size != len(tokenizer):
        raise LyricGPTError(
            f"{run}: the model has {model.config.vocab_size} tokens and the tokenizer {len(tokenizer)}; they do not "
            "belong together"
        )
    return model.eval(), tokenizer


def check_finite(model: LyricGPTForCausalLM, run: str) -> None:
    """Raises LyricGPTError if a weight is no finite number."""
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise LyricGPTError(
                f"{run}: the weights of {name} are not finite; such a model is neither published nor exported"
            )


def read_config(folder: Path) -> LyricGPTConfig:
    """The configuration of a model.

    Raises:
        LyricGPTError: it is none of a LyricGPT.
    """
    path = folder / "config.json"
    if (kind := read_settings(path).get("model_type")) != LyricGPTConfig.model_type:
        raise LyricGPTError(f"{folder} holds a model of type {kind!r}, not a LyricGPT")
    values = read_settings(path, ModelSettings)
    stretched = values.pop("rope_scaling", None)
    values["rope_parameters"] = values.get("rope_parameters") or stretched
    try:
        return LyricGPTConfig(**values)
    except Exception as error:  # transformers checks them too, and raises what it pleases
        raise LyricGPTError(f"{path}: {one_line(error)}") from None


def read_tokenizer(folder: Path) -> LyricGPTTokenizer:
    """The tokenizer of a model, made anew of its alphabet and its song template.

    Raises:
        LyricGPTError: it is no tokenizer of characters, or its template is none.
    """
    path = folder / "tokenizer.json"
    vocab = read_record(path, TokenizerFile)["model"]["vocab"]
    template = read_settings(folder / "tokenizer_config.json", TokenizerSettings).get("song_template")
    try:
        alphabet = vocab.keys() - set(SPECIAL_TOKENS)
        tokenizer = LyricGPTTokenizer.from_alphabet(alphabet, END_OF_TEXT in vocab, song_template=template)
    except ValueError as error:
        raise LyricGPTError(f"{path} is no tokenizer of characters: {error}") from None
    if tokenizer.get_vocab() != vocab:
        raise LyricGPTError(f"{path} is no tokenizer of LyricGPT: its ids are not in the order of the characters")
    try:
        tokenizer.song_prompt("artist", "title")
    except Exception as error:  # Jinja runs it
        raise LyricGPTError(f"{folder / 'tokenizer_config.json'}: song_template fails: {one_line(error)}") from None
    return tokenizer


def read_generation_config(folder: Path, tokenizer: LyricGPTTokenizer) -> GenerationConfig:
    """How songs are drawn.

    Raises:
        LyricGPTError: a value is not what it should be.
    """
    path = folder / "generation_config.json"
    values = read_settings(path, GenerationSettings)
    for name in ("suppress_tokens", "bos_token_id", "eos_token_id", "pad_token_id"):
        ids = values.get(name)
        if wrong := [index for index in (ids if isinstance(ids, list) else [ids]) if (index or 0) >= len(tokenizer)]:
            raise LyricGPTError(f"{path}: {name} has {wrong[0]}, and the tokenizer {len(tokenizer)} tokens")
    try:
        return GenerationConfig(**values) if values else generation_config(tokenizer)
    except ValueError as error:
        raise LyricGPTError(f"{path}: {one_line(error)}") from None


def generation_config(tokenizer: LyricGPTTokenizer) -> GenerationConfig:
    """Generation defaults for a character model.

    Without special tokens, an empty prompt starts with a line break (or the first character), as the published run does.
    """
    suppressed = [index for index in (tokenizer.unk_token_id, tokenizer.pad_token_id) if index is not None]
    start = tokenizer.bos_token_id
    if start is None:
        start = tokenizer.get_vocab().get("\n", 0)
    return GenerationConfig(
        do_sample=True,
        temperature=TEMPERATURE,
        top_k=0,
        max_new_tokens=MAX_NEW_TOKENS,
        suppress_tokens=suppressed or None,
        bos_token_id=start,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def one_line(error: Exception) -> str:
    """What an error says, without line breaks."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
