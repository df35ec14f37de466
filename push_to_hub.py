"""Publishes a run and proves that it loads back: `python push_to_hub.py runs/sample you/lyricgpt-sample`.

Notable:
- Nothing of the run folder is sent as it lies there: records are read, checked and written anew, without paths and names of
  this machine (`privacy`); checkpoints, corpora and token streams are not sent at all.
- The repository is private unless `--public`: the licence of lyrics is their owner's, and only the user knows it.
- One commit, or none if the branch holds the same already: whatever interrupted a push, the same command goes on.
- The proof is a fresh process that cannot import this project and has an empty cache: it loads that commit with
  `trust_remote_code` and gives logits, which are compared with this process's. The address is printed after it.
- `--stock` also puts the same weights as a stock architecture on the branch `native`, proven without any trust.
- `--space` also publishes `space/`, a page that writes songs with the model. The token stays here: whoever owns a
  private model is told where to give its Space one.
- `--refresh` puts today's code into a repository that was published with older code; weights and records stay as they are.
- `--dry_run` does all of that but the upload, says what it would tell of the user, and leaves the folder.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from training_lyricgpt import LyricGPTError
from training_lyricgpt.hub.commits import (
    Changes,
    add_tag,
    compare,
    full_name,
    has_secret,
    open_repository,
    send,
    set_variable,
)
from training_lyricgpt.hub.proof import prove
from training_lyricgpt.hub.staging import STOCK_BRANCH, list_files, refresh, stage, stage_space, stage_stock
from training_lyricgpt.terminal import command


def commit_folder(changes: Changes, folder: Path, message: str) -> str:
    """Sends what differs, in one commit or none, and says so; returns the commit."""
    commit = send(changes, folder, message)
    if commit == changes.head:
        print(f"{changes.repository} holds this already, as {commit} on {changes.branch}", flush=True)
    else:
        sent = sum((folder / name).stat().st_size for name in changes.changed)
        print(f"{len(changes.changed)} files, {sent:,} bytes, sent as {commit} on {changes.branch}", flush=True)
    return commit


def publish(folder: Path, run: Path, repository: str, branch: str, args: argparse.Namespace, tag: str | None) -> str:
    """Sends a staged model to a branch, and proves it; returns what it sang."""
    changes = compare(folder, repository, branch, tag)
    message = args.message or ("Refresh LyricGPT's code" if args.refresh else "Upload LyricGPT model")
    commit = commit_folder(changes, folder, message)
    print("loading it back", flush=True)
    song = prove(repository, commit, run, trust=branch != STOCK_BRANCH)
    if tag is not None and not changes.is_tagged:
        add_tag(repository, tag, commit)
    if STOCK_BRANCH in changes.branches and not args.stock:
        print(f"the branch {STOCK_BRANCH} still holds what an earlier push put there; --stock renews it")
    return song


def publish_space(folder: Path, space: str, repository: str, args: argparse.Namespace) -> None:
    """Sends the staged demo to a Space that runs the published model, and says what is left to do."""
    address = open_repository(space, not args.public, repo_type="space")
    changes = compare(folder, space, "main", repo_type="space")
    set_variable(space, "MODEL", repository)  # first: a commit starts the Space
    commit_folder(changes, folder, args.message or "Upload LyricGPT demo")
    if not args.public and not has_secret(space, "HF_TOKEN"):
        print(
            f"{repository} is private: set the Space's secret HF_TOKEN to a token that reads it, at {address}/settings"
        )
    print(address)


def parse_command() -> argparse.Namespace:
    """The command line.

    Raises:
        LyricGPTError: what it asks for cannot be.
    """
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
    parser.add_argument(
        "--stock",
        "--twin",
        dest="stock",
        action="store_true",
        help=f"also put the same weights as a stock architecture on the branch {STOCK_BRANCH}",
    )
    parser.add_argument(
        "--space", nargs="?", const="", metavar="NAME", help="also publish the demo (default name: REPOSITORY-demo)"
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="write what would be sent, prove that it loads, and stop"
    )
    args = parser.parse_args()
    if args.refresh is not None:
        if args.run is not None or args.stock or args.space is not None or args.public:
            parser.error("--refresh takes no run folder, and none of --stock, --space and --public")
        args.repository = args.refresh
    elif args.repository is None:
        parser.error("name a run folder and a repository, for example: push_to_hub.py runs/sample you/lyricgpt-sample")
    for name in (args.repository, *([args.space] if args.space else [])):
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            raise LyricGPTError(f"{name!r} is not a repository name: {error}") from None
    if args.revision == STOCK_BRANCH:
        raise LyricGPTError(f"the branch {STOCK_BRANCH} is for stock models: choose another, or say --stock")
    if args.space is not None and args.revision != "main":
        raise LyricGPTError(
            f"a Space runs the model on the branch main: leave out --space or --revision {args.revision}"
        )
    if args.refresh is None and not args.run.is_dir():
        raise LyricGPTError(f"no such run folder: {args.run}")
    return args


def main() -> None:
    """Stages what is sent, sends it and proves it."""
    args = parse_command()
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
            branch = STOCK_BRANCH if args.stock else None
            model, tokenizer, told = stage(args.run, repository, folders[args.revision], branch)
        if args.stock:
            folders[STOCK_BRANCH] = staged / "stock"
            stage_stock(args.run, model, tokenizer, repository, folders[STOCK_BRANCH])
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
                song = prove(str(folder), None, args.run, trust=branch != STOCK_BRANCH)
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


cli = command()(main)  # what `python` and the installed commands start

if __name__ == "__main__":
    cli()
