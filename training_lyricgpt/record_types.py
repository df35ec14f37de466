"""The fields of a run's records, and how to read a record that somebody else may have written.

Notes:
- pydantic checks each field. A record that is too large, is nested too deeply or has a wrong type gives an error of one
  line that names the file. Fields that are not listed here are dropped, so they can neither affect a model nor be
  published.
- A field that reveals something about the user is marked with what that is (`About`). Publishing removes paths and
  names of people and machines from it, and a dry run lists it: see `privacy`.
"""

import functools
import json
import types
import typing
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, get_args, get_origin

from pydantic import Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict, is_typeddict

from . import LyricGPTError

LARGEST = 1 << 28  # bytes of a record; the record of a corpus of 57,650 files has about 10 MB


class About(Enum):
    """What a field reveals: something about the machine or the data, or words of songs, which are published unchanged."""

    MACHINE = "machine"
    DATA = "data"
    WORDS = "words"


Count = Annotated[int, Field(ge=0, le=10**15)]
Figure = Annotated[float, Field(ge=-1e30, le=1e30)]  # excludes NaN
MaybeNaN = float  # NaN if there is nothing to take a share of
Share = Annotated[float, Field(ge=0, le=1)]
Version = Annotated[str, Field(pattern=r"^\d[\w.+!-]{0,99}$")]
Checksum = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Line = Annotated[str, Field(max_length=4000)]
MachineText, DataText = Annotated[Line, About.MACHINE], Annotated[Line, About.DATA]
DataCount = Annotated[Count, About.DATA]
Words = Annotated[str, Field(max_length=1_200_000), About.WORDS]  # long enough for all of Unicode

typed = with_config(extra="ignore", strict=True)


@typed
class File(TypedDict):
    """A file of the corpus."""

    name: DataText
    bytes: DataCount
    kind: Annotated[str, Field(pattern=r"^[\w.-]{0,40}$"), About.DATA]
    sha256: Annotated[Checksum, About.DATA]


@typed
class Straddling(TypedDict, total=False):
    """How many validation songs have a near-duplicate in training."""

    as_drawn: Count
    as_split: Count


@typed
class NearDuplicates(TypedDict):
    mode: Literal["group", "drop", "keep", "ignore"]
    clusters: Count
    songs: Count
    left_out: Count
    validation_songs_with_twin_in_training: NotRequired[Straddling]


@typed
class Split(TypedDict, total=False):
    """A count for each side of the split."""

    train: Count
    validation: Count


@typed
class Tokens(TypedDict):
    train: Annotated[Count, Field(ge=1)]
    validation: Annotated[Count, Field(ge=1)]


@typed
class CleaningRemoved(TypedDict, total=False):
    """How many items of each kind cleaning removed or changed."""

    line_endings: Count
    trailing_blanks: Count
    blank_lines: Count
    control_characters: Count
    normalized_songs: Count


@typed
class Rows(TypedDict):
    """What was read from the files."""

    rows: DataCount
    songs: DataCount
    skipped_empty: Count
    duplicates: Count
    changed_by_cleaning: Count
    cleaning_removed: CleaningRemoved
    replaced_surrogates: Count
    remarks: list[DataText]


@typed
class Corpus(Rows):
    """`corpus.json`."""

    format: Count
    files: Annotated[list[File], Field(min_length=1)]
    validation_files: list[File]
    text_column: DataText | None
    artist_column: DataText | None
    title_column: DataText | None
    encoding: DataText
    cleaning: Literal["none", "standard"]
    split: Literal["songs", "characters"]
    split_seed: Count
    validation_fraction: Share
    alphabet: Literal["train", "corpus"]
    min_char_count: Count
    special_tokens: bool
    max_songs: Count | None
    near_duplicates: NearDuplicates
    conditioning: Literal["none", "title", "artist_title"]
    base_alphabet: NotRequired[Words]
    checksum: Checksum
    songs_in: Split
    validation_rows: Rows | None
    alphabet_size: Count
    alphabet_characters: Words
    character_counts: dict[Annotated[str, Field(min_length=1, max_length=1)], Count]
    rare_characters: Words
    vocab_size: Count
    tokens: Tokens
    unknown: Split


@typed
class Evaluation(TypedDict):
    """A line of `metrics.jsonl`."""

    step: Count
    train_loss: Figure
    train_accuracy: Share
    val_loss: Figure
    val_accuracy: Share
    val_bits_per_char: Figure
    learning_rate: Figure
    chars_per_second: Annotated[Figure, About.MACHINE]
    mfu: NotRequired[Annotated[Figure, About.MACHINE]]
    evaluation_seconds: NotRequired[Annotated[Figure, About.MACHINE]]
    elapsed_seconds: Annotated[Figure, About.MACHINE]
    sample_seed: Count
    sample: Words


@typed
class Passage(TypedDict):
    """A passage that also occurs in a training song."""

    text: Count
    characters: Words
    artist: Words
    title: Words


@typed
class Side(TypedDict):
    """Figures about the sampled songs, or about the songs of the validation split."""

    songs: Count
    characters: Count
    bits_per_char: MaybeNaN
    known_words: MaybeNaN
    returning_lines: MaybeNaN
    longest_copy: Count
    copied_windows: MaybeNaN
    passages: list[Passage]


@typed
class Quality(TypedDict):
    """`quality.json`."""

    step: Count
    seed: Count
    quality_songs: Count
    sampled: Side
    held_out: Side


@typed
class Song(TypedDict):
    """A song in the model card."""

    seed: Count
    artist: Words
    title: Words
    song: Words


@typed
class Songs(TypedDict):
    """`songs.json`."""

    step: Count
    prompt: Words
    max_new_tokens: Count
    songs: Annotated[list[Song], Field(min_length=1, max_length=100)]


# Packages whose versions may affect the figures.
PACKAGES = (
    "torch", "transformers", "tokenizers", "datasets", "accelerate", "evaluate", "huggingface_hub", "safetensors", "numpy",
    "pyarrow", "pydivsufsort", "rensa", "scipy", "xxhash",
)  # fmt: skip
Packages = typed(TypedDict("Packages", dict.fromkeys(PACKAGES, Annotated[Version, About.MACHINE] | None), total=False))


@typed
class Start(TypedDict):
    """An entry of `environment.json`: what the run was trained with from a certain step on."""

    from_step: Count
    python: Annotated[Version, About.MACHINE]
    lyricgpt: Annotated[Version, About.MACHINE] | None
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{7,64}(-dirty)?$"), About.MACHINE] | None
    packages: Packages
    system: MachineText
    device: Literal["cpu", "cuda", "mps", "xpu", "npu", "mlu", "musa", "hpu", "sdaa", "neuron"]
    device_name: MachineText
    processes: Annotated[Count, Field(ge=1), About.MACHINE]
    threads: Annotated[Count, About.MACHINE]
    max_steps: Count
    eval_interval: Count
    init_from: NotRequired[Literal["hub", "folder"]]


@typed
class TrainingState(TypedDict):
    """What a checkpoint keeps besides weights and moments. `scaler` is the state of the gradient scaler."""

    elapsed_seconds: NotRequired[Figure]
    scaler: NotRequired[dict[str, float]]


@typed
class SavedCheckpoint(TypedDict):
    """`state.json` of a checkpoint."""

    step: Count
    state: TrainingState
    optimizers: list[dict[str, Any]]
    sha256: dict[Annotated[str, Field(pattern=r"^\w[\w.-]*$")], Checksum]
    record_sha256: Checksum


# ----------------------------------------------------------------------------------------------------------------------
# Reading


def read_record(path: Path, kind: Any, remedy: str = "restore it") -> Any:
    """Reads and checks a record: see `parse_record`."""
    return parse_record(read_text_of(path), kind, path, remedy)


def read_text_of(path: Path) -> str:
    """Reads a record's text.

    Raises:
        LyricGPTError: the file is too large to be a record, or is not text.
    """
    try:
        if (size := path.stat().st_size) > LARGEST:
            raise LyricGPTError(
                f"{path} is not a record of a run: it has {size:,} bytes, and no record has more than {LARGEST:,}. Restore it"
            )
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LyricGPTError(f"{path} cannot be read: {error}. Restore it, and check that you may read it") from None


adapter = functools.cache(TypeAdapter)  # making one takes longer than reading a record


def parse_record(text: str, kind: Any, path: Path, remedy: str, line: int | None = None) -> Any:
    """Parses and checks a JSON record. Fields that its type does not list are dropped.

    Args:
        kind: One of the types in this module.
        remedy: What the user can do if the record is damaged.
        line: Number of the line in the file, if each line is a record.

    Raises:
        LyricGPTError: the record is damaged.
    """
    try:
        return adapter(kind).validate_python(json.loads(text))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        what = f"{'.'.join(map(str, first['loc'])) or 'the whole record'}: {first['msg']}"
    except (ValueError, RecursionError) as error:
        what = str(error)
    what = " ".join(what.encode("utf-8", "backslashreplace").decode().split())[:400]
    raise LyricGPTError(f"{path} is damaged{f' in line {line}' if line else ''} ({what}); {remedy}") from None


Change = Callable[[str, Any, About], Any]


def change_fields(value: Any, kind: Any, change: Change, place: str = "") -> Any:
    """Returns a record with `change(place, value, about)` in place of each field that reveals something about the user.

    Args:
        place: Where the value is in its file, for example `files[0].name`.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is NotRequired:
        return change_fields(value, arguments[0], change, place)
    if origin is Annotated:
        about = next((note for note in arguments[1:] if isinstance(note, About)), None)
        return change(place, value, about) if about else change_fields(value, arguments[0], change, place)
    if origin in (types.UnionType, typing.Union):
        return value if value is None else change_fields(value, arguments[0], change, place)
    if origin is list:
        return [change_fields(item, arguments[0], change, f"{place}[{index}]") for index, item in enumerate(value)]
    if origin is dict:
        return {key: change_fields(item, arguments[1], change, f"{place}.{key}") for key, item in value.items()}
    if is_typeddict(kind):
        hints = typing.get_type_hints(kind, include_extras=True)
        return {
            key: change_fields(item, hints[key], change, f"{place}.{key}".lstrip(".")) for key, item in value.items()
        }
    return value
