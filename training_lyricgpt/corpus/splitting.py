"""Which songs are for training and which for validation.

Notable:
- Near-duplicates never straddle a split by songs: a validation loss over songs that stand in training is a lie.
- Without duplicates the last share of the songs is for validation; a split by characters cuts one sequence, as the published run did.
- How many validation songs have a near-duplicate in training is reported, as it was drawn and as it is.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from .. import LyricGPTError
from ..arguments import CorpusArguments
from ..processes import worker_count
from .near_duplicates import STRADDLING, find_near_duplicates, keep_first, split_clusters, straddling
from .songs import Songs


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


def text_bytes(songs: Songs) -> int:
    return int(songs.characters.sum())


@dataclass
class Split:
    """Which song is for what.

    Attributes:
        parts: Of each split; `validation` is missing if the one sequence of all songs is cut.
        cut: Where, in tokens; None if it is not.
        near_duplicates: What is known of them, for `corpus.json`.
    """

    parts: dict[str, Part]
    cut: int | None
    near_duplicates: dict[str, Any]


def split_corpus(args: CorpusArguments, songs: Songs, validation: Songs | None, folder: Path) -> Split:
    """Which song is for what.

    Args:
        validation: The songs of a validation file, if there is one.
        folder: Where intermediate files are written.

    Raises:
        LyricGPTError: nothing is left for validation.
    """
    mode, cluster, order = (
        near_duplicates_mode(args, songs),
        find_clusters(args, songs, validation, folder),
        songs.order,
    )
    figures = {"mode": mode, "clusters": 0, "songs": 0, "left_out": 0}
    if cluster is not None:
        sizes = np.bincount(cluster)
        figures |= {"clusters": int((sizes > 1).sum()), "songs": int(sizes[sizes > 1].sum())}
    if validation is not None:
        return split_by_file(songs, validation, cluster, figures)
    if mode == "drop" and cluster is not None:
        order = order[keep_first(cluster, order)[order]]
        figures["left_out"] = len(songs.order) - len(order)
    if args.split == "characters" or songs.is_text:
        return split_by_characters(args, songs, order, cluster, figures)
    return split_by_songs(args.validation_fraction, songs, order, cluster, figures)


def split_by_file(songs: Songs, validation: Songs, cluster: np.ndarray | None, figures: dict[str, Any]) -> Split:
    """All songs of the one file for training, but for near-duplicates of the other's."""
    order = songs.order
    if cluster is not None:
        is_validation = np.repeat([False, True], [len(songs.dataset), len(validation.dataset)])
        figures[STRADDLING] = {"as_drawn": straddling(cluster, is_validation)}
        if figures["mode"] in ("group", "drop"):
            is_duplicate = np.isin(cluster[~is_validation], cluster[is_validation])
            order = order[~is_duplicate[order]]
            figures["left_out"] = len(songs.order) - len(order)
            if len(order) == 0:
                raise LyricGPTError(
                    "every training song has a near-duplicate in validation_file; set near_duplicates: keep"
                )
            figures[STRADDLING]["as_split"] = 0
    return Split({"train": Part(songs, order), "validation": Part(validation, validation.order)}, None, figures)


def split_by_characters(
    args: CorpusArguments, songs: Songs, order: np.ndarray, cluster: np.ndarray | None, figures: dict[str, Any]
) -> Split:
    """One sequence of all songs, cut."""
    cut, in_validation = cut_sequence(args, songs, order)
    if cluster is not None:
        as_drawn = cut_sequence(args, songs, songs.order)[1]
        figures[STRADDLING] = {
            "as_drawn": straddling(cluster, as_drawn),
            "as_split": straddling(cluster, in_validation) if len(order) == len(songs.order) else 0,
        }
    return Split({"train": Part(songs, order)}, cut, figures)


def split_by_songs(
    fraction: float, songs: Songs, order: np.ndarray, cluster: np.ndarray | None, figures: dict[str, Any]
) -> Split:
    """The last songs of the order for validation, near-duplicates on one side."""
    if len(order) < 2:
        if figures["left_out"]:
            raise LyricGPTError(
                "all songs are near-duplicates of each other: nothing to hold out. Set near_duplicates: keep"
            )
        raise LyricGPTError("only one song: nothing to hold out. Set split: characters, or name a validation_file")
    count = validation_count(len(order), fraction)
    in_validation = last_rows(len(songs.dataset), order, count)
    if cluster is not None:
        drawn = in_validation
        if len(order) < len(songs.order):
            drawn = last_rows(len(songs.dataset), songs.order, validation_count(len(songs.order), fraction))
        if figures["mode"] == "group":
            in_validation = split_clusters(cluster, order, count)
        figures[STRADDLING] = {
            "as_drawn": straddling(cluster, drawn),
            "as_split": straddling(cluster, in_validation) if figures["mode"] != "drop" else 0,
        }
    parts = {"train": order[~in_validation[order]], "validation": order[in_validation[order]]}
    return Split({split: Part(songs, rows) for split, rows in parts.items()}, None, figures)


def validation_count(songs: int, fraction: float) -> int:
    """How many of so many songs are for validation: at least one, and never all."""
    return min(songs - 1, max(1, round(songs * fraction)))


def near_duplicates_mode(args: CorpusArguments, songs: Songs) -> str:
    """What is done with near-duplicates: as stated, or what suits the split."""
    if songs.is_text:
        return "ignore"
    return args.near_duplicates or ("keep" if args.split == "characters" else "group")


def find_clusters(args: CorpusArguments, songs: Songs, validation: Songs | None, folder: Path) -> np.ndarray | None:
    """The cluster of each song, those of the validation file after the others; None if they are not searched for."""
    if near_duplicates_mode(args, songs) == "ignore":
        return None
    parts = [part.dataset.select_columns("text") for part in (songs, validation) if part is not None]
    dataset = datasets.concatenate_datasets(parts) if len(parts) > 1 else parts[0]
    size = text_bytes(songs) + (text_bytes(validation) if validation else 0)
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


def song_separator(args: CorpusArguments) -> str:
    """What stands between songs where there is no `<|endoftext|>`; raw songs end in blank lines of their own."""
    if args.special_tokens:
        return ""
    return " " if args.cleaning == "none" else "\n\n"


def cut_sequence(args: CorpusArguments, songs: Songs, order: np.ndarray) -> tuple[int, np.ndarray]:
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
