"""Texts and numbers for people to read."""

import math


def shown(text: str, most: int = 400) -> str:
    """Makes text from a file or a library safe to print: one line, printable, and at most `most` characters."""
    line = " ".join(text.encode("utf-8", "replace").decode().split())
    return "".join(character if character.isprintable() else "?" for character in line)[:most]


def plural(count: int, noun: str, ending: str = "s") -> str:
    """Returns a number with its noun, for example `1 song` or `2 songs`."""
    return f"{count:,} {noun}" + ("" if count == 1 else ending)


def duration(seconds: float) -> str:
    """Returns a time in seconds, minutes or hours, for example `5 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """Returns a number of bytes in MB or GB, for example `12 MB`."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{math.ceil(count / 1e6)} MB"
