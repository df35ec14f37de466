"""The LyricGPT character tokenizer.

`LyricGPTTokenizer.from_pretrained` returns this class, and so does `AutoTokenizer` with `trust_remote_code=True`.
Without that option, `AutoTokenizer` returns a class from transformers that gives the same ids.
"""

from .tokenization_lyricgpt import LyricGPTTokenizer

# From here on, `save_pretrained` copies the code file and writes the `auto_map` that finds it.
LyricGPTTokenizer.register_for_auto_class("AutoTokenizer")

__all__ = ["LyricGPTTokenizer"]
