"""Writes songs with a trained model: `python -m training_lyricgpt.sample RUN --prompt "I walked along"`.

Notes:
- Each character is shown as soon as it is written. (transformers' own streamers wait for whole words.)
- The songs of a call use the seeds `seed`, `seed + 1`, …, so you can write any one of them again alone.
"""

import argparse
import sys
from typing import TextIO

import torch
from transformers.generation.streamers import BaseStreamer

from tokenization_lyricgpt import LyricGPTTokenizer

from . import LyricGPTError
from .model.loading import load_run
from .model.songs import encode_prompt, write_song
from .terminal import command


class CharacterStreamer(BaseStreamer):
    """Writes each character as soon as it is drawn. Special tokens are left out.

    Args:
        skip_prompt: Whether to leave out the first ids, which are the prompt. (Without a prompt, the first id may be a
            character of the song: see `generation_config`.)
    """

    def __init__(self, tokenizer: LyricGPTTokenizer, file: TextIO, skip_prompt: bool = True):
        self.tokenizer = tokenizer
        self.file = file
        self.is_prompt = skip_prompt

    def put(self, value: torch.Tensor) -> None:
        if self.is_prompt:  # the caller has already printed the prompt
            self.is_prompt = False
            return
        self.file.write(self.tokenizer.decode(value.flatten(), skip_special_tokens=True))
        self.file.flush()

    def end(self) -> None:
        self.file.write("\n")
        self.file.flush()


def main(argv: list[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m training_lyricgpt.sample", description="Write songs.")
    parser.add_argument("run", help="run folder, or a model on the Hub (user/name)")
    parser.add_argument("--prompt", default="", help="how the song begins (default: the model begins by itself)")
    parser.add_argument("--artist", default="", help="artist of a new song, for a model trained with headers")
    parser.add_argument("--title", default="", help="title of a new song, for a model trained with headers")
    parser.add_argument("--num_samples", type=int, default=1, help="songs to write (default: 1)")
    parser.add_argument(
        "--temperature", type=float, default=None, help="how adventurous: 0.7 is careful, 1.2 is wild (default: 0.9)"
    )
    parser.add_argument(
        "--max_new_tokens", type=int, default=None, help="maximum number of characters to write (default: 1000)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the first song; the same seed gives the same song (default: 0)"
    )
    args = parser.parse_args(argv)
    if args.num_samples < 1:
        raise LyricGPTError(f"--num_samples is {args.num_samples}; it must be at least 1")
    if args.max_new_tokens is not None and args.max_new_tokens < 1:
        raise LyricGPTError(f"--max_new_tokens is {args.max_new_tokens}; it must be at least 1")
    if args.temperature is not None and not 0 <= args.temperature <= 100:
        raise LyricGPTError(
            f"--temperature is {args.temperature}; it must be between 0 (always the likeliest character) and 100"
        )
    model, tokenizer = load_run(args.run)
    options = {name: value for name in ("temperature", "max_new_tokens") if (value := getattr(args, name)) is not None}
    if options.get("temperature", 1) < 1e-6:
        options = {**options, "do_sample": False, "temperature": None}
    prompt = args.prompt
    if args.artist or args.title:
        for name in ("artist", "title"):
            is_ignored = tokenizer.song_prompt(**{name: "x"}) == tokenizer.song_prompt()
            if (value := getattr(args, name)) and is_ignored:
                raise LyricGPTError(
                    f"--{name} is {value!r}, but {args.run} was trained without {name}s; leave --{name} out, or train a "
                    "model with --conditioning artist_title"
                )
        prompt = tokenizer.song_prompt(args.artist, args.title) + args.prompt
    _, remark = encode_prompt(tokenizer, prompt)
    if remark:
        print(f"note: {remark}", file=sys.stderr)
    for index in range(args.num_samples):
        if args.num_samples > 1:
            print(f"--- song {index + 1} of {args.num_samples}, seed {args.seed + index} ---")
        sys.stdout.write(prompt.removeprefix(tokenizer.bos_token or ""))
        streamer = CharacterStreamer(tokenizer, sys.stdout, skip_prompt=bool(prompt))
        write_song(model, tokenizer, prompt, seed=args.seed + index, streamer=streamer, **options)


cli = command()(main)  # what `python -m` and the installed command call

if __name__ == "__main__":
    cli()
