"""Loads the weights of a run folder or a model on the Hub, with the installed code.

Notes:
- Only the settings that `settings` lists are read, and each one is checked. transformers reads no file of the folder
  except the weights. So a setting that somebody else wrote can neither fetch code nor be published.
- If a folder has no generation settings, songs are sampled in a way that suits characters: at temperature 0.9 from the
  whole alphabet (transformers' default, top_k 50, would cut it), up to 1,000 characters, without `<|unk|>` and
  `<|pad|>`.
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
    """Loads the model (in evaluation mode) and tokenizer of a run folder or a Hub id, with the installed code.

    Raises:
        LyricGPTError: there is no such model, it is not a LyricGPT, or its code is not this project's.
    """
    return load_model(model_folder(run), run)


def load_model(folder: Path, run: str) -> tuple[LyricGPTForCausalLM, LyricGPTTokenizer]:
    """Like `load_run`, for a folder that has been checked, or that this process wrote.

    Args:
        run: The name to use in messages.
    """
    logging.disable_progress_bar()
    tokenizer, config = read_tokenizer(folder), read_config(folder)
    options = {"config": config, "generation_config": read_generation_config(folder, tokenizer)}
    options |= {"use_safetensors": True, "trust_remote_code": False, "output_loading_info": True}
    try:
        model, loading = LyricGPTForCausalLM.from_pretrained(folder, **options)
    except Exception as error:  # transformers raises many kinds of errors
        raise LyricGPTError(
            f"no model could be loaded from {run!r}: {one_line(error)}. Restore its config.json and model.safetensors"
        ) from error
    if wrong := [name for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in loading[kind]]:
        raise LyricGPTError(f"the weights in {run} do not match its config.json (first: {wrong[0]}); restore both")
    if model.config.vocab_size != len(tokenizer):
        raise LyricGPTError(
            f"{run}: the model has {model.config.vocab_size} tokens, but the tokenizer has {len(tokenizer)}. They do "
            "not belong together; restore both"
        )
    return model.eval(), tokenizer


def check_finite(model: LyricGPTForCausalLM, run: str) -> None:
    """Raises LyricGPTError if a weight is not a finite number."""
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise LyricGPTError(
                f"{run}: the weights of {name} are not finite, so this model cannot be published or exported. Restore "
                "model.safetensors, or train again with a lower learning_rate"
            )


def read_config(folder: Path) -> LyricGPTConfig:
    """Reads the configuration of a model.

    Raises:
        LyricGPTError: it is not a LyricGPT's, or a value is wrong.
    """
    path = folder / "config.json"
    if (kind := read_settings(path).get("model_type")) != LyricGPTConfig.model_type:
        raise LyricGPTError(
            f"{folder} contains a model of type {kind!r}, not a LyricGPT. Name a run folder or a LyricGPT model on the Hub"
        )
    values = read_settings(path, ModelSettings)
    stretched = values.pop("rope_scaling", None)
    values["rope_parameters"] = values.get("rope_parameters") or stretched
    try:
        return LyricGPTConfig(**values)
    except Exception as error:  # transformers checks them too, and raises many kinds of errors
        raise LyricGPTError(f"{path}: {one_line(error)}; restore the file") from None


def read_tokenizer(folder: Path) -> LyricGPTTokenizer:
    """Builds the tokenizer of a model from its alphabet and its song template.

    Raises:
        LyricGPTError: it is not a character tokenizer, or its template fails.
    """
    path = folder / "tokenizer.json"
    vocab = read_record(path, TokenizerFile)["model"]["vocab"]
    template = read_settings(folder / "tokenizer_config.json", TokenizerSettings).get("song_template")
    try:
        alphabet = vocab.keys() - set(SPECIAL_TOKENS)
        tokenizer = LyricGPTTokenizer.from_alphabet(alphabet, END_OF_TEXT in vocab, song_template=template)
    except ValueError as error:
        raise LyricGPTError(f"{path} is not a character tokenizer: {error}; restore the file") from None
    if tokenizer.get_vocab() != vocab:
        raise LyricGPTError(
            f"{path} is not a LyricGPT tokenizer: its ids are not in the order of the characters; restore the file"
        )
    try:
        tokenizer.song_prompt("artist", "title")
    except Exception as error:  # a template can raise anything
        raise LyricGPTError(
            f"{folder / 'tokenizer_config.json'}: song_template fails: {one_line(error)}; restore the file"
        ) from None
    return tokenizer


def read_generation_config(folder: Path, tokenizer: LyricGPTTokenizer) -> GenerationConfig:
    """Reads a model's generation settings; the defaults if it has none.

    Raises:
        LyricGPTError: a value is wrong.
    """
    path = folder / "generation_config.json"
    values = read_settings(path, GenerationSettings)
    for name in ("suppress_tokens", "bos_token_id", "eos_token_id", "pad_token_id"):
        ids = values.get(name)
        if wrong := [index for index in (ids if isinstance(ids, list) else [ids]) if (index or 0) >= len(tokenizer)]:
            raise LyricGPTError(
                f"{path}: {name} has the id {wrong[0]}, but the tokenizer has only {len(tokenizer)} tokens; restore the file"
            )
    try:
        return GenerationConfig(**values) if values else generation_config(tokenizer)
    except ValueError as error:
        raise LyricGPTError(f"{path}: {one_line(error)}; restore the file") from None


def generation_config(tokenizer: LyricGPTTokenizer) -> GenerationConfig:
    """Returns generation defaults for a character model.

    Without special tokens, an empty prompt starts with a line break (or the first character), like the original
    notebook's.
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
    """Returns an error's type and message in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
