"""Which columns of a source are artist, title and lyrics: found by name, source by source, or told."""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from .. import LyricGPTError
from ..wording import shown
from .sources import Source, Told

# In the order of preference, compared without regard to case.
COLUMNS = {
    "text": ("text", "lyrics", "lyric", "song_lyrics", "lyrics_text", "content"),
    "artist": ("artist", "artist_name", "artists", "singer", "performer", "band"),
    "song": ("song", "title", "song_title", "song_name", "track", "track_name", "name"),
}
OPTIONS = {"text": "text_column", "artist": "artist_column", "song": "title_column"}
SCHEMA = pa.schema([(name, pa.large_string()) for name in ("artist", "song", "text")])


def choose_columns(names: Iterable[str], told: Told) -> dict[str, str]:
    """Which of a source's columns are `artist`, `song` and `text`; those that it lacks are left out."""
    names = list(names)
    folded = {name.strip().casefold().replace(" ", "_"): name for name in reversed(names)}
    chosen = {role: name for role, name in told.columns.items() if name in names}
    for role, known in COLUMNS.items():
        if told.columns.get(role) is None:
            found = (folded[name] for name in known if name in folded)
            if (name := next((name for name in found if name not in chosen.values()), None)) is not None:
                chosen[role] = name
    told.found |= {role for role, name in chosen.items() if name == told.columns.get(role)}
    return chosen


def refuse_columns(source: Source, names: Iterable[str], told: Told) -> LyricGPTError:
    """The error of a source without lyrics."""
    stated = told.columns.get("text")
    lacks = f"no column {stated!r}" if stated else f"no column called {', '.join(COLUMNS['text'][:3])} or the like"
    listed = ", ".join(repr(shown(name, 40)) for name in list(names)[:20])
    return LyricGPTError(
        f"{source.name} has {lacks}; its columns are {listed}. Name the one with the lyrics with --text_column"
    )


def check_stated(pattern: str, told: Told) -> None:
    """Raises LyricGPTError if a column that was told is in none of the sources."""
    for role, name in told.columns.items():
        if name is not None and role not in told.found:
            raise LyricGPTError(f"{pattern} has no column {name!r}, which --{OPTIONS[role]} names")


def check_once(source: Source, names: list[str], chosen: dict[str, str]) -> None:
    """Raises LyricGPTError if two columns have the name of a chosen one."""
    if twice := [name for name in chosen.values() if names.count(name) > 1]:
        raise LyricGPTError(f"{source.name} has {names.count(twice[0])} columns called {twice[0]!r}; rename one")


def song_table(columns: dict[str, Any], rows: int) -> pa.Table:
    """A batch with all three columns; what is missing is the empty string."""
    empty = pa.array([""] * rows, pa.large_string())
    return pa.table([columns.get(name, empty) for name in SCHEMA.names], schema=SCHEMA)
