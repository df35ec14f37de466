"""Publishes a run and proves that it loads back: `python push_to_hub.py runs/sample you/lyricgpt-sample`.

Notable:
- What is sent is a list of names, not a folder: checkpoints, corpora and token streams are never on it, and paths of
  this machine are taken out of `run.yaml`.
- The repository is private unless `--public`: the licence of lyrics is their owner's, and only the user knows it.
- The proof is a fresh process that cannot import this project: it loads model and tokenizer with `trust_remote_code`
  and gives logits, which are compared with this process's.
- `--dry_run` does all of that but the upload, and leaves the folder that would be sent.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx2
import torch
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from training_lyricgpt import LyricGPTError
from training_lyricgpt.arguments import Arguments, load_arguments
from training_lyricgpt.export import export_model, generation_config
from training_lyricgpt.files import read_json
from training_lyricgpt.quality import QUALITY, read_quality
from training_lyricgpt.reports import METRICS, best_evaluation, model_card, read_metrics
from training_lyricgpt.sample import load_run

RECORDS = ("curves.png", METRICS, "samples.txt", "corpus.json")
# Largest difference of a logit between this process and the proof, as a share of the largest logit.
TOLERANCE = 1e-5

PROOF = """
import json, sys
for name in ("modeling_lyricgpt", "tokenization_lyricgpt", "training_lyricgpt", "train_hf"):
    sys.modules[name] = None  # importing this project fails from here on, installed or not
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

source, revision, text = sys.argv[1:]
options = {"trust_remote_code": True, **({"revision": revision} if revision else {})}
tokenizer = AutoTokenizer.from_pretrained(source, **options)
model = AutoModelForCausalLM.from_pretrained(source, **options).eval()
ids = tokenizer(text, return_tensors="pt", split_special_tokens=True).input_ids
with torch.no_grad():
    logits = model(ids).logits[0, -1].tolist()
song = pipeline("text-generation", model=model, tokenizer=tokenizer)(text, max_new_tokens=20)[0]["generated_text"]
print(json.dumps({"ids": ids[0].tolist(), "logits": logits, "song": song}))
"""


def shareable_arguments(args: Arguments) -> Arguments:
    """The run's configuration with file names in place of paths."""
    values = args.to_dict()
    for name in ("dataset", "validation_file", "output_dir"):
        if values[name] is not None:
            values[name] = Path(values[name]).name
    return Arguments(**values)


def stage(run: Path, repository: str, folder: Path) -> None:
    """Writes into `folder` what is sent of a run.

    Raises:
        LyricGPTError: the run is not finished enough, or its weights are not finite.
    """
    missing = [name for name in ("config.json", "run.yaml", *RECORDS) if not (run / name).exists()]
    if missing:
        raise LyricGPTError(f"{run} is not a run that can be published: it has no {', '.join(missing)}")
    model, tokenizer = load_run(str(run))
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise LyricGPTError(f"{run}: the weights of {name} are not finite; this model cannot be published")
    corpus = read_json(run / "corpus.json")
    if tokenizer.alphabet != corpus["alphabet_characters"]:
        raise LyricGPTError(
            f"{run}: the tokenizer's alphabet is not the one of corpus.json; they do not belong together"
        )
    model.generation_config = generation_config(tokenizer)
    export_model(model, tokenizer, folder)
    rows = read_metrics(run)
    quality = read_quality(run, best_evaluation(rows)["step"])
    for name in (*RECORDS, *([QUALITY] if quality else [])):
        shutil.copyfile(run / name, folder / name)
    args = shareable_arguments(load_arguments(run / "run.yaml"))
    args.save(folder / "run.yaml")
    card = model_card(args, corpus, rows, model.num_parameters(), repository, quality)
    (folder / "README.md").write_text(str(card), encoding="utf-8")


def prove(source: str, revision: str | None, run: Path) -> str:
    """Loads a published model in a fresh process and compares it with the run; returns what it sang.

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
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment["HF_HOME"] = home
        if (token := get_token()) is not None:  # which `hf auth login` keeps in the real HF_HOME
            environment["HF_TOKEN"] = token
        result = subprocess.run(
            [sys.executable, "-I", "-c", PROOF, source, revision or "", text],
            env=environment,
            cwd=home,
            capture_output=True,
            text=True,
        )
    if result.returncode:
        raise LyricGPTError(f"{source} does not load in a fresh process:\n{result.stderr.strip()}")
    proof = json.loads(result.stdout.splitlines()[-1])
    difference = (torch.tensor(proof["logits"]) - logits).abs().max() / logits.abs().max()
    if proof["ids"] != ids[0].tolist() or not difference <= TOLERANCE:
        raise LyricGPTError(
            f"{source} loads, but computes something else (logits differ by {difference:.1e} of the largest)"
        )
    return proof["song"]


def upload(folder: Path, repository: str, private: bool, message: str) -> tuple[str, str]:
    """Creates the repository if needed and uploads a folder in one commit; returns the address and the commit.

    Raises:
        LyricGPTError: what the Hub said, and what to do.
    """
    api = HfApi()
    try:
        address = api.create_repo(repository, private=private, exist_ok=True)
        if private and not api.repo_info(repository).private:
            raise LyricGPTError(f"{repository} exists and is public; say --public if that is what you want")
        commit = api.upload_folder(folder_path=folder, repo_id=repository, commit_message=message)
    except LocalTokenNotFoundError:
        raise LyricGPTError("no Hugging Face token: run `hf auth login`, or set HF_TOKEN") from None
    except OfflineModeIsEnabled:
        raise LyricGPTError("HF_HUB_OFFLINE is set; unset it to upload, or use --dry_run") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        advice = {
            401: "the token is missing or wrong: run `hf auth login`, or set HF_TOKEN",
            403: f"the token may not write to {repository}: use one with write access, or a name of your own",
            404: f"there is no such user or organisation: {repository.split('/')[0]}",
        }.get(status, "try again")
        raise LyricGPTError(f"the Hub refused ({status}): {advice}. It said: {error}") from None
    except (OSError, httpx2.HTTPError) as error:
        raise LyricGPTError(f"the Hub could not be reached: {error}") from None
    return str(address), commit.oid


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="push_to_hub.py", description="Publish a run on the Hugging Face Hub.")
    parser.add_argument("run", type=Path, help="run folder, for example runs/sample")
    parser.add_argument("repository", help="name on the Hub, for example you/lyricgpt-sample")
    parser.add_argument("--public", action="store_true", help="make the repository public (default: private)")
    parser.add_argument("--message", default="Upload LyricGPT model", help="commit message")
    parser.add_argument(
        "--dry_run", action="store_true", help="write what would be sent, prove that it loads, and stop"
    )
    args = parser.parse_args()
    try:
        validate_repo_id(args.repository)
    except HFValidationError as error:
        raise LyricGPTError(f"{args.repository!r} is not a repository name: {error}") from None
    if not args.run.is_dir():
        raise LyricGPTError(f"no such run folder: {args.run}")

    folder = Path(tempfile.mkdtemp(prefix="lyricgpt-push-"))
    keep = False
    try:
        stage(args.run, args.repository, folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        print(f"{'would send' if args.dry_run else 'sending'} to {args.repository}:")
        for path in files:
            print(f"  {path.stat().st_size:>12,} bytes  {path.relative_to(folder)}")
        print(f"  {sum(path.stat().st_size for path in files):>12,} bytes in all")
        if args.dry_run:
            print(f"\nit loads in a fresh process and sings: {prove(str(folder), None, args.run)!r}")
            print(f"nothing was sent; the folder is {folder}")
            keep = True
            return
        address, commit = upload(folder, args.repository, not args.public, args.message)
        print(f"uploaded as {commit}; loading it back")
        song = prove(args.repository, commit, args.run)
        print(f"it loads in a fresh process and sings: {song!r}\n{address}")
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    try:
        main()
    except LyricGPTError as error:
        sys.exit(f"error: {error}")
