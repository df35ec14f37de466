"""Token streams become batches; prepared ones are found again.

Notable:
- One flat stream a split, memory-mapped, of the smallest unsigned type that holds the alphabet; 64-bit offsets.
- Prepared streams are cached under the checksum of their content and settings, so that a second start prepares nothing;
  an index of path, size and modification time spares hashing a file again.
- A batch is a pure function of (seed, step): its window offsets are raw Philox output (a counter-based generator,
  https://numpy.org/doc/stable/reference/random/bit_generators/philox.html) keyed by them. There is no sampler state.
- Evaluation windows are fixed by (seed, split); a split with fewer windows than asked for is read whole (its last window overlaps
  the one before it).
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from filelock import FileLock, Timeout

from tokenization_lyricgpt import LyricGPTTokenizer

from . import LyricGPTError
from .arguments import Arguments, load_arguments
from .devices import workers_end_with_us
from .files import cache_folder, known_checksum, read_json, writing_cache
from .preparation import prepare
from .record_types import Corpus, read_record
from .sources import find_sources, is_hub_id, kind_suffix, load_hub
from .splitting import SPLITS
from .streams import SONG_SCHEMA

PREPARING = ".preparing-"
FORMAT = 2  # of the cache; a change of cleaning, splitting or layout raises it
# Keys of the counter-based generator: what is drawn never shares a stream with anything else that is drawn.
TRAIN_STREAM, EVALUATION_STREAM = 1, 2


@dataclass
class TokenStream:
    """The ids of one split, one after the other, memory-mapped and read-only.

    Attributes:
        songs: Artist and title of each song and where it stands: `begin`, `lyrics` (past its header), `end`.
    """

    ids: np.ndarray  # (tokens,), unsigned
    songs: pa.Table = field(default_factory=lambda: SONG_SCHEMA.empty_table(), repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def windows(self, offsets: np.ndarray, block_size: int) -> torch.Tensor:
        """The windows that begin at `offsets`, int64, shape `(len(offsets), block_size + 1)`."""
        positions = offsets.astype(np.int64)[:, None] + np.arange(block_size + 1, dtype=np.int64)
        return torch.from_numpy(self.ids[positions].astype(np.int64))

    @cached_property
    def headers(self) -> tuple[np.ndarray, np.ndarray]:
        """First token and one past the last of each header, in order; none where songs have none."""
        begins, lyrics = (self.songs[name].to_numpy() for name in ("begin", "lyrics"))
        has_header = lyrics > begins
        return begins[has_header], lyrics[has_header]

    def is_header(self, offsets: np.ndarray, block_size: int) -> torch.Tensor | None:
        """Whether the next characters of the windows at `offsets` belong to a header, shape `(len(offsets), block_size)`.

        None where no song has one.
        """
        begins, ends = self.headers
        if len(begins) == 0:
            return None
        positions = offsets.astype(np.int64)[:, None] + np.arange(1, block_size + 1, dtype=np.int64)
        header = np.searchsorted(begins, positions, side="right") - 1
        return torch.from_numpy((header >= 0) & (positions < ends[header]))


@dataclass
class TokenizedCorpus:
    """What training needs of a corpus."""

    tokenizer: LyricGPTTokenizer
    train: TokenStream
    validation: TokenStream
    report: dict[str, Any]
    folder: Path  # in the cache


def stream_text(tokenizer: LyricGPTTokenizer, ids: np.ndarray) -> str:
    """Ids of a stream as text, vectorised; `<|unk|>` becomes U+FFFD, any other special token a line break."""
    table = np.full(len(tokenizer), ord("\n"), dtype="<u4")
    if tokenizer.unk_token_id is not None:
        table[tokenizer.unk_token_id] = 0xFFFD
    vocab = tokenizer.get_vocab()
    for character in tokenizer.alphabet:
        table[vocab[character]] = ord(character)
    return table[ids].tobytes().decode("utf-32-le", "surrogatepass")


def random_offsets(stream_key: int, seed: int, counter: int, count: int, starts: int) -> np.ndarray:
    """`count` offsets below `starts`, int64: a pure function of the arguments.

    The bias of the modulo is below `starts / 2**64`.
    """
    generator = np.random.Philox(key=[seed % 2**64, stream_key], counter=[0, 0, counter, 0])
    return (generator.random_raw(count) % np.uint64(starts)).astype(np.int64)


def batch_offsets(seed: int, step: int, batch_size: int, tokens: int, block_size: int) -> np.ndarray:
    """Window offsets of the global batch of a training step, shape `(batch_size,)`."""
    return random_offsets(TRAIN_STREAM, seed, step, batch_size, tokens - block_size)


def evaluation_offsets(seed: int, split: str, windows: int, tokens: int, block_size: int) -> np.ndarray:
    """Window offsets of an evaluation: `windows` random ones, or those that cover the split if it holds no more."""
    if windows * block_size >= tokens - 1:
        return np.minimum(np.arange(0, tokens - 1, block_size), tokens - 1 - block_size)
    return random_offsets(EVALUATION_STREAM, seed, SPLITS.index(split), windows, tokens - block_size)


# ----------------------------------------------------------------------------------------------------------------------
# Preparing, and the cache


def describe_files(pattern: str) -> list[dict[str, Any]]:
    """Name, size, kind and checksum of each file of a pattern; names without folders, which are nobody else's business."""
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


def corpus_settings(args: Arguments, base_alphabet: str) -> dict[str, Any]:
    """Everything that the token streams depend on, content first."""
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


def load_corpus(args: Arguments, base_alphabet: str = "") -> TokenizedCorpus:
    """The corpus of a run as token streams: from the cache, or prepared and put there.

    Any number of processes may call this at once; one prepares, the others wait.

    Args:
        base_alphabet: Characters that are in the alphabet besides those of the corpus.

    Raises:
        LyricGPTError: whatever is wrong with the corpus, and a split shorter than `block_size + 1`.
    """
    settings = corpus_settings(args, base_alphabet)
    # Where a file lies and what it is called change nothing of the streams.
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
        tokens = report["tokens"][split]
        if tokens < args.block_size + 1:
            raise LyricGPTError(
                f"the {split} split has {tokens} characters, but a window needs block_size + 1 = {args.block_size + 1}: "
                f"choose a smaller block_size, {'a larger corpus' if split == 'train' else 'more validation data'}"
                " (validation_fraction, validation_file)"
            )
        streams[split] = TokenStream(
            np.memmap(folder / f"{split}.bin", dtype=tokenizer.id_dtype, mode="r"), read_songs_of(folder, split)
        )
    return TokenizedCorpus(tokenizer, **streams, report=report, folder=folder)


def prepare_into(folder: Path, args: Arguments, settings: dict[str, Any]) -> None:
    """Prepares a corpus beside its place in the cache and renames it into it.

    Raises:
        LyricGPTError: whatever is wrong with the corpus; a worker was killed.
    """
    remove_unfinished(folder)
    workspace = Path(tempfile.mkdtemp(prefix=f"{PREPARING}{folder.name}-", dir=folder.parent))
    try:
        with workers_end_with_us():
            prepare(args, settings, workspace / "prepared")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(workspace / "prepared", folder)
    except (RuntimeError, TimeoutError, EOFError) as error:
        if isinstance(error, RuntimeError) and "abruptly died" not in str(error):  # the words of datasets
            raise
        raise LyricGPTError(
            "a process that prepared the corpus was killed, often for want of memory. Run the same command again, on a machine "
            "with more memory or fewer other programs"
        ) from error
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Removes what killed processes left in the cache; `folder` is the one that this process has locked."""
    for left in folder.parent.glob(f"{PREPARING}*"):
        key = left.name.removeprefix(PREPARING).rpartition("-")[0]
        if key == folder.name:
            shutil.rmtree(left, ignore_errors=True)
            continue
        with contextlib.suppress(Timeout), FileLock(folder.with_name(f"{key}.lock"), timeout=0):
            shutil.rmtree(left, ignore_errors=True)


def read_songs_of(folder: Path, split: str) -> pa.Table:
    """The songs of a prepared split, mapped."""
    return pa.ipc.open_file(pa.memory_map(str(folder / f"{split}_songs.arrow"))).read_all()


def load_run_corpus(folder: Path) -> TokenizedCorpus:
    """The corpus that a run was trained on, if it still lies where it did.

    Raises:
        LyricGPTError: it does not, or is another now.
    """
    report = read_record(folder / "corpus.json", Corpus)
    corpus = load_corpus(load_arguments(folder / "run.yaml"), report.get("base_alphabet", ""))
    if corpus.report["checksum"] != report["checksum"]:
        raise LyricGPTError(f"the corpus of {folder} has changed since; restore it")
    return corpus


def is_prepared(folder: Path) -> bool:
    """Whether a corpus lies in the cache whole: report, tokenizer, songs, and streams of the length that it states."""
    try:
        tokens = read_json(folder / "corpus.json")["tokens"]
        songs = [read_songs_of(folder, split).schema == SONG_SCHEMA for split in SPLITS]
        itemsize = LyricGPTTokenizer.from_pretrained(folder).id_dtype.itemsize
        return all(songs) and all(
            (folder / f"{split}.bin").stat().st_size == tokens[split] * itemsize for split in SPLITS
        )
    except Exception:  # whatever is wrong with it, it is prepared again
        return False
