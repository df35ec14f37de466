"""Songs of a model: a prompt becomes its inputs, and a seed a song."""

import torch
from transformers import set_seed

from modeling_lyricgpt import LyricGPTForCausalLM
from tokenization_lyricgpt import LyricGPTTokenizer
from tokenization_lyricgpt.tokenization_lyricgpt import UnknownCharacterError, describe_characters

from .. import LyricGPTError


def encode_prompt(tokenizer: LyricGPTTokenizer, prompt: str) -> tuple[dict[str, torch.Tensor], str | None]:
    """Inputs of `generate` and a remark on characters that were replaced; an empty prompt starts a song.

    Raises:
        LyricGPTError: unknown characters, and no `<|unk|>` to replace them by.
    """
    if not prompt:
        return {}, None
    try:
        inputs = tokenizer(prompt, return_tensors="pt")
    except UnknownCharacterError as error:
        raise LyricGPTError(f"prompt: {error}") from None
    remark, text = None, prompt
    for token in tokenizer.all_special_tokens:
        text = text.replace(token, "")  # in a prompt their spellings are tokens
    if unknown := tokenizer.unknown_characters(text):
        remark = (
            f"the model has never seen {describe_characters(unknown)}; read as {tokenizer.unk_token}. "
            f"Its alphabet: {tokenizer.alphabet!r}"
        )
    return dict(inputs), remark


def write_song(
    model: LyricGPTForCausalLM, tokenizer: LyricGPTTokenizer, prompt: str = "", seed: int = 0, **options
) -> str:
    """One song, its prompt included.

    Args:
        options: Anything `generate` takes; the model's generation configuration holds the rest.

    Raises:
        LyricGPTError: see `encode_prompt`.
    """
    inputs, _ = encode_prompt(tokenizer, prompt)
    inputs = {name: value.to(model.device) for name, value in inputs.items()}
    set_seed(seed % 2**32)
    output = model.generate(**inputs, **options)[0]
    return tokenizer.decode(output, skip_special_tokens=True)
