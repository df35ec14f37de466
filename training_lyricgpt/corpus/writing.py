"""Songs become a token stream: `Dataset.map` over the songs of a split, in their order, in several processes.

Notable:
- Where each song stands is known beforehand, so each process writes its ids to their place in the one flat file: no second copy of
  the corpus, and no process waits for another.
- Texts are gathered from the mapped Arrow file a few megabytes at a time.
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
BATCH_BYTES = 1 << 22  # of text that one call of the tokenizer gets
MOST_SONGS = 4000  # in such a batch


def write_stream(
    path: Path,
    part: Part,
    tokenizer: LyricGPTTokenizer,
    begins: np.ndarray,
    total: int,
    separator: str,
    num_proc: int | None = None,
) -> None:
    """Writes the ids of a split's songs, headers included, each to its place; the smallest unsigned type.

    Args:
        begins: The first token of each song, shape `(songs,)`, of the layout that `lay_out` gives.
        total: Tokens of the stream.
        separator: What stands between songs; empty where `<|endoftext|>` does, which then also begins and ends the stream.
        num_proc: Processes that tokenize; None: this one.

    Raises:
        UnknownCharacterError: see `LyricGPTTokenizer.encode_utf8`.
    """
    dtype, texts, marks = tokenizer.id_dtype, MappedTexts(part.songs.dataset), not separator
    with path.open("wb") as file:
        if marks:
            file.write(np.array([tokenizer.eos_token_id], dtype).tobytes())
        file.truncate(total * dtype.itemsize)
    # A line break holds the place of `<|endoftext|>`, which is no character.
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

    # In a file, the processes map what they get of it; in memory, each would be sent all of it, and send it back.
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
    with path.open("r+b") as file:  # nothing stands after the last song
        file.truncate(total * dtype.itemsize)


def cut_stream(folder: Path, cut: int, dtype: np.dtype) -> None:
    """Moves what stands in the training stream from token `cut` on to the validation stream."""
    with (folder / "train.bin").open("r+b") as train, (folder / "validation.bin").open("wb") as validation:
        train.seek(cut * dtype.itemsize)
        while block := train.read(COPIED_BYTES):
            validation.write(block)
        train.truncate(cut * dtype.itemsize)


def write_songs(path: Path, part: Part, begins: np.ndarray, lyrics: np.ndarray, ends: np.ndarray) -> None:
    """Writes where each song of a stream stands and what it is called."""
    names = part.songs.dataset.select_columns(["artist", "song"]).with_format("arrow")[:].combine_chunks()
    names = names.take(pa.array(part.rows))
    table = pa.table([names["artist"], names["song"], begins, lyrics, ends], schema=SONG_SCHEMA)
    with path.open("wb") as file, pa.ipc.new_file(file, SONG_SCHEMA) as writer:
        writer.write_table(table)


def write_cut_songs(folder: Path, part: Part, begins: np.ndarray, ends: np.ndarray, cut: int) -> None:
    """Writes the songs of both sides of a cut; the one that it divides is on both."""
    sides = {"train": (begins < cut, 0, cut), "validation": (ends > cut, cut, int(ends[-1]))}
    for split, (mask, first, last) in sides.items():
        begin, end = (np.clip(places[mask], first, last) - first for places in (begins, ends))
        write_songs(folder / f"{split}_songs.arrow", Part(part.songs, part.rows[mask]), begin, begin, end)
