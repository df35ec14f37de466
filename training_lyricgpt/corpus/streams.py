"""Token streams, and the windows that training reads from them.

Notes:
- A window is a block and the character after it: `block_size + 1` tokens.
- Each split is one flat stream, memory-mapped, of the smallest unsigned type that holds the alphabet. Offsets have 64 bits.
- A batch depends only on (seed, step): they set the key and counter of Philox, a counter-based random generator
  (https://numpy.org/doc/stable/reference/random/bit_generators/philox.html), whose raw output gives the window offsets.
  There is no sampler state.
- Evaluation windows depend only on (seed, split). A split with fewer windows than requested is read whole (its last window
  overlaps the one before it).
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from tokenization_lyricgpt import LyricGPTTokenizer

from .. import LyricGPTError

SPLITS = ("train", "validation")
# For each song: artist, title, its first token, its first token after the header, and one past its last token.
SONG_SCHEMA = pa.schema(
    [("artist", pa.large_string()), ("title", pa.large_string())]
    + [(name, pa.int64()) for name in ("begin", "lyrics", "end")]
)


# Keys of the counter-based generator, so that training and evaluation never share random numbers.
TRAIN_STREAM, EVALUATION_STREAM = 1, 2


@dataclass
class TokenStream:
    """The ids of one split, one after the other, memory-mapped and read-only.

    Attributes:
        songs: Artist, title and position of each song: `begin`, `lyrics` (after its header), `end`.
    """

    ids: np.ndarray  # (tokens,), unsigned
    songs: pa.Table = field(default_factory=lambda: SONG_SCHEMA.empty_table(), repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def windows(self, offsets: np.ndarray, block_size: int) -> torch.Tensor:
        """Returns the windows that begin at `offsets`, int64, shape `(len(offsets), block_size + 1)`."""
        positions = offsets.astype(np.int64)[:, None] + np.arange(block_size + 1, dtype=np.int64)
        return torch.from_numpy(self.ids[positions].astype(np.int64))

    @cached_property
    def headers(self) -> tuple[np.ndarray, np.ndarray]:
        """The first token of each header, and one past its last, in order. Songs without a header are left out."""
        begins, lyrics = (self.songs[name].to_numpy() for name in ("begin", "lyrics"))
        has_header = lyrics > begins
        return begins[has_header], lyrics[has_header]

    def is_header(self, offsets: np.ndarray, block_size: int) -> torch.Tensor | None:
        """Whether each next character in the windows at `offsets` belongs to a header, shape `(len(offsets), block_size)`.

        None if no song has a header.
        """
        begins, ends = self.headers
        if len(begins) == 0:
            return None
        positions = offsets.astype(np.int64)[:, None] + np.arange(1, block_size + 1, dtype=np.int64)
        header = np.searchsorted(begins, positions, side="right") - 1
        return torch.from_numpy((header >= 0) & (positions < ends[header]))


@dataclass
class TokenizedCorpus:
    """A prepared corpus, ready for training."""

    tokenizer: LyricGPTTokenizer
    train: TokenStream
    validation: TokenStream
    report: dict[str, Any]
    folder: Path  # in the cache

    def check_length(self, block_size: int) -> None:
        """Raises LyricGPTError if a split is shorter than a window."""
        for split in SPLITS:
            if (tokens := len(getattr(self, split))) < block_size + 1:
                raise LyricGPTError(
                    f"the {split} split has {tokens} characters, but needs at least block_size + 1 = {block_size + 1}. Use a "
                    f"smaller block_size, or {'a larger corpus' if split == 'train' else 'more validation songs'} (see "
                    "validation_fraction and validation_file)"
                )


def stream_text(tokenizer: LyricGPTTokenizer, ids: np.ndarray) -> str:
    """Converts ids of a stream to text, vectorized. `<|unk|>` becomes U+FFFD, any other special token a line break."""
    table = np.full(len(tokenizer), ord("\n"), dtype="<u4")
    if tokenizer.unk_token_id is not None:
        table[tokenizer.unk_token_id] = 0xFFFD
    vocab = tokenizer.get_vocab()
    for character in tokenizer.alphabet:
        table[vocab[character]] = ord(character)
    return table[ids].tobytes().decode("utf-32-le", "surrogatepass")


def random_offsets(stream_key: int, seed: int, counter: int, count: int, starts: int) -> np.ndarray:
    """Draws `count` offsets below `starts`, int64. The same arguments always give the same offsets.

    The bias of the modulo is below `starts / 2**64`.
    """
    generator = np.random.Philox(key=[seed % 2**64, stream_key], counter=[0, 0, counter, 0])
    return (generator.random_raw(count) % np.uint64(starts)).astype(np.int64)


def batch_offsets(seed: int, step: int, batch_size: int, tokens: int, block_size: int) -> np.ndarray:
    """Returns the window offsets of the global batch of a training step, shape `(batch_size,)`."""
    return random_offsets(TRAIN_STREAM, seed, step, batch_size, tokens - block_size)


def evaluation_offsets(seed: int, split: str, windows: int, tokens: int, block_size: int) -> np.ndarray:
    """Returns the window offsets of an evaluation: `windows` random ones, or, in a small split, all that cover it."""
    if windows * block_size >= tokens - 1:
        return np.minimum(np.arange(0, tokens - 1, block_size), tokens - 1 - block_size)
    return random_offsets(EVALUATION_STREAM, seed, SPLITS.index(split), windows, tokens - block_size)
