"""Writes a model as a folder that `from_pretrained` loads anywhere: weights, configurations, tokenizer and code.

Notable:
- Each file is written beside its place and renamed into it, the weights last: the folder is a model at any moment.
- `generation_config.json` says what suits characters: sampling at temperature 0.9 over the whole alphabet (transformers'
  default of top_k 50 would cut it), 1,000 characters, and neither `<|unk|>` nor `<|pad|>`.
"""

import os
import tempfile
from pathlib import Path

from transformers import GenerationConfig

from modeling_lyricgpt import LyricGPTForCausalLM
from tokenization_lyricgpt import LyricGPTTokenizer

from .files import UNFINISHED

WEIGHTS = "model.safetensors"
TEMPERATURE = 0.9
MAX_NEW_TOKENS = 1000


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


def export_model(model: LyricGPTForCausalLM, tokenizer: LyricGPTTokenizer, folder: str | Path) -> None:
    """Writes model, tokenizer and code into a run folder; other files in it stay.

    Raises:
        OSError: it cannot be written; what was there is still whole.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=UNFINISHED) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        for path in sorted(Path(temporary).iterdir(), key=lambda path: path.name == WEIGHTS):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                path.chmod(0o644)
                os.replace(path, folder / path.name)
