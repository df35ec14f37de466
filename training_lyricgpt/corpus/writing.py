"""Writes the songs of a split as a token stream, with `Dataset.map` in several processes.

Notes:
- The position of each song is known beforehand, so each process writes its ids directly to their place in one flat file.
  There is no second copy of the corpus, and no process waits for another.
- Texts are read from the memory-mapped Arrow file a few megabytes at a time.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset

from tokenization_lyricgpt import LyricGPTTokenizer

from .packed import MappedTexts, as_batch, count_characters
from .splitting import Part
from .streams import SONG_SCHEMA

COPIED_BYTES = 1 << 24  # of a stream at once
BATCH_BYTES = 1 << 22  # of text per call of the tokenizer
MOST_SONGS = 4000  # per call of the tokenizer


def write_stream(
    path: Path,
    part: Part,
    tokenizer: LyricGPTTokenizer,
    begins: np.ndarray,
    total: int,
    separator: str,
    num_proc: int | None = None,
) -> None:
    """Writes the ids of a split's songs and their headers to a file, in the smallest unsigned type.

    Args:
        begins: The first token of each song, shape `(songs,)`, as `lay_out` computes it.
        total: Number of tokens in the stream.
        separator: Text between songs. Empty: `<|endoftext|>` is between them, and also begins and ends the stream.
        num_proc: Number of processes that tokenize. None: only this one.

    Raises:
        UnknownCharacterError: see `LyricGPTTokenizer.encode_utf8`.
    """
    dtype, texts, marks = tokenizer.id_dtype, MappedTexts(part.songs.dataset), not separator
    with path.open("wb") as file:
        if marks:
            file.write(np.array([tokenizer.eos_token_id], dtype).tobytes())
        file.truncate(total * dtype.itemsize)
    # `<|endoftext|>` isn't a character, so a line break holds its place.
    between = pa.scalar((separator or "\n").encode(), pa.large_binary())
    nothing = pa.scalar(b"", pa.large_binary())

    def tokenize(batch: pa.Table) -> None:
        rows, header = batch["row"].to_numpy(), batch["header"].combine_chunks()
        pieces = [header.cast(pa.large_binary()), texts.take(rows), between]
        songs = as_batch(pa.compute.binary_join_element_wise(*pieces, nothing))
        ids = tokenizer.encode_utf8(songs.data)
        if marks:
            ids[np.cumsum(count_characters(songs)) - 1] = tokenizer.eos_token_id
        with path.open("r+b") as file:
            file.seek(batch["begin"][0].as_py() * dtype.itemsize)
            file.write(ids)

    # The processes map the layout from a file. If it were in memory, all of it would be sent to each of them, and back.
    layout = path.with_suffix(".layout.arrow")
    table = pa.table({"row": part.rows, "begin": begins, "header": part.headers})
    with layout.open("wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    mean = max(1, int(part.songs.characters[part.rows].mean()))
    Dataset.from_file(str(layout)).with_format("arrow").map(
        tokenize,
        batched=True,
        batch_size=int(min(MOST_SONGS, max(1, BATCH_BYTES // mean))),
        num_proc=num_proc,
        new_fingerprint="tokens",
        desc="tokenizing",
    )
    layout.unlink()
    with path.open("r+b") as file:  # removes the separator after the last song
        file.truncate(total * dtype.itemsize)


def cut_stream(folder: Path, cut: int, dtype: np.dtype) -> None:
    """Moves the end of the training stream, from token `cut` on, to the validation stream."""
    with (folder / "train.bin").open("r+b") as train, (folder / "validation.bin").open("wb") as validation:
        train.seek(cut * dtype.itemsize)
        while block := train.read(COPIED_BYTES):
            validation.write(block)
        train.truncate(cut * dtype.itemsize)


def write_songs(path: Path, part: Part, begins: np.ndarray, lyrics: np.ndarray, ends: np.ndarray) -> None:
    """Writes the artist, title and position of each song of a stream."""
    names = part.songs.dataset.select_columns(["artist", "song"]).with_format("arrow")[:].combine_chunks()
    names = names.take(pa.array(part.rows))
    table = pa.table([names["artist"], names["song"], begins, lyrics, ends], schema=SONG_SCHEMA)
    with path.open("wb") as file, pa.ipc.new_file(file, SONG_SCHEMA) as writer:
        writer.write_table(table)


def write_cut_songs(folder: Path, part: Part, begins: np.ndarray, ends: np.ndarray, cut: int) -> None:
    """Writes the songs on each side of a cut. A song that the cut divides is on both sides."""
    sides = {"train": (begins < cut, 0, cut), "validation": (ends > cut, cut, int(ends[-1]))}
    for split, (mask, first, last) in sides.items():
        begin, end = (np.clip(places[mask], first, last) - first for places in (begins, ends))
        write_songs(folder / f"{split}_songs.arrow", Part(part.songs, part.rows[mask]), begin, begin, end)
