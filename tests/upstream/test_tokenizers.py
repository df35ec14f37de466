"""transformers' tokenizer suites on a LyricGPT tokenizer that was saved and loaded, as a user's would be.

They skip the tests that build a tokenizer from a bare vocabulary (ours are built from an alphabet), those that look for a
chat template among the class's named arguments (ours takes it as every `PreTrainedTokenizerFast` does), and those that
transformers marks as slow.
"""

import string
import tempfile
import unittest

from transformers_tests.test_tokenization_common import TokenizerTesterMixin
from transformers_tests.test_tokenizers_backend_mixin import TokenizersBackendTesterMixin

from tokenization_lyricgpt import LyricGPTTokenizer

TEXT = "Oh,  oh!\r\n\r\n\t<s>la-la<s>la \n"
IN_ORDER = ["<|endoftext|>", "<|unk|>", "<|pad|>", *sorted(string.printable)]


class SavedTokenizer:
    """Saves a tokenizer where the suites look for a pretrained one."""

    tokenizer_class = rust_tokenizer_class = LyricGPTTokenizer

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        LyricGPTTokenizer.from_alphabet(string.printable).save_pretrained(folder.name)
        cls.from_pretrained_id = folder.name
        super().setUpClass()


class TokenizerTest(SavedTokenizer, TokenizerTesterMixin, unittest.TestCase):
    test_tokenizer_from_extractor = False  # it would call the class with a bare vocabulary
    integration_test_input_string = TEXT
    integration_expected_decoded_text = TEXT
    integration_expected_tokens = list(TEXT)
    integration_expected_token_ids = [IN_ORDER.index(character) for character in TEXT]


class TokenizersBackendTest(SavedTokenizer, TokenizersBackendTesterMixin, unittest.TestCase):
    pass
