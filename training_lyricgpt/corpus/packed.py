"""Many texts as one: their bytes end to end, as Arrow holds them, counted without a Python loop."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset

from tokenization_lyricgpt.tokenization_lyricgpt import is_continuation, multibyte_characters

KINDS = ("line_endings", "trailing_blanks", "blank_lines", "control_characters", "normalized_songs")


@dataclass
class Batch:
    """Songs as one run of UTF-8 bytes.

    Attributes:
        data: All texts, one after the other, uint8, shape `(bytes,)`.
        offsets: Where each begins, and the end of the last, int64, shape `(songs + 1,)`.
        changed: Songs that cleaning changed.
        counts: What it changed: line endings, blanks, line breaks and control characters taken out, songs brought to NFC.
    """

    data: np.ndarray
    offsets: np.ndarray
    changed: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))

    def text(self, song: int) -> str:
        return self.data[self.offsets[song] : self.offsets[song + 1]].tobytes().decode()


def sum_by_song(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Sums of each song's values, int64, shape `(songs,)`.

    Args:
        values: One a byte, shape `(offsets[-1],)`.
    """
    sums = np.zeros(len(offsets) - 1, dtype=np.int64)
    filled = offsets[:-1] < offsets[1:]
    if filled.any():  # (reduceat would give an empty song the next one's first value)
        sums[filled] = np.add.reduceat(values, offsets[:-1][filled], dtype=np.int64)
    return sums


CODE_POINTS = 0x110000


def as_batch(texts: pa.LargeStringArray | pa.LargeBinaryArray) -> Batch:
    """The bytes of an array, not copied."""
    _, offsets, data = texts.buffers()
    if len(texts) == 0 or data is None:
        return Batch(np.zeros(0, np.uint8), np.zeros(len(texts) + 1, np.int64))
    offsets = np.frombuffer(offsets, np.int64, len(texts) + 1, 8 * texts.offset)
    return Batch(np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]], offsets - offsets[0])


def as_strings(batch: Batch) -> pa.LargeStringArray:
    """Songs as a string array, not copied."""
    return pa.LargeStringArray.from_buffers(
        len(batch.offsets) - 1, pa.py_buffer(np.ascontiguousarray(batch.offsets)), pa.py_buffer(batch.data)
    )


def count_code_points(data: np.ndarray) -> np.ndarray:
    """How often each code point occurs in UTF-8 bytes, int64, as long as the largest needs."""
    # (numpy's bincount would make eight bytes of each)
    found = torch.bincount(torch.from_numpy(np.array(data)), minlength=128).numpy()
    if len(found) <= 128:
        return found
    _, code_points = multibyte_characters(data)
    counts = np.bincount(code_points, minlength=128)
    counts[:128] += found[:128]
    return counts


def count_characters(batch: Batch) -> np.ndarray:
    """Characters of each song, int64, shape `(songs,)`."""
    lengths = np.diff(batch.offsets)
    if len(batch.data) and batch.data.max() >= 0x80:
        lengths -= sum_by_song(is_continuation(batch.data), batch.offsets)
    return lengths


class MappedTexts:
    """All texts of a dataset as one array of bytes, without copying them, to gather any rows from.

    The array spans all of the memory that the chunks of the column lie in, mapped files as a rule; between two chunks it has an
    element that covers the gap and is never read. Pickled, it is the dataset.
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
            count += len(chunk) + 1  # and the gap
        edges = np.concatenate(edges)
        memory = pa.foreign_buffer(base, int(edges[-1]), base=self.chunks)
        buffers = [None, pa.py_buffer(edges), memory]
        self.array = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(edges) - 1, buffers)
        self.elements = np.concatenate([elements[number] for number in range(len(self.chunks))])

    def __reduce__(self):
        return MappedTexts, (self.dataset,)

    def take(self, rows: np.ndarray) -> pa.LargeBinaryArray:
        return self.array.take(pa.array(self.elements[rows]))
