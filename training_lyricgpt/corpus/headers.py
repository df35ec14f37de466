"""Headers that name a song's artist and title, so that a prompt can ask for them.

Notes:
- Headers are rendered with the tokenizer's song template, which is saved with the tokenizer. So `tokenizer.song_prompt`
  gives exactly the header that a song had in training.
- A tenth of the training songs have no header, a tenth only the artist and a tenth only the title, so that the model also
  learns to write songs without a header or with half of one. Validation songs have the whole header.
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
# Share of the training songs without a header. The same share has only the artist, and the same only the title.
DROPPED_SHARE = 0.1
NOTHING, ONLY_ARTIST, ONLY_TITLE, WHOLE = range(4)
# Key of the random generator. It makes the choice of headers independent of the order of the songs.
HEADER_STREAM = 3


def choose_headers(args: CorpusArguments, songs: int) -> np.ndarray:
    """Draws which part of its header each song gets in training, int64, shape `(songs,)`."""
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
    """Returns a song without the header from the tokenizer's template. A song that has no header is returned unchanged."""
    if tokenizer.init_kwargs.get("song_template") and text.startswith(LABELS):
        return text.partition("\n\n")[2]
    return text
