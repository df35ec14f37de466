"""Finds the columns of a source with artist, title and lyrics: by their usual names, or by the names in the settings."""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from .. import LyricGPTError
from ..wording import shown
from .sources import Reading, Source

# In order of preference. Case doesn't matter, and a space counts as an underscore.
COLUMNS = {
    "text": ("text", "lyrics", "lyric", "song_lyrics", "lyrics_text", "content"),
    "artist": ("artist", "artist_name", "artists", "singer", "performer", "band"),
    "song": ("song", "title", "song_title", "song_name", "track", "track_name", "name"),
}
OPTIONS = {"text": "text_column", "artist": "artist_column", "song": "title_column"}
SCHEMA = pa.schema([(name, pa.large_string()) for name in ("artist", "song", "text")])


def choose_columns(names: Iterable[str], reading: Reading) -> dict[str, str]:
    """Returns which columns of a source are `artist`, `song` and `text`, without those that it lacks."""
    names = list(names)
    folded = {name.strip().casefold().replace(" ", "_"): name for name in reversed(names)}
    chosen = {role: name for role, name in reading.columns.items() if name in names}
    for role, known in COLUMNS.items():
        if reading.columns.get(role) is None:
            found = (folded[name] for name in known if name in folded)
            if (name := next((name for name in found if name not in chosen.values()), None)) is not None:
                chosen[role] = name
    reading.found |= {role for role, name in chosen.items() if name == reading.columns.get(role)}
    return chosen


def refuse_columns(source: Source, names: Iterable[str], reading: Reading) -> LyricGPTError:
    """Returns the error for a source without a column of lyrics."""
    stated = reading.columns.get("text")
    lacks = f"no column {stated!r}" if stated else f"no column called {', '.join(COLUMNS['text'][:3])} or similar"
    listed = ", ".join(repr(shown(name, 40)) for name in list(names)[:20])
    return LyricGPTError(
        f"{source.name} has {lacks}; its columns are {listed}. Set --text_column to the one with the lyrics"
    )


def check_stated(pattern: str, reading: Reading) -> None:
    """Raises LyricGPTError if no source has a column that the settings name."""
    for role, name in reading.columns.items():
        if name is not None and role not in reading.found:
            raise LyricGPTError(f"{pattern} has no column {name!r}; correct --{OPTIONS[role]} or leave it out")


def check_once(source: Source, names: list[str], chosen: dict[str, str]) -> None:
    """Raises LyricGPTError if several columns have the name of a chosen one."""
    if twice := [name for name in chosen.values() if names.count(name) > 1]:
        raise LyricGPTError(f"{source.name} has {names.count(twice[0])} columns called {twice[0]!r}; rename one")


def song_table(columns: dict[str, Any], rows: int) -> pa.Table:
    """Returns a batch with all three columns. A missing column is filled with empty strings."""
    empty = pa.array([""] * rows, pa.large_string())
    return pa.table([columns.get(name, empty) for name in SCHEMA.names], schema=SCHEMA)
