"""Draws songs for many people at once, from text and numbers that may be anything.

Notable:
- torch's random generator is the process's, so one song is drawn at a time; songs of several people take turns, and each
  takes its generator's state along. So a seed gives the same song, however many are drawn, and nobody waits for a whole one.
- One thread draws: on two shared cores a model of 0.8 million parameters wrote 700 characters a second with one thread and
  10 to 400 with two, and the other core is left to the server.
- A character that the model does not know becomes the one it resembles, or nothing, and is named.
"""

import html
import math
import os
import queue
import threading
import time
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, StoppingCriteria
from transformers.generation.streamers import BaseStreamer

MODEL = os.environ.get("MODEL", "you/lyricgpt-sample")
# Characters: a prompt and what the model reads of a song, a name, what one request writes, the longest song.
MAX_PROMPT, MAX_NAME, MAX_LENGTH, MAX_SONG = 1000, 100, 2000, 20_000
MIN_TEMPERATURE, MAX_TEMPERATURE, MAX_SEED = 0.1, 1.5, 2**32 - 1
# Songs that take turns; further ones wait.
SONGS = 8
# A request ends after so many seconds, turns of others included; a turn, and so an update of the page, takes TURN.
SECONDS, TURN = 60, 0.1
TYPOGRAPHY = {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": ".", "\t": " ", "ß": "s"}

torch.set_num_threads(1)
tokenizer = AutoTokenizer.from_pretrained(MODEL, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(MODEL, trust_remote_code=True).eval()
alphabet = set(tokenizer.alphabet)
knows_names = tokenizer.init_kwargs.get("song_template") is not None
drawing = threading.Lock()
writers = ThreadPoolExecutor(SONGS)  # new threads each time would each leave some of malloc's arenas behind


class Song(BaseStreamer, StoppingCriteria):
    """Hands what is drawn to another thread, lets others have their turn, and ends when its reader has left."""

    def __init__(self):
        self.pieces: queue.Queue[str | Exception | None] = queue.Queue()
        self.ids: list[int] = []
        self.is_prompt, self.left = True, False
        self.turn = time.monotonic()

    def put(self, value: torch.Tensor) -> None:
        if not self.is_prompt:
            self.ids += value.flatten().tolist()
        self.is_prompt = False
        if time.monotonic() - self.turn > TURN:
            self.hand_over()
            state = torch.get_rng_state()
            drawing.release()
            time.sleep(0.001)  # whoever waits is sooner
            drawing.acquire()
            torch.set_rng_state(state)
            self.turn = time.monotonic()

    def hand_over(self) -> None:
        self.pieces.put(tokenizer.decode(self.ids, skip_special_tokens=True))
        self.ids = []

    def end(self) -> None:
        self.hand_over()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self.left, device=input_ids.device)

    def draw(self, ids: list[int], seed: int, **options: Any) -> None:
        """Draws the song; without ids, the model begins one itself."""
        try:
            with drawing:
                self.turn = time.monotonic()
                torch.manual_seed(seed)
                inputs = {"input_ids": torch.tensor([ids])} if ids else {}
                if not self.left:
                    model.generate(**inputs, **options, streamer=self, stopping_criteria=[self])
            self.pieces.put(None)
        except Exception as error:  # raised again where the song is read
            self.pieces.put(error)


def known(text: Any, limit: int, replaced: dict[str, str]) -> str:
    """Text of known characters: others become what they resemble or nothing, and are noted in `replaced`."""
    text = unicodedata.normalize("NFC", str(text or "")[:limit].replace("\r\n", "\n").replace("\r", "\n"))
    for character in sorted(set(text) - alphabet):
        plain = TYPOGRAPHY.get(character, unicodedata.normalize("NFKD", character)[0])
        choices = [choice for choice in (plain, plain.lower(), plain.upper()) if choice in alphabet]
        replaced[character] = choices[0] if choices else ""
        text = text.replace(character, replaced[character])
    return text


def describe(replaced: dict[str, str], most: int = 10) -> str:
    """Says, as HTML, what was replaced: `The model does not know é (U+00E9), read as e; ☃ (U+2603), left out.`"""
    names = [
        f"{f'{character} ' if character.isprintable() else ''}(U+{ord(character):04X}), "
        + (f"read as {other if other.strip() else 'a blank'}" if other else "left out")
        for character, other in list(replaced.items())[:most]
    ]
    more = f"; and {len(replaced) - most} more" if len(replaced) > most else ""
    return html.escape(f"The model does not know {'; '.join(names)}{more}.") if replaced else ""


def number(value: Any, lowest: float, highest: float) -> float:
    """A finite number within bounds, whatever was sent."""
    try:
        value = float(value)
    except (TypeError, ValueError, OverflowError):
        return lowest
    return min(highest, max(lowest, value)) if math.isfinite(value) else lowest


def stream(begin: str, remark: str, temperature: Any, length: Any, seed: Any, **options: Any) -> Iterator[tuple]:
    """The song so far, which begins as told, and the remark, again at each piece."""
    starts = tokenizer.bos_token_id is not None and len(begin) <= MAX_PROMPT
    read = tokenizer(begin[-MAX_PROMPT:], split_special_tokens=True, add_special_tokens=False).input_ids
    song, text, started = Song(), begin, time.monotonic()
    options |= {"temperature": number(temperature, MIN_TEMPERATURE, MAX_TEMPERATURE), "max_time": SECONDS}
    options |= {"max_new_tokens": min(int(number(length, 1, MAX_LENGTH)), MAX_SONG - len(begin))}
    arguments = [tokenizer.bos_token_id] * starts + read, int(number(seed, 0, MAX_SEED))
    writers.submit(song.draw, *arguments, **options)
    try:
        yield text, remark
        while (piece := song.pieces.get()) is not None:
            if isinstance(piece, Exception):
                raise piece
            text += piece
            yield text, remark
    finally:
        song.left = True
    if time.monotonic() - started > SECONDS:
        yield text, f"{remark} Stopped after {SECONDS} seconds; Continue goes on.".strip()


def write_song(
    prompt: str, temperature: float, length: float, seed: float, artist: str = "", title: str = ""
) -> Iterator:
    """A new song that begins with the prompt."""
    replaced: dict[str, str] = {}
    begin = known(prompt, MAX_PROMPT, replaced)
    if knows_names:
        names = {"artist": known(artist, MAX_NAME, replaced), "title": known(title, MAX_NAME, replaced)}
        header = tokenizer.song_prompt(**names).removeprefix(tokenizer.bos_token or "")
        begin = known(header, MAX_PROMPT, replaced) + begin
    yield from stream(begin, describe(replaced), temperature, length, seed)


def continue_song(song: str, temperature: float, length: float, seed: float) -> Iterator:
    """The song that stands there goes on, even where the model had ended it."""
    replaced: dict[str, str] = {}
    begin = known(song, MAX_SONG, replaced)
    if len(begin) >= MAX_SONG:
        yield begin, f"A song ends at {MAX_SONG:,} characters."
        return
    more = min(50, int(number(length, 1, MAX_LENGTH)), MAX_SONG - len(begin))
    yield from stream(begin, describe(replaced), temperature, length, seed, min_new_tokens=more)
