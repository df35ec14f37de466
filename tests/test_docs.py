"""README and docs are short enough, match the settings and have no dead links, and every command in them runs."""

import csv
import dataclasses
import os
import re
import shutil
import sys
import typing
from pathlib import Path

import pytest
import yaml
from conftest import PROJECT, SAMPLE_LYRICS, run
from test_train import assert_succeeds

from training_lyricgpt.arguments import GROUPS, read_yaml

README = PROJECT / "README.md"
PAGES = [README, *sorted((PROJECT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```\n(<!-- not run: [^\n]+ -->)?", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def blocks(page, language):
    """The code blocks of a page in one language, and whether each should be run."""
    return [
        (text, not reason) for name, text, reason in BLOCK.findall(page.read_text(encoding="utf-8")) if name == language
    ]


# ----------------------------------------------------------------------------------------------------------------------
# The pages


def test_the_readme_is_short():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 250
    assert len(text.split()) <= 2400


def test_most_commands_are_run(capsys):
    counts = {page: [is_run for _, is_run in blocks(page, "bash")] for page in PAGES}
    docs = [is_run for page in PAGES[1:] for is_run in counts[page]]
    with capsys.disabled():
        print(
            f"\nbash blocks: README {len(counts[README])}, all run; docs {len(docs)}, {docs.count(False)} of them not run"
        )
    assert all(counts[README])
    assert docs.count(False) <= len(docs) / 5


def anchors(page):
    """The anchors of a page's headings, as GitHub and the Hub make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name) if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def shown(value):
    return "" if value in (None, "") else f"`{str(value).lower()}`"


def settings_tables():
    """The settings as one table per group, made from the dataclass fields."""
    lines, sample = [], read_yaml(PROJECT / "configs" / "sample.yaml")
    del sample["data_license"]  # of the sample songs alone
    for group in GROUPS:
        lines += [f"### {group.__doc__.rstrip('.')}", "", "| setting | default | meaning |", "|---|---|---|"]
        hints = typing.get_type_hints(group)
        for field in dataclasses.fields(group):
            choices = [
                value
                for part in (hints[field.name], *typing.get_args(hints[field.name]))
                for value in typing.get_args(part)
            ]
            words = [value for value in choices if isinstance(value, str)]
            meaning = field.metadata["help"].replace("%%", "%").replace("|", "\\|").replace("<", "\\<")
            choice = f" One of {', '.join(f'`{word}`' for word in dict.fromkeys(words))}." if words else ""
            default = shown(sample.get(field.name, field.default))
            if default != shown(field.default):
                default += f" (built in: {shown(field.default) or 'not set'})"
            lines.append(f"| `{field.name}` | {default} | {meaning}{choice} |")
        lines.append("")
    return "\n".join(lines)


def test_the_settings_in_the_docs_match_the_program():
    """If this fails, run `python tests/test_docs.py` to write them again."""
    text = (PROJECT / "docs" / "training.md").read_text(encoding="utf-8")
    assert text.split("<!-- settings -->\n")[1].split("<!-- end of settings -->")[0] == settings_tables() + "\n"


# ----------------------------------------------------------------------------------------------------------------------
# The commands


def copy_project(folder):
    """Copies the project for a newcomer with two files of songs, and makes the sample run short."""
    shutil.copytree(PROJECT, folder, ignore=shutil.ignore_patterns(".*", "runs", "*.egg-info", "__pycache__", "tests"))
    config = folder / "configs" / "sample.yaml"
    small = {
        "hidden_size": 32, "num_hidden_layers": 1, "block_size": 32, "max_steps": 20, "eval_interval": 10, "eval_batches": 1,
    }  # fmt: skip
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | small))
    with SAMPLE_LYRICS.open(encoding="utf-8", newline="") as file:
        head, *songs = csv.reader(file)
    for name, part in (("my_songs.csv", songs[:120]), ("my_other_songs.csv", songs[120:])):
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([head, *part])
    return folder


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of the project that is set up already."""
    folder = copy_project(tmp_path_factory.mktemp("docs") / "lyricgpt")
    (folder / ".venv").symlink_to(sys.prefix)
    for name in ("pyproject.toml", "constraints.txt"):
        os.utime(folder / name, (0, 0))  # older than the installed packages, so that make installs nothing
    return folder


COMMANDS = [(page, text) for page in PAGES for text, is_run in blocks(page, "bash") if is_run]
# The commands that set the project up have their own test.
SETTING_UP = [text for _, text in COMMANDS if "-m venv" in text]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_command_in_readme_and_docs_runs_as_it_stands(clone, hub):
    environment = {**hub.client, "HF_TOKEN": hub.token()}
    for page, text in ((page, text) for page, text in COMMANDS if text not in SETTING_UP):
        result = run(["bash", "-ec", text], cwd=clone, timeout=900, **environment)
        assert not result.returncode, f"{page.name}:\n{text}\n{result.stdout}\n{result.stderr}"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_commands_without_make_set_the_project_up(tmp_path):
    folder = copy_project(tmp_path / "lyricgpt")
    (text,) = SETTING_UP
    path = os.pathsep.join([str(Path(sys.base_prefix) / "bin"), os.environ["PATH"]])
    result = run(["bash", "-ec", text], cwd=folder, timeout=1500, PATH=path)
    assert_succeeds(result)
    assert "A song from this model:" in result.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_python_block_runs_as_it_stands(clone):
    assert_succeeds(run(["make", "train"], cwd=clone, timeout=900))
    if not (clone / "runs" / "stock").exists():
        command = [".venv/bin/python", "-m", "training_lyricgpt.export", "stock", "runs/sample", "runs/stock"]
        assert_succeeds(run(command, cwd=clone))
    for page in PAGES:
        for text, _ in blocks(page, "python"):
            result = run([".venv/bin/python", "-c", text], cwd=clone, timeout=300)
            assert not result.returncode, f"{page.name}:\n{text}\n{result.stderr}"


if __name__ == "__main__":
    page = PROJECT / "docs" / "training.md"
    before, rest = page.read_text(encoding="utf-8").split("<!-- settings -->\n")
    after = rest.split("<!-- end of settings -->")[1]
    page.write_text(
        f"{before}<!-- settings -->\n{settings_tables()}\n<!-- end of settings -->{after}", encoding="utf-8"
    )
