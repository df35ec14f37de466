"""Describes a prepared corpus in words: songs and skipped rows, cleaning, near-duplicates, split, alphabet.

All figures come from `corpus.json`, so that the printed report agrees with the saved one.
"""

import unicodedata
from typing import Any

from tokenization_lyricgpt.tokenization_lyricgpt import describe_characters

from ..wording import plural
from .near_duplicates import STRADDLING

RARE_COUNT, RARE_SHOWN, FREQUENT_SHOWN = 5, 12, 12
NAMES = {" ": "space", "\n": "line break"}
CLEANING = {
    "line_endings": "carriage return",
    "trailing_blanks": "trailing space",
    "blank_lines": "extra line break",
    "control_characters": "control character",
}


def counted(character: str, count: int) -> str:
    return f"{NAMES.get(character, repr(character))} ({count:,})"


def named(character: str, count: int) -> str:
    """Describes a rare character, with its Unicode name unless everybody knows it."""
    if character.isascii() and character.isprintable():
        return counted(character, count)
    return f"{character!r} {unicodedata.name(character, f'U+{ord(character):04X}').lower()} ({count:,})"


def describe_songs(report: dict[str, Any]) -> list[str]:
    """Describes which songs were read and skipped, and what cleaning changed."""
    files = ", ".join(file["name"] for file in report["files"][:3])
    files += f" and {len(report['files']) - 3:,} more" if len(report["files"]) > 3 else ""
    skipped = f", {plural(report['skipped_empty'], 'empty row')} skipped" if report["skipped_empty"] else ""
    noun = "document" if all(file["kind"] == ".txt" for file in report["files"]) else "song"
    line = f"corpus: {plural(report['songs'], noun)} from {files}{skipped}"
    if report["rows"] > report["songs"] + report["skipped_empty"]:
        line += f" (max_songs: {report['songs'] + report['skipped_empty']:,} of {report['rows']:,} rows used)"
    lines = [line]
    if copies := report["duplicates"]:
        lines.append(
            f"  {plural(copies, 'song')} {'is an exact copy' if copies == 1 else 'are exact copies'} of another song"
        )
    counts = {kind: count for kind, count in report["cleaning_removed"].items() if count and kind in CLEANING}
    removed = [plural(count, CLEANING[kind]) for kind, count in counts.items()]
    # A line break at the end of each song is no news.
    is_usual = counts.keys() == {"blank_lines"} and counts["blank_lines"] <= report["changed_by_cleaning"]
    if report["changed_by_cleaning"] and not is_usual:
        what = f": {', '.join(removed)} removed" if removed else ""
        lines.append(f"  cleaning changed {plural(report['changed_by_cleaning'], 'song')}{what}")
    if normalized := report["cleaning_removed"].get("normalized_songs"):
        lines.append(f"  {plural(normalized, 'song')} converted to Unicode NFC, the usual form of accented letters")
    if report["replaced_surrogates"]:
        broken = plural(report["replaced_surrogates"], "broken character")
        lines.append(f"  {broken} (half a surrogate pair) replaced by U+FFFD")
    return lines + [f"  note: {remark}" for remark in report["remarks"]]


def describe_near_duplicates(report: dict[str, Any]) -> list[str]:
    """Describes how many songs are near-duplicates, how they are treated, and whether the validation loss is optimistic."""
    figures = report["near_duplicates"]
    if figures["mode"] == "ignore":
        return []
    straddling = figures.get(STRADDLING, {})
    if not figures["clusters"]:
        return ["  no near-duplicates (songs that are almost the same)"]
    done = {
        "group": "each group is on one side of the split",
        "drop": "only the first song of each group is used",
        "keep": "they stay where they are",
    }[figures["mode"]]
    groups = f"{figures['songs']:,} songs in {plural(figures['clusters'], 'group')}"
    lines = [f"  near-duplicates (songs that are almost the same): {groups}; {done}"]
    if figures["left_out"]:
        lines[0] += f" ({plural(figures['left_out'], 'song')} left out)"
    drawn = straddling.get("as_drawn", 0)
    split = straddling.get("as_split", drawn)
    if drawn and drawn != split:
        lines.append(
            f"  validation songs with a near-duplicate in training: {split:,} ({drawn:,} if near-duplicates were ignored)"
        )
    elif split:
        songs = report["songs_in"].get("validation")
        which = f"{split:,} of {plural(songs, 'validation song')}" if songs else plural(split, "validation song")
        which += " has" if split == 1 else " have"
        lines.append(f"  note: {which} a near-duplicate in training, so the validation loss is optimistic (too low)")
    return lines


def describe_alphabet(report: dict[str, Any]) -> list[str]:
    """Lists the most frequent characters of the alphabet, and the rare ones with their names."""
    counts = report["character_counts"]
    shown = ", ".join(counted(*item) for item in list(counts.items())[:FREQUENT_SHOWN])
    more = len(counts) - FREQUENT_SHOWN
    lines = [f"alphabet: {plural(report['alphabet_size'], 'character')}, most frequent first: {shown}"]
    lines[0] += " …" if more > 0 else ""
    below = set(report["rare_characters"])
    seldom = [item for item in reversed(counts.items()) if 0 < item[1] <= RARE_COUNT and item[0] not in below]
    if seldom:
        names = ", ".join(named(*item) for item in seldom[:RARE_SHOWN])
        more = f" and {len(seldom) - RARE_SHOWN} more" if len(seldom) > RARE_SHOWN else ""
        lines.append(f"  rare (at most {RARE_COUNT} times): {names}{more}")
    if below:
        characters = describe_characters(sorted(below), RARE_SHOWN)
        lines.append(
            f"  fewer than {report['min_char_count']:,} times (min_char_count), replaced by <|unk|>: {characters}"
        )
    return lines


def describe_corpus(report: dict[str, Any]) -> str:
    """Returns the lines that a run prints about its corpus. `report` is the content of `corpus.json`."""
    tokens, songs = report["tokens"], report["songs_in"]
    # The mark at the end of a song is a token, too.
    unit = "token" if report["special_tokens"] else "character"
    sides = []
    for split, name in (("train", "for training"), ("validation", "for validation")):
        count = f" ({plural(songs[split], 'song')})" if report["split"] == "songs" else ""
        sides.append(f"{plural(tokens[split], unit)}{count} {name}")
    lines = describe_songs(report) + describe_near_duplicates(report)
    meaning = " (tokens: characters and end-of-song marks)" if report["special_tokens"] else ""
    lines.append(f"  split by {report['split']}: {', '.join(sides)}{meaning}")
    lines += describe_alphabet(report)
    if unknown := report["unknown"].get("validation", 0):
        lines.append(
            f"  note: {plural(unknown, 'character')} of the validation songs {'is' if unknown == 1 else 'are'} not in the "
            "alphabet and replaced by <|unk|>"
        )
    return "\n".join(lines)
