"""Reads the settings of a run from a YAML file and the command line, which can override each of them.

Notes:
- YAML values go through the same parser as the command line, so `3e-4` is a number in both, and a wrong type gives the
  same message in both.
- An unknown setting is an error that suggests the nearest known name. If a misspelled setting were ignored, the run would
  train with the wrong value.
"""

import dataclasses
import datetime
import difflib
import importlib.util
import re
import shlex
import sys
import textwrap
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser

from .. import LyricGPTError
from .groups import FIELDS, GROUPS, Arguments, SettingError

# In a clone, configs/ is next to the package; when installed, it is inside.
CONFIGS = next(
    folder
    for folder in (Path(__file__).parents[1] / "configs", Path(__file__).resolve().parents[2] / "configs")
    if folder.is_dir()
)
DEFAULT_CONFIG = CONFIGS / "sample.yaml"

# NUL and surrogates, which no file name, column name or text can contain.
UNWRITABLE = {"\0", *map(chr, range(0xD800, 0xE000))}

FIRST = (
    "dataset", "output_dir", "max_steps", "init_from", "dropout", "hidden_size", "num_hidden_layers", "block_size", "conditioning", "plan",
)  # fmt: skip


# What argparse calls the types of values.
KINDS = {"int": "whole number", "float": "number"}


class _Parser(HfArgumentParser):
    """A parser for all settings. It takes the name, type, default and help text from each field."""

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
        """Returns the text of `--help`: the settings that most people change, then all others by group."""
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
                    default = None  # the sample songs' license is not the license of other songs
                value = f" {{{','.join(map(str, choices))}}}" if choices else ""
                shown = "" if default in (None, "") else f" (default: {str(default).lower()})"
                text = f"{FIELDS[name].metadata['help'].replace('%%', '%')}{shown}"
                lines.append(f"  --{name}{value}\n{textwrap.indent(textwrap.fill(text, 100), ' ' * 6)}")
        return "\n".join(lines) + "\n"

    def error(self, message: str) -> NoReturn:
        if found := re.match(r"argument --(\w+)\S*: invalid (\w+) value: (.*)", message):
            name, kind, value = found.groups()
            message = f"--{name} is {value}; it must be a {KINDS.get(kind, kind)}"
        elif found := re.match(r"argument --(\w+)\S*: Truthy value expected: got (.*) but expected", message):
            message = "--{} is {!r}; it must be yes or no".format(*found.groups())
        elif found := re.match(r"argument --(\w+)\S*: invalid choice: (.*) \(choose from (.*)\)", message):
            message = "--{} is {}; choose one of {}".format(*found.groups())
        else:
            message = re.sub(r"^argument (--\w+)\S*:", r"\1:", message) + "; see --help"
        raise LyricGPTError(message)


def _refuse_unknown(name: str, where: str) -> NoReturn:
    """Raises LyricGPTError for a setting that doesn't exist, with the name that was probably meant."""
    near = difflib.get_close_matches(name.replace("-", "_"), FIELDS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "--help lists all settings"
    raise LyricGPTError(f"unknown setting {name!r} {where}; {hint}")


def _refuse_extra(words: list[str], argv: list[str]) -> NoReturn:
    """Raises the error about the first word of the command line that is no setting and no setting's value."""
    if words[0].startswith("-"):
        _refuse_unknown(words[0].split("=")[0].lstrip("-"), "on the command line")
    if any(part.split("=")[0] == "--dataset" for part in argv):
        hint = "to name several files, put a pattern in quotes: --dataset 'lyrics/*.csv'"
    else:
        hint = f"did you mean --dataset {shlex.quote(words[0])}?"
    raise LyricGPTError(f"{words[0]!r} on the command line is not a setting; {hint}")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Reads the settings in a YAML file.

    Raises:
        LyricGPTError: there is no such file, it is not a YAML mapping, or it has an unknown setting.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LyricGPTError(f"no configuration file at {path}; those that come with LyricGPT are in configs/") from None
    except Exception as error:  # a YAML tag can make PyYAML raise any exception
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        what = " ".join(str(getattr(error, "problem", None) or f"{type(error).__name__}: {error}").split())
        raise LyricGPTError(
            f"{path}{where} is not valid YAML ({what}); write one setting per line, such as max_steps: 500"
        ) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise LyricGPTError(
            f"{path} holds a {type(values).__name__}, but it must hold one setting per line, such as max_steps: 500"
        )
    for key, value in values.items():
        if key not in FIELDS:
            _refuse_unknown(str(key), f"in {path}")
        if not isinstance(value, str | int | float | bool | datetime.date | None):
            raise LyricGPTError(f"{path}: {key} is a {type(value).__name__}, but a setting must be a single value")
        if isinstance(value, int) and abs(value) > 2**64:  # Python does not even print thousands of digits
            raise LyricGPTError(f"{path}: {key} is a number beyond 2**64, which is too large")
        if isinstance(value, str) and not UNWRITABLE.isdisjoint(value):
            raise LyricGPTError(f"{path}: {key} is {value!r}, which has a character that no text can have; remove it")
    return values


def _as_options(values: dict[str, Any]) -> list[str]:
    options = []
    for key, value in values.items():
        if value is None:
            if FIELDS[key].default is not None:
                raise LyricGPTError(f"{key} is empty; give it a value (default: {FIELDS[key].default!r})")
            continue
        if isinstance(value, bool) and FIELDS[key].type is not bool:
            value = "yes" if value else "no"  # YAML reads the word `no` as false
        options += [f"--{key}={value}"]
    return options


def parse_arguments(argv: list[str] | None = None) -> Arguments:
    """Returns the settings of a run.

    The command line overrides the YAML file of `--config`, which overrides the defaults.

    Raises:
        LyricGPTError: a setting is unknown or has a wrong value.
    """
    parser = _Parser(prog="train_hf.py", description="Trains a language model on song lyrics.")
    parser.add_argument(
        "--config", default=str(DEFAULT_CONFIG), help="YAML file with settings. Default: configs/sample.yaml."
    )
    argv = sys.argv[1:] if argv is None else argv
    _, rest = parser.parse_known_args(argv)
    if rest:
        _refuse_extra(rest, argv)
    config = parser.parse_args(argv).config
    read = read_yaml(config)
    try:
        namespace = parser.parse_args(_as_options(read) + argv)
    except LyricGPTError as error:  # the command line alone was fine
        raise LyricGPTError(f"{config}: {str(error).removeprefix('--')}") from None
    values = {name: getattr(namespace, name) for name in FIELDS}
    options = {part.partition("=")[0][2:].replace("-", "_") for part in argv if part.startswith("--")}
    given = frozenset(name for name in FIELDS if {name, f"no_{name}"} & options)
    if "data_license" not in given and not _is_same_dataset(values["dataset"], read.get("dataset")):
        values["data_license"] = None  # the license in the file is for other songs
    output_dir = values["output_dir"] or str(Path("runs") / Path(config).stem)
    try:
        values["output_dir"] = str(Path(output_dir).expanduser())
    except RuntimeError:
        error = SettingError(
            f"output_dir is {output_dir!r}, but that user has no home folder; write out the path", "output_dir"
        )
        raise error.located(config, read, given) from None
    try:
        args = _with_dataset(values, given)
    except SettingError as error:
        raise error.located(config, read, given) from None
    if args.tracker != "none" and importlib.util.find_spec(args.tracker) is None:
        error = SettingError(
            f"tracker is {args.tracker!r}, which is not installed: pip install {args.tracker}", "tracker"
        )
        raise error.located(config, read, given)
    return args


def load_arguments(path: str | Path) -> Arguments:
    """Reads the settings that a run saved as `run.yaml`.

    Raises:
        LyricGPTError: the file cannot be read, or a setting is unknown or has a wrong value.
    """
    read = read_yaml(path)
    try:
        namespace = _Parser().parse_args(_as_options(read))
        values = {name: getattr(namespace, name) for name in FIELDS}
        return _with_dataset(values | {"output_dir": values["output_dir"] or str(Path(path).parent)})
    except SettingError as error:
        raise error.located(str(path), read, ()) from None
    except LyricGPTError as error:
        raise LyricGPTError(f"{path}: {str(error).removeprefix('--')}") from None


def _with_dataset(values: dict[str, Any], given: frozenset[str] = frozenset()) -> Arguments:
    if values["dataset"] is None:
        raise LyricGPTError("no songs to train on: name them with --dataset path/to/lyrics.csv")
    return Arguments(**values, given=given)


def _is_same_dataset(one: str | None, other: str | None) -> bool:
    """Returns whether two values of `dataset` are equal, or paths to the same file."""
    return one == other or bool(one and other and _absolute(one) == _absolute(other))


def _absolute(path: str) -> str | Path:
    try:
        return Path(path).expanduser().resolve()
    except (RuntimeError, ValueError):  # an unknown home folder, or not a path: reported when it is read
        return path
