"""Finds what a text copies from the training songs: the longest copied run at each character, exactly, and its song.

A run is a stretch of characters that also occurs in the training songs.

Notes:
- It builds a suffix array of the training stream (libdivsufsort, through pydivsufsort) and searches it for all characters
  of a text at once: 27 steps of a binary search find the longest run in 70 million characters.
- A longer stream is indexed piece by piece, cut between songs, so that memory does not grow with the corpus. A piece takes
  about five bytes per character. The array of one piece stays in memory for the next search. It is never written to disk.
- If songs are separated by `<|endoftext|>`, a run ends with its song at the latest. Unknown characters match nothing.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from pydivsufsort import divsufsort
from tqdm import tqdm

from tokenization_lyricgpt import LyricGPTTokenizer

from ..corpus.streams import TokenStream

PIECE_TOKENS = 1 << 27
COMPARED = 32  # characters compared at a time
ENDED, NOT_THERE, NEVER = -1, -2, -3  # end of a text, end of a piece, unknown character: none matches a token


@dataclass
class Runs:
    """The longest copied run that begins at each character of a text.

    Attributes:
        lengths: In characters, int64, shape `(characters,)`.
        positions: Where the run begins in the training stream, int64, shape `(characters,)`; 0 where nothing is copied.
    """

    lengths: np.ndarray
    positions: np.ndarray


@dataclass
class Passage:
    """A copied run that is not part of a longer one: characters `begin` to `end` of text number `text`, and its song."""

    text: int
    begin: int
    end: int
    artist: str
    title: str


class TrainingIndex:
    """An index of the training songs, to find copied runs.

    Args:
        stream: The training stream; its `songs` say where each song begins.
        tokenizer: The tokenizer of that stream.
    """

    def __init__(self, stream: TokenStream, tokenizer: LyricGPTTokenizer):
        self.stream, self.tokenizer = stream, tokenizer
        begins = stream.songs["begin"].to_numpy()
        cuts = [0]
        while len(stream) - cuts[-1] > PIECE_TOKENS:
            # Cut where the last song of the piece begins, or within a song that is longer than a piece.
            song = np.searchsorted(begins, cuts[-1] + PIECE_TOKENS, side="right") - 1
            cut = int(begins[song]) if song >= 0 else 0
            cuts.append(cut if cut > cuts[-1] else cuts[-1] + PIECE_TOKENS)
        self.pieces = list(zip(cuts, [*cuts[1:], len(stream)], strict=True))
        self.suffixes = lru_cache(maxsize=1)(self._suffixes)

    def _suffixes(self, piece: int) -> np.ndarray:
        begin, end = self.pieces[piece]
        return divsufsort(np.array(self.stream.ids[begin:end]))

    def longest_runs(self, texts: list[str]) -> list[Runs]:
        """Returns the longest copied run that begins at each character of each text."""
        unknown = self.tokenizer.unk_token_id
        encoded = [self._encode(text, unknown) for text in texts]
        query = np.concatenate([*encoded, np.full(COMPARED, ENDED)])
        lengths, positions = np.zeros(len(query), dtype=np.int64), np.zeros(len(query), dtype=np.int64)
        progress = tqdm(
            self.pieces, desc="searching for copies", disable=None if len(self.pieces) > 1 else True, leave=False
        )
        for piece, (begin, end) in enumerate(progress):
            found, places = search(self.stream.ids[begin:end], self.suffixes(piece), query)
            longer = found > lengths
            lengths[longer], positions[longer] = found[longer], places[longer] + begin
        ends = np.cumsum([len(ids) for ids in encoded])
        parts = [slice(end - len(ids), end - 1) for ids, end in zip(encoded, ends, strict=True)]
        return [Runs(lengths[part], positions[part]) for part in parts]

    def _encode(self, text: str, unknown: int | None) -> np.ndarray:
        """Returns a text's ids, int64, followed by one that marks its end."""
        vocab = self.tokenizer.get_vocab()
        ids = [vocab.get(character, NEVER) for character in text]
        return np.array([*ids, ENDED], dtype=np.int64)

    def song_at(self, position: int) -> tuple[str, str]:
        """Returns artist and title of the song at a position of the stream."""
        songs = self.stream.songs
        row = int(np.searchsorted(songs["begin"].to_numpy(), position, side="right")) - 1
        if row < 0:
            return "", ""
        return songs["artist"][row].as_py(), songs["title"][row].as_py()

    def passages(self, runs: list[Runs], at_least: int) -> list[Passage]:
        """Returns the copied passages of at least `at_least` characters, the longest first."""
        found = []
        for text, run in enumerate(runs):
            ends = np.arange(len(run.lengths)) + run.lengths
            # A run that ends where the one before it ends is part of that one.
            is_new = ends > np.concatenate([[0], ends[:-1]])
            for begin in np.flatnonzero(is_new & (run.lengths >= at_least)).tolist():
                found.append(Passage(text, begin, int(ends[begin]), *self.song_at(int(run.positions[begin]))))
        return sorted(found, key=lambda passage: passage.begin - passage.end)


def common_prefix(
    ids: np.ndarray, places: np.ndarray, query: np.ndarray, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns how many characters suffixes of a piece and of a text share, and whether the piece's suffix is smaller.

    Args:
        places: Where the suffixes of `ids` begin, shape `(n,)`.
        starts: Where the suffixes of `query` begin, shape `(n,)`.
    """
    lengths, smaller = np.zeros(len(places), dtype=np.int64), np.zeros(len(places), dtype=bool)
    active, steps = np.arange(len(places)), np.arange(COMPARED)
    while len(active):
        at = places[active, None] + lengths[active, None] + steps
        there = np.where(at < len(ids), ids[np.minimum(at, len(ids) - 1)].astype(np.int64), NOT_THERE)
        at = starts[active, None] + lengths[active, None] + steps
        here = query[np.minimum(at, len(query) - 1)]
        differs = there != here
        first = np.argmax(differs, axis=1)
        decided = differs.any(axis=1)
        rows = np.flatnonzero(decided)
        smaller[active[rows]] = there[rows, first[rows]] < here[rows, first[rows]]
        lengths[active] += np.where(decided, first, COMPARED)
        active = active[~decided]
    return lengths, smaller


def search(ids: np.ndarray, suffixes: np.ndarray, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the longest run of `ids` that begins at each character of `query`: lengths and places, int64."""
    starts = np.arange(len(query) - COMPARED)
    low, high = np.zeros(len(starts), dtype=np.int64), np.full(len(starts), len(suffixes), dtype=np.int64)
    active = np.arange(len(starts))
    while len(active):  # a binary search for the number of smaller suffixes
        middle = (low[active] + high[active]) // 2
        smaller = common_prefix(ids, suffixes[middle], query, starts[active])[1]
        low[active[smaller]] = middle[smaller] + 1
        high[active[~smaller]] = middle[~smaller]
        active = active[low[active] < high[active]]
    lengths, places = np.zeros(len(query), dtype=np.int64), np.zeros(len(query), dtype=np.int64)
    for neighbor in (low - 1, low):  # one of the two neighbors has the longest common prefix
        place = suffixes[np.clip(neighbor, 0, len(suffixes) - 1)].astype(np.int64)
        shared = common_prefix(ids, place, query, starts)[0]
        longer = shared > lengths[: len(starts)]
        lengths[:-COMPARED][longer], places[:-COMPARED][longer] = shared[longer], place[longer]
    return lengths, places
