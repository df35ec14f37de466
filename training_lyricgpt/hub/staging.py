"""Writes the files to send (a run, its stock model, the demo) into folders, and checks that they contain nothing else.

Notes:
- No file of a run folder is copied. Records are read, checked and written again without paths and names of this machine
  (`privacy`), pictures are drawn again, weights are saved again, and the code is this project's own.
"""

import dataclasses
import shutil
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any

from modeling_lyricgpt import LyricGPTForCausalLM
from tokenization_lyricgpt import LyricGPTTokenizer

from .. import LyricGPTError
from ..arguments import Arguments, load_arguments
from ..card.card import model_card
from ..card.curves import draw_curves, write_samples
from ..card.provenance import has_public_dataset, has_public_parent
from ..card.records import Records
from ..card.stock_card import stock_card
from ..engine.environment import ENVIRONMENT, read_environment
from ..engine.metrics import METRICS, best_evaluation, read_metrics, write_metrics
from ..files import write_json, write_text
from ..model.folder import check_code, check_links, export_model, read_settings, todays_code
from ..model.loading import check_finite, generation_config, load_run
from ..model.settings import ModelSettings
from ..model.stock import comparison_windows, text_to_compare, write_stock
from ..quality.judging import QUALITY, SONGS, read_quality, read_songs
from ..record_types import Corpus, Evaluation, Quality, Songs, Start, read_record
from .commits import fetch
from .privacy import Revealed, check_private, strings_in, this_machine, without_words

NEEDED = ("config.json", "run.yaml", METRICS, "corpus.json")
# Keys that transformers adds to config.json.
NEUTRAL_KEYS = {"architectures", "auto_map", "model_type", "transformers_version", "torch_dtype", "rope_theta"}
STOCK_BRANCH = "native"
SPACE = Path(__file__).resolve().parents[2] / "space"
SPACE_FILES = ("README.md", "app.py", "requirements.txt", "songs.py", "style.css")


def shareable_settings(values: dict[str, Any], public: frozenset[str]) -> dict[str, Any]:
    """Returns a run's configuration with file names in place of paths; names on the Hub, which are in `public`, stay."""
    names = {
        name: PureWindowsPath(values[name]).name or "run"
        for name in ("dataset", "validation_file", "output_dir", "init_from")
        if values[name] is not None and values[name] not in public
    }
    return values | names


def stage(
    run: Path, repository: str, folder: Path, stock: str | None = None
) -> tuple[LyricGPTForCausalLM, LyricGPTTokenizer, Revealed]:
    """Writes the files of a run to send into `folder`; returns its model and tokenizer, and what they reveal about its user.

    Args:
        stock: Branch that will hold the stock model, for the card to name.

    Raises:
        LyricGPTError: the run is incomplete, or what would be sent is not what it should be.
    """
    check_links(run)
    missing = [name for name in NEEDED if not (run / name).exists()]
    if missing:
        raise LyricGPTError(
            f"{run} is not a run that can be published: it has no {', '.join(missing)}; check the path, or train it first"
        )
    model, tokenizer = load_run(str(run))
    corpus, rows = read_record(run / "corpus.json", Corpus), read_metrics(run)
    if not rows:
        raise LyricGPTError(f"{run / METRICS} has no evaluation; restore it")
    check_model(run, model, tokenizer, corpus["alphabet_characters"])
    model.generation_config = generation_config(tokenizer)
    export_model(model, tokenizer, folder)
    args, step = load_arguments(run / "run.yaml"), best_evaluation(rows)["step"]
    environment = read_environment(run)
    machine = this_machine(run, (args.dataset, args.validation_file, args.init_from, args.output_dir))
    if PureWindowsPath(args.output_dir).name in ("", ".."):  # resolve such a path before its folders are removed
        args = args.replace(output_dir=str(run.resolve()))
    whole = Records(args, corpus, rows, model.config, read_quality(run, step), read_songs(run, step), environment, True)
    machine.public = frozenset(
        name
        for name, is_public in ((args.dataset, has_public_dataset(whole)), (args.init_from, has_public_parent(whole)))
        if is_public
    )
    revealed = Revealed(machine)
    sent = Records(
        Arguments(**revealed.settings("run.yaml", shareable_settings(args.to_dict(), machine.public))),
        revealed.record("corpus.json", corpus, Corpus),
        revealed.record(METRICS, rows, list[Evaluation]),
        model.config,
        whole.quality and revealed.record(QUALITY, whole.quality, Quality),
        whole.songs and revealed.record(SONGS, whole.songs, Songs),
        revealed.record(ENVIRONMENT, environment, list[Start]),
        True,
    )
    sent.args.save(folder / "run.yaml")
    for name, record in (("corpus.json", sent.corpus), (QUALITY, sent.quality), (SONGS, sent.songs)):
        if record:
            write_json(folder / name, record)
    if (run / ENVIRONMENT).exists():
        write_json(folder / ENVIRONMENT, sent.environment)
    write_metrics(folder, sent.rows)
    draw_curves(folder, sent.rows)
    write_samples(folder, sent.rows)
    write_text(folder / "README.md", str(model_card(sent, repository, stock)))
    check_sent_code(folder)
    check_private(folder, machine, texts_but_for_songs(sent, repository, stock))
    return model, tokenizer, revealed


def texts_but_for_songs(sent: Records, repository: str, stock: str | None) -> dict[str, str]:
    """Returns the texts of the files with songs, by name, with an x in place of each song, to check only the rest."""
    bare = dataclasses.replace(
        sent,
        corpus=without_words(sent.corpus, Corpus),
        rows=without_words(sent.rows, list[Evaluation]),
        quality=sent.quality and without_words(sent.quality, Quality),
        songs=sent.songs and without_words(sent.songs, Songs),
        args=sent.args.replace(sample_prompt=""),
    )
    records = {
        "run.yaml": bare.args.to_dict(),
        "corpus.json": bare.corpus,
        METRICS: bare.rows,
        QUALITY: bare.quality,
        SONGS: bare.songs,
    }
    texts = {name: "\n".join(strings_in(record)) for name, record in records.items()}
    return texts | {"README.md": str(model_card(bare, repository, stock)), "samples.txt": ""}


def check_model(run: Path, model: LyricGPTForCausalLM, tokenizer: LyricGPTTokenizer, alphabet: str) -> None:
    """Makes sure that the weights are finite, and that tokenizer, configuration and corpus belong together.

    Raises:
        LyricGPTError: something is wrong; the message says what.
    """
    check_finite(model, str(run))
    if tokenizer.alphabet != alphabet:
        raise LyricGPTError(
            f"{run}: tokenizer.json and corpus.json have different alphabets, so one is not from this run; restore it"
        )
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        ours, theirs = getattr(model.config, name), getattr(tokenizer, name)
        if ours != theirs:
            raise LyricGPTError(
                f"{run}: {name} is {ours} in config.json and {theirs} in the tokenizer; restore the file that was changed"
            )


def check_sent_code(folder: Path) -> None:
    """Makes sure that the code to send is this project's, byte for byte, and that transformers finds it beside the weights.

    Raises:
        LyricGPTError: a file fails; the message names it.
    """
    check_code(folder)
    ours = todays_code()
    sent = {path.name: path.read_bytes() for path in folder.glob("*_lyricgpt.py")}
    for name in sorted(ours.keys() | sent.keys()):
        if ours.get(name) != sent.get(name):
            raise LyricGPTError(
                f"{name} differs from the installed LyricGPT's code, so nothing was sent. Install LyricGPT again and run the "
                "same command"
            )
    for name in ("config.json", "tokenizer_config.json"):
        if not read_settings(folder / name).get("auto_map"):
            raise LyricGPTError(
                f"{name} has no auto_map, so transformers would not find the model's code and nothing was sent. Restore {name}"
            )
    if strange := read_settings(folder / "config.json").keys() - ModelSettings.__annotations__.keys() - NEUTRAL_KEYS:
        raise LyricGPTError(f"config.json has a key {min(strange)!r} that LyricGPT does not know; delete that key")


def stage_stock(
    run: Path, model: LyricGPTForCausalLM, tokenizer: LyricGPTTokenizer, repository: str, folder: Path
) -> None:
    """Writes the stock model into `folder`, with a card that says how to load it.

    Raises:
        LyricGPTError: no stock model gives the same results.
    """
    windows, machine = comparison_windows(model, text_to_compare(str(run), model, tokenizer)[0]), this_machine(run)
    known = (model, tokenizer, machine.clean(run.resolve().name), windows.numel())
    write_stock(model, tokenizer, windows, folder, partial(stock_card, *known, place=(repository, STOCK_BRANCH)))
    check_private(folder, machine)


def stage_space(run: Path, folder: Path) -> None:
    """Writes the files of the demo into `folder`: those of `space/`, as they are."""
    if not SPACE.is_dir():
        raise LyricGPTError("the demo's files are only in LyricGPT's repository: use --space in a clone of it")
    folder.mkdir()
    for name in SPACE_FILES:
        shutil.copyfile(SPACE / name, folder / name)
    check_private(folder, this_machine(run))


def refresh(repository: str, branch: str, folder: Path) -> None:
    """Downloads a published model into `folder`, and replaces the code that it was published with.

    Raises:
        LyricGPTError: it cannot be downloaded, or is not a LyricGPT model.
    """
    fetch(repository, branch, folder)
    if read_settings(folder / "config.json").get("model_type") != "lyricgpt":
        raise LyricGPTError(
            f"{repository} has no LyricGPT model on its branch {branch}, so there is no code to refresh; check the name"
        )
    for path in folder.glob("*_lyricgpt.py"):
        path.unlink()
    for name, content in todays_code().items():
        (folder / name).write_bytes(content)
    check_links(folder)
    check_sent_code(folder)


def list_files(folder: Path) -> None:
    """Prints the files of a folder with their sizes."""
    sizes = {path.relative_to(folder): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    for name, size in sizes.items():
        print(f"  {size:>12,} bytes  {name}")
    print(f"  {sum(sizes.values()):>12,} bytes in all")
