"""Writes a model into a folder that `from_pretrained` can load anywhere.

python -m training_lyricgpt.export stock RUN OUT                         the same model in a stock architecture
python -m training_lyricgpt.export published STATE_DICT ALPHABET OUT     the original notebook's weights
"""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

from . import LyricGPTError
from .card.stock_card import stock_card
from .files import UNFINISHED
from .model.folder import export_model
from .model.loading import check_finite, generation_config, load_run
from .model.published import SCALES, import_published
from .model.stock import comparison_windows, text_to_compare, write_stock
from .terminal import command


def export_stock(run: str, out: Path) -> None:
    """Writes the stock model of a run and prints how closely it agrees."""
    model, tokenizer = load_run(run)
    check_finite(model, run)
    ids, text = text_to_compare(run, model, tokenizer)
    windows = comparison_windows(model, ids)
    card = partial(stock_card, model, tokenizer, Path(run).resolve().name, windows.numel())
    stock, difference = write_stock(model, tokenizer, windows, out, card)
    print(
        f"{out}: a {type(stock).__name__} with {stock.num_parameters():,} parameters. On {windows.numel():,} characters of "
        f"{text}, its logits differ from LyricGPT's by at most {difference:.1e} times the largest logit"
    )


def export_published(state_dict: Path, alphabet: Path, out: Path, scaled_by: str | None) -> None:
    """Writes the original notebook's weights as a LyricGPT model."""
    model, tokenizer = import_published(state_dict, alphabet, scaled_by or SCALES[0])
    model.generation_config = generation_config(tokenizer)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=UNFINISHED) as temporary:
        export_model(model, tokenizer, Path(temporary) / "model")
        (Path(temporary) / "model").replace(out)
    print(f"{out}: a classic LyricGPT with {model.num_parameters():,} parameters and {len(tokenizer)} characters")
    if scaled_by is None:
        print(
            "If it writes nonsense, try --scaled_by n_embd. One version of the notebook divides attention scores by the "
            "square root of the model's width instead of the head's size, and the weights don't show which one made them."
        )


def with_subcommand(argv: list[str]) -> list[str]:
    """Adds the subcommand to the older spellings `RUN OUT` and `--import_published STATE_DICT ALPHABET OUT`."""
    if argv and argv[0] in ("stock", "published", "-h", "--help"):
        return argv
    if "--import_published" in argv:
        return ["published", *(part for part in argv if part != "--import_published")]
    return ["stock", *argv]


def main(argv: list[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="python -m training_lyricgpt.export",
        description="Write a model as a stock GPT-2 or Qwen3 model, or import the original notebook's weights.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    stock = commands.add_parser("stock", help="the same model in an architecture that comes with transformers")
    stock.add_argument("run", help="run folder, or a model on the Hub (user/name)")
    published = commands.add_parser("published", help="a classic LyricGPT with the original notebook's weights")
    published.add_argument("state_dict", type=Path, help="file with the notebook's weights (.pt, .pth or .safetensors)")
    published.add_argument(
        "alphabet",
        type=Path,
        help="file with the notebook's training text, or with the characters in the order of their ids",
    )
    published.add_argument(
        "--scaled_by",
        choices=SCALES,
        help="what the notebook divides attention scores by: its square root (default: head_size)",
    )
    for command_parser in (stock, published):
        command_parser.add_argument("out", type=Path, help="folder to write")
    args = parser.parse_args(with_subcommand(sys.argv[1:] if argv is None else argv))
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise LyricGPTError(
            f"{args.out} already exists and is not an empty folder; choose another name for the new folder"
        )
    if args.command == "stock":
        export_stock(args.run, args.out)
    else:
        export_published(args.state_dict, args.alphabet, args.out, args.scaled_by)


cli = command()(main)  # what `python -m` and the installed command call

if __name__ == "__main__":
    cli()
