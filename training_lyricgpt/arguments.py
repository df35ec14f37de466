"""Run configuration: four dataclasses, one YAML file a run, every field overridable on the command line.

Notable:
- YAML values pass through the same parser as the command line, so that `3e-4` is a number in both and a wrong type is
  the same message in both.
- An unknown key is refused with the nearest known name: a misspelt option that is silently ignored costs a night.
- `describe_differences` is what a second start with the same folder is checked against.
"""

import dataclasses
import datetime
import difflib
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml
from transformers import HfArgumentParser

from . import LyricGPTError
from .files import write_text

DEFAULT_CONFIG = Path(__file__).resolve().parent.parent / "configs" / "sample.yaml"

LARGEST = 10**12  # that a number of a run may be

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


def describe(text: str, default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field with its help text."""
    return dataclasses.field(default=default, metadata={"help": text.replace("%", "%%")})


@dataclasses.dataclass
class CorpusArguments:
    """Where the lyrics come from and how they are prepared."""

    dataset: str | None = describe(
        "Path or glob of the lyrics: .csv, .tsv, .jsonl, .parquet (one song a row) or .txt (one document), also compressed "
        "(.gz, .zst, .zip); or a dataset of the Hub: user/name, user/name:config, user/name:config:split.",
        None,
    )
    data_license: str | None = describe(
        "Licence of the lyrics, for the model card: an identifier of the Hub (cc0-1.0, cc-by-4.0, …) or any other words. "
        "Default: none is stated. One that stands in the configuration is of the dataset that stands there.",
        None,
    )
    text_column: str | None = describe("Column that holds the lyrics. Default: found by name (text, lyrics, …).", None)
    artist_column: str | None = describe("Column of the artist. Default: found by name (artist, singer, …).", None)
    title_column: str | None = describe("Column of the title. Default: found by name (song, title, …).", None)
    encoding: str = describe("Text encoding of the files.", "utf-8")
    cleaning: Literal["none", "standard"] = describe(
        "standard: line endings to LF, trailing blanks off, at most one blank line in a row, Unicode NFC, control "
        "characters out. none: as it is.",
        "standard",
    )
    split: Literal["songs", "characters"] = describe(
        "songs: whole songs are held out. characters: songs are joined and the last characters are held out. "
        "A .txt file is always split by characters.",
        "songs",
    )
    split_seed: int = describe("Seed of the order of the songs, and so of the split. Independent of `seed`.", 42)
    validation_fraction: float = describe("Share of the songs (or characters) held out for validation.", 0.1)
    validation_file: str | None = describe("Hold out this file instead of a share of `dataset`.", None)
    alphabet: Literal["train", "corpus"] = describe("Which part the alphabet is taken from.", "train")
    min_char_count: int = describe("Characters that occur less often become <|unk|>.", 1)
    special_tokens: bool = describe("Whether <|endoftext|>, <|unk|> and <|pad|> are in the alphabet.", True)
    max_songs: int | None = describe("Use this many songs only.", None)
    near_duplicates: Literal["group", "drop", "keep", "ignore"] | None = describe(
        "Songs that are nearly the same, covers for example. group: kept on one side of the split. drop: all but the first "
        "left out. keep: only counted. ignore: not searched for. Default: group where songs are held out, else keep.",
        None,
    )
    conditioning: Literal["none", "title", "artist_title"] = describe(
        "Header that songs begin with in training, so that a prompt may name a title, or an artist and a title.", "none"
    )


@dataclasses.dataclass
class ModelArguments:
    """The model's shape; names as in `LyricGPTConfig`."""

    variant: Literal["classic", "modern"] = describe(
        "classic: the published model. modern: rotary, RMSNorm, SwiGLU.", "modern"
    )
    block_size: int = describe("Characters a training window holds.", 256)
    hidden_size: int = describe("Width of the model.", 384)
    num_hidden_layers: int = describe("Number of layers.", 6)
    num_attention_heads: int = describe("Number of attention heads.", 6)
    dropout: float | None = describe(
        "Dropout of the residual branches and, in classic, of the attention weights. Default: classic 0.2, modern 0.",
        None,
    )
    initialization: Literal["normal", "torch"] = describe(
        "normal: deviation 0.02, as GPT-2. torch: PyTorch's own, as the first version of the published notebook.",
        "normal",
    )
    scores_scaled_by: Literal["head_size", "n_embd"] = describe(
        "What attention scores are divided by the root of. n_embd: the width, as the first version of the published "
        "notebook; classic with adamw only.",
        "head_size",
    )
    init_from: str | None = describe(
        "Begin with the weights and the alphabet of this run folder or Hub id; its shape is taken over.", None
    )
    sliding_window: int | None = describe("Characters a modern layer attends to. Default: half of block_size.", None)


@dataclasses.dataclass
class OptimizationArguments:
    """How it is trained."""

    batch_size: int = describe("Sequences an optimizer step, over all processes and accumulation steps.", 64)
    gradient_accumulation_steps: int | None = describe(
        "Micro-batches an optimizer step on each process. Default: on a CPU as many as keep one in its caches, else 1.",
        None,
    )
    max_steps: int = describe("Optimizer steps.", 5000)
    optimizer: Literal["adamw", "muon"] = describe(
        "adamw, or muon for the matrices of the blocks with adamw for the rest.", "adamw"
    )
    learning_rate: float = describe("Peak learning rate of AdamW.", 3e-4)
    muon_learning_rate: float = describe("Peak learning rate of Muon.", 0.02)
    min_learning_rate: float = describe("Learning rate that a decaying schedule ends at.", 0.0)
    beta1: float = describe("AdamW's first-moment decay.", 0.9)
    beta2: float = describe("AdamW's second-moment decay.", 0.999)
    weight_decay: float = describe("Decoupled weight decay.", 0.01)
    decay_parameters: Literal["matrices", "all"] = describe(
        "matrices: decay weights of two dimensions only. all: biases and norms too, as torch's default does.",
        "matrices",
    )
    max_grad_norm: float = describe("Clip the gradient to this norm; 0 does not clip.", 1.0)
    lr_schedule: Literal["constant", "cosine", "trapezoid"] = describe(
        "After the warm-up. trapezoid: constant, then linear over the last decay_fraction of the steps.", "cosine"
    )
    decay_fraction: float = describe("Share of the steps over which a trapezoid decays.", 0.6)
    warmup_steps: int = describe("Steps over which the learning rate rises linearly.", 100)
    mixed_precision: Literal["no", "bf16", "fp16"] | None = describe(
        "Default: what accelerate is configured for.", None
    )
    compile: bool = describe("torch.compile the model.", False)
    seed: int = describe("Seed of the initialisation, the batches, the dropout and the samples.", 1337)


@dataclasses.dataclass
class RunArguments:
    """What is measured, said, saved, and where."""

    eval_interval: int = describe("Steps between evaluations.", 500)
    eval_batches: int = describe("Batches an evaluation reads of each split; all of a split that has fewer.", 100)
    eval_only: bool = describe("Evaluate the model in output_dir and stop.", False)
    plan: bool = describe("Print what the run would take on this machine, and stop.", False)
    log_interval: int = describe("Steps between two readings of the loss.", 10)
    save_interval: int = describe("Steps between two checkpoints.", 500)
    sample_prompt: str = describe("Prompt of the sample at each evaluation; empty starts a song.", "")
    quality_songs: int = describe(
        "Songs that the finished model writes to be judged beside held-out ones; 0 for none.", 16
    )
    early_stopping: int = describe("Stop after this many evaluations without a better validation loss; 0 goes on.", 0)
    tracker: Literal["none", "tensorboard", "trackio", "wandb"] = describe("Where losses are logged besides.", "none")
    output_dir: str | None = describe("The run's folder.", None)
    resume: Literal["auto", "never"] = describe("auto: go on with a run that is there. never: refuse it.", "auto")


# NUL and surrogates: no file's name, no column and no text can hold them.
UNWRITABLE = {"\0", *map(chr, range(0xD800, 0xE000))}


class Arguments(CorpusArguments, ModelArguments, OptimizationArguments, RunArguments):
    """All fields of a run in one namespace.

    Attributes:
        given: Names of the fields that stand on the command line.
    """

    given: frozenset[str] = frozenset()

    def __init__(self, **values: Any):
        for field, value in values.items():
            setattr(self, field, value)

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in FIELDS}

    def save(self, path: str | Path) -> None:
        """Writes every field as YAML."""
        write_text(Path(path), yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True))


GROUPS = (CorpusArguments, ModelArguments, OptimizationArguments, RunArguments)
FIELDS: dict[str, dataclasses.Field] = {field.name: field for group in GROUPS for field in dataclasses.fields(group)}


class _Parser(HfArgumentParser):
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
    parser = _Parser(
        GROUPS, prog="train_hf.py", allow_abbrev=False, description="Train LyricGPT on a corpus of lyrics."
    )
    parser.add_argument("--config", default=str(DEFAULT_CONFIG), help="YAML file of the run.")
    argv = sys.argv[1:] if argv is None else argv
    _, rest = parser.parse_known_args(argv)
    if rest:
        _refuse_unknown(rest[0].split("=")[0].lstrip("-"), "on the command line")
    config = parser.parse_args(argv).config
    values = read_yaml(config)
    namespace = parser.parse_args(_as_options(values) + argv)
    args = Arguments(**{name: getattr(namespace, name) for name in FIELDS})
    options = {part.partition("=")[0][2:].replace("-", "_") for part in argv if part.startswith("--")}
    args.given = frozenset(name for name in FIELDS if {name, f"no_{name}"} & options)
    if "data_license" not in args.given and not _is_same_dataset(args.dataset, values.get("dataset")):
        args.data_license = None  # what was stated is of other songs
    if args.output_dir is None:
        args.output_dir = str(Path("runs") / Path(config).stem)
    try:
        args.output_dir = str(Path(args.output_dir).expanduser())
    except RuntimeError:
        raise LyricGPTError(f"output_dir is {args.output_dir!r}, but there is no home of that name") from None
    check_arguments(args)
    if args.tracker != "none" and importlib.util.find_spec(args.tracker) is None:
        raise LyricGPTError(f"tracker is {args.tracker!r}, which is not installed: pip install {args.tracker}")
    return args


def _is_same_dataset(one: str | None, other: str | None) -> bool:
    """Whether two values of `dataset` name the same: as they stand, or as paths."""
    return one == other or bool(one and other and _absolute(one) == _absolute(other))


def _absolute(path: str) -> str | Path:
    try:
        return Path(path).expanduser().resolve()
    except (RuntimeError, ValueError):  # no home of that name, no path at all: refused where it is read
        return path


def load_arguments(path: str | Path) -> Arguments:
    """The configuration that a run saved as `run.yaml`.

    Raises:
        LyricGPTError: it is none, or a value cannot make a run.
    """
    parser = _Parser(GROUPS, allow_abbrev=False)
    namespace = parser.parse_args(_as_options(read_yaml(path)))
    args = Arguments(**{name: getattr(namespace, name) for name in FIELDS})
    if args.output_dir is None:
        args.output_dir = str(Path(path).parent)
    check_arguments(args)
    return args


def check_arguments(args: Arguments) -> None:
    """Raises LyricGPTError for values that cannot make a run."""
    if args.dataset is None:
        raise LyricGPTError("no corpus: give one with --dataset path/to/lyrics.csv")
    for name in (
        "block_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "batch_size",
        "max_steps", "eval_interval", "eval_batches", "log_interval", "save_interval", "min_char_count",
    ):  # fmt: skip
        if not 1 <= getattr(args, name) <= LARGEST:
            raise LyricGPTError(f"{name} is {getattr(args, name)}; it must be at least 1, and at most {LARGEST:,}")
    if not 0 < args.validation_fraction < 1:
        raise LyricGPTError(f"validation_fraction is {args.validation_fraction}; it must lie between 0 and 1")
    for name in ("dropout", "decay_fraction"):
        value = getattr(args, name)
        if (value is not None and not 0 <= value <= 1) or (name == "dropout" and value == 1):
            raise LyricGPTError(f"{name} is {value}; it must lie between 0 and 1")
    if args.min_char_count > 1 and not args.special_tokens:
        raise LyricGPTError(f"min_char_count is {args.min_char_count}, which needs special_tokens: true (for <|unk|>)")
    if args.conditioning != "none" and (args.split == "characters" or not args.special_tokens):
        raise LyricGPTError(
            f"conditioning is {args.conditioning!r}, which needs split: songs and special_tokens: true: a header belongs to "
            "a whole song"
        )
    if args.near_duplicates == "group" and args.split == "characters":
        raise LyricGPTError(
            "near_duplicates is 'group', which needs split: songs; with split: characters drop or keep them"
        )
    for name in ("max_songs", "sliding_window", "gradient_accumulation_steps"):
        if getattr(args, name) is not None and not 1 <= getattr(args, name) <= LARGEST:
            raise LyricGPTError(f"{name} is {getattr(args, name)}; it must be at least 1, and at most {LARGEST:,}")
    for name in ("learning_rate", "muon_learning_rate"):
        if not 0 < getattr(args, name) < float("inf"):
            raise LyricGPTError(f"{name} is {getattr(args, name)}; it must be above 0")
    for name in (
        "min_learning_rate",
        "weight_decay",
        "max_grad_norm",
        "warmup_steps",
        "early_stopping",
        "quality_songs",
    ):
        if not 0 <= getattr(args, name) < float("inf"):
            raise LyricGPTError(f"{name} is {getattr(args, name)}; it must be 0 or more")
    for name in ("beta1", "beta2"):
        if not 0 <= getattr(args, name) < 1:
            raise LyricGPTError(f"{name} is {getattr(args, name)}; it must be at least 0 and below 1")
    for name in ("seed", "split_seed"):
        if not 0 <= getattr(args, name) < 2**32:
            raise LyricGPTError(f"{name} is {getattr(args, name)}; it must be at least 0 and below 2**32")
    if args.sliding_window is not None and args.sliding_window > args.block_size:
        raise LyricGPTError(f"sliding_window {args.sliding_window} is larger than block_size {args.block_size}")
    if args.hidden_size % args.num_attention_heads:
        raise LyricGPTError(
            f"hidden_size {args.hidden_size} is not divisible by num_attention_heads {args.num_attention_heads}; "
            f"the nearest that is: {max(1, round(args.hidden_size / args.num_attention_heads)) * args.num_attention_heads}"
        )
    if args.scores_scaled_by == "n_embd" and (args.variant, args.optimizer) != ("classic", "adamw"):
        raise LyricGPTError(
            f"scores_scaled_by is 'n_embd', which needs variant classic and optimizer adamw, not {args.variant} and "
            f"{args.optimizer}"
        )
    if args.variant == "modern" and args.hidden_size // args.num_attention_heads % 2:
        raise LyricGPTError(
            f"hidden_size {args.hidden_size} / num_attention_heads {args.num_attention_heads} is odd, and rotary positions "
            f"turn pairs; choose a hidden_size that is a multiple of {2 * args.num_attention_heads}"
        )


def describe_differences(saved: Arguments, now: Arguments) -> list[str]:
    """One line for each field that differs and may not; empty if `now` goes on with `saved`."""
    return [
        f"{name}: {getattr(saved, name)!r} in the run, {getattr(now, name)!r} now"
        for name in FIELDS
        if name not in MAY_CHANGE and getattr(saved, name) != getattr(now, name)
    ]
