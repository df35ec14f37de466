"""Standard cleaning of songs: one at a time as it is defined, and whole batches of UTF-8 bytes at memory speed.

Notable:
- `clean` is the definition. `clean_batch` gives the same bytes and the same counts: it works on where lines end, and hands
  the songs that need more than that (control characters, another normal form, blanks beyond ASCII) to `clean`.
- Missing songs (nothing, blanks, or the `NaN` that pandas writes) are found without decoding: a song of more than three
  printable ASCII characters is none.
"""

import re
import unicodedata
from dataclasses import dataclass, field

import numpy as np

from tokenization_lyricgpt.tokenization_lyricgpt import multibyte_characters

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
LONGEST_TRAIL = 64  # blanks at the end of a line; songs with more go through `clean`
NEWLINE, CARRIAGE_RETURN = 10, 13
IS_BLANK = np.zeros(256, dtype=bool)
IS_BLANK[[9, 13, 32]] = True
IS_CONTROL = np.zeros(256, dtype=bool)
IS_CONTROL[[*range(9), 11, 12, *range(14, 32), 127]] = True
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


def find_missing(batch: Batch) -> np.ndarray:
    """Which songs are missing, bool, shape `(songs,)`."""
    printable = sum_by_song((batch.data - np.uint8(33)) < 94, batch.offsets)
    missing = np.zeros(len(printable), dtype=bool)
    for song in np.flatnonzero(printable <= 3):
        missing[song] = is_missing(batch.text(song))
    return missing


def clean_batch(batch: Batch) -> Batch:
    """All songs of a batch as `clean` gives them."""
    by_hand = find_difficult(batch)
    data, offsets = batch.data, batch.offsets
    counts = dict.fromkeys(KINDS, 0)
    returns = np.flatnonzero(data == CARRIAGE_RETURN)
    is_last = np.isin(returns, offsets[1:] - 1, assume_unique=True) if len(returns) else np.zeros(0, dtype=bool)
    lone = is_last | (data[np.minimum(returns + 1, len(data) - 1)] != NEWLINE)
    if lone.any():
        data = data.copy()
        data[returns[lone]] = NEWLINE

    # Lines end at line breaks and at the ends of songs.
    breaks = np.flatnonzero(data == NEWLINE)
    before = np.searchsorted(breaks, offsets[1:])  # line breaks before the end of each song
    ends = np.insert(breaks, before, offsets[1:])
    last_line = before + np.arange(len(before))  # of each song
    is_break = np.ones(len(ends), dtype=bool)
    is_break[last_line] = False
    starts = np.empty_like(ends)
    starts[:1] = 0
    starts[1:] = ends[:-1] + is_break[:-1]

    keep = np.ones(len(data), dtype=bool)
    trimmed = ends - 1  # the last character of each line that stays
    active = np.arange(len(ends))
    for _ in range(LONGEST_TRAIL):
        places = trimmed[active]
        active = active[places >= starts[active]]
        places = trimmed[active]
        blank = IS_BLANK[data[places]]
        active, places = active[blank], places[blank]
        if len(active) == 0:
            break
        keep[places] = False
        trimmed[active] -= 1
    by_hand[np.searchsorted(last_line, active)] = True

    # Of empty lines one stays between two others; a song's last line has no line break.
    full = trimmed >= starts
    full_lines = np.flatnonzero(full)
    first_line = np.concatenate([[0], last_line[:-1] + 1])
    found = np.searchsorted(full_lines, last_line, side="right") - 1
    last_full = np.where(found >= 0, full_lines[found] if len(full_lines) else -1, -1)
    last_full = np.where(last_full >= first_line, last_full, -1)
    empty_lines = np.flatnonzero(~full)
    song = np.searchsorted(last_line, empty_lines)
    stays = (empty_lines > first_line[song]) & (empty_lines < last_full[song])
    stays &= full[empty_lines - 1]
    dropped = np.concatenate([empty_lines[~stays], last_full[last_full >= 0]])
    dropped = ends[dropped[is_break[dropped]]]
    keep[dropped] = False

    kept = sum_by_song(keep.view(np.uint8), offsets)
    lengths = np.diff(offsets)
    changed = kept != lengths
    changed[np.searchsorted(offsets, returns[lone], side="right") - 1] = True
    if by_hand.any():
        # What was counted for them here is taken back below: they are counted by `clean`.
        own = by_hand[np.searchsorted(offsets, dropped, side="right") - 1]
        counts["blank_lines"] = int(np.count_nonzero(~own))
        own = by_hand[np.searchsorted(offsets, returns, side="right") - 1]
        counts["line_endings"] = int(np.count_nonzero(~own))
        pairs = int(np.count_nonzero(~own & ~lone))
        removed = int((lengths - kept)[~by_hand].sum())
    else:
        counts["blank_lines"], counts["line_endings"] = len(dropped), len(returns)
        pairs = len(returns) - int(np.count_nonzero(lone))
        removed = int((lengths - kept).sum())
    counts["trailing_blanks"] = removed - pairs - counts["blank_lines"]
    cleaned = data[keep]
    ends = np.concatenate([[0], np.cumsum(kept)])
    if by_hand.any():
        cleaned, ends = replace_songs(batch, by_hand, cleaned, ends, changed, counts)
    return Batch(cleaned, ends, int(np.count_nonzero(changed)), counts)


def find_difficult(batch: Batch) -> np.ndarray:
    """Songs that `clean_batch` leaves to `clean`, bool, shape `(songs,)`."""
    data, offsets = batch.data, batch.offsets
    difficult = np.zeros(len(offsets) - 1, dtype=bool)
    if len(data) == 0:
        return difficult
    control = IS_CONTROL.take(data, mode="clip")
    if control.any():
        difficult |= sum_by_song(control, offsets) > 0
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
