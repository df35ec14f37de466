"""Writes a model as a folder that `from_pretrained` loads anywhere: weights, configurations, tokenizer and code.

    python -m training_lyricgpt.export RUN OUT                                    an exact twin that needs no code
    python -m training_lyricgpt.export --import_published STATE_DICT ALPHABET OUT  the published notebook's weights

Notable:
- Each file is written beside its place and renamed into it, the weights last: the folder is a model at any moment.
"""

import argparse
import os
import tempfile
from pathlib import Path

import torch

from modeling_lyricgpt import LyricGPTForCausalLM
from tokenization_lyricgpt import LyricGPTTokenizer

from . import LyricGPTError
from .files import UNFINISHED
from .loading import generation_config, load_run
from .published import SCALES, import_published
from .sample import write_song
from .terminal import command
from .tokens import load_run_corpus
from .twins import comparison_windows, write_twin

WEIGHTS = "model.safetensors"


def export_model(model: LyricGPTForCausalLM, tokenizer: LyricGPTTokenizer, folder: str | Path) -> None:
    """Writes model, tokenizer and code into a run folder; other files in it stay.

    Raises:
        OSError: it cannot be written; what was there is still whole.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=UNFINISHED) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        for path in sorted(Path(temporary).iterdir(), key=lambda path: path.name == WEIGHTS):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                path.chmod(0o644)
                os.replace(path, folder / path.name)


def text_to_compare(run: str, model: LyricGPTForCausalLM, tokenizer: LyricGPTTokenizer) -> tuple[torch.Tensor, str]:
    """Ids `(N,)` of a text to compare a model and its twin on, and what text it is.

    The run's held-out text where its corpus is at hand; otherwise what the model writes itself.
    """
    if (Path(run) / "run.yaml").exists():
        try:
            corpus = load_run_corpus(Path(run))
        except LyricGPTError:  # it has moved, or stayed on another machine
            corpus = None
        if corpus is not None and corpus.tokenizer.alphabet == tokenizer.alphabet:
            ids = corpus.validation.ids[: 64 * model.config.max_position_embeddings]
            return torch.from_numpy(ids.astype("int64")), "its held-out text"
    length = 4 * model.config.max_position_embeddings
    song = write_song(model, tokenizer, min_new_tokens=length, max_new_tokens=length)
    ids = tokenizer(song, split_special_tokens=True).input_ids
    return torch.tensor(ids), "a song of its own (the corpus is not at hand)"


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training_lyricgpt.export",
        description="Write a model as a stock GPT-2 or Qwen3 checkpoint, or import the published notebook's weights.",
        usage="%(prog)s RUN OUT\n       %(prog)s --import_published STATE_DICT ALPHABET OUT",
    )
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="run folder or Hub id, and the new folder; or see above"
    )
    parser.add_argument("--import_published", action="store_true", help="make a classic LyricGPT out of a state dict")
    parser.add_argument(
        "--scaled_by",
        choices=SCALES,
        help="attention scores were divided by the root of this, as that version of the notebook does (default: head_size)",
    )
    args = parser.parse_args(argv)
    if len(args.paths) != (3 if args.import_published else 2):
        parser.error(f"expected {'STATE_DICT ALPHABET OUT' if args.import_published else 'RUN OUT'}, got {args.paths}")
    if args.scaled_by and not args.import_published:
        parser.error("--scaled_by belongs to --import_published")
    out = Path(args.paths[-1])
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise LyricGPTError(f"{out} exists and is not an empty folder; nothing is overwritten: choose another name")
    if args.import_published:
        model, tokenizer = import_published(Path(args.paths[0]), Path(args.paths[1]), args.scaled_by or SCALES[0])
        model.generation_config = generation_config(tokenizer)
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=UNFINISHED) as temporary:
            export_model(model, tokenizer, Path(temporary) / "model")
            (Path(temporary) / "model").replace(out)
        print(f"{out}: a classic LyricGPT of {model.num_parameters():,} parameters, {len(tokenizer)} characters")
        if args.scaled_by is None:
            print(
                "If it writes nonsense, try --scaled_by n_embd: one version of the notebook divides attention scores by "
                "the root of the width instead of the head's size, and the weights do not tell which it was."
            )
        return
    model, tokenizer = load_run(args.paths[0])
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise LyricGPTError(f"{args.paths[0]}: the weights of {name} are not finite; there is nothing to export")
    ids, text = text_to_compare(args.paths[0], model, tokenizer)
    windows = comparison_windows(model, ids)
    twin, difference = write_twin(model, tokenizer, windows, out, source=Path(args.paths[0]).resolve().name)
    print(
        f"{out}: a {type(twin).__name__} of {twin.num_parameters():,} parameters; over {windows.numel():,} characters of "
        f"{text} its logits differ by at most {difference:.1e} of the largest"
    )


if __name__ == "__main__":
    with command():
        main()
