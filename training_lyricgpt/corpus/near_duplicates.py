"""Finds near-duplicates, songs that are almost the same: covers, reprints, transcriptions by different people.

Notes:
- Two songs are near-duplicates if their shingles have a Jaccard similarity of at least 0.35. A shingle is sixteen bytes of a
  song's letters and digits in lower case, joined without gaps, starting where a word begins. A character beyond ASCII always
  begins a word. So punctuation, line breaks, letter case and the number of times that a chorus is repeated don't count.
- rensa computes the MinHash signatures (Broder 1997). Songs that share a band of three values are compared by their whole
  signatures. This step finds 84% of the pairs with a similarity at the threshold, 94% of those at 0.4, and 99.6% of those at
  0.5.
- Measured on hymns and the embedded songs, each with a copy in which some words are replaced: 100% of the copies are found if
  5% of the words are replaced, 81% at 10% and 32% at 15%. No two different songs are called near-duplicates
  (`python benchmarks/leaks.py`).
- Signatures are in a memory-mapped file, 504 bytes per song. Only a few numbers per song are in memory.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import rensa
import xxhash
from datasets import Dataset, Features, List, Value
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .packed import Batch, as_batch

# Key in `corpus.json`: how many validation songs have a near-duplicate in training.
STRADDLING = "validation_songs_with_twin_in_training"
THRESHOLD = 0.35
PERMUTATIONS, BAND = 126, 3
SHINGLE_BYTES = 16
SEED = 42
# What each byte becomes in a shingle, or 0 if it separates words.
FOLDED = np.zeros(256, dtype=np.uint8)
for _character in b"0123456789abcdefghijklmnopqrstuvwxyz":
    FOLDED[_character] = FOLDED[ord(chr(_character).upper())] = _character
FOLDED[0x80:] = np.arange(0x80, 0x100)
BATCH_SONGS = 2000
COMPARED_PAIRS = 50_000  # at once


def mix(values: np.ndarray) -> np.ndarray:
    """Hashes uint64 values (with the finalizer of splitmix64)."""
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)


def shingle_hashes(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Hashes the shingles of all songs.

    Returns:
        hashes: uint64, shape `(shingles,)`.
        offsets: where the hashes of each song begin, and where the last ones end, uint64, shape `(songs + 1,)`.
    """
    folded = FOLDED.take(batch.data)
    in_word = folded != 0
    begins = in_word & (batch.data >= 0xC0)
    begins[1:] |= in_word[1:] & ~in_word[:-1]
    song_begins = batch.offsets[:-1][np.diff(batch.offsets) > 0]
    begins[song_begins] = in_word[song_begins]
    # Letters and digits only. Zeros follow those of each song, so that even a short song has a shingle.
    ends = np.concatenate([[0], np.cumsum(in_word)])[batch.offsets]  # letters before each song
    lengths = np.diff(ends)
    letters = np.zeros(ends[-1] + SHINGLE_BYTES * len(lengths) + 8, dtype=np.uint8)
    shifts = SHINGLE_BYTES * np.arange(len(lengths))
    places = np.flatnonzero(in_word)
    song = np.repeat(np.arange(len(lengths)), lengths)
    letters[np.arange(len(places)) + shifts[song]] = folded[places]
    is_begin = begins[places]
    starts, song = np.flatnonzero(is_begin), song[is_begin]
    # Keep the shingles that end within their song, and always the first one of each song.
    whole = starts + SHINGLE_BYTES <= ends[song + 1]
    whole[np.flatnonzero(np.diff(song, prepend=-1))] = True
    starts, song = starts[whole], song[whole]
    words = np.ndarray(len(letters) - 7, dtype="<u8", buffer=letters, strides=(1,))  # eight bytes from each place
    starts += shifts[song]
    hashes = mix(mix(words[starts]) + words[starts + 8])
    return hashes, np.searchsorted(song, np.arange(len(lengths) + 1)).astype(np.uint64)


def sign(texts: pa.LargeStringArray) -> np.ndarray:
    """Computes MinHash signatures, uint32, shape `(songs, PERMUTATIONS)`."""
    batch = as_batch(texts)
    if len(batch.data) and batch.data.max() >= 0x80:  # (FOLDED lowers only ASCII letters)
        batch = as_batch(pa.compute.utf8_lower(texts))
    hashes, offsets = shingle_hashes(batch)
    # A song without letters or digits is hashed whole, so that only exact copies match it.
    empty = np.flatnonzero(offsets[1:] == offsets[:-1])
    own = [xxhash.xxh3_64_intdigest(batch.text(song).encode()) for song in empty.tolist()]
    hashes = np.insert(hashes, offsets[empty].astype(np.int64), np.array(own, dtype=np.uint64))
    offsets[1:] += np.searchsorted(empty, np.arange(1, len(offsets))).astype(np.uint64)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, PERMUTATIONS, SEED)
    return np.array(matrix.to_rows(), dtype=np.uint32).reshape(len(texts), PERMUTATIONS)


def similar_pairs(signatures: np.ndarray, band: np.ndarray) -> np.ndarray:
    """Returns pairs of songs that share a band and are near-duplicates, int64, shape `(pairs, 2)`.

    Among songs with the same band, each is compared with the first one and with the one before it.

    Args:
        signatures: uint32, shape `(songs, PERMUTATIONS)`.
        band: One hash per song, uint64, shape `(songs,)`.
    """
    order = np.argsort(band, kind="stable")
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = np.diff(band[order]) != 0
    firsts, others = np.flatnonzero(is_first), np.flatnonzero(~is_first)
    first_of = firsts[np.searchsorted(firsts, others) - 1]
    left = np.concatenate([order[first_of], order[others - 1]])
    right = np.concatenate([order[others], order[others]])
    pairs = np.unique(np.stack([left, right], axis=1), axis=0)
    similar = np.zeros(len(pairs), dtype=bool)
    for begin in range(0, len(pairs), COMPARED_PAIRS):
        left, right = pairs[begin : begin + COMPARED_PAIRS].T
        shared = (signatures[left] == signatures[right]).mean(axis=1)
        similar[begin : begin + COMPARED_PAIRS] = shared >= THRESHOLD
    return pairs[similar]


def find_near_duplicates(dataset: Dataset, folder: Path, num_proc: int | None = None) -> np.ndarray:
    """Returns the cluster that each song belongs to, int64, shape `(songs,)`. Most clusters have only one song.

    Args:
        dataset: Has a column `text`.
        folder: Where signatures are written.
        num_proc: Number of processes that compute signatures. None: only this one.
    """

    def sign_batch(table: pa.Table) -> pa.Table:
        signatures = sign(table["text"].combine_chunks())
        return pa.table({"signature": pa.FixedSizeListArray.from_arrays(signatures.reshape(-1), PERMUTATIONS)})

    signed = dataset.with_format("arrow").map(
        sign_batch,
        batched=True,
        batch_size=BATCH_SONGS,
        num_proc=num_proc,
        remove_columns=dataset.column_names,
        features=Features({"signature": List(Value("uint32"), length=PERMUTATIONS)}),
        cache_file_name=str(folder / "signatures.arrow"),
        load_from_cache_file=False,
        new_fingerprint="signatures",
        desc="searching for near-duplicates",
    )
    bands = np.empty((PERMUTATIONS // BAND, len(dataset)), dtype=np.uint64)
    row = 0
    with (folder / "signatures.bin").open("wb") as file:
        for chunk in signed.data.column("signature").chunks:
            signatures = chunk.flatten().to_numpy().reshape(-1, PERMUTATIONS)
            signatures.tofile(file)
            hashes = np.zeros((len(signatures), len(bands)), dtype=np.uint64)
            for values in np.moveaxis(signatures.reshape(len(signatures), -1, BAND), 2, 0):
                hashes = mix(hashes + values)
            bands[:, row : row + len(signatures)] = hashes.T
            row += len(signatures)
    signatures = np.memmap(folder / "signatures.bin", dtype=np.uint32, mode="r").reshape(-1, PERMUTATIONS)
    left, right = np.concatenate([similar_pairs(signatures, band) for band in bands]).T
    graph = coo_array((np.ones(len(left), dtype=bool), (left, right)), shape=(len(dataset), len(dataset)))
    return connected_components(graph, directed=False)[1].astype(np.int64)


# ----------------------------------------------------------------------------------------------------------------------
# Splitting without dividing a cluster


def keep_first(cluster: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Returns whether each song is the first of its cluster in `order`, bool, shape `(songs,)`."""
    kept = np.zeros(len(cluster), dtype=bool)
    kept[order[np.unique(cluster[order], return_index=True)[1]]] = True
    return kept


def split_clusters(cluster: np.ndarray, order: np.ndarray, count: int) -> np.ndarray:
    """Chooses about `count` songs for validation so that no cluster is divided: bool, shape `(songs,)`.

    The place of a cluster in the order is that of its first song. The last clusters are for validation.
    There must be at least two clusters.
    """
    _, first, member, sizes = np.unique(cluster[order], return_index=True, return_inverse=True, return_counts=True)
    by_place = np.argsort(first)[::-1]  # the last cluster first
    validation = np.cumsum(sizes[by_place])[:-1]  # songs in the last 1, 2, ... clusters
    number = 1 + int(np.argmin(np.abs(validation - count)))
    chosen = np.zeros(len(cluster), dtype=bool)
    chosen[order[np.isin(member, by_place[:number])]] = True
    return chosen


def straddling(cluster: np.ndarray, is_validation: np.ndarray) -> int:
    """Counts the validation songs that have a near-duplicate among the others."""
    return int(np.isin(cluster[is_validation], cluster[~is_validation]).sum())
