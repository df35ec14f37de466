"""The LyricGPT character tokenizer.

`LyricGPTTokenizer.from_pretrained` gives this class; `AutoTokenizer` does with `trust_remote_code=True`, and a stock class
of the same ids without.
"""

from .tokenization_lyricgpt import LyricGPTTokenizer

# From here on `save_pretrained` copies the code file and writes the `auto_map` that finds it.
LyricGPTTokenizer.register_for_auto_class("AutoTokenizer")

__all__ = ["LyricGPTTokenizer"]
