"""Character tokenizer of LyricGPT: one character is one token, and nothing is lost.

Notes:
- It is a `tokenizers` model, so its `tokenizer.json` loads in plain transformers (4 and 5) without this code. The model
  is a BPE without merges, which turns each unknown character into one `<|unk|>` token.
- Ids: special tokens first (`<|endoftext|>`, `<|unk|>`, `<|pad|>`), then the alphabet by code point.
- `decode(encode(text)) == text` for any text made of known characters.
- `encode_utf8` and `encode_corpus` give the same ids for a whole corpus at memory speed: they look up UTF-8 bytes in a
  table, without a Python loop over characters. In a corpus, the text `<|endoftext|>` is read as 13 ordinary
  characters.
- A tokenizer without special tokens has no `<|unk|>`, so an unknown character is an error that names it.
- `song_template` is a Jinja template of `artist`, `title` and `text`; `None` renders the text alone.
"""

import json
import os
from collections.abc import Iterable, Sequence

import numpy as np
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<|unk|>"
PADDING = "<|pad|>"
SPECIAL_TOKENS = (END_OF_TEXT, UNKNOWN, PADDING)


class UnknownCharacterError(ValueError):
    """A text has characters outside the alphabet, and the tokenizer has no `<|unk|>` to replace them with."""


def describe_characters(characters: Iterable[str], most: int = 10) -> str:
    """Lists characters for a message: `'é' (U+00E9), '☃' (U+2603)`."""
    characters = sorted(set(characters))
    names = ", ".join(f"{character!r} (U+{ord(character):04X})" for character in characters[:most])
    return names + (f" and {len(characters) - most} more" if len(characters) > most else "")


def multibyte_characters(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the characters in UTF-8 bytes that are not ASCII.

    Args:
        data: Valid UTF-8 (surrogates allowed), uint8, shape `(bytes,)`.

    Returns:
        places: where each character begins, int64, shape `(characters,)`.
        code_points: the code point of each, uint32, shape `(characters,)`.
    """
    places = np.flatnonzero(data >= 0xC0)
    first = data[places].astype(np.uint32)
    code_points = (first & 0x1F) << 6 | data[places + 1] & 0x3F  # of two bytes
    longer = np.flatnonzero(first >= 0xE0)
    more = places[longer]
    code_points[longer] = (code_points[longer] & 0x3FF) << 6 | data[more + 2] & 0x3F  # of three
    longest = longer[first[longer] >= 0xF0]
    code_points[longest] = (code_points[longest] & 0x7FFF) << 6 | data[places[longest] + 3] & 0x3F
    return places, code_points


def is_continuation(data: np.ndarray) -> np.ndarray:
    """Returns whether each UTF-8 byte continues a character, bool, in the shape of `data`."""
    return data.view(np.int8) < -64


class LyricGPTTokenizer(PreTrainedTokenizerFast):
    """A character tokenizer with a fixed alphabet. Build one with `LyricGPTTokenizer.from_alphabet`."""

    vocab_files_names = {"tokenizer_file": "tokenizer.json"}
    model_input_names = ["input_ids", "attention_mask"]

    # No __init__: with one, transformers would rebuild the backend without its pre-tokenizer and decoder.

    @classmethod
    def from_alphabet(
        cls, alphabet: Iterable[str], special_tokens: bool = True, song_template: str | None = None
    ) -> "LyricGPTTokenizer":
        """Builds a tokenizer for the given characters.

        Args:
            alphabet: Single characters. Order and repetitions do not matter.
            special_tokens: Whether `<|endoftext|>`, `<|unk|>` and `<|pad|>` take the ids 0, 1 and 2.
            song_template: How a song and its header are rendered (Jinja), stored in `tokenizer_config.json`.

        Raises:
            ValueError: the alphabet is empty, or an entry is not a single character.
        """
        alphabet = sorted(set(alphabet))
        if not alphabet:
            raise ValueError("the alphabet is empty: a tokenizer needs at least one character")
        if wrong := [entry for entry in alphabet if len(entry) != 1]:
            raise ValueError(f"the alphabet holds {wrong[0]!r}, which is not a single character")
        named = SPECIAL_TOKENS if special_tokens else ()
        vocab = {token: index for index, token in enumerate((*named, *alphabet))}
        backend = Tokenizer(
            models.BPE(vocab=vocab, merges=[], unk_token=UNKNOWN if special_tokens else None, fuse_unk=False)
        )
        # Splitting into words, each with the space before it, keeps the time linear in the length of the text.
        backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s?\S+|\s+"), "isolated")
        backend.decoder = decoders.Fuse()
        backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in named])
        names = {}
        if special_tokens:
            names = {
                "bos_token": END_OF_TEXT,
                "eos_token": END_OF_TEXT,
                "unk_token": UNKNOWN,
                "pad_token": PADDING,
            }
        return cls(
            tokenizer_object=backend,
            clean_up_tokenization_spaces=False,
            padding_side="left",
            song_template=song_template,
            **names,
        )

    @property
    def alphabet(self) -> str:
        """The known characters in the order of their ids, without special tokens."""
        vocab = self.get_vocab()
        special = set(self.all_special_tokens)
        return "".join(sorted((token for token in vocab if token not in special and len(token) == 1), key=vocab.get))

    def unknown_characters(self, text: str) -> list[str]:
        """Returns the distinct characters of `text` that are not in the alphabet, sorted by code point."""
        return sorted(set(text).difference(self.get_vocab()))

    def __call__(self, text=None, text_pair=None, *args, **kwargs):
        self._refuse_unknown(text, text_pair, kwargs.get("text_target"), kwargs.get("text_pair_target"))
        return super().__call__(text, text_pair, *args, **kwargs)

    def encode(self, text, text_pair=None, *args, **kwargs):
        self._refuse_unknown(text, text_pair)
        return super().encode(text, text_pair, *args, **kwargs)

    def tokenize(self, text, pair=None, *args, **kwargs):
        self._refuse_unknown(text, pair)
        return super().tokenize(text, pair, *args, **kwargs)

    def _batch_encode_plus(self, batch_text_or_text_pairs, *args, **kwargs):
        # Only transformers 4 has this method, and `encode_plus` and `batch_encode_plus`, which call it.
        self._refuse_unknown(batch_text_or_text_pairs)
        return super()._batch_encode_plus(batch_text_or_text_pairs, *args, **kwargs)

    def _refuse_unknown(self, *texts) -> None:
        if self.unk_token is not None:
            return
        for text in texts:  # without an unknown token, the backend would silently drop a character
            if isinstance(text, (list, tuple)):
                self._refuse_unknown(*text)
            elif isinstance(text, str) and (unknown := self.unknown_characters(text)):
                raise UnknownCharacterError(
                    f"the alphabet of this model has no {describe_characters(unknown)}; it has {len(self.alphabet)} "
                    f"characters: {self.alphabet!r}. Leave out the unknown ones, or train a model with special_tokens set to true"
                )

    def encode_utf8(self, data: np.ndarray) -> np.ndarray:
        """Encodes UTF-8 bytes, vectorized.

        The ids are those of `tokenizer(text, split_special_tokens=True, add_special_tokens=False)`.

        Args:
            data: Valid UTF-8 (surrogates allowed), uint8, shape `(bytes,)`.

        Returns:
            Ids of the smallest unsigned type, shape `(characters,)`.

        Raises:
            UnknownCharacterError: a character is not in the alphabet and there is no `<|unk|>`.
        """
        table, missing = self._code_point_table()
        if table.dtype == np.uint8:  # twice as fast as indexing
            ids = np.frombuffer(bytearray(data).translate(table[:256].tobytes()), np.uint8)
        else:
            ids = table[:256][data]
        if len(data) and data.max() >= 0x80:
            places, code_points = multibyte_characters(data)
            # Every code point past the table shares its last entry, which is never a known character.
            ids[places] = table[np.minimum(code_points, len(table) - 1)]
            ids = ids[~is_continuation(data)]
        if self.unk_token is None and (ids == missing).any():
            names = describe_characters(self.unknown_characters(data.tobytes().decode("utf-8", "surrogatepass")))
            raise UnknownCharacterError(
                f"the alphabet has no {names}; set alphabet to corpus, or special_tokens to true so that they become {UNKNOWN}"
            )
        return ids

    def encode_corpus(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Encodes many texts at once. The ids are those of `encode_utf8`.

        Args:
            texts: Any number of texts.

        Returns:
            ids: the ids of all texts one after the other, of the smallest unsigned type, shape `(characters,)`.
            lengths: the number of ids of each text, int64, shape `(len(texts),)`.

        Raises:
            UnknownCharacterError: a character is not in the alphabet and there is no `<|unk|>`.
        """
        lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
        return self.encode_utf8(np.frombuffer("".join(texts).encode("utf-8", "surrogatepass"), np.uint8)), lengths

    @property
    def id_dtype(self) -> np.dtype:
        """The smallest unsigned type that holds every id."""
        return np.min_scalar_type(len(self))  # there is one value to spare, which marks a missing character

    def _code_point_table(self) -> tuple[np.ndarray, int]:
        """Returns a table of ids by code point, and the value that marks a missing character.

        The table ends after the last character of the alphabet, and never before the end of Latin-1.
        """
        vocab = self.get_vocab()
        alphabet = self.alphabet
        missing = len(vocab) if self.unk_token is None else self.unk_token_id
        table = np.full(max(ord(max(alphabet)) + 2, 0x101), missing, dtype=self.id_dtype)
        table[[ord(character) for character in alphabet]] = [vocab[character] for character in alphabet]
        return table, missing

    def render_song(self, text: str, artist: str = "", title: str = "") -> str:
        """Returns a song as it is in the training text: `text` alone, or the song template filled in."""
        template = self.init_kwargs.get("song_template")
        if template is None:
            return text
        names = {"artist": " ".join(artist.split()), "title": " ".join(title.split())}  # a header has each on one line
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        return environment.from_string(template).render(**names, text=text)

    def song_prompt(self, artist: str = "", title: str = "") -> str:
        """Returns the prompt that starts a song: the token that begins one, and a header if there is a song template."""
        return (self.bos_token or "") + self.render_song("", artist=artist, title=title)

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs) -> tuple[str, ...]:
        """Saves `tokenizer.json`, `tokenizer_config.json` and this file.

        `tokenizer_config.json` names `PreTrainedTokenizerFast`, which every release of transformers has, and this class
        only in `auto_map`. So users get this class with `trust_remote_code`, and without it a class that gives the same
        ids.
        """
        saved = super().save_pretrained(save_directory, *args, **kwargs)
        path = os.path.join(save_directory, "tokenizer_config.json")
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        for name in ("is_local", "local_files_only"):  # they say only how it was loaded here
            config.pop(name, None)
        with open(path, "w", encoding="utf-8") as file:
            file.write(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
        return saved


__all__ = ["LyricGPTTokenizer", "UnknownCharacterError"]
