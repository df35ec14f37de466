"""Prepares a corpus as token streams and keeps them in a cache.

Notes:
- Prepared streams are cached under a checksum of their content and settings, so that a second start prepares nothing.
- An index of path, size and modification time avoids hashing a file again.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from filelock import FileLock, Timeout

from tokenization_lyricgpt import LyricGPTTokenizer

from .. import LyricGPTError
from ..arguments import CorpusArguments, load_arguments
from ..files import cache_folder, known_checksum, read_json, writing_cache
from ..processes import workers_end_with_us
from ..record_types import Corpus, read_record
from .preparation import prepare
from .sources import find_sources, is_hub_id, kind_suffix, load_hub
from .streams import SONG_SCHEMA, SPLITS, TokenizedCorpus, TokenStream

PREPARING = ".preparing-"
FORMAT = 2  # version of the cache; raise it when cleaning, splitting or layout changes


# ----------------------------------------------------------------------------------------------------------------------
# Preparing, and the cache


def describe_files(pattern: str) -> list[dict[str, Any]]:
    """Returns the name, size, kind and checksum of each file of a pattern. Names have no folders, which may be private."""
    if is_hub_id(pattern):
        paths = [Path(file["filename"]) for file in load_hub(pattern).cache_files]
        sums = "".join(known_checksum(path) for path in paths)
        size = sum(path.stat().st_size for path in paths)
        return [{"name": pattern, "bytes": size, "kind": "hub", "sha256": hashlib.sha256(sums.encode()).hexdigest()}]
    paths = sorted({source.path for source in find_sources(pattern)})
    return [
        {
            "name": path.name.encode("utf-8", "replace").decode(),
            "bytes": path.stat().st_size,
            "kind": kind_suffix(path),
            "sha256": known_checksum(path),
        }
        for path in paths
    ]


def corpus_settings(args: CorpusArguments, base_alphabet: str) -> dict[str, Any]:
    """Returns everything that the token streams depend on: the content of the files and the settings."""
    names = (
        "text_column", "artist_column", "title_column", "encoding", "cleaning", "split", "split_seed", "validation_fraction", "alphabet",
        "min_char_count", "special_tokens", "max_songs", "near_duplicates", "conditioning",
    )  # fmt: skip
    return {
        "format": FORMAT,
        "files": describe_files(args.dataset),
        "validation_files": describe_files(args.validation_file) if args.validation_file else [],
        **{name: getattr(args, name) for name in names},
        **({"base_alphabet": base_alphabet} if base_alphabet else {}),
    }


def load_corpus(args: CorpusArguments, base_alphabet: str = "") -> TokenizedCorpus:
    """Loads the corpus of a run as token streams. If it isn't in the cache, prepares it there first.

    Any number of processes may call this at once: one prepares the corpus, and the others wait.

    Args:
        base_alphabet: Characters to add to the alphabet of the corpus.

    Raises:
        LyricGPTError: if the corpus cannot be used.
    """
    settings = corpus_settings(args, base_alphabet)
    # The streams don't depend on the folder or the name of a file, so the checksum doesn't either.
    content = json.dumps(
        settings
        | {key: [(file["sha256"], file["kind"]) for file in settings[key]] for key in ("files", "validation_files")}
    )
    checksum = hashlib.sha256(content.encode()).hexdigest()
    folder = cache_folder() / "tokens" / checksum[:32]
    with writing_cache():
        folder.parent.mkdir(parents=True, exist_ok=True)
    if not is_prepared(folder):
        with writing_cache(), FileLock(f"{folder}.lock"):
            if not is_prepared(folder):
                prepare_into(folder, args, settings | {"checksum": checksum})
    report = read_json(folder / "corpus.json")
    report["files"] = settings["files"]
    tokenizer = LyricGPTTokenizer.from_pretrained(folder)
    streams = {}
    for split in SPLITS:
        streams[split] = TokenStream(
            np.memmap(folder / f"{split}.bin", dtype=tokenizer.id_dtype, mode="r"), read_songs_of(folder, split)
        )
    return TokenizedCorpus(tokenizer, **streams, report=report, folder=folder)


def prepare_into(folder: Path, args: CorpusArguments, settings: dict[str, Any]) -> None:
    """Prepares a corpus in a temporary folder of the cache, and renames it to `folder` when it is complete.

    Raises:
        LyricGPTError: if the corpus cannot be used, or a worker process was killed.
    """
    remove_unfinished(folder)
    workspace = Path(tempfile.mkdtemp(prefix=f"{PREPARING}{folder.name}-", dir=folder.parent))
    try:
        with workers_end_with_us():
            prepare(args, settings, workspace / "prepared")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(workspace / "prepared", folder)
    except (RuntimeError, TimeoutError, EOFError) as error:
        # (datasets raises a RuntimeError with these words if a worker was killed)
        if isinstance(error, RuntimeError) and "abruptly died" not in str(error):
            raise
        raise LyricGPTError(
            "a process that was preparing the corpus was killed, often because memory ran out. Close other programs and run "
            "the same command again, or use a computer with more memory"
        ) from error
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Removes unfinished folders that killed processes left in the cache. This process has the lock of `folder`."""
    for left in folder.parent.glob(f"{PREPARING}*"):
        key = left.name.removeprefix(PREPARING).rpartition("-")[0]
        if key == folder.name:
            shutil.rmtree(left, ignore_errors=True)
            continue
        with contextlib.suppress(Timeout), FileLock(folder.with_name(f"{key}.lock"), timeout=0):
            shutil.rmtree(left, ignore_errors=True)


def read_songs_of(folder: Path, split: str) -> pa.Table:
    """Returns the songs of a prepared split, memory-mapped."""
    return pa.ipc.open_file(pa.memory_map(str(folder / f"{split}_songs.arrow"))).read_all()


def load_run_corpus(folder: Path) -> TokenizedCorpus:
    """Loads the corpus that a run was trained on.

    Raises:
        LyricGPTError: if the corpus has been moved or changed.
    """
    report = read_record(folder / "corpus.json", Corpus)
    args = load_arguments(folder / "run.yaml")
    corpus = load_corpus(args, report.get("base_alphabet", ""))
    if corpus.report["checksum"] != report["checksum"]:
        raise LyricGPTError(
            f"the corpus of {folder} does not match the one that it was trained on: its files, run.yaml or LyricGPT's way of "
            "preparing a corpus changed. Restore the original files, or use the version of LyricGPT that trained it"
        )
    return corpus


def is_prepared(folder: Path) -> bool:
    """Whether the cache has a complete corpus: report, tokenizer, songs, and streams of the length in the report."""
    try:
        tokens = read_json(folder / "corpus.json")["tokens"]
        songs = [read_songs_of(folder, split).schema == SONG_SCHEMA for split in SPLITS]
        itemsize = LyricGPTTokenizer.from_pretrained(folder).id_dtype.itemsize
        return all(songs) and all(
            (folder / f"{split}.bin").stat().st_size == tokens[split] * itemsize for split in SPLITS
        )
    except Exception:  # whatever is wrong, the corpus is prepared again
        return False
