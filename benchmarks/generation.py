r"""Compares the writing speed of LyricGPT's `generate` with GPT-2's, a loop without a cache, and bare matrix products.

    python benchmarks/generation.py --classic runs/songs-classic --modern runs/songs-modern

Train these two runs first, which takes about 20 minutes each. The modern one is the same with `--variant modern` and
`--output_dir runs/songs-modern`:

    accelerate launch train_hf.py --variant classic --block_size 256 --hidden_size 384 --num_hidden_layers 6 \
        --num_attention_heads 6 --batch_size 16 --dropout 0.1 --max_steps 300 --eval_interval 50 \
        --output_dir runs/songs-classic

Everything runs in one process, in turns, in float32, at batch 1 and 16. Speeds are medians over rounds. The prompts are
the beginnings of validation songs. Notes:
- GPT-2 is the stock model of the classic run: the same weights, the same distribution. It stops at its block.
- `transformers' loop` is LyricGPT without its own loop: no drafts, no fused matrices.
- The floor is the time for one character's products of vectors and matrices, and nothing else.
- Songs cannot end early, so every variant writes the same length.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from transformers import GPT2LMHeadModel
from transformers.generation.streamers import BaseStreamer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from modeling_lyricgpt import LyricGPTForCausalLM
from tokenization_lyricgpt import LyricGPTTokenizer
from training_lyricgpt import LyricGPTError
from training_lyricgpt.arguments import load_arguments
from training_lyricgpt.corpus.cache import load_run_corpus
from training_lyricgpt.engine.devices import use_all_cores
from training_lyricgpt.engine.metrics import read_metrics
from training_lyricgpt.model.loading import load_run
from training_lyricgpt.model.stock import make_stock

PROMPT_LENGTH = 32
# Characters at the beginning and at the end of a song whose speeds are compared.
STRETCH = 200


class Clock(BaseStreamer):
    """Notes when each character arrives."""

    def __init__(self):
        self.times = []

    def put(self, value: torch.Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass

    def speed(self, first: int, last: int) -> float:
        """Characters per second from the `first` to the `last` one."""
        return (last - first) / (self.times[last] - self.times[first])


def describe(run: str) -> str:
    """The recipe of a run and its lowest loss, in one line."""
    args = load_arguments(Path(run) / "run.yaml")
    best = min(read_metrics(Path(run)), key=lambda row: row["val_loss"])
    return (
        f"{args.variant}: {Path(args.dataset).name}, {args.optimizer}, learning rate {args.learning_rate}, {args.lr_schedule}, "
        f"batch {args.batch_size} x {args.block_size}, dropout {args.dropout}; step {best['step']} of {args.max_steps}, "
        f"validation loss {best['val_loss']:.4f}"
    )


def held_out_prompts(run: str, tokenizer: LyricGPTTokenizer, count: int) -> torch.Tensor:
    """Beginnings of validation songs, `(count, PROMPT_LENGTH)`, each with the token that starts a song."""
    ids = torch.from_numpy(load_run_corpus(Path(run)).validation.ids.astype("int64"))
    starts = (ids == tokenizer.bos_token_id).nonzero()[:, 0]
    starts = [start for start in starts.tolist() if start + PROMPT_LENGTH < len(ids)]
    if not starts:
        raise LyricGPTError(
            f"the validation text of {run} does not mark where songs begin; train with special_tokens set to true"
        )
    rows = [ids[start : start + PROMPT_LENGTH] for start in starts]
    return torch.stack([rows[index % len(rows)] for index in range(count)])


def write(model: nn.Module, prompts: torch.Tensor, length: int, **options) -> float:
    """Writes songs of `length` new characters. Returns the characters per second of one song."""
    start = time.perf_counter()
    model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        min_new_tokens=length,
        max_new_tokens=length,
        max_length=None,
        **options,
    )
    return length / (time.perf_counter() - start)


@torch.no_grad()
def write_without_cache(model: nn.Module, prompts: torch.Tensor, length: int) -> float:
    """A loop like the original notebook's, which reads the last block again for each character."""
    block_size = model.config.max_position_embeddings
    ids = torch.cat([prompts] * (1 + block_size // PROMPT_LENGTH), dim=1)  # a whole block from the first step on
    start = time.perf_counter()
    for _ in range(length):
        logits = model(ids[:, -block_size:], use_cache=False).logits[:, -1]
        ids = torch.cat([ids, torch.multinomial(F.softmax(logits, dim=-1), num_samples=1)], dim=1)
    return length / (time.perf_counter() - start)


@torch.no_grad()
def read_with_cache(model: GPT2LMHeadModel, prompts: torch.Tensor, length: int) -> float:
    """GPT-2's bare forward passes with a cache: no sampling, no `generate`."""
    output = model(prompts, use_cache=True)
    start = time.perf_counter()
    for _ in range(length):
        output = model(prompts[:, -1:], cache=output.cache, use_cache=True)
    return length / (time.perf_counter() - start)


@torch.no_grad()
def multiply_only(model: nn.Module, batch_size: int, length: int) -> float:
    """Only the products of one row per song with every matrix of the model."""
    matrices = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
    rows = [torch.randn(batch_size, matrix.shape[1]) for matrix in matrices]
    start = time.perf_counter()
    for _ in range(length):
        for row, matrix in zip(rows, matrices, strict=True):
            F.linear(row, matrix)
    return length / (time.perf_counter() - start)


def variants(
    classic: LyricGPTForCausalLM,
    modern: LyricGPTForCausalLM,
    prompts: torch.Tensor,
    characters: int,
    stretches: dict[str, list[float]],
) -> dict[str, Callable[[], float]]:
    """The measurements by name. Each call returns the speed of one song in characters per second."""
    batch_size = len(prompts)
    stock = make_stock(classic)
    block_size = classic.config.max_position_embeddings

    def timed(name: str, model: LyricGPTForCausalLM) -> float:
        if batch_size > 1 or characters < 2 * STRETCH:
            return write(model, prompts, characters)
        clock = Clock()
        speed = write(model, prompts, characters, streamer=clock)
        last = len(clock.times) - 1
        stretches[name].append(clock.speed(last - STRETCH, last) / clock.speed(1, 1 + STRETCH))
        return speed

    few = max(8, characters // 50)
    return {
        "GPT-2, generate": lambda: write(stock, prompts, min(characters, block_size - PROMPT_LENGTH)),
        "LyricGPT classic": lambda: timed("LyricGPT classic", classic),
        "LyricGPT modern": lambda: timed("LyricGPT modern", modern),
        "classic, transformers' loop": lambda: write(classic, prompts, 200, return_dict_in_generate=True),
        "modern, transformers' loop": lambda: write(modern, prompts, 200, return_dict_in_generate=True),
        "GPT-2, bare cached forward": lambda: read_with_cache(stock, prompts, block_size - PROMPT_LENGTH),
        "no cache, the whole block": lambda: write_without_cache(classic, prompts, few),
        "floor: bare products": lambda: multiply_only(classic, batch_size, 200),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classic", default="runs/songs-classic", help="a classic run")
    parser.add_argument("--modern", default="runs/songs-modern", help="a modern run of the same shape and alphabet")
    parser.add_argument("--characters", type=int, default=2000, help="characters per song at batch 1 (a quarter at 16)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the median is shown (default: 5)")
    parser.add_argument(
        "--batch_sizes", type=int, nargs="+", default=[1, 16], help="songs written at once (default: 1 16)"
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    args = parser.parse_args()
    use_all_cores()
    classic, tokenizer = load_run(args.classic)
    modern, _ = load_run(args.modern)
    shape = [(model.config.num_hidden_layers, model.config.hidden_size) for model in (classic, modern)]
    if shape[0] != shape[1] or classic.config.vocab_size != modern.config.vocab_size:
        raise LyricGPTError(
            f"{args.classic} and {args.modern} must have the same alphabet, layers and width; these are {shape[0]} and {shape[1]}"
        )
    result = {
        "shape": shape[0],
        "threads": torch.get_num_threads(),
        "runs": [describe(args.classic), describe(args.modern)],
    }
    stretches = {"LyricGPT classic": [], "LyricGPT modern": []}
    for batch_size in args.batch_sizes:
        prompts = held_out_prompts(args.classic, tokenizer, batch_size * args.rounds)
        speeds = {}
        for index in range(args.rounds):
            rows = prompts[index * batch_size : (index + 1) * batch_size]
            length = args.characters if batch_size == 1 else args.characters // 4
            for name, measure in variants(classic, modern, rows, length, stretches).items():
                torch.manual_seed(index)
                speeds.setdefault(name, []).append(batch_size * measure())
        result[f"batch {batch_size}"] = {name: statistics.median(values) for name, values in speeds.items()}
    result["last / first characters"] = {name: statistics.median(values or [0]) for name, values in stretches.items()}
    if args.json:
        print(json.dumps(result))
        return
    print(
        f"{shape[0][0]} layers x {shape[0][1]}, float32, {result['threads']} CPU threads, medians of {args.rounds} rounds"
    )
    for line in result["runs"]:
        print(f"  {line}")
    for batch_size in args.batch_sizes:
        speeds = result[f"batch {batch_size}"]
        print(f"\n{'batch ' + str(batch_size):30}{'characters/s':>14}{'x GPT-2':>9}")
        for name, speed in speeds.items():
            print(f"{name:30}{speed:14.0f}{speed / speeds['GPT-2, generate']:9.2f}")
    print(f"\nspeed of the last {STRETCH} of {args.characters} characters, divided by that of the first {STRETCH}:")
    for name, ratio in result["last / first characters"].items():
        print(f"  {name:28}{ratio:14.2f}")


if __name__ == "__main__":
    try:
        main()
    except LyricGPTError as error:
        sys.exit(f"error: {error}")
