"""Numbers as a person says them."""

import math


def shown(text: str, most: int = 400) -> str:
    """A text of a file or of a library in one line that a terminal can show."""
    line = " ".join(text.encode("utf-8", "replace").decode().split())
    return "".join(character if character.isprintable() else "?" for character in line)[:most]


def plural(count: int, noun: str, ending: str = "s") -> str:
    """A number and its noun."""
    return f"{count:,} {noun}" + ("" if count == 1 else ending)


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """Bytes as a person says them."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{math.ceil(count / 1e6)} MB"
