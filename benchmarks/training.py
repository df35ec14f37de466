"""Compares training speeds: LyricGPT's own step, the original way and GPT-2 in a plain loop, and the roofline.

    python benchmarks/training.py                 # the table, about fifteen minutes on two cores
    python benchmarks/training.py --rounds 1 --only classic published

All have 6 layers x 6 heads x 384 and 77 characters, with batch 64 x 256 in float32 on a CPU. The variants take turns, each in
its own process. The first step of each is not counted, and the table shows medians over the rounds. Notes:
- LyricGPT uses `train_hf.py`'s own functions with the optimizers of `configs/spotify.yaml` (classic) and
  `configs/spotify_modern.yaml` (modern).
- The original way is written here as such notebooks write it: one `Linear` per head, a buffer for the mask, softmax
  written out, AdamW with its defaults.
- GPT-2 is transformers' `GPT2LMHeadModel` unchanged, in a plain AdamW loop.
- The roofline is the best rate of matrix products that torch reaches, divided by the model FLOPs per character (see
  `training_lyricgpt/engine/planning.py`). Muon's own products are not model FLOPs: in the table they count as lost time.
  The line below the table counts them as work.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import train_hf
from modeling_lyricgpt import LyricGPTConfig, LyricGPTForCausalLM
from training_lyricgpt.arguments import parse_arguments
from training_lyricgpt.corpus.cache import load_corpus
from training_lyricgpt.engine.devices import keep_freed_memory, micro_batch_count, start_accelerator, use_all_cores
from training_lyricgpt.engine.optimization import Muon
from training_lyricgpt.engine.planning import flops_per_character
from training_lyricgpt.model.initialization import build_model

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
LAYERS, HEADS, WIDTH, VOCABULARY, BATCH, BLOCK = 6, 6, 384, 77, 64, 256
TIMED_STEPS = 2


# ----------------------------------------------------------------------------------------------------------------------
# The original way


class Head(nn.Module):
    """One head of self-attention."""

    def __init__(self, dropout: float):
        super().__init__()
        size = WIDTH // HEADS
        self.key = nn.Linear(WIDTH, size, bias=False)
        self.query = nn.Linear(WIDTH, size, bias=False)
        self.value = nn.Linear(WIDTH, size, bias=False)
        self.register_buffer("mask", torch.ones(BLOCK, BLOCK).tril())
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = x.shape[1]
        scores = self.query(x) @ self.key(x).transpose(-2, -1) * self.key.out_features**-0.5  # (B, T, T)
        scores = scores.masked_fill(self.mask[:length, :length] == 0, float("-inf"))
        return self.dropout(F.softmax(scores, dim=-1)) @ self.value(x)


class Block(nn.Module):
    """Attention heads side by side, then an MLP, each with a residual connection."""

    def __init__(self, dropout: float):
        super().__init__()
        self.heads = nn.ModuleList([Head(dropout) for _ in range(HEADS)])
        self.projection = nn.Linear(WIDTH, WIDTH)
        self.dropout = nn.Dropout(dropout)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.ReLU(), nn.Linear(4 * WIDTH, WIDTH), nn.Dropout(dropout)
        )
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.norm_1(x)
        x = x + self.dropout(self.projection(torch.cat([head(normed) for head in self.heads], dim=-1)))
        return x + self.mlp(self.norm_2(x))


class PublishedModel(nn.Module):
    """A GPT as the notebooks write it."""

    def __init__(self, dropout: float):
        super().__init__()
        self.characters, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(BLOCK, WIDTH)
        self.blocks = nn.Sequential(*[Block(dropout) for _ in range(LAYERS)])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.characters(ids) + self.positions(torch.arange(ids.shape[1]))
        logits = self.head(self.norm(self.blocks(x)))
        return F.cross_entropy(logits.view(-1, VOCABULARY), targets.view(-1))


# ----------------------------------------------------------------------------------------------------------------------
# Variants: each returns a training step to be timed


def plain_loop(model: nn.Module, loss_of: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[int], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    text = torch.randint(0, VOCABULARY, (1_000_000,))

    def step(index: int) -> None:
        starts = torch.randint(len(text) - BLOCK, (BATCH,))
        loss = loss_of(torch.stack([text[start : start + BLOCK + 1] for start in starts]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def published(dropout: float) -> Callable[[int], None]:
    model = PublishedModel(dropout)
    return plain_loop(model, lambda windows: model(windows[:, :-1], windows[:, 1:].contiguous()))


def gpt2(dropout: float) -> Callable[[int], None]:
    from transformers import GPT2Config, GPT2LMHeadModel

    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=BLOCK, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, use_cache=False, **rates
    )
    model = GPT2LMHeadModel(config).train()
    return plain_loop(model, lambda windows: model(windows[:, :-1], labels=windows[:, :-1]).loss)


def lyricgpt(variant: str, dropout: float) -> Callable[[int], None]:
    config = CONFIGS / ("spotify.yaml" if variant == "classic" else "spotify_modern.yaml")
    alphabet = [chr(ord(" ") + index) for index in range(VOCABULARY)]
    text = "".join(np.random.default_rng(0).choice(alphabet, size=1_000_000))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LYRICGPT_CACHE"] = folder
        path = Path(folder) / "random.txt"
        path.write_text(text)
        args = parse_arguments([f"--config={config}", f"--dataset={path}", f"--dropout={dropout}"])
        keep_freed_memory()
        accelerator = start_accelerator(args, args)
        accelerator.gradient_accumulation_steps = micro_batch_count(args, args, accelerator)
        corpus = load_corpus(args)
        model, optimizers = train_hf.prepare(args, accelerator, build_model(args, args.seed, corpus.tokenizer))
    model.train()
    return lambda index: train_hf.train_step(args, corpus, accelerator, model, optimizers, index)


def characters_per_second(step: Callable[[int], None]) -> float:
    step(0)
    started = time.perf_counter()
    for index in range(1, TIMED_STEPS + 1):
        step(index)
    return TIMED_STEPS * BATCH * BLOCK / (time.perf_counter() - started)


@torch.no_grad()
def best_rate() -> float:
    """The best rate of matrix products in FLOP/s, over the shapes of the model and a square one."""
    keep_freed_memory()
    rates = []
    shapes = [(1024, WIDTH, 4 * WIDTH), (2048, WIDTH, WIDTH), (2048, 4 * WIDTH, WIDTH), (2048, 2048, 2048)]
    for rows, inputs, outputs in shapes:
        x, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
        for _ in range(10):
            F.linear(x, weight)
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < 1:
            F.linear(x, weight)
            count += 1
        rates.append(2 * rows * inputs * outputs * count / (time.perf_counter() - started))
    return max(rates)


VARIANTS: dict[str, Callable[[], float]] = {
    "roofline": best_rate,
    "classic": lambda: characters_per_second(lyricgpt("classic", 0.2)),
    "published": lambda: characters_per_second(published(0.2)),
    "gpt2": lambda: characters_per_second(gpt2(0.2)),
    "classic, dropout 0": lambda: characters_per_second(lyricgpt("classic", 0.0)),
    "modern": lambda: characters_per_second(lyricgpt("modern", 0.0)),
}
LABELS = {
    "classic": "LyricGPT `classic`, dropout 0.2",
    "published": "the original way, dropout 0.2",
    "gpt2": "GPT-2 of transformers, dropout 0.2",
    "classic, dropout 0": "LyricGPT `classic`, dropout 0",
    "modern": "LyricGPT `modern`, dropout 0, Muon",
}


def muon_flops() -> int:
    """Floating-point operations of Muon's matrix products in one step of modern, counted by torch."""
    config = LyricGPTConfig(
        variant="modern", vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS
    )
    model = LyricGPTForCausalLM(config)
    matrices = [parameter for parameter in model.model.layers.parameters() if parameter.ndim == 2]
    for parameter in matrices:
        parameter.grad = torch.randn_like(parameter)
    with FlopCounterMode(display=False) as counter:
        Muon(matrices).step()
    return counter.get_total_flops()


def measure_apart(name: str) -> float:
    """A variant's figure, measured in its own process."""
    command = [sys.executable, __file__, "--variant", name]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"{name} failed:\n{result.stderr}")
    return float(result.stdout.splitlines()[-1])


def main() -> None:
    """Measures in turns and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the median is shown (default: 3)")
    parser.add_argument(
        "--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="what to measure (default: all)"
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    use_all_cores()
    if args.variant:
        print(VARIANTS[args.variant]())
        return
    if args.rounds < 1:
        parser.error(f"--rounds is {args.rounds}; it must be at least 1")
    names = list(dict.fromkeys(["roofline", *args.only]))
    figures: dict[str, list[float]] = {name: [] for name in names}
    with tqdm(total=args.rounds * len(names), disable=not sys.stderr.isatty(), unit="measurement") as bar:
        for _ in range(args.rounds):
            for name in names:
                figures[name].append(measure_apart(name))
                bar.update()
    rate = statistics.median(figures.pop("roofline"))
    medians = {name: statistics.median(values) for name, values in figures.items()}
    shapes = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "max_position_embeddings": BLOCK}
    flops = {
        variant: flops_per_character(
            LyricGPTConfig(variant=variant, num_hidden_layers=LAYERS, num_attention_heads=HEADS, **shapes)
        )
        for variant in ("classic", "modern")
    }
    shares = {
        name: value * flops["modern" if name == "modern" else "classic"] / rate for name, value in medians.items()
    }
    if args.json:
        print(json.dumps({"flops_per_second": rate, "characters_per_second": medians, "share_of_roofline": shares}))
        return
    print(f"{rate / 1e9:.0f} GFLOP/s of matrix products, {torch.get_num_threads()} cores, {args.rounds} round(s)\n")
    print(
        "| | characters per second | share of the roofline | compared with the original way | compared with GPT-2 |\n|---|---|---|---|---|"
    )
    for name, value in medians.items():
        beside = [f"{value / medians[other]:.2f}x" if other in medians else "" for other in ("published", "gpt2")]
        low, high = min(figures[name]), max(figures[name])
        print(
            f"| {LABELS[name]} | {value:,.0f} ({low:,.0f} to {high:,.0f}) | {shares[name]:.0%} | {' | '.join(beside)} |"
        )
    if "modern" in shares:
        own, step = muon_flops(), flops["modern"] * BATCH * BLOCK
        share = shares["modern"] * (1 + own / step)
        print(
            f"\nmodern, with Muon's own products ({own / 1e9:.0f} of {(step + own) / 1e9:,.0f} GFLOP per step): {share:.0%} of the roofline"
        )


if __name__ == "__main__":
    main()
