"""Publishes a run on the Hub and proves that it loads: `python push_to_hub.py runs/sample you/lyricgpt-sample`.

Notes:
- No file of the run folder is sent as it is. Records are read, checked and written again without paths and names of this
  machine (`privacy`). Checkpoints, corpora and token streams are not sent at all.
- The repository is private unless you add `--public`. Only the owner of the lyrics can decide on
  their license, and LyricGPT can't find out what it is.
- It makes one commit, or none if the branch already has the same files. If a push was interrupted, run the same command
  again and it resumes.
- The proof is a fresh process that cannot import this project and has an empty cache. It loads that commit with
  `trust_remote_code` and computes logits, which are compared with those of this process. Then the address is printed.
- `--stock` also publishes a stock model with the same weights on the branch `native`, proven without any trust.
- `--space` also publishes `space/`, a page that writes songs with the model. The user's token is not sent. If the model is
  private, a message says where to give its Space a token.
- `--refresh` puts the installed version's code into a repository that was published with older code. Weights and records
  stay as they are.
- `--dry_run` prepares the same files in a local folder, checks that the models load from there, and lists what would be
  revealed about the user. It sends nothing, sets no tag and keeps the folder.
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
from training_lyricgpt.terminal import command, program
from training_lyricgpt.wording import plural


def commit_folder(changes: Changes, folder: Path, message: str) -> str:
    """Sends the files that differ, in one commit or none, and prints what it did; returns the commit."""
    commit = send(changes, folder, message)
    if commit == changes.head:
        print(f"{changes.repository} already has these files, in commit {commit} on {changes.branch}", flush=True)
    else:
        sent = sum((folder / name).stat().st_size for name in changes.changed)
        print(
            f"sent {plural(len(changes.changed), 'file')}, {sent:,} bytes, as commit {commit} on {changes.branch}",
            flush=True,
        )
    return commit


def publish(folder: Path, run: Path, repository: str, branch: str, args: argparse.Namespace, tag: str | None) -> str:
    """Sends a staged model to a branch and proves that it loads; returns a song that it wrote."""
    changes = compare(folder, repository, branch, tag)
    message = args.message or ("Refresh LyricGPT's code" if args.refresh else "Upload LyricGPT model")
    commit = commit_folder(changes, folder, message)
    print("checking that it loads", flush=True)
    song = prove(repository, commit, run, trust=branch != STOCK_BRANCH)
    if tag is not None and not changes.is_tagged:
        add_tag(repository, tag, commit)
    if STOCK_BRANCH in changes.branches and not args.stock:
        print(f"the branch {STOCK_BRANCH} still has the stock model of an earlier push; add --stock to replace it")
    return song


def publish_space(folder: Path, space: str, repository: str, args: argparse.Namespace) -> None:
    """Sends the staged demo to a Space that runs the published model, and prints what is left to do."""
    address = open_repository(space, not args.public, repo_type="space")
    changes = compare(folder, space, "main", repo_type="space")
    set_variable(space, "MODEL", repository)  # before the commit, which starts the Space
    commit_folder(changes, folder, args.message or "Upload LyricGPT demo")
    if not args.public and not has_secret(space, "HF_TOKEN"):
        print(
            f"{repository} is private: set the Space's secret HF_TOKEN to a token that can read it, at {address}/settings"
        )
    print(address)


def parse_command() -> argparse.Namespace:
    """Reads the command line.

    Raises:
        LyricGPTError: the options do not fit together, or a name or folder is wrong.
    """
    parser = argparse.ArgumentParser(prog="push_to_hub.py", description="Publish a run on the Hugging Face Hub.")
    parser.add_argument("run", type=Path, nargs="?", help="run folder, for example runs/sample")
    parser.add_argument("repository", nargs="?", help="name on the Hub, for example you/lyricgpt-sample")
    parser.add_argument(
        "--refresh",
        metavar="REPOSITORY",
        help="instead of publishing a run, update the code of this model on the Hub; its weights stay as they are",
    )
    parser.add_argument("--public", action="store_true", help="make the repository public (default: private)")
    parser.add_argument("--revision", default="main", metavar="BRANCH", help="branch to commit to (default: main)")
    parser.add_argument("--tag", help="tag to set on the commit after the model has been checked, for example v1")
    parser.add_argument("--message", help="commit message (default: Upload LyricGPT model)")
    parser.add_argument(
        "--stock",
        "--twin",
        dest="stock",
        action="store_true",
        help=f"also publish a stock model, which loads without custom code, on the branch {STOCK_BRANCH}",
    )
    parser.add_argument(
        "--space", nargs="?", const="", metavar="NAME", help="also publish the demo (default name: REPOSITORY-demo)"
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="prepare the files in a local folder and check that the model works, but send nothing",
    )
    args = parser.parse_args()
    if args.refresh is not None:
        if args.run is not None or args.stock or args.space is not None or args.public:
            parser.error("--refresh can't be combined with a run folder, --stock, --space or --public")
        args.repository = args.refresh
    elif args.repository is None:
        missing = "the repository is" if args.run is not None else "the run folder and the repository are"
        example = f"{args.run or 'runs/sample'} lyricgpt-{args.run.name if args.run else 'sample'}"
        parser.error(f"{missing} missing; write, for example: {program('python')} push_to_hub.py {example}")
    for name in (args.repository, *([args.space] if args.space else [])):
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            raise LyricGPTError(f"{name!r} is not a repository name: {error}") from None
    if args.revision == STOCK_BRANCH:
        raise LyricGPTError(
            f"--revision {STOCK_BRANCH}: that branch is for stock models; choose another branch, or use --stock"
        )
    if args.space is not None and args.revision != "main":
        raise LyricGPTError(
            f"a Space runs the model on the branch main: leave out --space, or --revision {args.revision}"
        )
    if args.refresh is None and not args.run.is_dir():
        raise LyricGPTError(f"there is no run folder {args.run}: check the path")
    return args


def main() -> None:
    """Prepares the files, sends them, and proves that they load."""
    args = parse_command()
    repository = args.repository if args.dry_run else full_name(args.repository)
    space = args.space or f"{repository}-demo"
    if args.space and not args.dry_run:
        space = full_name(args.space)

    staged = Path(tempfile.mkdtemp(prefix="lyricgpt-push-"))
    keep, revealed = False, None
    try:
        # The folder to send to each branch.
        folders = {args.revision: staged / "model"}
        if args.refresh is not None:
            refresh(repository, args.revision, folders[args.revision])
            args.run = folders[args.revision]
        else:
            branch = STOCK_BRANCH if args.stock else None
            model, tokenizer, revealed = stage(args.run, repository, folders[args.revision], branch)
        if args.stock:
            folders[STOCK_BRANCH] = staged / "stock"
            stage_stock(args.run, model, tokenizer, repository, folders[STOCK_BRANCH])
        for branch, folder in folders.items():
            print(f"{'would send' if args.dry_run else 'sending'} to {repository}, branch {branch}:")
            list_files(folder)
        if revealed is not None and args.dry_run:
            print("\n".join(revealed.describe()))
        if args.space is not None:
            stage_space(args.run, staged / "space")
            print(f"{'would send' if args.dry_run else 'sending'} to the Space {space}, with MODEL={repository}:")
            list_files(staged / "space")
        if args.dry_run:
            for branch, folder in folders.items():
                song = prove(str(folder), None, args.run, trust=branch != STOCK_BRANCH)
                print(f"\nthe model loads in a fresh process; sample: {song!r}")
                print(f"nothing was sent; a copy is in {folder}")
            if args.space is not None:
                print(f"a copy of the demo is in {staged / 'space'}")
            print(f"delete {staged} when you are done. To upload, run the same command without --dry_run")
            keep = True
            return
        address = open_repository(repository, None if args.refresh else not args.public)
        for branch, folder in folders.items():
            song = publish(folder, args.run, repository, branch, args, args.tag if branch == args.revision else None)
            print(f"the model loads in a fresh process; sample: {song!r}")
            print(address if branch == "main" else f"{address}/tree/{branch}")
        if args.space is not None:
            publish_space(staged / "space", space, repository, args)
    finally:
        if not keep:
            shutil.rmtree(staged, ignore_errors=True)


cli = command()(main)  # what `python` and the installed commands start

if __name__ == "__main__":
    cli()
