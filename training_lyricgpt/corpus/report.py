"""What preparing a corpus found, in words: songs and what was skipped, cleaning, near-duplicates, alphabet, splits.

Everything is read from `corpus.json`, so that what is printed is what is kept.
"""

import unicodedata
from typing import Any

from tokenization_lyricgpt.tokenization_lyricgpt import describe_characters

from ..wording import plural
from .near_duplicates import STRADDLING

RARE_COUNT, RARE_SHOWN, FREQUENT_SHOWN = 5, 12, 12
CLEANING = {
    "line_endings": "carriage return",
    "trailing_blanks": "trailing blank",
    "blank_lines": "blank line",
    "control_characters": "control character",
}


def counted(character: str, count: int) -> str:
    return f"{character!r} {count:,}"


def named(character: str, count: int) -> str:
    """A rare character as a reader can look it up."""
    return f"{character!r} ({unicodedata.name(character, f'U+{ord(character):04X}').lower()}) {count:,}"


def describe_songs(report: dict[str, Any]) -> list[str]:
    """Songs read, skipped and why, and what cleaning changed."""
    files = ", ".join(file["name"] for file in report["files"][:3])
    files += f" and {len(report['files']) - 3:,} more" if len(report["files"]) > 3 else ""
    skipped = f", {plural(report['skipped_empty'], 'empty one')} skipped" if report["skipped_empty"] else ""
    noun = "document" if all(file["kind"] == ".txt" for file in report["files"]) else "song"
    line = f"corpus: {plural(report['songs'], noun)} of {files}{skipped}"
    if report["rows"] > report["songs"] + report["skipped_empty"]:
        line += f" (the first of {report['rows']:,} in the order drawn)"
    lines = [line]
    if report["duplicates"]:
        lines.append(f"  {plural(report['duplicates'], 'song')} word for word the same as another")
    removed = [
        plural(count, CLEANING[kind])
        for kind, count in report["cleaning_removed"].items()
        if count and kind in CLEANING
    ]
    if report["changed_by_cleaning"]:
        what = f": {', '.join(removed)} taken out" if removed else ""
        lines.append(f"  cleaning changed {plural(report['changed_by_cleaning'], 'song')}{what}")
    if normalized := report["cleaning_removed"].get("normalized_songs"):
        lines.append(f"  {plural(normalized, 'song')} brought to Unicode's composed form (NFC)")
    if report["replaced_surrogates"]:
        lines.append(f"  {plural(report['replaced_surrogates'], 'half', '')} of a surrogate pair became U+FFFD")
    return lines + [f"  note: {remark}" for remark in report["remarks"]]


def describe_near_duplicates(report: dict[str, Any]) -> list[str]:
    """How many songs are nearly the same, what was done with them, and what that means for the validation loss."""
    figures = report["near_duplicates"]
    if figures["mode"] == "ignore":
        return []
    straddling = figures.get(STRADDLING, {})
    if not figures["clusters"]:
        return ["  no near-duplicates"]
    done = {
        "group": "each group kept on one side of the split",
        "drop": "all but the first of each left out",
        "keep": "kept as they are",
    }[figures["mode"]]
    lines = [f"  near-duplicates: {figures['songs']:,} songs in {plural(figures['clusters'], 'group')}; {done}"]
    if figures["left_out"]:
        lines[0] += f" ({plural(figures['left_out'], 'song')} left out)"
    drawn = straddling.get("as_drawn", 0)
    split = straddling.get("as_split", drawn)
    if drawn and drawn != split:
        lines.append(
            f"  held-out songs with a near-duplicate in training: {split:,} (in a split that ignores them {drawn:,})"
        )
    elif split:
        songs = report["songs_in"].get("validation")
        of = f" of {songs:,}" if songs else ""
        lines.append(
            f"  note: {plural(split, 'held-out song')}{of} {'has' if split == 1 else 'have'} a near-duplicate in training: "
            "the validation loss flatters"
        )
    return lines


def describe_alphabet(report: dict[str, Any]) -> list[str]:
    """The alphabet with its most frequent characters, and the rare ones by name."""
    counts = report["character_counts"]
    shown = ", ".join(counted(*item) for item in list(counts.items())[:FREQUENT_SHOWN])
    more = len(counts) - FREQUENT_SHOWN
    lines = [f"alphabet: {plural(report['alphabet_size'], 'character')}; {shown}" + (" …" if more > 0 else "")]
    below = set(report["rare_characters"])
    seldom = [item for item in reversed(counts.items()) if 0 < item[1] <= RARE_COUNT and item[0] not in below]
    if seldom:
        names = ", ".join(named(*item) for item in seldom[:RARE_SHOWN])
        more = f" and {len(seldom) - RARE_SHOWN} more" if len(seldom) > RARE_SHOWN else ""
        lines.append(f"  rare, {RARE_COUNT} times at most: {names}{more}")
    if below:
        lines.append(f"  rarer than min_char_count, read as <|unk|>: {describe_characters(sorted(below), RARE_SHOWN)}")
    return lines


def describe_corpus(report: dict[str, Any]) -> str:
    """The lines that a run prints of its corpus; `report` is the content of `corpus.json`."""
    tokens, songs = report["tokens"], report["songs_in"]
    sides = []
    for split, name in (("train", "for training"), ("validation", "held out")):
        count = f" ({plural(songs[split], 'song')})" if report["split"] == "songs" else ""
        sides.append(f"{tokens[split]:,} characters{count} {name}")
    lines = describe_songs(report) + describe_near_duplicates(report)
    lines.append(f"  split by {report['split']}: {', '.join(sides)}")
    lines += describe_alphabet(report)
    if unknown := report["unknown"].get("validation", 0):
        lines.append(
            f"  note: {plural(unknown, 'held-out character')} {'is' if unknown == 1 else 'are'} not in the training "
            "alphabet and read as <|unk|>"
        )
    return "\n".join(lines)
