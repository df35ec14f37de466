"""Draws songs for many people at once, from whatever text they send.

Notable:
- torch's random generator is the process's, so one song is drawn at a time. Songs take turns, and each takes the
  generator's state along: a seed gives the same song, however many are drawn, and nobody waits for a whole one.
- One thread draws: on two shared cores a model of 0.8 million parameters wrote 700 characters a second with one thread and
  10 to 400 with two, and the other core is left to the server.
- A character that the model does not know becomes the one it resembles, or nothing, and is named.
"""

import html
import os
import queue
import sys
import threading
import time
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.generation.streamers import BaseStreamer

MODEL = os.environ.get("MODEL", "you/lyricgpt-sample")
# A request ends after so many seconds, turns of others included; a turn, and so an update of the page, takes TURN.
SECONDS, TURN = float(os.environ.get("MAX_SECONDS", 60)), 0.1
# Songs that take turns; further ones wait.
SONGS = 8
# Characters: a prompt and what the model reads of a song, a name, what one request writes, the longest song.
MAX_PROMPT, MAX_NAME, MAX_LENGTH, MAX_SONG = 1000, 100, 2000, 20_000
TYPOGRAPHY = {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": ".", "\t": " ", "ß": "s"}

torch.set_num_threads(1)
if Path(MODEL).is_dir():  # a run folder, beside LyricGPT itself: nothing in it is run
    from training_lyricgpt import LyricGPTError
    from training_lyricgpt.model.loading import load_run

    try:
        model, tokenizer = load_run(MODEL)
    except LyricGPTError as error:
        sys.exit(f"error: {error}")
else:
    tokenizer = AutoTokenizer.from_pretrained(MODEL, trust_remote_code=True)
    model = AutoModelForCausalLM.from_pretrained(MODEL, trust_remote_code=True).eval()
knows_names = tokenizer.init_kwargs.get("song_template") is not None
drawing = threading.Lock()
writers = ThreadPoolExecutor(SONGS)  # new threads each time would each leave some of malloc's arenas behind


class Song(BaseStreamer):
    """Hands what is drawn to its reader in another thread, and lets others have their turn."""

    def __init__(self):
        self.pieces: queue.Queue[str | Exception | None] = queue.Queue()
        self.ids: list[int] | None = None  # drawn since the last piece; None until the prompt was put
        self.is_read = True

    def draw(self, ids: list[int], seed: int, **options: float) -> None:
        try:
            with drawing:
                self.turn_ends = time.monotonic() + TURN
                torch.manual_seed(seed)
                model.generate(torch.tensor([ids]) if ids else None, **options, streamer=self)
            self.pieces.put(None)
        except InterruptedError:  # kept, it would hold all that was drawn with
            pass
        except Exception as error:  # raised again where the song is read
            self.pieces.put(error)

    def put(self, value: torch.Tensor) -> None:
        if self.ids is None:
            self.ids = []
            return
        self.ids += value.tolist()
        if time.monotonic() > self.turn_ends:
            self.end()
            state = torch.get_rng_state()
            drawing.release()
            time.sleep(0.001)  # whoever waits is sooner
            drawing.acquire()
            torch.set_rng_state(state)
            self.turn_ends = time.monotonic() + TURN

    def end(self) -> None:
        if not self.is_read:
            raise InterruptedError
        self.pieces.put(tokenizer.decode(self.ids, skip_special_tokens=True))
        self.ids = []


def known(text: str, most: int = 10) -> tuple[str, str]:
    """The text in characters that the model knows, and what has become of others.

    The remark is HTML: `The model does not know é (U+00E9), read as e; ☃ (U+2603), left out.`
    """
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    replaced = []
    for character in sorted(set(text) - set(tokenizer.alphabet)):
        plain = TYPOGRAPHY.get(character, unicodedata.normalize("NFKD", character)[0])
        other = next((choice for choice in (plain, plain.lower(), plain.upper()) if choice in tokenizer.alphabet), "")
        text = text.replace(character, other)
        shown = f"<bdi>{html.escape(character)}</bdi> " if character.isprintable() else ""
        fate = f"read as {html.escape(other) if other.strip() else 'a blank'}" if other else "left out"
        replaced.append(f"{shown}(U+{ord(character):04X}), {fate}")
    names = "; ".join(replaced[:most]) + (f"; and {len(replaced) - most} more" if len(replaced) > most else "")
    return text, f"The model does not know {names}." if replaced else ""


def stream(begin: str, remark: str, temperature: float, seed: int | None, **options: int) -> Iterator[tuple[str, str]]:
    """The song so far, which begins as told, and the remark, again at each piece."""
    starts = tokenizer.bos_token_id is not None and len(begin) <= MAX_PROMPT
    read = tokenizer(begin[-MAX_PROMPT:], split_special_tokens=True, add_special_tokens=False).input_ids
    song, text, end = Song(), begin, time.monotonic() + SECONDS
    ids = [tokenizer.bos_token_id] * starts + read
    writers.submit(song.draw, ids, seed or 0, temperature=temperature, **options)
    try:
        yield text, remark
        while (piece := song.pieces.get()) is not None:
            if isinstance(piece, Exception):
                raise piece
            text += piece
            if time.monotonic() > end:
                yield text, f"{remark} Stopped after {SECONDS:g} seconds; Continue goes on.".strip()
                return
            yield text, remark
    finally:
        song.is_read = False


def write_song(
    prompt: str | None, temperature: float, length: int, seed: int | None, artist: str | None, title: str | None
) -> Iterator[tuple[str, str]]:
    """A new song that begins with the prompt."""
    header = ""
    if knows_names:
        names = {"artist": (artist or "")[:MAX_NAME], "title": (title or "")[:MAX_NAME]}
        header = tokenizer.song_prompt(**names).removeprefix(tokenizer.bos_token or "")
    begin, remark = known(header + (prompt or "")[:MAX_PROMPT])
    yield from stream(begin, remark, temperature, seed, max_new_tokens=int(length))  # (NaN raises)


def continue_song(song: str | None, temperature: float, length: int, seed: int | None) -> Iterator[tuple[str, str]]:
    """The song that stands there goes on, even where the model had ended it."""
    begin, remark = known((song or "")[:MAX_SONG])
    more = min(int(length), MAX_SONG - len(begin))
    if more < 1:
        yield begin, f"A song ends at {MAX_SONG:,} characters."
        return
    yield from stream(begin, remark, temperature, seed, max_new_tokens=more, min_new_tokens=min(50, more))
