"""Many texts in one array of bytes, end to end as Arrow stores them, so that counting needs no Python loop."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset

from tokenization_lyricgpt.tokenization_lyricgpt import is_continuation, multibyte_characters

KINDS = ("line_endings", "trailing_blanks", "blank_lines", "control_characters", "normalized_songs")


@dataclass
class Batch:
    """Songs in one array of UTF-8 bytes.

    Attributes:
        data: All texts, one after the other, uint8, shape `(bytes,)`.
        offsets: Where each text begins, and where the last one ends, int64, shape `(songs + 1,)`.
        changed: Number of songs that cleaning changed.
        counts: Numbers of removed line endings, blanks, line breaks and control characters, and of songs converted to NFC.
    """

    data: np.ndarray
    offsets: np.ndarray
    changed: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))

    def text(self, song: int) -> str:
        return self.data[self.offsets[song] : self.offsets[song + 1]].tobytes().decode()


def sum_by_song(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Sums the values of each song, int64, shape `(songs,)`.

    Args:
        values: One per byte, shape `(offsets[-1],)`.
    """
    sums = np.zeros(len(offsets) - 1, dtype=np.int64)
    filled = offsets[:-1] < offsets[1:]
    if filled.any():  # (for an empty song, reduceat would give the first value of the next song)
        sums[filled] = np.add.reduceat(values, offsets[:-1][filled], dtype=np.int64)
    return sums


CODE_POINTS = 0x110000


def as_batch(texts: pa.LargeStringArray | pa.LargeBinaryArray) -> Batch:
    """Returns the texts of an array as a batch, without copying them."""
    _, offsets, data = texts.buffers()
    if len(texts) == 0 or data is None:
        return Batch(np.zeros(0, np.uint8), np.zeros(len(texts) + 1, np.int64))
    offsets = np.frombuffer(offsets, np.int64, len(texts) + 1, 8 * texts.offset)
    return Batch(np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]], offsets - offsets[0])


def as_strings(batch: Batch) -> pa.LargeStringArray:
    """Returns the songs as a string array, without copying them."""
    return pa.LargeStringArray.from_buffers(
        len(batch.offsets) - 1, pa.py_buffer(np.ascontiguousarray(batch.offsets)), pa.py_buffer(batch.data)
    )


def count_code_points(data: np.ndarray) -> np.ndarray:
    """Counts each code point in UTF-8 bytes, int64, from 0 to the largest that occurs (at least to 127)."""
    # (numpy's bincount would first convert each byte to an int64)
    found = torch.bincount(torch.from_numpy(np.array(data)), minlength=128).numpy()
    if len(found) <= 128:
        return found
    _, code_points = multibyte_characters(data)
    counts = np.bincount(code_points, minlength=128)
    counts[:128] += found[:128]
    return counts


def count_characters(batch: Batch) -> np.ndarray:
    """Counts the characters of each song, int64, shape `(songs,)`."""
    lengths = np.diff(batch.offsets)
    if len(batch.data) and batch.data.max() >= 0x80:
        lengths -= sum_by_song(is_continuation(batch.data), batch.offsets)
    return lengths


class MappedTexts:
    """All texts of a dataset as one array of bytes, from which any rows can be taken. Making it copies no text.

    The array spans all the memory that holds the chunks of the column, usually mapped files. Between two chunks, it has an
    element that covers the gap and is never read. Pickling it pickles only the dataset.
    """

    def __init__(self, dataset: Dataset):
        self.dataset = dataset
        self.chunks = [chunk for chunk in dataset.data.column("text").chunks if len(chunk)]
        places = [chunk.buffers()[2].address for chunk in self.chunks]
        in_memory = np.argsort(places)
        base = places[in_memory[0]]
        edges, elements, count = [], {}, 0
        for number in in_memory.tolist():
            chunk = self.chunks[number]
            offsets = np.frombuffer(chunk.buffers()[1], np.int64, len(chunk) + 1, 8 * chunk.offset)
            edges.append(offsets + (places[number] - base))
            elements[number] = np.arange(count, count + len(chunk))
            count += len(chunk) + 1  # (one for the gap)
        edges = np.concatenate(edges)
        memory = pa.foreign_buffer(base, int(edges[-1]), base=self.chunks)
        buffers = [None, pa.py_buffer(edges), memory]
        self.array = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(edges) - 1, buffers)
        self.elements = np.concatenate([elements[number] for number in range(len(self.chunks))])

    def __reduce__(self):
        return MappedTexts, (self.dataset,)

    def take(self, rows: np.ndarray) -> pa.LargeBinaryArray:
        return self.array.take(pa.array(self.elements[rows]))
