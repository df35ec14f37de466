"""Looks at a run folder, or a downloaded model, before anything in it is read: somebody else may have made it.

Notable:
- A link may lead to any file of this machine, and what is read of a run is published: links that leave the folder are
  refused, and hard links, whose other name nobody can know. A model in huggingface_hub's cache is made of links
  (`snapshots/x/file` -> `../../blobs/…`), which are followed no further than to that folder.
- Nothing in the folder is ever run: this project's installed code is loaded with the folder's weights. So its code must be
  this project's, of any version that was published (`published_code.txt` has their SHA-256): weights that were made with
  other code would mean something else.
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

# What a model consists of; nothing else is downloaded.
MODEL_FILES = ("*.json", "*.safetensors", "*_lyricgpt.py", "custom_generate/*", "README.md")
CHECKPOINTS = "checkpoints"
BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # a checksum of Git or of LFS
OWN_CLASS = re.compile(r"\w+_lyricgpt\.LyricGPT\w+")
PUBLISHED_CODE = Path(__file__).with_name("published_code.txt")
# Keys that make transformers fetch code or weights from elsewhere, or say that another key does.
FETCHING_KEYS = (
    "attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation",
    "_experts_implementation", "_experts_implementation_internal", "quantization_config", "custom_pipelines",
    "transformers_weights", "attribute_map", "fast_tokenizer_files", "peft_config", "adapter_config",
)  # fmt: skip
INDEX = "model.safetensors.index.json"


def model_folder(run: str) -> Path:
    """The folder of a run, or of a model of the Hub, which is downloaded or lies in the cache already; it was looked at.

    Raises:
        LyricGPTError: there is none, or something in it is not what it should be.
    """
    folder = Path(run)
    if not folder.is_dir():
        refuse_missing(run)
        try:
            folder = Path(snapshot_download(run, allow_patterns=list(MODEL_FILES)))
        except (OSError, ValueError, RuntimeError) as error:
            raise LyricGPTError(f"no model could be loaded from {run!r}: {error}") from error
    if not (folder / "config.json").exists():
        raise LyricGPTError(f"{run} holds no model (no config.json); has its first evaluation been reached?")
    check_links(folder)
    check_code(folder)
    return folder


def refuse_missing(run: str) -> None:
    """Raises LyricGPTError if a run was named by a path: one that does not begin with a folder may be a name on the Hub."""
    place = Path(run).parent
    if not Path(run).exists() and place != Path() and place.is_dir():
        others = sorted(path.name for path in place.iterdir() if (path / "config.json").exists())
        raise LyricGPTError(f"no such run folder: {run}; {place} holds {', '.join(others[:10]) or 'no model'}")


def check_links(folder: Path) -> None:
    """Makes sure that every file of a folder lies in it; its checkpoints, which nothing but its own training reads, aside.

    Raises:
        LyricGPTError: the first that does not, and what to do.
    """
    home = folder.resolve()
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else None
    for path in sorted(entries_of(folder)):
        try:
            real = path.resolve()
            is_blob = real.parent == blobs and BLOB.fullmatch(real.name) is not None
            is_inside = home in real.parents
            status = path.stat()
        except (OSError, RuntimeError):  # it leads nowhere, or in a circle
            raise LyricGPTError(f"{path} is a link that leads nowhere; remove it, or restore the file") from None
        if not (is_blob or is_inside):
            raise LyricGPTError(
                f"{path} is a link to something outside of {folder}; if it belongs to this run, put a copy of it in its place"
            )
        if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
            raise LyricGPTError(
                f"{path} is a hard link: the same file has another name elsewhere. If it belongs to this run, copy the folder "
                f"(cp -r {folder} COPY) and use the copy"
            )


def entries_of(folder: Path) -> Iterator[Path]:
    """Everything in a folder at any depth, its checkpoints aside; folders that are links are named, and not entered."""
    for parent, folders, files in os.walk(folder):
        if Path(parent) == folder and CHECKPOINTS in folders:
            folders.remove(CHECKPOINTS)
        yield from (Path(parent) / name for name in (*folders, *files))


def todays_code() -> dict[str, bytes]:
    """The files of code that are published beside weights, by name."""
    packages = [Path(package.__file__).parent for package in (modeling_lyricgpt, tokenization_lyricgpt)]
    return {path.name: path.read_bytes() for package in packages for path in package.glob("*_lyricgpt.py")}


def published_code() -> set[tuple[str, str]]:
    """Name and SHA-256 of each file of code in each version that was ever published."""
    lines = PUBLISHED_CODE.read_text(encoding="utf-8").splitlines()
    return {(name, checksum) for checksum, name in map(str.split, lines)}


def check_code(folder: Path) -> None:
    """Makes sure that a folder's code is this project's, and that its configurations name no other.

    Raises:
        LyricGPTError: the first file that is not, and what to do.
    """
    today, published = todays_code(), published_code()
    own = "LyricGPT runs nothing of it, and loads its own code with a folder's weights"
    for path in sorted(folder.glob("*_lyricgpt.py")):
        if path.read_bytes() != today.get(path.name) and (path.name, hash_file(path)) not in published:
            raise LyricGPTError(
                f"{path} is not LyricGPT's code, of no version: somebody changed it. {own}: if you know that these weights "
                "were made with LyricGPT's code, delete this file and run the same command again"
            )
    for name in ("custom_generate", "adapter_config.json"):
        if (folder / name).exists():
            raise LyricGPTError(
                f"{folder / name} would bring other code or weights; {own}: delete it to go on without it"
            )
    read_settings(folder / INDEX, WeightsIndex)  # names no file elsewhere
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        values = read_settings(folder / name)
        for value in names_of_code(values.get("auto_map")):
            if not OWN_CLASS.fullmatch(value):
                raise LyricGPTError(
                    f"{folder / name} names code that is not LyricGPT's in its auto_map: {value!r}; {own}: delete auto_map there "
                    "to go on without it"
                )
        if wrong := [key for key in FETCHING_KEYS if values.get(key) is not None]:
            raise LyricGPTError(
                f"{folder / name} has a key {wrong[0]!r}, which could bring other code; delete it there"
            )


def names_of_code(auto_map: Any) -> list[str]:
    """The names in an `auto_map`, whatever it is made of."""
    names, parts = [], [auto_map]
    while parts:
        part = parts.pop()
        if isinstance(part, dict | list | tuple):
            parts += part.values() if isinstance(part, dict) else part
        elif part is not None:
            names.append(str(part))
    return names


def read_settings(path: Path, kind: Any = dict[str, Any]) -> Any:
    """Settings that transformers wrote, those that a type of `settings` lists; empty if there is no such file.

    Raises:
        LyricGPTError: they are none, or one of them is not what it should be.
    """
    return read_record(path, kind) if path.exists() else {}


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
