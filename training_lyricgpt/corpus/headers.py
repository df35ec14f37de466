"""Headers that name a song's artist and title, so that a prompt can ask for them.

Notable:
- A header is rendered from the tokenizer's song template, which the saved tokenizer carries: what a song began with in
  training is what `tokenizer.song_prompt` gives.
- Of the training songs a tenth have no header, a tenth only the artist and a tenth only the title, so that prompts without
  one, or with half of one, are nothing new to the model. Validation songs have all of it.
"""

import numpy as np
import pyarrow as pa

from tokenization_lyricgpt import LyricGPTTokenizer

from ..arguments import CorpusArguments
from .cleaning import clean
from .splitting import Part

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


def choose_headers(args: CorpusArguments, songs: int) -> np.ndarray:
    """Which part of its header each of so many songs has in training, int64, shape `(songs,)`."""
    parts = np.random.default_rng([args.split_seed, HEADER_STREAM]).random(songs) / DROPPED_SHARE
    return np.minimum(parts.astype(np.int64), WHOLE)


def render_headers(args: CorpusArguments, parts: dict[str, Part]) -> None:
    """Gives the songs of each split their headers."""
    tokenizer = LyricGPTTokenizer.from_alphabet("\n", song_template=SONG_TEMPLATES[args.conditioning])
    for split, part in parts.items():
        rows = len(part.songs.dataset)
        kinds = choose_headers(args, rows) if split == "train" else np.full(rows, WHOLE)
        names = part.songs.dataset.select_columns(["artist", "song"]).with_format("arrow")[:].take(pa.array(part.rows))
        headers = []
        for kind, artist, title in zip(
            kinds[part.rows].tolist(), names["artist"].to_pylist(), names["song"].to_pylist(), strict=True
        ):
            shown = {
                "artist": artist if kind in (ONLY_ARTIST, WHOLE) else "",
                "title": title if kind in (ONLY_TITLE, WHOLE) else "",
            }
            if args.cleaning == "standard":
                shown = {name: clean(value) for name, value in shown.items()}
            headers.append(tokenizer.render_song("", **shown))
        part.headers = pa.array(headers, pa.large_string())


def without_header(tokenizer: LyricGPTTokenizer, text: str) -> str:
    """A song without the header that the tokenizer's template gives it; one without a header as it is."""
    if tokenizer.init_kwargs.get("song_template") and text.startswith(LABELS):
        return text.partition("\n\n")[2]
    return text
