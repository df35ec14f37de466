"""The settings of a run, in four groups of fields, and the rules that they follow.

Notes:
- A function takes only the group that it needs. `Arguments` has all four, and cannot be changed after parsing.
- Each field has its help text and its bounds. Rules that involve two fields are in the group's `__post_init__`.
- When a run is resumed, `describe_differences` lists the settings that differ but must not.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from .. import LyricGPTError
from ..files import write_text

LARGEST = 10**12  # the largest allowed count

# Settings that may change when a run is resumed. A change of any other setting is an error.
MAY_CHANGE = (
    "dataset",  # the file may move: its checksum is compared instead
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
    """The allowed range of a number, in words and as a test."""

    words: str
    hold: Callable[[float], bool]


COUNT = Bounds(f"from 1 to {LARGEST:,}", lambda value: 1 <= value <= LARGEST)
FROM_TWO = Bounds(f"from 2 to {LARGEST:,}", lambda value: 2 <= value <= LARGEST)
FROM_ZERO = Bounds("0 or more", lambda value: 0 <= value < math.inf)
RATE = Bounds("above 0", lambda value: 0 < value < math.inf)
SHARE = Bounds("from 0 to 1", lambda value: 0 <= value <= 1)
PART = Bounds("at least 0 and below 1", lambda value: 0 <= value < 1)
INSIDE = Bounds("between 0 and 1, for example 0.1", lambda value: 0 < value < 1)
SEED = Bounds("at least 0 and below 2**32", lambda value: 0 <= value < 2**32)


def describe(text: str, default: Any, bounds: Bounds | None = None) -> Any:
    """Returns a dataclass field with its help text and bounds."""
    return dataclasses.field(default=default, metadata={"help": text.replace("%", "%%"), "bounds": bounds})


class SettingError(LyricGPTError):
    """Settings have wrong values, or don't fit together.

    Attributes:
        names: The settings that the message names.
    """

    def __init__(self, message: str, *names: str):
        super().__init__(message)
        self.names = names

    def located(self, config: str, in_file: Iterable[str], given: Iterable[str]) -> LyricGPTError:
        """Returns the error with `--` before the settings from the command line.

        If all settings come from the configuration file, the error names that file.
        """
        message = str(self)
        for name in set(self.names) & set(given):
            message = re.sub(rf"(?<![\w-]){name}\b", f"--{name}", message, count=1)
        return LyricGPTError(f"{config}: {message}" if set(self.names) <= set(in_file) - set(given) else message)


@dataclasses.dataclass(frozen=True)
class Group:
    """Settings that belong together. Invalid values raise `LyricGPTError`."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, bounds = getattr(self, field.name), field.metadata.get("bounds")
            if bounds and value is not None and not bounds.hold(value):
                raise SettingError(f"{field.name} is {value}; it must be {bounds.words}", field.name)


@dataclasses.dataclass(frozen=True)
class CorpusArguments(Group):
    """Your songs, and how they are prepared."""

    dataset: str | None = describe(
        "Your lyrics: a table with one song per row (.csv, .tsv, .jsonl, .parquet), a text file (.txt), any of "
        "these compressed (.gz, .zst, .zip), several files ('lyrics/*.csv', in quotes), or a dataset on the Hub "
        "(user/name, user/name:config, user/name:config:split).",
        None,
    )
    data_license: str | None = describe(
        "License of your lyrics, shown in the model card: an identifier from the Hub (cc0-1.0, cc-by-4.0, …) or "
        "your own words. If not set: no license is shown. A license in a configuration file counts only for the "
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
        "standard: make all line breaks the same, remove control characters and spaces at the ends of lines, keep at "
        "most one empty line in a row, store accented letters in one way (Unicode NFC). none: change nothing.",
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
        "Share of the songs (or characters) to set aside for validation. 0.1 means 10%.", 0.1, INSIDE
    )
    validation_file: str | None = describe("Use this file for validation instead of a part of the dataset.", None)
    alphabet: Literal["train", "corpus"] = describe(
        "Which songs to collect the alphabet from. train: those for training. corpus: all.", "train"
    )
    min_char_count: int = describe("Replace characters that occur fewer times than this with <|unk|>.", 1, COUNT)
    special_tokens: bool = describe(
        "Whether the alphabet has marks for the end of a song (<|endoftext|>), an unknown character (<|unk|>) and "
        "padding (<|pad|>).",
        True,
    )
    max_songs: int | None = describe(
        "Use only this many songs (rows of the table), chosen at random with split_seed.", None, COUNT
    )
    near_duplicates: Literal["group", "drop", "keep", "ignore"] | None = describe(
        "What to do with songs that are almost the same, such as covers. group: keep them on the same side of the "
        "split. drop: keep only the first. keep: only count them. ignore: don't look for them. If not set: group, or "
        "keep if the split is by characters.",
        None,
    )
    conditioning: Literal["none", "title", "artist_title"] = describe(
        "Put a header with the title, or with artist and title, before each song in training, so that you can ask "
        "for a song by title or artist.",
        "none",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.min_char_count > 1 and not self.special_tokens:
            raise SettingError(
                f"min_char_count is {self.min_char_count}, but there is no <|unk|> to replace rare characters with; set "
                "special_tokens to true",
                "min_char_count",
                "special_tokens",
            )
        if self.conditioning != "none" and (self.split == "characters" or not self.special_tokens):
            raise SettingError(
                f"conditioning is {self.conditioning!r}, but headers only work with whole songs and special tokens; set "
                "split to songs and special_tokens to true",
                "conditioning",
            )
        if self.near_duplicates == "group" and self.split == "characters":
            raise SettingError(
                "near_duplicates is 'group', but split is 'characters'; set near_duplicates to drop, keep or ignore, or split "
                "to songs",
                "near_duplicates",
                "split",
            )


@dataclasses.dataclass(frozen=True)
class ModelArguments(Group):
    """The size and kind of the model."""

    variant: Literal["classic", "modern"] = describe(
        "modern: a current design (rotary positions, RMSNorm, SwiGLU, a sliding window). classic: the design of the "
        "original notebook, close to GPT-2.",
        "modern",
    )
    block_size: int = describe("How many characters the model sees at once during training.", 256, FROM_TWO)
    hidden_size: int = describe(
        "Width of the model: how many numbers it keeps per character. Must be a multiple of num_attention_heads.",
        384,
        COUNT,
    )
    num_hidden_layers: int = describe("Number of layers.", 6, COUNT)
    num_attention_heads: int = describe("Number of attention heads in each layer.", 6, COUNT)
    dropout: float | None = describe(
        "Share of the model's inner values to switch off at random during training, so that it can't learn songs by heart "
        "as easily. Applies to the residual branches and, in classic, also to the attention weights. If not set: 0.2 for "
        "classic, 0 for modern.",
        None,
        PART,
    )
    initialization: Literal["normal", "torch"] = describe(
        "How to choose the random weights to start with. normal: like GPT-2, with a standard deviation of 0.02. torch: "
        "PyTorch's defaults, like the first version of the original notebook.",
        "normal",
    )
    scores_scaled_by: Literal["head_size", "n_embd"] = describe(
        "Divide attention scores by the square root of this. head_size: the width of one attention head. n_embd: the width "
        "of the model, like the first version of the original notebook (only for classic with adamw).",
        "head_size",
    )
    init_from: str | None = describe(
        "Start from the weights and the alphabet of this run folder or model on the Hub. The new model has the "
        "same size.",
        None,
    )
    sliding_window: int | None = describe(
        "How many characters back each layer of a modern model looks. If not set: half of block_size.", None, FROM_TWO
    )

    def __post_init__(self):
        super().__post_init__()
        if self.sliding_window is not None and self.sliding_window > self.block_size:
            raise SettingError(
                f"sliding_window {self.sliding_window} is larger than block_size {self.block_size}; choose a smaller window",
                "sliding_window",
                "block_size",
            )
        heads, both = self.num_attention_heads, ("hidden_size", "num_attention_heads")
        if self.hidden_size % heads:
            unit = 2 * heads if self.variant == "modern" else heads  # rotary positions need heads of even width
            nearest = max(1, round(self.hidden_size / unit)) * unit
            raise SettingError(
                f"hidden_size {self.hidden_size} is not divisible by num_attention_heads {heads}; the nearest hidden_size "
                f"that works is {nearest}",
                *both,
            )
        if self.variant == "modern" and self.hidden_size // heads % 2:
            raise SettingError(
                f"hidden_size {self.hidden_size} / num_attention_heads {heads} is odd, but rotary positions need an even "
                f"number; choose a hidden_size that is a multiple of {2 * heads}",
                *both,
            )


@dataclasses.dataclass(frozen=True)
class OptimizationArguments(Group):
    """How it is trained."""

    batch_size: int = describe("Number of pieces of text that the model reads per step, over all processes.", 64, COUNT)
    gradient_accumulation_steps: int | None = describe(
        "Number of parts into which each process divides its share of a batch. If not set: on a CPU, as many as it takes for "
        "a part to fit into the processor's caches; otherwise 1.",
        None,
        COUNT,
    )
    max_steps: int = describe("Number of steps to train.", 5000, COUNT)
    optimizer: Literal["adamw", "muon"] = describe(
        "adamw: AdamW for all parameters. muon: Muon for the matrices of the layers and AdamW for the rest.", "adamw"
    )
    learning_rate: float = describe("Highest learning rate of AdamW.", 3e-4, RATE)
    muon_learning_rate: float = describe("Highest learning rate of Muon.", 0.02, RATE)
    min_learning_rate: float = describe(
        "AdamW's learning rate at the end, if lr_schedule lowers it. Muon's ends at the same fraction of its peak.",
        0.0,
        FROM_ZERO,
    )
    beta1: float = describe("AdamW's beta1: the decay of its running mean of gradients.", 0.9, PART)
    beta2: float = describe("AdamW's beta2: the decay of its running mean of squared gradients.", 0.999, PART)
    weight_decay: float = describe(
        "Decoupled weight decay: how strongly each step pulls the weights toward zero.", 0.01, FROM_ZERO
    )
    decay_parameters: Literal["matrices", "all"] = describe(
        "What weight decay applies to. matrices: only matrices. all: also biases and norms, like PyTorch's default.",
        "matrices",
    )
    max_grad_norm: float = describe(
        "Limit the norm (length) of the gradient to this value. 0 turns the limit off.", 1.0, FROM_ZERO
    )
    lr_schedule: Literal["constant", "cosine", "trapezoid"] = describe(
        "What the learning rate does after the warm-up. constant: it stays the same. cosine: it falls along a cosine curve. "
        "trapezoid: it stays the same, then falls in a straight line over the last part of the run (decay_fraction).",
        "cosine",
    )
    decay_fraction: float = describe(
        "With trapezoid: share of the steps, at the end, during which the learning rate falls.", 0.6, SHARE
    )
    warmup_steps: int = describe("Number of steps during which the learning rate rises to its peak.", 100, FROM_ZERO)
    mixed_precision: Literal["no", "bf16", "fp16"] | None = describe(
        "Number format for most computations. bf16, fp16: 16 bits. no: 32 bits. If not set: as accelerate is configured.",
        None,
    )
    compile: bool = describe("Compile the model with torch.compile.", False)
    seed: int = describe("Seed for the initial weights, the batches, the dropout and the songs.", 1337, SEED)


@dataclasses.dataclass(frozen=True)
class RunArguments(Group):
    """What is measured, reported and saved, and where."""

    eval_interval: int = describe("Number of steps between evaluations.", 500, COUNT)
    eval_batches: int = describe(
        "Number of batches of training text, and of validation text, to read per evaluation. If there is less, all of it "
        "is read.",
        100,
        COUNT,
    )
    eval_only: bool = describe("Evaluate the model in output_dir and stop.", False)
    plan: bool = describe(
        "Estimate how long the run would take on this computer and how much memory and disk space it would need, and stop.",
        False,
    )
    log_interval: int = describe("Number of steps between updates of the progress bar and the tracker.", 10, COUNT)
    save_interval: int = describe("Number of steps between checkpoints.", 500, COUNT)
    sample_prompt: str = describe("Beginning of the songs that the run writes. Empty: the model begins by itself.", "")
    quality_songs: int = describe(
        "Number of songs to write after the training, to measure how good they are and how much they copy. 0 turns this "
        "off.",
        16,
        FROM_ZERO,
    )
    early_stopping: int = describe(
        "Stop after this many evaluations without a better validation loss. 0 never stops early.", 0, FROM_ZERO
    )
    tracker: Literal["none", "tensorboard", "trackio", "wandb"] = describe(
        "Also send all figures to this charting tool.", "none"
    )
    output_dir: str | None = describe(
        "Folder that the run writes. If not set: runs/ followed by the name of the configuration file.", None
    )
    resume: Literal["auto", "never"] = describe(
        "auto: resume the run if there is one in output_dir. never: stop with an error if there is one.", "auto"
    )


@dataclasses.dataclass(frozen=True)
class Arguments(CorpusArguments, ModelArguments, OptimizationArguments, RunArguments):
    """All settings of a run.

    Attributes:
        given: Names of the settings that were given on the command line.
    """

    given: frozenset[str] = frozenset()

    def __post_init__(self):
        super().__post_init__()
        if self.scores_scaled_by == "n_embd" and (self.variant, self.optimizer) != ("classic", "adamw"):
            raise SettingError(
                f"scores_scaled_by is 'n_embd', which needs variant classic and optimizer adamw, not {self.variant} and "
                f"{self.optimizer}",
                "scores_scaled_by",
            )

    def replace(self, **values: Any) -> "Arguments":
        """Returns a copy with other values, which are checked."""
        return dataclasses.replace(self, **values)

    def begin_with(self, shape: dict[str, Any], conditioning: str | None) -> "Arguments":
        """Returns the settings for a run that starts from another model.

        They have the other model's shape, and its headers if this run can have headers.

        Raises:
            LyricGPTError: the command line asks for another shape.
        """
        for name, value in shape.items():
            if name in self.given and getattr(self, name) != value:
                raise LyricGPTError(
                    f"--{name} is {getattr(self, name)!r}, but the model to start from, {self.init_from}, has {value!r}; leave "
                    f"--{name} out, or start without --init_from"
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


def describe_differences(saved: Arguments, now: Arguments) -> list[str]:
    """Returns a line for each setting that differs but must not. It is empty if `now` can resume `saved`."""
    return [
        f"{name}: {getattr(saved, name)!r} in the run, {getattr(now, name)!r} now"
        for name in FIELDS
        if name not in MAY_CHANGE and getattr(saved, name) != getattr(now, name)
    ]
