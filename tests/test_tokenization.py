"""The tokenizer loses nothing, both ways to encode agree, and a saved one loads anywhere."""

import json
import random

import numpy as np
import pytest
from conftest import isolated

from tokenization_lyricgpt import LyricGPTTokenizer
from tokenization_lyricgpt.tokenization_lyricgpt import UnknownCharacterError

ALPHABET = "abc XYZ\r\n\t.,!'\"’“é☃𝄞\u00a0<|>endoftxunkp"


@pytest.fixture
def tokenizer():
    return LyricGPTTokenizer.from_alphabet(ALPHABET)


def scalar(tokenizer, text):
    """The ids from an ordinary call that reads special tokens as characters, as in a corpus."""
    return tokenizer(text, split_special_tokens=True, add_special_tokens=False).input_ids


def random_texts(count, alphabet, seed=0):
    draw = random.Random(seed)
    return ["".join(draw.choices(alphabet, k=draw.randint(0, 60))) for _ in range(count)]


def test_ids_are_the_special_tokens_and_then_the_alphabet_by_code_point(tokenizer):
    expected = ["<|endoftext|>", "<|unk|>", "<|pad|>", *sorted(set(ALPHABET))]
    assert tokenizer.convert_ids_to_tokens(range(len(tokenizer))) == expected
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, tokenizer.pad_token_id) == (
        0,
        0,
        1,
        2,
    )


def test_text_is_unchanged_after_encoding_and_decoding(tokenizer):
    for text in [*random_texts(300, ALPHABET), "", " ", "  \r\n\r\n ", "a  b .", "<|endoftext|>", "<|unk|> <|pad|>"]:
        assert tokenizer.decode(scalar(tokenizer, text)) == text


def test_one_character_is_one_token(tokenizer):
    for text in random_texts(100, ALPHABET):
        assert len(scalar(tokenizer, text)) == len(text)


@pytest.mark.parametrize("special_tokens", [True, False])
def test_the_vectorized_path_gives_the_same_ids(special_tokens):
    tokenizer = LyricGPTTokenizer.from_alphabet(ALPHABET, special_tokens=special_tokens)
    unknown = "Qß漢" if special_tokens else ""
    texts = [*random_texts(300, ALPHABET + unknown), "", "<|endoftext|>a<|unk|>"]
    ids, lengths = tokenizer.encode_corpus(texts)
    assert ids.dtype == np.uint8
    assert lengths.tolist() == [len(text) for text in texts]
    for text, part in zip(texts, np.split(ids, np.cumsum(lengths)[:-1]), strict=True):
        assert part.tolist() == scalar(tokenizer, text)


def test_large_alphabets_use_wider_ids():
    tokenizer = LyricGPTTokenizer.from_alphabet(map(chr, range(0x4E00, 0x4E00 + 300)))
    ids, _ = tokenizer.encode_corpus(["一丁"])
    assert ids.dtype == np.uint16
    assert ids.tolist() == [3, 4]


def test_unknown_characters_become_unk_one_by_one(tokenizer):
    assert scalar(tokenizer, "aQQb") == [*scalar(tokenizer, "a"), 1, 1, *scalar(tokenizer, "b")]


def test_without_unk_unknown_characters_are_an_error_that_names_them():
    tokenizer = LyricGPTTokenizer.from_alphabet("abc", special_tokens=False)
    for encode in (
        tokenizer,
        tokenizer.encode,
        lambda text: tokenizer([text, "a"]),
        lambda t: tokenizer.encode_corpus([t]),
    ):
        with pytest.raises(UnknownCharacterError, match=r"'Q' \(U\+0051\), '☃' \(U\+2603\)"):
            encode("aQ☃b")


def test_the_spelling_of_a_special_token_is_characters_in_a_corpus_and_a_token_in_a_prompt(tokenizer):
    assert len(scalar(tokenizer, "<|endoftext|>")) == 13
    assert tokenizer("<|endoftext|>").input_ids == [0]


def test_nothing_is_added_to_a_text(tokenizer):
    assert tokenizer("ab").input_ids == scalar(tokenizer, "ab")


def test_offsets_are_given_and_padding_and_truncation_work_on_both_sides(tokenizer):
    assert tokenizer("a b", return_offsets_mapping=True).offset_mapping == [(0, 1), (1, 2), (2, 3)]
    batch = tokenizer(["abc", "a"], padding=True)
    assert batch.input_ids[1][:2] == [2, 2]  # on the left, where generation wants it
    assert tokenizer(["abc", "a"], padding=True, padding_side="right").input_ids[1][1:] == [2, 2]
    assert tokenizer("abc", truncation=True, max_length=2).input_ids == scalar(tokenizer, "ab")
    tokenizer.truncation_side = "left"
    assert tokenizer("abc", truncation=True, max_length=2).input_ids == scalar(tokenizer, "bc")


def test_an_alphabet_entry_of_two_characters_is_refused():
    with pytest.raises(ValueError, match="'ab'"):
        LyricGPTTokenizer.from_alphabet(["a", "ab"])


def test_the_song_template_is_saved_and_renders_songs(tmp_path):
    template = "{% if title %}= {{ title }} =\n{% endif %}{{ text }}"
    LyricGPTTokenizer.from_alphabet("ab= \n", song_template=template).save_pretrained(tmp_path)
    loaded = LyricGPTTokenizer.from_pretrained(tmp_path)
    assert loaded.render_song("aa", title="b") == "= b =\naa"
    assert loaded.song_prompt(title="b") == "<|endoftext|>= b =\n"
    assert loaded.song_prompt() == "<|endoftext|>"


def test_without_a_template_a_song_is_its_text(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["song_template"] is None
    loaded = LyricGPTTokenizer.from_pretrained(tmp_path)
    assert loaded.render_song("aa", artist="b", title="c") == "aa"


COMPARE = """
import sys, json
from transformers import AutoTokenizer, PreTrainedTokenizerFast
folder, text = sys.argv[1:]
stock = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
ours = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
plain = PreTrainedTokenizerFast.from_pretrained(folder)
assert type(ours).__name__ == "LyricGPTTokenizer" != type(stock).__name__, (type(ours), type(stock))
ids = [t(text, split_special_tokens=True).input_ids for t in (stock, ours, plain)]
assert ids[0] == ids[1] == ids[2], ids
assert stock.decode(ids[0]) == ours.decode(ids[0]) == text
print(json.dumps(ids[0]))
"""


def test_a_saved_tokenizer_loads_with_and_without_its_code_and_gives_the_same_ids(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    text = "a  <|endoftext|> é☃\r\n𝄞 .!"
    result = isolated(COMPARE, tmp_path, text)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == scalar(tokenizer, text)
