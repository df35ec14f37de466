"""Headers that name a song's artist and title, so that a prompt can ask for them.

Notable:
- A header is rendered from the tokenizer's song template, which the saved tokenizer carries: what a song began with in
  training is what `tokenizer.song_prompt` gives.
- Of the training songs a tenth have no header, a tenth only the artist and a tenth only the title, so that prompts without
  one, or with half of one, are nothing new to the model. Songs that are held out have all of it.
"""

import numpy as np

from tokenization_lyricgpt import LyricGPTTokenizer

from .arguments import Arguments

HEADER = "{{% if {name} %}}{{{{ '{label}: ' + {name} + '\n' }}}}{{% endif %}}"
ARTIST = HEADER.format(name="artist", label="Artist")
TITLE = HEADER.format(name="title", label="Title")
LABELS = ("Artist: ", "Title: ")
SONG_TEMPLATES = {
    "none": None,
    "title": TITLE + "{% if title %}{{ '\n' }}{% endif %}{{ text }}",
    "artist_title": ARTIST + TITLE + "{% if artist or title %}{{ '\n' }}{% endif %}{{ text }}",
}
# Share of the training songs whose header is without both, the artist, the title; the same for each.
DROPPED_SHARE = 0.1
NOTHING, ONLY_ARTIST, ONLY_TITLE, WHOLE = range(4)
# Key of the generator, so that the shares are independent of the order of the songs.
HEADER_STREAM = 3


def choose_headers(args: Arguments, in_training: np.ndarray) -> np.ndarray:
    """Which part of its header each song has, int64, shape `(songs,)`.

    Args:
        in_training: Whether each song is for training, bool, shape `(songs,)`.
    """
    parts = np.random.default_rng([args.split_seed, HEADER_STREAM]).random(len(in_training)) / DROPPED_SHARE
    return np.where(in_training, np.minimum(parts.astype(np.int64), WHOLE), WHOLE)


def header_names(part: int, artist: str, title: str) -> dict[str, str]:
    """The names that a header shows: arguments of `LyricGPTTokenizer.render_song`."""
    return {
        "artist": artist if part in (ONLY_ARTIST, WHOLE) else "",
        "title": title if part in (ONLY_TITLE, WHOLE) else "",
    }


def without_header(tokenizer: LyricGPTTokenizer, text: str) -> str:
    """A song without the header that the tokenizer's template gives it; one without a header as it is."""
    if tokenizer.init_kwargs.get("song_template") and text.startswith(LABELS):
        return text.partition("\n\n")[2]
    return text
