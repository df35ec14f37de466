"""Run configuration: four groups of settings, one YAML file a run, every field overridable on the command line.

Notable:
- A function takes the group that it needs; `Arguments` is all four, frozen once parsed.
- Each field has its bounds; rules about two fields are in the group's `__post_init__`.
- YAML values pass through the same parser as the command line, so that `3e-4` is a number in both and a wrong type is
  the same message in both.
- An unknown key is refused with the nearest known name: a misspelt option that is silently ignored costs a night.
- `describe_differences` is what a second start with the same folder is checked against.
"""

import dataclasses
import datetime
import difflib
import importlib.util
import math
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import yaml
from transformers import HfArgumentParser

from . import LyricGPTError
from .files import write_text

# In a clone, configs/ is next to this package; when installed, it is inside.
CONFIGS = next(
    folder
    for folder in (Path(__file__).with_name("configs"), Path(__file__).resolve().parents[1] / "configs")
    if folder.is_dir()
)
DEFAULT_CONFIG = CONFIGS / "sample.yaml"

LARGEST = 10**12  # of any count

# What may change between two starts of one run; everything else that differs is refused.
MAY_CHANGE = (
    "dataset",  # moved: its checksum is compared instead
    "validation_file",
    "data_license",
    "max_steps",
    "eval_interval",
    "eval_only",
    "plan",
    "log_interval",
    "save_interval",
    "early_stopping",
    "tracker",
    "sample_prompt",
    "quality_songs",
    "output_dir",
    "resume",
)


class Bounds(NamedTuple):
    """What a number may be, in words and as a test."""

    words: str
    hold: Callable[[float], bool]


COUNT = Bounds(f"at least 1, and at most {LARGEST:,}", lambda value: 1 <= value <= LARGEST)
FROM_ZERO = Bounds("0 or more", lambda value: 0 <= value < math.inf)
RATE = Bounds("above 0", lambda value: 0 < value < math.inf)
SHARE = Bounds("from 0 to 1", lambda value: 0 <= value <= 1)
PART = Bounds("at least 0 and below 1", lambda value: 0 <= value < 1)
INSIDE = Bounds("between 0 and 1", lambda value: 0 < value < 1)
SEED = Bounds("at least 0 and below 2**32", lambda value: 0 <= value < 2**32)


def describe(text: str, default: Any, bounds: Bounds | None = None) -> Any:
    """A dataclass field with its help text and what its number may be."""
    return dataclasses.field(default=default, metadata={"help": text.replace("%", "%%"), "bounds": bounds})


@dataclasses.dataclass(frozen=True)
class Group:
    """Settings that belong together. Invalid values raise `LyricGPTError`."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, bounds = getattr(self, field.name), field.metadata.get("bounds")
            if bounds and value is not None and not bounds.hold(value):
                raise LyricGPTError(f"{field.name} is {value}; it must be {bounds.words}")


@dataclasses.dataclass(frozen=True)
class CorpusArguments(Group):
    """Your songs, and how they are prepared."""

    dataset: str | None = describe(
        "Your lyrics: a table with one song per row (.csv, .tsv, .jsonl, .parquet), a text file (.txt), any of "
        "these compressed (.gz, .zst, .zip), a pattern for several files, or a dataset on the Hub (user/name, "
        "user/name:config, user/name:config:split).",
        None,
    )
    data_license: str | None = describe(
        "License of your lyrics, shown in the model card: an identifier of the Hub (cc0-1.0, cc-by-4.0, …) or "
        "your own words. If not set: no license is stated. A license in the configuration file belongs to the "
        "dataset in the same file.",
        None,
    )
    text_column: str | None = describe(
        "Name of the column with the lyrics. If not set: found by its name (text, lyrics, …).", None
    )
    artist_column: str | None = describe(
        "Name of the column with the artist. If not set: found by its name (artist, singer, …).", None
    )
    title_column: str | None = describe(
        "Name of the column with the title. If not set: found by its name (song, title, …).", None
    )
    encoding: str = describe("Text encoding of the files, for example latin-1.", "utf-8")
    cleaning: Literal["none", "standard"] = describe(
        "standard: unify line breaks, remove trailing spaces and control characters, keep at most one empty line "
        "in a row, use Unicode NFC. none: change nothing.",
        "standard",
    )
    split: Literal["songs", "characters"] = describe(
        "songs: set whole songs aside for validation. characters: join all songs and set the end aside. A .txt "
        "file is always split by characters.",
        "songs",
    )
    split_seed: int = describe(
        "Seed for the order of the songs, which decides which of them are for validation. Independent of seed.",
        42,
        SEED,
    )
    validation_fraction: float = describe(
        "Share of the songs (or characters) to set aside for validation.", 0.1, INSIDE
    )
    validation_file: str | None = describe("Use this file for validation instead of a part of the dataset.", None)
    alphabet: Literal["train", "corpus"] = describe(
        "Which songs the alphabet is taken from: those for training (train) or all (corpus).", "train"
    )
    min_char_count: int = describe("Replace characters that occur less often than this with <|unk|>.", 1, COUNT)
    special_tokens: bool = describe("Whether the alphabet has <|endoftext|>, <|unk|> and <|pad|>.", True)
    max_songs: int | None = describe("Use only this many rows, drawn with split_seed.", None, COUNT)
    near_duplicates: Literal["group", "drop", "keep", "ignore"] | None = describe(
        "What to do with songs that are almost the same, such as covers. group: keep them on the same side of the "
        "split. drop: keep only the first. keep: only count them. ignore: don't look for them. If not set: group, or "
        "keep if the split is by characters.",
        None,
    )
    conditioning: Literal["none", "title", "artist_title"] = describe(
        "Put a header with the title, or with artist and title, before each song in training, so that you can ask "
        "for a song by them.",
        "none",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.min_char_count > 1 and not self.special_tokens:
            raise LyricGPTError(
                f"min_char_count is {self.min_char_count}, which needs special_tokens: true (for <|unk|>)"
            )
        if self.conditioning != "none" and (self.split == "characters" or not self.special_tokens):
            raise LyricGPTError(
                f"conditioning is {self.conditioning!r}, which needs split: songs and special_tokens: true: a header belongs to "
                "a whole song"
            )
        if self.near_duplicates == "group" and self.split == "characters":
            raise LyricGPTError(
                "near_duplicates is 'group', which needs split: songs; with split: characters drop or keep them"
            )


@dataclasses.dataclass(frozen=True)
class ModelArguments(Group):
    """The size and kind of the model."""

    variant: Literal["classic", "modern"] = describe(
        "modern: a current design (rotary positions, RMSNorm, SwiGLU, a sliding window). classic: the design of the original notebook, close to GPT-2.",
        "modern",
    )
    block_size: int = describe("How many characters the model sees at once during training.", 256, COUNT)
    hidden_size: int = describe("Width of the model. Must be a multiple of num_attention_heads.", 384, COUNT)
    num_hidden_layers: int = describe("Number of layers.", 6, COUNT)
    num_attention_heads: int = describe("Number of attention heads.", 6, COUNT)
    dropout: float | None = describe(
        "Dropout of the residual branches and, in classic, of the attention weights. If not set: 0.2 for classic, 0 "
        "for modern.",
        None,
        PART,
    )
    initialization: Literal["normal", "torch"] = describe(
        "How the weights begin. normal: like GPT-2, with a standard deviation of 0.02. torch: PyTorch's defaults, "
        "like the first version of the original notebook.",
        "normal",
    )
    scores_scaled_by: Literal["head_size", "n_embd"] = describe(
        "Divide attention scores by the square root of this. n_embd: the width, like the first version of the "
        "published notebook (only for classic with adamw).",
        "head_size",
    )
    init_from: str | None = describe(
        "Start with the weights and the alphabet of this run folder or model on the Hub. The new model has the "
        "same size.",
        None,
    )
    sliding_window: int | None = describe(
        "How many characters each layer of a modern model looks back. If not set: half of block_size.", None, COUNT
    )

    def __post_init__(self):
        super().__post_init__()
        if self.sliding_window is not None and self.sliding_window > self.block_size:
            raise LyricGPTError(f"sliding_window {self.sliding_window} is larger than block_size {self.block_size}")
        if self.hidden_size % self.num_attention_heads:
            nearest = max(1, round(self.hidden_size / self.num_attention_heads)) * self.num_attention_heads
            raise LyricGPTError(
                f"hidden_size {self.hidden_size} is not divisible by num_attention_heads {self.num_attention_heads}; "
                f"the nearest that is: {nearest}"
            )
        if self.variant == "modern" and self.hidden_size // self.num_attention_heads % 2:
            raise LyricGPTError(
                f"hidden_size {self.hidden_size} / num_attention_heads {self.num_attention_heads} is odd, and rotary positions "
                f"turn pairs; choose a hidden_size that is a multiple of {2 * self.num_attention_heads}"
            )


@dataclasses.dataclass(frozen=True)
class OptimizationArguments(Group):
    """How it is trained."""

    batch_size: int = describe("How many pieces of text the model reads per step, over all processes.", 64, COUNT)
    gradient_accumulation_steps: int | None = describe(
        "How many parts each process divides its share of a batch into. If not set: on a CPU, as many as keep a part "
        "in the processor's caches, otherwise 1.",
        None,
        COUNT,
    )
    max_steps: int = describe("How many steps to train.", 5000, COUNT)
    optimizer: Literal["adamw", "muon"] = describe(
        "adamw, or muon (Muon for the matrices of the layers and AdamW for the rest).", "adamw"
    )
    learning_rate: float = describe("Highest learning rate of AdamW.", 3e-4, RATE)
    muon_learning_rate: float = describe("Highest learning rate of Muon.", 0.02, RATE)
    min_learning_rate: float = describe(
        "AdamW's learning rate at the end of a decaying schedule. Muon's ends at the same fraction of its peak.",
        0.0,
        FROM_ZERO,
    )
    beta1: float = describe("AdamW's beta1, the decay of its first moment.", 0.9, PART)
    beta2: float = describe("AdamW's beta2, the decay of its second moment.", 0.999, PART)
    weight_decay: float = describe("Decoupled weight decay.", 0.01, FROM_ZERO)
    decay_parameters: Literal["matrices", "all"] = describe(
        "matrices: apply weight decay to matrices only. all: also to biases and norms, like PyTorch's default.",
        "matrices",
    )
    max_grad_norm: float = describe(
        "Clip the norm of the gradient to this value. 0 turns clipping off.", 1.0, FROM_ZERO
    )
    lr_schedule: Literal["constant", "cosine", "trapezoid"] = describe(
        "What the learning rate does after the warm-up. constant: nothing. cosine: falls along a cosine. "
        "trapezoid: stays constant, then falls in a straight line over the last decay_fraction of the steps.",
        "cosine",
    )
    decay_fraction: float = describe(
        "Share of the steps during which the learning rate of a trapezoid falls.", 0.6, SHARE
    )
    warmup_steps: int = describe("Number of steps during which the learning rate rises to its peak.", 100, FROM_ZERO)
    mixed_precision: Literal["no", "bf16", "fp16"] | None = describe("If not set: as accelerate is configured.", None)
    compile: bool = describe("Compile the model with torch.compile.", False)
    seed: int = describe("Seed for the initial weights, the batches, the dropout and the songs.", 1337, SEED)


@dataclasses.dataclass(frozen=True)
class RunArguments(Group):
    """What is measured, reported and saved, and where."""

    eval_interval: int = describe("Number of steps between evaluations.", 500, COUNT)
    eval_batches: int = describe(
        "How many batches of each split to read per evaluation. A smaller split is read whole.", 100, COUNT
    )
    eval_only: bool = describe("Evaluate the model in output_dir and stop.", False)
    plan: bool = describe("Estimate what the run would take on this computer, and stop.", False)
    log_interval: int = describe("Number of steps between updates of the progress bar and the tracker.", 10, COUNT)
    save_interval: int = describe("Number of steps between checkpoints.", 500, COUNT)
    sample_prompt: str = describe("How the song at each evaluation begins. Empty: the model begins.", "")
    quality_songs: int = describe(
        "How many songs to write after the training, to measure how good they are and how much they copy. 0 turns this off.",
        16,
        FROM_ZERO,
    )
    early_stopping: int = describe(
        "Stop after this many evaluations without a better validation loss. 0 never stops early.", 0, FROM_ZERO
    )
    tracker: Literal["none", "tensorboard", "trackio", "wandb"] = describe(
        "Also send all figures to this tool.", "none"
    )
    output_dir: str | None = describe("Folder of the run. If not set: runs/ and the name of the configuration.", None)
    resume: Literal["auto", "never"] = describe(
        "auto: resume the run if there is one in output_dir. never: stop with an error if there is one.", "auto"
    )


# NUL and surrogates: no file's name, no column and no text can hold them.
UNWRITABLE = {"\0", *map(chr, range(0xD800, 0xE000))}


@dataclasses.dataclass(frozen=True)
class Arguments(CorpusArguments, ModelArguments, OptimizationArguments, RunArguments):
    """All settings of a run.

    Attributes:
        given: Names of the fields that stand on the command line.
    """

    given: frozenset[str] = frozenset()

    def __post_init__(self):
        super().__post_init__()
        if self.scores_scaled_by == "n_embd" and (self.variant, self.optimizer) != ("classic", "adamw"):
            raise LyricGPTError(
                f"scores_scaled_by is 'n_embd', which needs variant classic and optimizer adamw, not {self.variant} and "
                f"{self.optimizer}"
            )

    def replace(self, **values: Any) -> "Arguments":
        """The same with other values; they are checked."""
        return dataclasses.replace(self, **values)

    def begin_with(self, shape: dict[str, Any], conditioning: str | None) -> "Arguments":
        """The same for a run that begins with another model, whose shape is taken over; headers too, if there may be any.

        Raises:
            LyricGPTError: the command line asks for another shape.
        """
        for name, value in shape.items():
            if name in self.given and getattr(self, name) != value:
                raise LyricGPTError(
                    f"{name} is {getattr(self, name)!r}, but the model to begin with, {self.init_from}, has {value!r}; leave "
                    f"--{name} out, or begin without --init_from"
                )
        if conditioning and "conditioning" not in self.given and self.split == "songs" and shape["special_tokens"]:
            shape = shape | {"conditioning": conditioning}
        return self.replace(**shape)

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in FIELDS}

    def save(self, path: str | Path) -> None:
        """Writes every field as YAML."""
        write_text(Path(path), yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True))


GROUPS = (CorpusArguments, ModelArguments, OptimizationArguments, RunArguments)
FIELDS: dict[str, dataclasses.Field] = {field.name: field for group in GROUPS for field in dataclasses.fields(group)}


FIRST = (
    "dataset", "output_dir", "max_steps", "init_from", "dropout", "hidden_size", "num_hidden_layers", "block_size", "conditioning", "plan",
)  # fmt: skip


class _Parser(HfArgumentParser):
    """A parser of all fields: of each it takes the name, the type, the default and the help."""

    def __init__(self, **options: Any):
        groups = []
        for group in GROUPS:
            fields = [
                (name, field.type, dataclasses.field(default=field.default, metadata={"help": field.metadata["help"]}))
                for name, field in group.__dataclass_fields__.items()
            ]
            groups.append(dataclasses.make_dataclass(group.__name__, fields))
        super().__init__(groups, allow_abbrev=False, **options)

    def format_help(self) -> str:
        """What `--help` prints: the settings that most people change, then all others by group."""
        actions, given = {action.dest: action for action in self._actions}, read_yaml(DEFAULT_CONFIG)
        sections = {"Settings that most people change": FIRST}
        for group in GROUPS:
            names = group.__dataclass_fields__
            sections[group.__doc__.rstrip(".")] = [name for name in names if name not in FIRST]
        lines = [
            f"usage: {self.prog} [--config FILE] [--SETTING VALUE ...]\n\n{self.description} For example:\n\n"
            f"  {self.prog} --dataset my_songs.csv --output_dir runs/mine --max_steps 300\n\n"
            "Settings can also be in a YAML file, named with --config. The defaults below are those of configs/sample.yaml,\n"
            "which is used if you name no other file."
        ]
        for title, names in sections.items():
            lines.append(f"\n{title}:\n")
            for name in names:
                choices, default = actions[name].choices, given.get(name, FIELDS[name].default)
                if name == "data_license":
                    default = None  # that of the sample songs is not anybody else's
                value = f" {{{','.join(map(str, choices))}}}" if choices else ""
                shown = "" if default in (None, "") else f" (default: {str(default).lower()})"
                text = f"{FIELDS[name].metadata['help'].replace('%%', '%')}{shown}"
                lines.append(f"  --{name}{value}\n{textwrap.indent(textwrap.fill(text, 100), ' ' * 6)}")
        return "\n".join(lines) + "\n"

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument --(\w+)\S*:", r"\1:", message)
        raise LyricGPTError(f"{message} (--help lists every option)")


def _refuse_unknown(name: str, where: str) -> NoReturn:
    near = difflib.get_close_matches(name.replace("-", "_"), FIELDS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(FIELDS))}"
    raise LyricGPTError(f"unknown key {name!r} {where}; {hint}")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The fields a YAML file sets.

    Raises:
        LyricGPTError: no such file, not a YAML mapping, or an unknown key.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LyricGPTError(f"no configuration file at {path}; the ones that come along are in configs/") from None
    except Exception as error:  # a tag makes PyYAML call what raises as it pleases
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise LyricGPTError(f"{path} is not a YAML file that can be read ({what})") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise LyricGPTError(f"{path} holds a {type(values).__name__}; a configuration is a mapping of keys to values")
    for key, value in values.items():
        if key not in FIELDS:
            _refuse_unknown(str(key), f"in {path}")
        if not isinstance(value, str | int | float | bool | datetime.date | None):
            raise LyricGPTError(f"{path}: {key} is a {type(value).__name__}; a setting is one value")
        if isinstance(value, int) and abs(value) > 2**64:  # (thousands of digits cannot even be printed)
            raise LyricGPTError(f"{path}: {key} is a number beyond 2**64")
        if isinstance(value, str) and not UNWRITABLE.isdisjoint(value):
            raise LyricGPTError(f"{path}: {key} is {value!r}; no text has such a character")
    return values


def _as_options(values: dict[str, Any]) -> list[str]:
    options = []
    for key, value in values.items():
        if value is None:
            if FIELDS[key].default is not None:
                raise LyricGPTError(f"{key} is empty in the configuration; its default is {FIELDS[key].default!r}")
            continue
        if isinstance(value, bool) and FIELDS[key].type is not bool:
            value = "yes" if value else "no"  # YAML reads the word `no` as false
        options += [f"--{key}={value}"]
    return options


def parse_arguments(argv: list[str] | None = None) -> Arguments:
    """The run's configuration: defaults, then the YAML file of `--config`, then the command line.

    Raises:
        LyricGPTError: what is wrong and what to do about it.
    """
    parser = _Parser(prog="train_hf.py", description="Trains a language model on song lyrics.")
    parser.add_argument(
        "--config", default=str(DEFAULT_CONFIG), help="YAML file with settings. Default: configs/sample.yaml."
    )
    argv = sys.argv[1:] if argv is None else argv
    _, rest = parser.parse_known_args(argv)
    if rest:
        _refuse_unknown(rest[0].split("=")[0].lstrip("-"), "on the command line")
    config = parser.parse_args(argv).config
    read = read_yaml(config)
    namespace = parser.parse_args(_as_options(read) + argv)
    values = {name: getattr(namespace, name) for name in FIELDS}
    options = {part.partition("=")[0][2:].replace("-", "_") for part in argv if part.startswith("--")}
    given = frozenset(name for name in FIELDS if {name, f"no_{name}"} & options)
    if "data_license" not in given and not _is_same_dataset(values["dataset"], read.get("dataset")):
        values["data_license"] = None  # what was stated is of other songs
    output_dir = values["output_dir"] or str(Path("runs") / Path(config).stem)
    try:
        values["output_dir"] = str(Path(output_dir).expanduser())
    except RuntimeError:
        raise LyricGPTError(f"output_dir is {output_dir!r}, but there is no home of that name") from None
    args = _with_dataset(values, given)
    if args.tracker != "none" and importlib.util.find_spec(args.tracker) is None:
        raise LyricGPTError(f"tracker is {args.tracker!r}, which is not installed: pip install {args.tracker}")
    return args


def load_arguments(path: str | Path) -> Arguments:
    """The configuration that a run saved as `run.yaml`.

    Raises:
        LyricGPTError: it is none, or a value cannot make a run.
    """
    namespace = _Parser().parse_args(_as_options(read_yaml(path)))
    values = {name: getattr(namespace, name) for name in FIELDS}
    return _with_dataset(values | {"output_dir": values["output_dir"] or str(Path(path).parent)})


def _with_dataset(values: dict[str, Any], given: frozenset[str] = frozenset()) -> Arguments:
    if values["dataset"] is None:
        raise LyricGPTError("no corpus: give one with --dataset path/to/lyrics.csv")
    return Arguments(**values, given=given)


def _is_same_dataset(one: str | None, other: str | None) -> bool:
    """Whether two values of `dataset` name the same: as they stand, or as paths."""
    return one == other or bool(one and other and _absolute(one) == _absolute(other))


def _absolute(path: str) -> str | Path:
    try:
        return Path(path).expanduser().resolve()
    except (RuntimeError, ValueError):  # no home of that name, no path at all: refused where it is read
        return path


def describe_differences(saved: Arguments, now: Arguments) -> list[str]:
    """One line for each field that differs and may not; empty if `now` goes on with `saved`."""
    return [
        f"{name}: {getattr(saved, name)!r} in the run, {getattr(now, name)!r} now"
        for name in FIELDS
        if name not in MAY_CHANGE and getattr(saved, name) != getattr(now, name)
    ]
