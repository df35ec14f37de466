"""Which songs are for training and which are held out.

Notable:
- Near-duplicates never straddle a split by songs: a validation loss over songs that stand in training is a lie.
- Without duplicates the last share of the songs is held out; a split by characters cuts one sequence, as the published run did.
- How many held-out songs have a twin in training is reported as it was drawn and as it is.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from . import LyricGPTError
from .arguments import Arguments
from .corpus import Songs
from .near_duplicates import find_near_duplicates, keep_first, split_clusters, straddling

SPLITS = ("train", "validation")


@dataclass
class Part:
    """The songs of one split.

    Attributes:
        songs: Where they come from.
        rows: Which rows of it, in the order in which they stand in the stream, int64.
        headers: What stands before the text of each of them.
    """

    songs: Songs
    rows: np.ndarray
    headers: pa.LargeStringArray | None = None

    def __post_init__(self):
        if self.headers is None:
            self.headers = pa.repeat(pa.scalar("", pa.large_string()), len(self.rows))


def worker_count(text_bytes: int, worthwhile: int) -> int | None:
    """`num_proc` of `Dataset.map` for a stage over so many bytes: one process for `worthwhile` bytes each, as far as there are cores.

    None, this process itself, where a second one is not worth the start of both.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(cores, text_bytes // worthwhile)
    return workers if workers > 1 else None


def text_bytes(songs: Songs) -> int:
    return int(songs.characters.sum())


def split_corpus(
    args: Arguments, songs: Songs, held_out: Songs | None, folder: Path
) -> tuple[dict[str, Part], int | None, dict[str, Any]]:
    """Which song is for what.

    Args:
        folder: Where intermediate files are written.

    Returns:
        The part of each split; `validation` is missing if the one sequence of all songs is cut.
        That cut, in tokens, or None.
        What is known of near-duplicates, for `corpus.json`.

    Raises:
        LyricGPTError: nothing to hold out.
    """
    cluster, order = find_twins(args, songs, held_out, folder), songs.order
    figures = {"mode": near_duplicates_mode(args, songs), "clusters": 0, "songs": 0, "left_out": 0}
    if cluster is not None:
        sizes = np.bincount(cluster)
        figures |= {"clusters": int((sizes > 1).sum()), "songs": int(sizes[sizes > 1].sum())}
    grouped = figures["mode"] in ("group", "drop") and cluster is not None

    if held_out is not None:
        is_held_out = np.repeat([False, True], [len(songs.dataset), len(held_out.dataset)])
        if cluster is not None:
            figures["validation_songs_with_twin_in_training"] = {"as_drawn": straddling(cluster, is_held_out)}
        if grouped:
            twins = np.isin(cluster[: len(songs.dataset)], cluster[len(songs.dataset) :])
            order = order[~twins[order]]
            figures["left_out"] = len(songs.order) - len(order)
            if len(order) == 0:
                raise LyricGPTError(
                    "every training song has a near-duplicate in validation_file; set near_duplicates: keep"
                )
            figures["validation_songs_with_twin_in_training"]["as_split"] = 0
        return {"train": Part(songs, order), "validation": Part(held_out, held_out.order)}, None, figures

    if figures["mode"] == "drop" and cluster is not None:
        order = order[keep_first(cluster, order)[order]]
        figures["left_out"] = len(songs.order) - len(order)
    if args.split == "characters" or songs.is_text:
        cut, in_validation = cut_sequence(args, songs, order)
        if cluster is not None:
            as_drawn = cut_sequence(args, songs, songs.order)[1]
            figures["validation_songs_with_twin_in_training"] = {
                "as_drawn": straddling(cluster, as_drawn),
                "as_split": straddling(cluster, in_validation) if len(order) == len(songs.order) else 0,
            }
        return {"train": Part(songs, order)}, cut, figures

    if len(order) < 2:
        if figures["left_out"]:
            raise LyricGPTError(
                "all songs are near-duplicates of each other: nothing to hold out. Set near_duplicates: keep"
            )
        raise LyricGPTError("only one song: nothing to hold out. Set split: characters, or name a validation_file")
    count = min(len(order) - 1, max(1, round(len(order) * args.validation_fraction)))
    in_validation = last_rows(len(songs.dataset), order, count)
    if cluster is not None:
        drawn = in_validation
        if len(order) < len(songs.order):
            whole = min(len(songs.order) - 1, max(1, round(len(songs.order) * args.validation_fraction)))
            drawn = last_rows(len(songs.dataset), songs.order, whole)
        if figures["mode"] == "group":
            in_validation = split_clusters(cluster, order, count)
        figures["validation_songs_with_twin_in_training"] = {
            "as_drawn": straddling(cluster, drawn),
            "as_split": straddling(cluster, in_validation) if figures["mode"] != "drop" else 0,
        }
    parts = {"train": order[~in_validation[order]], "validation": order[in_validation[order]]}
    return {split: Part(songs, rows) for split, rows in parts.items()}, None, figures


def near_duplicates_mode(args: Arguments, songs: Songs) -> str:
    """What is done with near-duplicates: as stated, or what suits the split."""
    if songs.is_text:
        return "ignore"
    return args.near_duplicates or ("keep" if args.split == "characters" else "group")


def find_twins(args: Arguments, songs: Songs, held_out: Songs | None, folder: Path) -> np.ndarray | None:
    """The cluster of each song, those of the validation file after the others; None if they are not searched for."""
    if near_duplicates_mode(args, songs) == "ignore":
        return None
    parts = [part.dataset.select_columns("text") for part in (songs, held_out) if part is not None]
    dataset = datasets.concatenate_datasets(parts) if len(parts) > 1 else parts[0]
    size = text_bytes(songs) + (text_bytes(held_out) if held_out else 0)
    return find_near_duplicates(dataset, folder, num_proc=worker_count(size, worthwhile=1 << 24))


def last_rows(rows: int, order: np.ndarray, count: int) -> np.ndarray:
    """Whether each row is among the last `count` of the order, bool, shape `(rows,)`."""
    chosen = np.zeros(rows, dtype=bool)
    chosen[order[len(order) - count :]] = True
    return chosen


def lay_out(lengths: np.ndarray, around: int, between: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Where songs stand in a stream.

    Args:
        lengths: Tokens of each song, in order.
        around: Tokens before the first song and after the last.
        between: Tokens between two songs.

    Returns:
        The first token of each song, one past its last, and the tokens of the stream.
    """
    ends = around + np.cumsum(lengths) + between * np.arange(len(lengths))
    return ends - lengths, ends, int(ends[-1]) + around


def song_separator(args: Arguments) -> str:
    """What stands between songs where there is no `<|endoftext|>`; raw songs end in blank lines of their own."""
    if args.special_tokens:
        return ""
    return " " if args.cleaning == "none" else "\n\n"


def cut_sequence(args: Arguments, songs: Songs, order: np.ndarray) -> tuple[int, np.ndarray]:
    """Where the sequence of all songs is cut, in tokens, and whether each row reaches past it.

    The figures of the published run: songs joined, the first 90% of the characters are for training. Special tokens count as
    characters: they are predicted like any other.
    """
    around = int(args.special_tokens)
    _, ends, total = lay_out(songs.characters[order], around, around or len(song_separator(args)))
    cut = int((1 - args.validation_fraction) * total)
    in_validation = np.zeros(len(songs.dataset), dtype=bool)
    in_validation[order[ends > cut]] = True
    return cut, in_validation
