"""Standard cleaning of songs: one at a time as it is defined, and whole batches of UTF-8 bytes at memory speed.

Notable:
- `clean` is the definition. `clean_batch` gives the same bytes and the same counts: it works on where lines end, and hands
  the songs that need more than that (control characters, another normal form, blanks beyond ASCII) to `clean`.
- Missing songs (nothing, blanks, or the `NaN` that pandas writes) are found without decoding: a song that begins with more
  than three printable ASCII characters is none.
"""

import re
import unicodedata

import numpy as np
import pyarrow as pa

from tokenization_lyricgpt.tokenization_lyricgpt import multibyte_characters

from .packed import KINDS, Batch, sum_by_song

CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff]")
BLANK_LINES = re.compile(r"\n{3,}")
# Control characters and blanks beyond ASCII: songs that have one go through `clean`.
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
FIRST_COMPOSING = 0x300  # below it every text is in NFC
READ_AHEAD = 16  # bytes of a song that tell that it is one
USUAL_TRAIL = 4  # two blanks and a carriage return are the rule in some files
LONGEST_TRAIL = 64  # blanks at the end of a line; songs with more go through `clean`
TAB, NEWLINE, CARRIAGE_RETURN, SPACE = 9, 10, 13, 32
USUAL = (TAB, NEWLINE, CARRIAGE_RETURN)  # of the bytes below 32
IS_BLANK = np.zeros(256, dtype=bool)
IS_BLANK[[TAB, CARRIAGE_RETURN, SPACE]] = True
IS_CONTROL = np.zeros(256, dtype=bool)
IS_CONTROL[[*range(9), 11, 12, *range(14, 32), 127]] = True


def clean(text: str, counts: dict[str, int] | None = None) -> str:
    """The text with LF line endings, no trailing blanks, at most one blank line in a row, NFC, no control characters."""
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
    """Which songs are missing, bool, shape `(songs,)`."""
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
    """Turns carriage returns without a line break after them into line breaks, in place; returns where they stood.

    Args:
        returns: Where carriage returns stand.
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
    """All songs of a batch as `clean` gives them."""
    if len(batch.data) == 0:
        return Batch(batch.data, batch.offsets)
    data, offsets = batch.data.copy(), batch.offsets
    low = np.flatnonzero(data < 32)  # line ends, tabs and control characters, in one pass over the bytes
    kinds = data[low]
    by_hand = find_difficult(batch, kinds)
    lone = unify_line_ends(data, offsets, low[kinds == CARRIAGE_RETURN])

    # Lines end at line breaks and at the ends of songs; a song has one line at least.
    breaks = low[(data[low] if len(lone) else kinds) == NEWLINE]
    before = np.searchsorted(breaks, offsets[1:])  # line breaks before the end of each song
    ends = np.insert(breaks, before, offsets[1:])
    last_line = before + np.arange(len(before))  # of each song
    first_line = np.concatenate([[0], last_line[:-1] + 1])
    is_break = np.ones(len(ends), dtype=bool)
    is_break[last_line] = False
    starts = np.zeros_like(ends)
    starts[1:] = ends[:-1] + is_break[:-1]

    # One past the last character of each line that stays: most lines end in few blanks, which are looked at all at once.
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
    by_hand[np.searchsorted(last_line, active)] = True  # more blanks than that

    # Of empty lines one stays between two others; the last line that is not empty has no line break.
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

    # Each line and its break become one piece: the break moves up to where the line ends now.
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
    """Songs that `clean_batch` leaves to `clean`, bool, shape `(songs,)`.

    Args:
        low: Those of its bytes that are below 32.
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
    """The cleaned bytes and their offsets with the songs `by_hand` as `clean` gives them; notes what it changed."""
    pieces, lengths, begin = [], np.diff(offsets), 0
    for song in np.flatnonzero(by_hand):
        text = batch.text(song)
        piece = clean(text, counts)
        changed[song] = piece != text
        pieces += [cleaned[begin : offsets[song]], np.frombuffer(piece.encode(), np.uint8)]
        begin, lengths[song] = offsets[song + 1], len(pieces[-1])
    pieces.append(cleaned[begin:])
    return np.concatenate(pieces), np.concatenate([[0], np.cumsum(lengths)])
