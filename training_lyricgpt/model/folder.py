"""Checks a run folder or a downloaded model before anything in it is read, because somebody else may have made it.

Notes:
- A link could lead to any file on this machine, and what is read from a run may be published. So links that leave the
  folder are refused. Hard links are refused too, because nobody can know the file's other name. A model in
  huggingface_hub's cache consists of links (`snapshots/x/file` -> `../../blobs/…`), which may only lead to that `blobs`
  folder.
- Code in the folder is never run: its weights are loaded with this project's installed code. Weights that were made
  with other code would mean something else. So the code in the folder must be this project's, from any published
  version (`published_code.txt` has the SHA-256 of each).
"""

import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

import modeling_lyricgpt
import tokenization_lyricgpt
from modeling_lyricgpt import LyricGPTForCausalLM
from tokenization_lyricgpt import LyricGPTTokenizer

from .. import LyricGPTError
from ..files import UNFINISHED, hash_file
from ..record_types import read_record
from .settings import WeightsIndex

# The files of a model. Nothing else is downloaded.
MODEL_FILES = ("*.json", "*.safetensors", "*_lyricgpt.py", "custom_generate/*", "README.md")
CHECKPOINTS = "checkpoints"
BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # a checksum of Git or LFS
OWN_CLASS = re.compile(r"\w+_lyricgpt\.LyricGPT\w+")
PUBLISHED_CODE = Path(__file__).with_name("published_code.txt")
# Keys that make transformers fetch code or weights from elsewhere, or that give another key this meaning.
FETCHING_KEYS = (
    "attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation",
    "_experts_implementation", "_experts_implementation_internal", "quantization_config", "custom_pipelines",
    "transformers_weights", "attribute_map", "fast_tokenizer_files", "peft_config", "adapter_config",
)  # fmt: skip
INDEX = "model.safetensors.index.json"


def model_folder(run: str) -> Path:
    """Returns the checked folder of a run, or of a model on the Hub (downloaded if it is not in the cache).

    Raises:
        LyricGPTError: there is no such model, or a check failed.
    """
    folder = Path(run)
    if not folder.is_dir():
        refuse_missing(run)
        try:
            folder = Path(snapshot_download(run, allow_patterns=list(MODEL_FILES)))
        except (OSError, ValueError, RuntimeError) as error:
            raise LyricGPTError(
                f"no model could be loaded from {run!r}: {error}. Check the name: it must be a run folder or a model on the Hub"
            ) from error
    if not (folder / "config.json").exists():
        raise LyricGPTError(
            f"{run} contains no model (no config.json). Name a run folder, or wait for the run's first evaluation"
        )
    check_links(folder)
    check_code(folder)
    return folder


def refuse_missing(run: str) -> None:
    """Raises LyricGPTError if `run` is a missing path in an existing folder. Any other name may be on the Hub."""
    place = Path(run).parent
    if not Path(run).exists() and place != Path() and place.is_dir():
        others = sorted(path.name for path in place.iterdir() if (path / "config.json").exists())
        raise LyricGPTError(f"no such run folder: {run}. Models in {place}: {', '.join(others[:10]) or 'none'}")


def check_links(folder: Path) -> None:
    """Checks that no link leads out of a folder. Skips its checkpoints, which only its own training reads.

    Raises:
        LyricGPTError: a link leads out of the folder. The message names the first one and says what to do.
    """
    home = folder.resolve()
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else None
    for path in sorted(entries_of(folder)):
        try:
            real = path.resolve()
            is_blob = real.parent == blobs and BLOB.fullmatch(real.name) is not None
            is_inside = home in real.parents
            status = path.stat()
        except (OSError, RuntimeError):  # the link is broken or circular
            raise LyricGPTError(f"{path} is a link to a missing file; delete it, or restore the file") from None
        if not (is_blob or is_inside):
            raise LyricGPTError(
                f"{path} is a link to something outside of {folder}. If it belongs to this run, replace the link "
                "with a copy"
            )
        if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
            raise LyricGPTError(
                f"{path} is a hard link: the same file has another name elsewhere. If it belongs to this run, copy the "
                f"folder (cp -r {folder} COPY) and use the copy"
            )


def entries_of(folder: Path) -> Iterator[Path]:
    """Yields everything in a folder at any depth, except its checkpoints. Does not enter linked folders."""
    for parent, folders, files in os.walk(folder):
        if Path(parent) == folder and CHECKPOINTS in folders:
            folders.remove(CHECKPOINTS)
        yield from (Path(parent) / name for name in (*folders, *files))


def todays_code() -> dict[str, bytes]:
    """Returns the code files that are published with the weights, by name."""
    packages = [Path(package.__file__).parent for package in (modeling_lyricgpt, tokenization_lyricgpt)]
    return {path.name: path.read_bytes() for package in packages for path in package.glob("*_lyricgpt.py")}


def published_code() -> set[tuple[str, str]]:
    """Returns the name and SHA-256 of each code file in every version that was published."""
    lines = PUBLISHED_CODE.read_text(encoding="utf-8").splitlines()
    return {(name, checksum) for checksum, name in map(str.split, lines)}


def check_code(folder: Path) -> None:
    """Checks that a folder's code is this project's, and that its configuration files name no other code.

    Raises:
        LyricGPTError: a check failed. The message names the first such file and says what to do.
    """
    today, published = todays_code(), published_code()
    own = "LyricGPT never runs code from a folder, and loads the weights with its own code"
    for path in sorted(folder.glob("*_lyricgpt.py")):
        if path.read_bytes() != today.get(path.name) and (path.name, hash_file(path)) not in published:
            raise LyricGPTError(
                f"{path} is not LyricGPT's code in any version, so somebody changed it. {own}. If you know that these "
                "weights were made with LyricGPT's code, delete this file and run the same command again"
            )
    for name in ("custom_generate", "adapter_config.json"):
        if (folder / name).exists():
            raise LyricGPTError(
                f"{folder / name} would bring other code or weights. {own}. Delete it to continue without it"
            )
    read_settings(folder / INDEX, WeightsIndex)  # refuses the names of files elsewhere
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        values = read_settings(folder / name)
        for value in names_of_code(values.get("auto_map")):
            if not OWN_CLASS.fullmatch(value):
                raise LyricGPTError(
                    f"{folder / name} names code that is not LyricGPT's in its auto_map: {value!r}. {own}. Delete "
                    "auto_map from that file to continue without it"
                )
        if wrong := [key for key in FETCHING_KEYS if values.get(key) is not None]:
            raise LyricGPTError(
                f"{folder / name} has a key {wrong[0]!r}, which could bring other code; delete that key"
            )


def names_of_code(auto_map: Any) -> list[str]:
    """Returns all names in an `auto_map`, however it is nested."""
    names, parts = [], [auto_map]
    while parts:
        part = parts.pop()
        if isinstance(part, dict | list | tuple):
            parts += part.values() if isinstance(part, dict) else part
        elif part is not None:
            names.append(str(part))
    return names


def read_settings(path: Path, kind: Any = dict[str, Any]) -> Any:
    """Reads a settings file that transformers wrote. Returns only the fields of `kind`; empty if there is no such file.

    Args:
        kind: A type from `settings`.

    Raises:
        LyricGPTError: the file is damaged, or one of its values is wrong.
    """
    return read_record(path, kind) if path.exists() else {}


WEIGHTS = "model.safetensors"


def export_model(model: LyricGPTForCausalLM, tokenizer: LyricGPTTokenizer, folder: str | Path) -> None:
    """Writes model, tokenizer and code into a run folder, and keeps other files in it.

    Raises:
        OSError: a file cannot be written. The files that were there are still complete.
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
