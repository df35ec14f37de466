"""The LyricGPT character tokenizer. Importing this package registers it with `AutoTokenizer`."""

from .tokenization_lyricgpt import LyricGPTTokenizer

# From here on `save_pretrained` copies the code file and writes the `auto_map` that finds it.
LyricGPTTokenizer.register_for_auto_class("AutoTokenizer")

__all__ = ["LyricGPTTokenizer"]
