"""Decides which songs are for training and which for validation.

Notes:
- By default, near-duplicates never end up on both sides of a split by songs. The validation loss would look better than it is
  if songs like those in training were among the validation songs.
- Without near-duplicates, the last songs of the order are for validation. A split by characters joins all songs and cuts the
  text once, like the original notebook.
- The report says how many validation songs have a near-duplicate in training, and how many would if they were ignored.
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
from ..wording import plural
from .near_duplicates import STRADDLING, find_near_duplicates, keep_first, split_clusters, straddling
from .songs import Songs


@dataclass
class Part:
    """The songs of one split.

    Attributes:
        songs: The songs that the split takes its rows from.
        rows: The rows of `songs.dataset` in this split, in the order of the stream, int64.
        headers: The header of each of these songs.
    """

    songs: Songs
    rows: np.ndarray
    headers: pa.LargeStringArray | None = None

    def __post_init__(self):
        if self.headers is None:
            self.headers = pa.repeat(pa.scalar("", pa.large_string()), len(self.rows))


@dataclass
class Split:
    """Which songs are for training and which for validation.

    Attributes:
        parts: The songs of each split. In a split by characters, all songs are in `train`.
        cut: In a split by characters, the number of tokens before the cut; otherwise None.
        near_duplicates: Figures for `corpus.json`.
    """

    parts: dict[str, Part]
    cut: int | None
    near_duplicates: dict[str, Any]


def split_corpus(args: CorpusArguments, songs: Songs, validation: Songs | None, folder: Path) -> Split:
    """Splits songs into training and validation.

    Args:
        validation: The songs of a validation file, if there is one.
        folder: Where intermediate files are written.

    Raises:
        LyricGPTError: if no songs are left for training or for validation.
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
        return split_by_file(args, songs, validation, cluster, figures)
    if mode == "drop" and cluster is not None:
        order = order[keep_first(cluster, order)[order]]
        figures["left_out"] = len(songs.order) - len(order)
    if args.split == "characters" or songs.is_text:
        return split_by_characters(args, songs, order, cluster, figures)
    return split_by_songs(args, songs, order, cluster, figures)


def split_by_file(
    args: CorpusArguments, songs: Songs, validation: Songs, cluster: np.ndarray | None, figures: dict[str, Any]
) -> Split:
    """Trains on one file and validates on the other. Leaves out near-duplicates of validation songs unless they are kept."""
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
                    f"every one of the {plural(len(songs.order), 'song')} in {args.dataset} has a near-duplicate in the "
                    f"validation_file {args.validation_file}; set near_duplicates to keep"
                )
            figures[STRADDLING]["as_split"] = 0
    return Split({"train": Part(songs, order), "validation": Part(validation, validation.order)}, None, figures)


def split_by_characters(
    args: CorpusArguments, songs: Songs, order: np.ndarray, cluster: np.ndarray | None, figures: dict[str, Any]
) -> Split:
    """Joins all songs and cuts the text into training and validation."""
    cut, in_validation = cut_sequence(args, songs, order)
    if cluster is not None:
        as_drawn = cut_sequence(args, songs, songs.order)[1]
        figures[STRADDLING] = {
            "as_drawn": straddling(cluster, as_drawn),
            "as_split": straddling(cluster, in_validation) if len(order) == len(songs.order) else 0,
        }
    return Split({"train": Part(songs, order)}, cut, figures)


def split_by_songs(
    args: CorpusArguments, songs: Songs, order: np.ndarray, cluster: np.ndarray | None, figures: dict[str, Any]
) -> Split:
    """Uses the last songs of the order for validation. With `group`, keeps near-duplicates on the same side."""
    if len(songs.order) < 2:
        raise LyricGPTError(
            f"{args.dataset} has only one song, so none can be set aside for validation. Set split to characters, or name "
            "a validation_file"
        )
    if figures["mode"] in ("group", "drop") and cluster is not None and len(np.unique(cluster[songs.order])) < 2:
        raise LyricGPTError(
            f"all {len(songs.order):,} songs in {args.dataset} are near-duplicates of each other, so none can be set aside "
            "for validation. Set near_duplicates to keep, or name a validation_file"
        )
    count = validation_count(len(order), args.validation_fraction)
    in_validation = last_rows(len(songs.dataset), order, count)
    if cluster is not None:
        drawn = in_validation
        if len(order) < len(songs.order):
            drawn = last_rows(
                len(songs.dataset), songs.order, validation_count(len(songs.order), args.validation_fraction)
            )
        if figures["mode"] == "group":
            in_validation = split_clusters(cluster, order, count)
        figures[STRADDLING] = {
            "as_drawn": straddling(cluster, drawn),
            "as_split": straddling(cluster, in_validation) if figures["mode"] != "drop" else 0,
        }
    parts = {"train": order[~in_validation[order]], "validation": order[in_validation[order]]}
    return Split({split: Part(songs, rows) for split, rows in parts.items()}, None, figures)


def validation_count(songs: int, fraction: float) -> int:
    """Returns how many songs are for validation: at least one, and never all."""
    return min(songs - 1, max(1, round(songs * fraction)))


def near_duplicates_mode(args: CorpusArguments, songs: Songs) -> str:
    """Returns what to do with near-duplicates: what is set, or the default of the split."""
    if songs.is_text:
        return "ignore"
    return args.near_duplicates or ("keep" if args.split == "characters" else "group")


def find_clusters(args: CorpusArguments, songs: Songs, validation: Songs | None, folder: Path) -> np.ndarray | None:
    """Returns the cluster of each song, with those of the validation file last; None if near-duplicates are ignored."""
    if near_duplicates_mode(args, songs) == "ignore":
        return None
    parts = [part.dataset.select_columns("text") for part in (songs, validation) if part is not None]
    dataset = datasets.concatenate_datasets(parts) if len(parts) > 1 else parts[0]
    # The number of characters is close enough to the number of bytes to choose how many processes to use.
    size = sum(int(part.characters.sum()) for part in (songs, validation) if part is not None)
    return find_near_duplicates(dataset, folder, num_proc=worker_count(size, worthwhile=1 << 24))


def last_rows(rows: int, order: np.ndarray, count: int) -> np.ndarray:
    """Returns whether each row is among the last `count` of `order`, bool, shape `(rows,)`."""
    chosen = np.zeros(rows, dtype=bool)
    chosen[order[len(order) - count :]] = True
    return chosen


def lay_out(lengths: np.ndarray, around: int, between: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Computes the positions of songs in a stream.

    Args:
        lengths: Tokens of each song, in order.
        around: Tokens before the first song and after the last.
        between: Tokens between two songs.

    Returns:
        The first token of each song, one past its last, and the number of tokens in the stream.
    """
    ends = around + np.cumsum(lengths) + between * np.arange(len(lengths))
    return ends - lengths, ends, int(ends[-1]) + around


def song_separator(args: CorpusArguments) -> str:
    """Returns the text between songs, or nothing if `<|endoftext|>` separates them. Raw songs already end in blank lines."""
    if args.special_tokens:
        return ""
    return " " if args.cleaning == "none" else "\n\n"


def cut_sequence(args: CorpusArguments, songs: Songs, order: np.ndarray) -> tuple[int, np.ndarray]:
    """Returns where the joined songs are cut, in tokens, and whether each row reaches past the cut.

    As in the original notebook, the songs are joined, and the first 90% of the characters (with the default
    `validation_fraction`) are for training. Special tokens count as characters, because the model predicts them too.
    """
    around = int(args.special_tokens)
    _, ends, total = lay_out(songs.characters[order], around, around or len(song_separator(args)))
    cut = int((1 - args.validation_fraction) * total)
    in_validation = np.zeros(len(songs.dataset), dtype=bool)
    in_validation[order[ends > cut]] = True
    return cut, in_validation
