"""Encodes a prompt for a model, and writes a song from a prompt and a seed."""

import torch
from transformers import set_seed

from modeling_lyricgpt import LyricGPTForCausalLM
from tokenization_lyricgpt import LyricGPTTokenizer
from tokenization_lyricgpt.tokenization_lyricgpt import UnknownCharacterError, describe_characters

from .. import LyricGPTError


def encode_prompt(tokenizer: LyricGPTTokenizer, prompt: str) -> tuple[dict[str, torch.Tensor], str | None]:
    """Returns inputs for `generate`, and a remark if characters were replaced. An empty prompt starts a new song.

    Raises:
        LyricGPTError: the prompt has unknown characters, and there is no `<|unk|>` to replace them.
    """
    if not prompt:
        return {}, None
    try:
        inputs = tokenizer(prompt, return_tensors="pt")
    except UnknownCharacterError as error:
        raise LyricGPTError(f"prompt: {error}") from None
    remark, text = None, prompt
    for token in tokenizer.all_special_tokens:
        text = text.replace(token, "")  # a prompt may contain special tokens
    if unknown := tokenizer.unknown_characters(text):
        are, each = ("isn't", "it") if len(unknown) == 1 else ("aren't", "each")
        remark = (
            f"{describe_characters(unknown)} {are} in the model's alphabet; {each} is replaced by {tokenizer.unk_token}. "
            f"The alphabet: {tokenizer.alphabet!r}"
        )
    return dict(inputs), remark


def write_song(
    model: LyricGPTForCausalLM, tokenizer: LyricGPTTokenizer, prompt: str = "", seed: int = 0, **options
) -> str:
    """Writes a song and returns it, including its prompt.

    Args:
        options: Arguments for `generate`. All others come from the model's generation configuration.

    Raises:
        LyricGPTError: see `encode_prompt`.
    """
    inputs, _ = encode_prompt(tokenizer, prompt)
    inputs = {name: value.to(model.device) for name, value in inputs.items()}
    set_seed(seed % 2**32)
    output = model.generate(**inputs, **options)[0]
    return tokenizer.decode(output, skip_special_tokens=True)
