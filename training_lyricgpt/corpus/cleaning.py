"""Standard cleaning of songs: of one text, or of a whole batch of UTF-8 bytes at memory speed.

Notes:
- `clean` defines the result. `clean_batch` gives the same bytes and the same counts, but only looks at the ends of lines. It
  leaves songs that need more than that (control characters, text that isn't in NFC, blanks beyond ASCII) to `clean`.
- Empty rows (nothing, blanks, or the `NaN` that pandas writes) are found almost without decoding: if more than three of
  the first 16 bytes are printable ASCII characters, the row isn't empty.
"""

import re
import unicodedata

import numpy as np
import pyarrow as pa

from tokenization_lyricgpt.tokenization_lyricgpt import multibyte_characters

from .packed import KINDS, Batch, sum_by_song

CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff]")
BLANK_LINES = re.compile(r"\n{3,}")
# Control characters and blanks beyond ASCII. Songs that have one go through `clean`.
SPECIAL_CODE_POINTS = [
    *range(0x80, 0xA1),
    0x1680,
    *range(0x2000, 0x200B),
    0x2028,
    0x2029,
    0x202F,
    0x205F,
    0x3000,
    0xFEFF,
]
FIRST_COMPOSING = 0x300  # a text with only smaller code points is in NFC
READ_AHEAD = 16  # bytes of a song that usually show that it isn't missing
USUAL_TRAIL = 4  # trailing blanks to remove from all lines at once; some files have two and a carriage return on each
LONGEST_TRAIL = 64  # further trailing blanks; songs with even more go through `clean`
TAB, NEWLINE, CARRIAGE_RETURN, SPACE = 9, 10, 13, 32
USUAL = (TAB, NEWLINE, CARRIAGE_RETURN)  # the bytes below 32 that aren't removed as control characters
IS_BLANK = np.zeros(256, dtype=bool)
IS_BLANK[[TAB, CARRIAGE_RETURN, SPACE]] = True
IS_CONTROL = np.zeros(256, dtype=bool)
IS_CONTROL[[*range(9), 11, 12, *range(14, 32), 127]] = True


def clean(text: str, counts: dict[str, int] | None = None) -> str:
    """Cleans a text: LF line endings, no trailing blanks, at most one blank line in a row, NFC, no control characters.

    Args:
        counts: What was changed is added to these counts.
    """
    unix = text.replace("\r\n", "\n").replace("\r", "\n")
    normal = unicodedata.normalize("NFC", unix)
    printable = CONTROL_CHARACTERS.sub("", normal)
    trimmed = "\n".join(line.rstrip() for line in printable.split("\n"))
    cleaned = BLANK_LINES.sub("\n\n", trimmed).strip("\n")
    if counts is not None:
        counts["line_endings"] += text.count("\r")
        counts["normalized_songs"] += normal != unix
        counts["control_characters"] += len(normal) - len(printable)
        counts["trailing_blanks"] += len(printable) - len(trimmed)
        counts["blank_lines"] += len(trimmed) - len(cleaned)
    return cleaned


def is_missing(text: str | None) -> bool:
    """Whether a cell holds no lyrics: nothing, blanks, or the `NaN` that pandas writes for a missing value."""
    return text is None or not text.strip() or text.strip().lower() == "nan"


def find_missing(batch: Batch) -> np.ndarray:
    """Returns which songs are missing, bool, shape `(songs,)`."""
    missing = np.zeros(len(batch.offsets) - 1, dtype=bool)
    if len(batch.data) == 0:
        missing[:] = True
        return missing
    places = batch.offsets[:-1, None] + np.arange(READ_AHEAD)
    inside = places < batch.offsets[1:, None]
    printable = batch.data[np.minimum(places, len(batch.data) - 1)] - np.uint8(33) < 94
    for song in np.flatnonzero((printable & inside).sum(axis=1) <= 3).tolist():
        missing[song] = is_missing(batch.text(song))
    return missing


def unify_line_ends(data: np.ndarray, offsets: np.ndarray, returns: np.ndarray) -> np.ndarray:
    """Replaces carriage returns that no line break follows with line breaks, in place. Returns their positions.

    Args:
        returns: Positions of all carriage returns.
    """
    is_lone = data[np.minimum(returns + 1, len(data) - 1)] != NEWLINE
    last = offsets[1:] - 1  # the last byte of each song
    found = np.searchsorted(returns, last)
    inside = found < len(returns)
    is_lone[found[inside][returns[found[inside]] == last[inside]]] = True
    places = returns[is_lone]
    data[places] = NEWLINE
    return places


def clean_batch(batch: Batch) -> Batch:
    """Cleans all songs of a batch, with the same result as `clean`."""
    if len(batch.data) == 0:
        return Batch(batch.data, batch.offsets)
    data, offsets = batch.data.copy(), batch.offsets
    low = np.flatnonzero(data < 32)  # line ends, tabs and control characters, in one pass over the bytes
    kinds = data[low]
    by_hand = find_difficult(batch, kinds)
    lone = unify_line_ends(data, offsets, low[kinds == CARRIAGE_RETURN])

    # Lines end at line breaks and at the ends of songs. Every song has at least one line.
    breaks = low[(data[low] if len(lone) else kinds) == NEWLINE]
    before = np.searchsorted(breaks, offsets[1:])  # line breaks before the end of each song
    ends = np.insert(breaks, before, offsets[1:])
    last_line = before + np.arange(len(before))  # of each song
    first_line = np.concatenate([[0], last_line[:-1] + 1])
    is_break = np.ones(len(ends), dtype=bool)
    is_break[last_line] = False
    starts = np.zeros_like(ends)
    starts[1:] = ends[:-1] + is_break[:-1]

    # Where each line ends without its trailing blanks. Most lines have few, so the first few are checked on all at once.
    blanks, still = np.zeros(len(ends), dtype=np.int64), np.ones(len(ends), dtype=bool)
    for place in range(1, USUAL_TRAIL + 1):
        last = data[np.maximum(ends - place, 0)]
        still &= (last == SPACE) | (last == CARRIAGE_RETURN) | (last == TAB)
        blanks += still
    trimmed = ends - np.minimum(blanks, ends - starts)
    active = np.flatnonzero(still)
    for _ in range(LONGEST_TRAIL):
        active = active[trimmed[active] > starts[active]]
        active = active[IS_BLANK[data[trimmed[active] - 1]]]
        if len(active) == 0:
            break
        trimmed[active] -= 1
    by_hand[np.searchsorted(last_line, active)] = True  # these have even more blanks

    # One empty line stays between two lines of text. The last line of text loses its line break.
    full = trimmed > starts
    full_lines = np.flatnonzero(full)
    found = np.searchsorted(full_lines, last_line, side="right") - 1
    last_full = np.where(found >= 0, full_lines[found] if len(full_lines) else -1, -1)
    last_full = np.where(last_full >= first_line, last_full, -1)
    empty_lines = np.flatnonzero(~full)
    song = np.searchsorted(last_line, empty_lines)
    stays = (empty_lines > first_line[song]) & (empty_lines < last_full[song])
    stays &= full[empty_lines - 1]
    breaks_line = is_break.copy()
    breaks_line[empty_lines[~stays]] = False
    breaks_line[last_full[last_full >= 0]] = False

    paired = is_break & (ends > starts) & (data[np.maximum(ends - 1, 0)] == CARRIAGE_RETURN)

    # Each line and its break become one piece: the break moves to the line's new end.
    data[trimmed[breaks_line]] = NEWLINE
    piece_ends = trimmed + breaks_line
    edges = np.empty(2 * len(ends), dtype=np.int64)
    edges[0::2], edges[1::2] = starts, piece_ends
    pieces = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(edges) - 1, [None, pa.py_buffer(edges), pa.py_buffer(data)]
    ).take(pa.array(np.arange(0, len(edges), 2)))
    cleaned = np.frombuffer(pieces.buffers()[2] or b"", np.uint8)
    lengths = np.add.reduceat(piece_ends - starts, first_line)

    changed = lengths != np.diff(offsets)
    changed[np.searchsorted(offsets, lone, side="right") - 1] = True
    counts = dict.fromkeys(KINDS, 0)
    ours = ~by_hand  # the others are counted by `clean`
    pairs = np.add.reduceat(paired.astype(np.int64), first_line)[ours].sum()
    counts["line_endings"] = int(pairs + np.diff(np.searchsorted(lone, offsets))[ours].sum())
    counts["blank_lines"] = int(np.add.reduceat((is_break & ~breaks_line).astype(np.int64), first_line)[ours].sum())
    counts["trailing_blanks"] = int(np.add.reduceat(ends - trimmed, first_line)[ours].sum() - pairs)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    if by_hand.any():
        cleaned, ends = replace_songs(batch, by_hand, cleaned, ends, changed, counts)
    return Batch(cleaned, ends, int(np.count_nonzero(changed)), counts)


def find_difficult(batch: Batch, low: np.ndarray) -> np.ndarray:
    """Returns which songs `clean_batch` leaves to `clean`, bool, shape `(songs,)`.

    Args:
        low: The bytes of the batch that are below 32.
    """
    data, offsets = batch.data, batch.offsets
    difficult = np.zeros(len(offsets) - 1, dtype=bool)
    if len(data) == 0:
        return difficult
    if (data == 127).any() or len(low) > sum(np.count_nonzero(low == usual) for usual in USUAL):
        difficult |= sum_by_song(IS_CONTROL.take(data, mode="clip"), offsets) > 0
    if data.max() >= 0x80:
        places, code_points = multibyte_characters(data)
        special = np.isin(code_points, SPECIAL_CODE_POINTS)
        difficult[np.searchsorted(offsets, places[special], side="right") - 1] = True
        composing = np.unique(np.searchsorted(offsets, places[code_points >= FIRST_COMPOSING], side="right") - 1)
        for song in composing[~difficult[composing]]:
            difficult[song] = not unicodedata.is_normalized("NFC", batch.text(song))
    return difficult


def replace_songs(
    batch: Batch,
    by_hand: np.ndarray,
    cleaned: np.ndarray,
    offsets: np.ndarray,
    changed: np.ndarray,
    counts: dict[str, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Replaces the songs `by_hand` with the result of `clean`, and updates `changed` and `counts`.

    Returns:
        The cleaned bytes of all songs, and their offsets.
    """
    pieces, lengths, begin = [], np.diff(offsets), 0
    for song in np.flatnonzero(by_hand):
        text = batch.text(song)
        piece = clean(text, counts)
        changed[song] = piece != text
        pieces += [cleaned[begin : offsets[song]], np.frombuffer(piece.encode(), np.uint8)]
        begin, lengths[song] = offsets[song + 1], len(pieces[-1])
    pieces.append(cleaned[begin:])
    return np.concatenate(pieces), np.concatenate([[0], np.cumsum(lengths)])
