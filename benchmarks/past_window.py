"""Measures the loss of writing past the block: `python benchmarks/past_window.py runs/songs-classic runs/songs-modern`.

Characters 1,000 to 2,000 of validation text are predicted in two ways, each from the text before it:
- as `generate` reads: with a cache, `modern` through its sliding window, `classic` from the start of its moving window;
- by reading the whole last block again for every character. This takes as much work per character as a block.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from torch.nn import functional as F
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from modeling_lyricgpt import LyricGPTForCausalLM
from modeling_lyricgpt.generation_lyricgpt import IncrementalDecoder
from training_lyricgpt import LyricGPTError
from training_lyricgpt.corpus.cache import load_run_corpus
from training_lyricgpt.engine.devices import use_all_cores
from training_lyricgpt.model.loading import load_run


@torch.no_grad()
def losses_as_generated(model: LyricGPTForCausalLM, ids: torch.Tensor, first: int) -> torch.Tensor:
    """The losses `(B, T - first)`, in nats, of the characters from `first` on in texts `(B, T)`."""
    decoder = IncrementalDecoder(model, padding=torch.zeros(len(ids), dtype=torch.long))
    columns = tqdm(range(first, ids.shape[1]), desc="as generated", disable=not sys.stderr.isatty())
    logits = torch.cat([decoder.read(ids[:, :column], keep=1) for column in columns], dim=1)
    return F.cross_entropy(logits.transpose(1, 2), ids[:, first:], reduction="none")


@torch.no_grad()
def losses_read_anew(model: LyricGPTForCausalLM, ids: torch.Tensor, first: int) -> torch.Tensor:
    """The same losses, each from the whole last block read without a cache."""
    block_size = model.config.max_position_embeddings
    losses = []
    for row in tqdm(ids, desc="read again", disable=not sys.stderr.isatty()):
        windows = row.unfold(0, block_size, 1)[first - block_size : -1]  # (T - first, block_size)
        logits = torch.cat([model(part, use_cache=False, logits_to_keep=1).logits[:, 0] for part in windows.split(32)])
        losses.append(F.cross_entropy(logits, row[first:], reduction="none"))
    return torch.stack(losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", help="run folders")
    parser.add_argument("--texts", type=int, default=6, help="pieces of validation text (default: 6)")
    parser.add_argument("--first", type=int, default=1000, help="first character that counts (default: 1000)")
    parser.add_argument("--last", type=int, default=2000, help="length of a piece (default: 2000)")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    args = parser.parse_args()
    use_all_cores()
    results = []
    for run in args.runs:
        model, _ = load_run(run)
        if not model.config.max_position_embeddings <= args.first < args.last:
            raise LyricGPTError(f"--first {args.first} must be past the block of {run} and before --last {args.last}")
        ids = torch.from_numpy(load_run_corpus(Path(run)).validation.ids.astype("int64"))
        count = min(args.texts, len(ids) // args.last)
        if not count:
            raise LyricGPTError(
                f"the validation text of {run} has {len(ids)} characters, fewer than --last {args.last}"
            )
        texts = ids[: count * args.last].view(count, args.last)
        generated, anew = (rule(model, texts, args.first) for rule in (losses_as_generated, losses_read_anew))
        difference = (generated - anew).mean(dim=1)
        results.append(
            {
                "run": run,
                "variant": model.config.variant,
                "characters": generated.numel(),
                "as_generated": float(generated.mean()),
                "read_anew": float(anew.mean()),
                "difference": float(difference.mean()),
                "standard_error": float(difference.std() / count**0.5) if count > 1 else None,
            }
        )
    if args.json:
        print(json.dumps(results))
        return
    print(
        f"loss in nats per character (lower is better), characters {args.first:,} to {args.last:,} of validation text"
    )
    print(f"{'run':28}{'characters':>11}{'as generated':>14}{'read again':>11}{'difference':>12}{'±':>9}")
    for row in results:
        print(
            f"{row['run']:28}{row['characters']:11,}{row['as_generated']:14.4f}{row['read_anew']:11.4f}"
            f"{row['difference']:12.4f}{row['standard_error'] or 0:9.4f}"
        )


if __name__ == "__main__":
    try:
        main()
    except LyricGPTError as error:
        sys.exit(f"error: {error}")
