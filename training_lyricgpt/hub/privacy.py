"""Protects the user of a published run: lists what it reveals, removes names of people and machines, and refuses secrets.

Notes:
- Words of songs, and names of artists and titles, are published as they are, because the model was made from them. In every
  other field of a record, a path becomes its last part, a user's name becomes `user`, and a machine's name becomes `host`.
- Then all files are checked once more, whoever wrote them. Each must be what its name says. None may contain a private key
  or an access token, not even in a song, or (outside of songs) a path, user or machine. If a file fails, nothing is sent,
  and the message does not show what was found.
- detect-secrets knows the tokens of many services. Only the detectors whose tokens cannot be mistaken for words are used.
"""

import contextlib
import functools
import getpass
import importlib
import itertools
import json
import os
import platform
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

import yaml
from huggingface_hub import get_token
from PIL import Image
from safetensors import SafetensorError, safe_open

from .. import LyricGPTError
from ..corpus.columns import COLUMNS
from ..model.folder import todays_code
from ..record_types import About, change_fields
from ..wording import plural, shown

# Names that do not identify a user or a machine.
COMMON_NAMES = frozenset((
    "root", "user", "ubuntu", "debian", "admin", "administrator", "runner", "jovyan", "home", "localhost", "docker", "app", "colab",
    "nobody", "guest", "vagrant", "workspace", "host", "main", "ec2-user", "local", "sample", "lyricgpt", "csv", "tsv", "txt",
    "json", "jsonl", "ndjson", "parquet", "zip", "zst", "utf", "latin", "intel", "amd", "data", "train", "lyrics", "songs",
    *itertools.chain(*COLUMNS.values()),
))  # fmt: skip
SHORTEST_NAME = 3
DETECTORS = {
    "aws": "AWSKeyDetector", "azure_storage_key": "AzureStorageKeyDetector", "basic_auth": "BasicAuthDetector",
    "discord": "DiscordBotTokenDetector", "github_token": "GitHubTokenDetector", "gitlab_token": "GitLabTokenDetector",
    "jwt": "JwtTokenDetector", "mailchimp": "MailchimpDetector", "npm": "NpmDetector", "openai": "OpenAIDetector",
    "private_key": "PrivateKeyDetector", "pypi_token": "PypiTokenDetector", "sendgrid": "SendGridDetector",
    "slack": "SlackDetector", "square_oauth": "SquareOAuthDetector", "stripe": "StripeDetector",
    "telegram_token": "TelegramBotTokenDetector", "twilio": "TwilioKeyDetector",
}  # fmt: skip
# Tokens that detect-secrets does not know, found by their first letters, whatever comes before them.
OTHER_SECRETS = re.compile(
    r"(?:hf|api_org|npm|gsk|r8|ntn|lin_api|gh[opsur])_[A-Za-z0-9]{28,}|(?:github_pat|figd|wandb_v1|sntrys|dckr_pat)_[\w-]{20,}|"
    r"AIza[0-9A-Za-z_-]{35}|(?:ya29|hvs|hvb|dp\.pt|dp\.st)\.[\w-]{20,}|GOCSPX-[\w-]{20,}|(?:AKIA|ASIA)[A-Z0-9]{16}|"
    r"(?:glpat|glrt|gldt|xox[abeprs]|xapp|nvapi|xai|pplx|sk-ant|sk-proj)-(?=[\w-]{0,80}\d)[\w-]{16,}|"
    r"(?:dop_v1_|shpat_|shpss_|dapi|key-)[0-9a-f]{32,}|ATATT3x[\w=-]{20,}|AGE-SECRET-KEY-1[0-9A-Z]{20,}|"
    r"EAA(?=[A-Za-z]{0,80}\d)[A-Za-z0-9]{60,}|"
    r"(?<![\w-])sk-(?=[\w-]{0,80}\d)(?=[\w-]{0,80}[a-z])(?=[\w-]{0,80}[A-Z])[\w-]{30,}|"
    r"PuTTY-User-Key-File-\d|BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY"
)
PATH = re.compile(
    r"""(?<![A-Za-z0-9_/.~-])(?:~[\w.-]*)?/(?:[^\s/"'<>|]+/)+[^\s"'<>|]*|~[\w.-]*/[^\s"'<>|]+|"""
    r"""(?<!\w)[A-Za-z]:[\\/][^\s"'<>|]+|\\\\[^\s"'<>|]+|\bfile:/[^\s"'<>|]+"""
)
WHOLE_PATH = re.compile(r"(?:[/~\\]|[A-Za-z]:[\\/]|file:/).*", re.DOTALL)
HOME = re.compile(
    r"(?:(?<![\w.-])/home|(?<![\w.-])/Users|(?<!\w)[A-Za-z]:(?:\\{1,2}|/)Users)(?:\\{1,2}|/)[^\s\\/\"'<>|]+"
)
RUN_FIELDS = {
    "dataset": About.DATA, "validation_file": About.DATA, "text_column": About.DATA, "artist_column": About.DATA,
    "title_column": About.DATA, "encoding": About.DATA, "init_from": About.DATA, "output_dir": About.MACHINE,
    "data_license": About.DATA, "sample_prompt": About.WORDS,
}  # fmt: skip
LONGEST_SHOWN = 60
# In characters. Longer lines are searched in parts, because a detector's time may grow with the square of a line's length.
LONGEST_SECRET = 1000


# ----------------------------------------------------------------------------------------------------------------------
# Names and places


@dataclass
class Machine:
    """What must not be published about this machine.

    Attributes:
        places: Paths of folders that only this machine has.
        users: Names of whoever works here.
        hosts: Names of the machine.
        public: Names on the Hub, which stay as they are.
    """

    places: list[str]
    users: list[str]
    hosts: list[str]
    public: frozenset[str] = frozenset()

    def clean(self, text: str) -> str:
        """Returns a text of a record without paths, users and hosts."""
        if text in self.public:
            return text
        text = PureWindowsPath(text).name or text if WHOLE_PATH.fullmatch(text) else text
        for place in self.places:
            text = re.sub(rf"(?<![\w.-]){re.escape(place)}[\\/]+", "", text)
        text = PATH.sub(lambda match: PureWindowsPath(match[0]).name, text)
        for names, instead in ((self.users, "user"), (self.hosts, "host")):
            text = self._words(names).sub(instead, text)
        return text

    @staticmethod
    @functools.lru_cache
    def _pattern(names: tuple[str, ...]) -> re.Pattern:
        """Returns a pattern for names that no letter touches, or in camel case: `zelda_2`, `zeldaSongs`, `mySongsOfZelda`."""
        alone = "|".join(map(re.escape, names)) or "(?!)"
        camel = "|".join(re.escape(name[:1].upper() + name[1:].lower()) for name in names) or "(?!)"
        lower = "|".join(re.escape(name.lower()) for name in names) or "(?!)"
        return re.compile(
            rf"(?<![A-Za-z])(?i:{alone})(?![A-Za-z])|(?<![A-Z])(?:{camel})(?![a-z])|(?<![A-Za-z])(?:{lower})(?=[A-Z])"
        )

    def _words(self, names: list[str]) -> re.Pattern:
        return self._pattern(tuple(names))

    def found_in(self, text: str) -> str | None:
        """Returns what a text reveals about this machine, in words for a message; None if nothing."""
        if any(re.search(rf"(?<![\w.-]){re.escape(place)}[\\/]", text) for place in self.places) or HOME.search(text):
            return "a path of this machine"
        users, hosts = (rf"(?:{self._words(names).pattern})" for names in (self.users, self.hosts))
        # (A machine called arxiv is not arxiv.org.)
        if re.search(rf"{users}@|(?:@|//){hosts}(?!\.(?!local\b|lan\b|home\b|internal\b)\w)", text):
            return "an address of this machine"
        return None


def this_machine(run: Path, named: Iterable[str | None] = ()) -> Machine:
    """Returns the machine that a run is published from.

    Args:
        named: Paths in the run's configuration. Their folders are private, too.
    """
    places = {
        run.resolve(),
        run.absolute(),
        Path.cwd(),
        Path(__file__).resolve().parent.parent,
        Path.home(),
        Path.home().resolve(),
    }
    users = {Path.home().name, *(os.environ.get(name, "") for name in ("USER", "LOGNAME", "USERNAME"))}
    with contextlib.suppress(KeyError, OSError):  # the user id may have no name
        users.add(getpass.getuser())
    hosts = {
        socket.gethostname(),
        platform.node(),
        *(os.environ.get(name, "") for name in ("HOSTNAME", "COMPUTERNAME")),
    }
    hosts |= {name.partition(".")[0] for name in hosts}
    places |= {PureWindowsPath(path).parent for path in named if path and WHOLE_PATH.fullmatch(path)}
    names = [
        sorted(
            (name for name in found if len(name) >= SHORTEST_NAME and name.lower() not in COMMON_NAMES),
            key=len,
            reverse=True,
        )
        for found in (users, hosts)
    ]
    paths = {str(place) if isinstance(place, Path) else place.as_posix() for place in places}
    paths |= {path.replace("/", "\\") for path in paths if path[1:2] == ":"}
    return Machine(sorted(paths - {"/", "\\", "~", "."}, key=len, reverse=True), *names)


# ----------------------------------------------------------------------------------------------------------------------
# What is revealed


@dataclass
class Revealed:
    """What would be published about the user, field by field.

    Attributes:
        fields: For each field: the file, the place in it, and the value.
        changes: For each changed field: the file, the place in it, the value in the run, and the value to send.
    """

    machine: Machine
    fields: list[tuple[str, str, Any]] = field(default_factory=list)
    changes: list[tuple[str, str, str, str]] = field(default_factory=list)

    def change(self, name: str, place: str, value: Any, about: About) -> Any:
        """Returns a field as it may be sent; notes what it reveals and what was changed."""
        sent = self.machine.clean(value) if isinstance(value, str) and about is not About.WORDS else value
        if sent != value:
            self.changes.append((name, place, value, sent))
        if sent not in ("", None):
            self.fields.append((name, place, sent))
        return sent

    def record(self, name: str, value: Any, kind: Any) -> Any:
        """Returns a record as it may be sent; `kind` is its type."""
        return change_fields(value, kind, functools.partial(self.change, name))

    def settings(self, name: str, values: dict[str, Any]) -> dict[str, Any]:
        """Returns a run's configuration as it may be sent."""
        return values | {key: self.change(name, key, values[key], about) for key, about in RUN_FIELDS.items()}

    def describe(self) -> Iterator[str]:
        """Yields lines that list all of it. Of many fields that differ only in a number, lists the first and the last value."""
        yield "these fields reveal something about your machine and your data:"
        groups: dict[tuple[str, str], list[Any]] = {}
        for name, place, value in self.fields:
            groups.setdefault((name, re.sub(r"\[\d+\]", "[*]", place)), []).append(value)
        for (name, place), values in groups.items():
            one = [cut(value) for value in values]
            text = ", ".join(one) if len(one) <= 3 else f"{one[0]} … {one[-1]} ({len(one):,} values)"
            yield f"  {name}: {place.removeprefix('[*].')}: {text}"
        if self.changes:
            yield "these are changed before they are sent:"
        for name, place, value, sent in self.changes:
            yield f"  {name}: {place}: {cut(value)} is sent as {cut(sent)}"


def cut(value: Any) -> str:
    """Returns a value in one short line."""
    if not isinstance(value, str):
        return f"{value:,.6g}" if isinstance(value, float) else f"{value}"
    text = shown(value)
    return (
        repr(text) if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]!r}… ({plural(len(value), 'character')})"
    )


def without_words(value: Any, kind: Any) -> Any:
    """Returns a record with an x in place of each text of songs."""
    return change_fields(value, kind, lambda place, value, about: "x" if about is About.WORDS else value)


# ----------------------------------------------------------------------------------------------------------------------
# Checking what is sent


@functools.cache
def detectors() -> list[Any]:
    """Returns the plugins of detect-secrets."""
    return [
        getattr(importlib.import_module(f"detect_secrets.plugins.{name}"), kind)() for name, kind in DETECTORS.items()
    ]


def find_secret(text: str) -> str | None:
    """Returns what kind of secret a text contains; None if it contains none."""
    if (token := get_token()) and token in text:
        return "your Hugging Face token"
    if OTHER_SECRETS.search(text):
        return "a private key" if "PRIVATE KEY" in text else "an access token"
    for line in text.splitlines():
        for begin in range(0, max(len(line) - LONGEST_SECRET, 1), LONGEST_SECRET):
            part = line[begin : begin + 2 * LONGEST_SECRET]
            for detector in detectors():
                if any(detector.analyze_string(part)):
                    return f"a secret ({detector.secret_type})"
    return None


def strings_in(value: Any) -> Iterator[str]:
    """Yields every string in a JSON value, including the keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in itertools.chain(value, value.values() if isinstance(value, dict) else ()):
            yield from strings_in(part)


def read_as_said(path: Path) -> str:
    """Returns a file's text, after checking that it is what its name says; of weights and pictures, returns the metadata.

    Raises:
        LyricGPTError: it is something else, or of a kind that is not sent.
    """
    try:
        if path.suffix == ".png":
            with Image.open(path, formats=["PNG"]) as picture:
                picture.load()
                return json.dumps({str(key): str(value) for key, value in picture.info.items()})
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                return json.dumps([file.metadata(), *file.keys()])
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            return "\n".join(strings_in(json.loads(text)))  # decoded, because an escape would hide a secret after it
        if path.suffix == ".jsonl":
            return "\n".join(strings_in([json.loads(line) for line in text.removesuffix("\n").split("\n")]))
        if path.suffix == ".yaml":
            if not isinstance(values := yaml.safe_load(text), dict):
                raise ValueError("it contains no settings")
            return "\n".join((text, *strings_in(values)))
        if path.suffix not in (".yaml", ".md", ".txt", ".py", ".css"):
            raise ValueError("files of this kind are not sent")
    except (
        OSError,
        ValueError,
        SyntaxError,
        RecursionError,
        SafetensorError,
        yaml.YAMLError,
        Image.DecompressionBombError,
    ) as error:
        raise LyricGPTError(
            f"{path.name} can't be published ({shown(str(error), 200)}), so nothing was sent. Restore the file in the run folder"
        ) from None
    return text


def is_own(path: Path) -> bool:
    """Returns whether a file is this project's code, byte for byte, and so reveals nothing about this machine."""
    return path.suffix == ".py" and path.read_bytes() in todays_code().values()


def check_private(folder: Path, machine: Machine, only_words: dict[str, str] | None = None) -> None:
    """Makes sure that each file is what its name says, and that none contains a secret or something about this machine.

    Args:
        only_words: For files with songs, by name: their text without the songs, to search for paths, users and machines.

    Raises:
        LyricGPTError: a file fails; the message names the file and the line, but does not show what was found.
    """
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        text = read_as_said(path)
        checked = "" if is_own(path) else (only_words or {}).get(path.name, text)
        for find, searched in ((find_secret, text), (machine.found_in, checked)):
            if found := find(searched):
                # A line of a file with songs may look like a path or an address, but that is allowed.
                is_mixed = find == machine.found_in and checked != text
                where = "" if is_mixed else line_of(path, find)
                raise LyricGPTError(
                    f"{path.name} would contain {found}{where}, so nothing was sent. Remove it from the run folder, or from "
                    "the songs and train again"
                )


def line_of(path: Path, find: Callable[[str], str | None]) -> str:
    """Returns the place of the first line in which `find` finds something, for example ` in line 3`. Empty if there is none."""
    if path.suffix in (".png", ".safetensors"):
        return ""
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        text = line
        if path.suffix == ".jsonl" and line:
            text = "\n".join(strings_in(json.loads(line)))  # decoded, as in `read_as_said`
        if find(text):
            return f" in line {number}"
    return ""
