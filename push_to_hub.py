"""Publishes a run and proves that it loads back: `python push_to_hub.py runs/sample you/lyricgpt-sample`.

Notable:
- Nothing of the run folder is sent as it lies there: records are read, checked and written anew, without paths and names of
  this machine (`privacy`); checkpoints, corpora and token streams are not sent at all.
- The repository is private unless `--public`: the licence of lyrics is their owner's, and only the user knows it.
- One commit, or none if the branch holds the same already: whatever interrupted a push, the same command goes on.
- The proof is a fresh process that cannot import this project and has an empty cache: it loads that commit with
  `trust_remote_code` and gives logits, which are compared with this process's. The address is printed after it.
- `--twin` also puts the same weights as a stock architecture on the branch `native`, proven without any trust.
- `--space` also publishes `space/`, a page that writes songs with the model. The token stays here: whoever owns a
  private model is told where to give its Space one.
- `--refresh` puts today's code into a repository that was published with older code; weights and records stay as they are.
- `--dry_run` does all of that but the upload, says what it would tell of the user, and leaves the folder.
"""

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path, PureWindowsPath

import torch
from huggingface_hub import get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from modeling_lyricgpt import LyricGPTForCausalLM
from tokenization_lyricgpt import LyricGPTTokenizer
from training_lyricgpt import LyricGPTError
from training_lyricgpt.arguments import Arguments, load_arguments
from training_lyricgpt.card import model_card
from training_lyricgpt.export import export_model, text_to_compare
from training_lyricgpt.files import write_json, write_text
from training_lyricgpt.loading import generation_config, load_run
from training_lyricgpt.privacy import Told, check_private, strings_in, this_machine, without_words
from training_lyricgpt.provenance import has_public_dataset, has_public_parent
from training_lyricgpt.publishing import (
    Plan,
    add_tag,
    fetch,
    full_name,
    has_secret,
    open_repository,
    plan_commit,
    send,
    set_variable,
)
from training_lyricgpt.quality import QUALITY, SONGS, read_quality, read_songs
from training_lyricgpt.record_types import Corpus, Evaluation, ModelSettings, Quality, Songs, Start, read_record
from training_lyricgpt.records import ENVIRONMENT, Records, read_environment
from training_lyricgpt.reports import METRICS, best_evaluation, draw_curves, read_metrics, write_metrics, write_samples
from training_lyricgpt.run_folder import check_code, check_links, read_settings, todays_code
from training_lyricgpt.terminal import command
from training_lyricgpt.twins import comparison_windows, write_twin

NEEDED = ("config.json", "run.yaml", METRICS, "corpus.json")
# Largest difference of a logit between this process and the proof, as a share of the largest logit.
TOLERANCE = 1e-5

# Of config.json, besides the model's own: what transformers notes.
NEUTRAL_KEYS = {"architectures", "auto_map", "model_type", "transformers_version", "torch_dtype", "rope_theta"}

TWIN_BRANCH = "native"
SPACE = Path(__file__).resolve().parent / "space"
SPACE_FILES = ("README.md", "app.py", "requirements.txt", "songs.py", "style.css")
# Where a cache may lie besides HF_HOME.
CACHES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE", "HF_MODULES_CACHE", "HF_XET_CACHE")

PROOF = """
import json, sys, traceback
for name in ("modeling_lyricgpt", "tokenization_lyricgpt", "training_lyricgpt", "train_hf"):
    sys.modules[name] = None  # importing this project fails from here on, installed or not
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

source, revision, trust, text = sys.argv[1:]
options = {"trust_remote_code": trust == "trust", **({"revision": revision} if revision else {})}
try:
    tokenizer = AutoTokenizer.from_pretrained(source, **options)
    model = AutoModelForCausalLM.from_pretrained(source, **options).eval()
    ids = tokenizer(text, return_tensors="pt", split_special_tokens=True).input_ids
    with torch.no_grad():
        logits = model(ids).logits[0, -1].tolist()
    write = pipeline("text-generation", model=source, **options)
    song = write("", max_new_tokens=min(60, model.config.max_position_embeddings // 2))[0]["generated_text"]
except Exception as error:
    traceback.print_exc()
    sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")  # the last line says it all
print(json.dumps({"ids": ids[0].tolist(), "logits": logits, "song": song}))
"""


def shareable_arguments(args: Arguments, public: frozenset[str]) -> Arguments:
    """The run's configuration with file names in place of paths; `public` are its names on the Hub."""
    values = args.to_dict()
    for name in ("dataset", "validation_file", "output_dir", "init_from"):
        if values[name] is not None and values[name] not in public:
            values[name] = PureWindowsPath(values[name]).name or "run"
    return Arguments(**values)


def stage(
    run: Path, repository: str, folder: Path, twin: str | None = None
) -> tuple[LyricGPTForCausalLM, LyricGPTTokenizer, Told]:
    """Writes into `folder` what is sent of a run; returns its model and tokenizer, and what it tells of its user.

    Nothing of the run folder is copied: records are read, checked and written anew, pictures drawn, weights saved.

    Args:
        twin: Branch that will hold the same weights as a stock architecture, for the card to name.

    Raises:
        LyricGPTError: the run is not finished enough, or what would be sent is not what it should be.
    """
    check_links(run)
    missing = [name for name in NEEDED if not (run / name).exists()]
    if missing:
        raise LyricGPTError(f"{run} is not a run that can be published: it has no {', '.join(missing)}")
    model, tokenizer = load_run(str(run))
    corpus, rows = read_record(run / "corpus.json", Corpus), read_metrics(run)
    if not rows:
        raise LyricGPTError(f"{run / METRICS} has no evaluation; restore it")
    check_model(run, model, tokenizer, corpus["alphabet_characters"])
    model.generation_config = generation_config(tokenizer)
    export_model(model, tokenizer, folder)
    args, step = load_arguments(run / "run.yaml"), best_evaluation(rows)["step"]
    environment, machine = read_environment(run), this_machine(run, args)
    if PureWindowsPath(args.output_dir).name in ("", ".."):  # what it is called must be known before it is cleaned
        args.output_dir = str(run.resolve())
    whole = Records(args, corpus, rows, model.config, read_quality(run, step), read_songs(run, step), environment, True)
    machine.public = frozenset(
        name
        for name, is_public in ((args.dataset, has_public_dataset(whole)), (args.init_from, has_public_parent(whole)))
        if is_public
    )
    told = Told(machine)
    sent = Records(
        told.arguments("run.yaml", shareable_arguments(args, machine.public)),
        told.record("corpus.json", corpus, Corpus),
        told.record(METRICS, rows, list[Evaluation]),
        model.config,
        whole.quality and told.record(QUALITY, whole.quality, Quality),
        whole.songs and told.record(SONGS, whole.songs, Songs),
        told.record(ENVIRONMENT, environment, list[Start]),
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
    write_text(folder / "README.md", str(model_card(sent, repository, twin)))
    check_sent_code(folder)
    check_private(folder, machine, texts_but_for_songs(sent, repository, twin))
    return model, tokenizer, told


def texts_but_for_songs(sent: Records, repository: str, twin: str | None) -> dict[str, str]:
    """The files that hold songs, by name, with an x in place of each: what else they hold may not tell of a machine."""
    bare = dataclasses.replace(
        sent,
        corpus=without_words(sent.corpus, Corpus),
        rows=without_words(sent.rows, list[Evaluation]),
        quality=sent.quality and without_words(sent.quality, Quality),
        songs=sent.songs and without_words(sent.songs, Songs),
        args=Arguments(**sent.args.to_dict() | {"sample_prompt": ""}),
    )
    records = {
        "run.yaml": bare.args.to_dict(),
        "corpus.json": bare.corpus,
        METRICS: bare.rows,
        QUALITY: bare.quality,
        SONGS: bare.songs,
    }
    texts = {name: "\n".join(strings_in(record)) for name, record in records.items()}
    return texts | {"README.md": str(model_card(bare, repository, twin)), "samples.txt": ""}


def check_model(run: Path, model: LyricGPTForCausalLM, tokenizer: LyricGPTTokenizer, alphabet: str) -> None:
    """Makes sure that weights are finite, and that tokenizer, configuration and corpus belong together.

    Raises:
        LyricGPTError: what is wrong.
    """
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise LyricGPTError(f"{run}: the weights of {name} are not finite; this model cannot be published")
    if tokenizer.alphabet != alphabet:
        raise LyricGPTError(
            f"{run}: the tokenizer's alphabet is not the one of corpus.json; they do not belong together"
        )
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        ours, theirs = getattr(model.config, name), getattr(tokenizer, name)
        if ours != theirs:
            raise LyricGPTError(f"{run}: {name} is {ours} in config.json and {theirs} in the tokenizer")


def check_sent_code(folder: Path) -> None:
    """Makes sure that the code that others will trust is this project's, byte for byte, and is found beside the weights.

    Raises:
        LyricGPTError: the first file that is not.
    """
    check_code(folder)
    ours = todays_code()
    sent = {path.name: path.read_bytes() for path in folder.glob("*_lyricgpt.py")}
    for name in sorted(ours.keys() | sent.keys()):
        if ours.get(name) != sent.get(name):
            raise LyricGPTError(f"{name} would not be sent as it is in this project; nothing was sent")
    for name in ("config.json", "tokenizer_config.json"):
        if not read_settings(folder / name).get("auto_map"):
            raise LyricGPTError(f"{name} names no code, so nobody would find it; nothing was sent")
    if strange := read_settings(folder / "config.json").keys() - ModelSettings.__annotations__.keys() - NEUTRAL_KEYS:
        raise LyricGPTError(f"config.json has a key {min(strange)!r}, which LyricGPT does not know; delete it there")


def stage_twin(
    run: Path, model: LyricGPTForCausalLM, tokenizer: LyricGPTTokenizer, repository: str, folder: Path
) -> None:
    """Writes into `folder` the stock checkpoint of the same weights, and into its card how it is loaded.

    Raises:
        LyricGPTError: there is no exact twin of this model.
    """
    windows = comparison_windows(model, text_to_compare(str(run), model, tokenizer)[0])
    machine = this_machine(run)
    write_twin(model, tokenizer, windows, folder, source=machine.clean(run.resolve().name))
    card = (folder / "README.md").read_text(encoding="utf-8")
    place = f'"{repository}", revision="{TWIN_BRANCH}"'
    (folder / "README.md").write_text(card.replace('"this folder or repository"', place), encoding="utf-8")
    check_private(folder, machine)


def stage_space(run: Path, folder: Path) -> None:
    """Writes into `folder` what is sent of the demo: the files of `space/` as they are."""
    folder.mkdir()
    for name in SPACE_FILES:
        shutil.copyfile(SPACE / name, folder / name)
    check_private(folder, this_machine(run))


def prove(source: str, revision: str | None, run: Path, trust: bool = True) -> str:
    """Loads a published model in a fresh process and compares it with the run; returns what it sang.

    Args:
        trust: Whether the code beside the weights may run; the twin needs none.

    Raises:
        LyricGPTError: it does not load, or does not compute the same.
    """
    model, tokenizer = load_run(str(run))
    text = tokenizer.alphabet[: model.config.max_position_embeddings]
    ids = tokenizer(text, return_tensors="pt", split_special_tokens=True).input_ids
    with torch.no_grad():
        logits = model(ids).logits[0, -1]
    with tempfile.TemporaryDirectory(prefix="lyricgpt-proof-") as home:
        # An empty HF_HOME leaves every cache out of the way.
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("PYTHON") and name not in CACHES
        }
        environment["HF_HOME"] = home
        if (token := get_token()) is not None:  # which `hf auth login` keeps in the real HF_HOME
            environment["HF_TOKEN"] = token
        result = subprocess.run(
            [sys.executable, "-I", "-c", PROOF, source, revision or "", "trust" if trust else "", text],
            env=environment,
            cwd=home,
            capture_output=True,
            text=True,
        )
    if result.returncode:
        descriptor, log = tempfile.mkstemp(prefix="lyricgpt-proof-", suffix=".log")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(result.stderr)
        said = (result.stderr.strip().splitlines() or [f"it ended with status {result.returncode}"])[-1]
        again = "; if the network failed, run the same command again: it only loads it then" if revision else ""
        raise LyricGPTError(f"{source} does not load in a fresh process: {said} (more in {log}){again}")
    proof = json.loads(result.stdout.splitlines()[-1])
    difference = (torch.tensor(proof["logits"]) - logits).abs().max() / logits.abs().max()
    if proof["ids"] != ids[0].tolist() or not difference <= TOLERANCE:
        raise LyricGPTError(
            f"{source} loads, but computes something else (logits differ by {difference:.1e} of the largest)"
        )
    return proof["song"]


def refresh(repository: str, branch: str, folder: Path) -> None:
    """Fetches a published model into `folder`, and puts today's code in place of the code that it was published with.

    Raises:
        LyricGPTError: it cannot be fetched, or is no LyricGPT model.
    """
    fetch(repository, branch, folder)
    if read_settings(folder / "config.json").get("model_type") != "lyricgpt":
        raise LyricGPTError(f"{repository} holds no LyricGPT model on its branch {branch}: there is no code to refresh")
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


def commit_folder(plan: Plan, folder: Path, message: str) -> str:
    """Sends what a plan says, in one commit or none, and says so; returns the commit."""
    commit = send(plan, folder, message)
    if commit == plan.head:
        print(f"{plan.repository} holds this already, as {commit} on {plan.branch}", flush=True)
    else:
        sent = sum((folder / name).stat().st_size for name in plan.changed)
        print(f"{len(plan.changed)} files, {sent:,} bytes, sent as {commit} on {plan.branch}", flush=True)
    return commit


def publish(folder: Path, run: Path, repository: str, branch: str, args: argparse.Namespace, tag: str | None) -> str:
    """Sends a staged model to a branch, and proves it; returns what it sang."""
    plan = plan_commit(folder, repository, branch, tag)
    message = args.message or ("Refresh LyricGPT's code" if args.refresh else "Upload LyricGPT model")
    commit = commit_folder(plan, folder, message)
    print("loading it back", flush=True)
    song = prove(repository, commit, run, trust=branch != TWIN_BRANCH)
    if tag is not None and not plan.is_tagged:
        add_tag(repository, tag, commit)
    if TWIN_BRANCH in plan.branches and not args.twin:
        print(f"the branch {TWIN_BRANCH} still holds what an earlier push put there; --twin renews it")
    return song


def publish_space(folder: Path, space: str, repository: str, args: argparse.Namespace) -> None:
    """Sends the staged demo to a Space that runs the published model, and says what is left to do."""
    address = open_repository(space, not args.public, repo_type="space")
    plan = plan_commit(folder, space, "main", repo_type="space")
    set_variable(space, "MODEL", repository)  # first: a commit starts the Space
    commit_folder(plan, folder, args.message or "Upload LyricGPT demo")
    if not args.public and not has_secret(space, "HF_TOKEN"):
        print(
            f"{repository} is private: set the Space's secret HF_TOKEN to a token that reads it, at {address}/settings"
        )
    print(address)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="push_to_hub.py", description="Publish a run on the Hugging Face Hub.")
    parser.add_argument("run", type=Path, nargs="?", help="run folder, for example runs/sample")
    parser.add_argument("repository", nargs="?", help="name on the Hub, for example you/lyricgpt-sample")
    parser.add_argument(
        "--refresh",
        metavar="REPOSITORY",
        help="instead of publishing a run: give a model on the Hub today's code; its weights stay as they are",
    )
    parser.add_argument("--public", action="store_true", help="make the repository public (default: private)")
    parser.add_argument("--revision", default="main", metavar="BRANCH", help="branch to commit to (default: main)")
    parser.add_argument("--tag", help="name for the commit, for example v1, given once it is proven to load")
    parser.add_argument("--message", help="commit message (default: Upload LyricGPT model)")
    parser.add_argument("--twin", action="store_true", help=f"also put a stock checkpoint on the branch {TWIN_BRANCH}")
    parser.add_argument(
        "--space", nargs="?", const="", metavar="NAME", help="also publish the demo (default name: REPOSITORY-demo)"
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="write what would be sent, prove that it loads, and stop"
    )
    args = parser.parse_args()
    if args.refresh is not None:
        if args.run is not None or args.twin or args.space is not None or args.public:
            parser.error("--refresh takes no run folder, and none of --twin, --space and --public")
        args.repository = args.refresh
    elif args.repository is None:
        parser.error("name a run folder and a repository, for example: push_to_hub.py runs/sample you/lyricgpt-sample")
    for name in (args.repository, *([args.space] if args.space else [])):
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            raise LyricGPTError(f"{name!r} is not a repository name: {error}") from None
    if args.revision == TWIN_BRANCH:
        raise LyricGPTError(f"the branch {TWIN_BRANCH} is for stock checkpoints: choose another, or say --twin")
    if args.space is not None and args.revision != "main":
        raise LyricGPTError(
            f"a Space runs the model on the branch main: leave out --space or --revision {args.revision}"
        )
    if args.refresh is None and not args.run.is_dir():
        raise LyricGPTError(f"no such run folder: {args.run}")
    repository = args.repository if args.dry_run else full_name(args.repository)
    space = args.space or f"{repository}-demo"
    if args.space and not args.dry_run:
        space = full_name(args.space)

    staged = Path(tempfile.mkdtemp(prefix="lyricgpt-push-"))
    keep, told = False, None
    try:
        # What is sent to which branch.
        folders = {args.revision: staged / "model"}
        if args.refresh is not None:
            refresh(repository, args.revision, folders[args.revision])
            args.run = folders[args.revision]
        else:
            branch = TWIN_BRANCH if args.twin else None
            model, tokenizer, told = stage(args.run, repository, folders[args.revision], branch)
        if args.twin:
            folders[TWIN_BRANCH] = staged / "twin"
            stage_twin(args.run, model, tokenizer, repository, folders[TWIN_BRANCH])
        for branch, folder in folders.items():
            print(f"{'would send' if args.dry_run else 'sending'} to {repository}, branch {branch}:")
            list_files(folder)
        if told is not None and args.dry_run:
            print("\n".join(told.describe()))
        if args.space is not None:
            stage_space(args.run, staged / "space")
            print(f"{'would send' if args.dry_run else 'sending'} to the Space {space}, with MODEL={repository}:")
            list_files(staged / "space")
        if args.dry_run:
            for branch, folder in folders.items():
                song = prove(str(folder), None, args.run, trust=branch != TWIN_BRANCH)
                print(f"\nit loads in a fresh process and sings: {song!r}")
                print(f"nothing was sent; the folder is {folder}")
            if args.space is not None:
                print(f"the demo's folder is {staged / 'space'}")
            keep = True
            return
        address = open_repository(repository, None if args.refresh else not args.public)
        for branch, folder in folders.items():
            song = publish(folder, args.run, repository, branch, args, args.tag if branch == args.revision else None)
            print(f"it loads in a fresh process and sings: {song!r}")
            print(address if branch == "main" else f"{address}/tree/{branch}")
        if args.space is not None:
            publish_space(staged / "space", space, repository, args)
    finally:
        if not keep:
            shutil.rmtree(staged, ignore_errors=True)


if __name__ == "__main__":
    with command():
        main()
