"""The house: what the repository promises about itself."""

import ast
import csv
import re

import pytest
from conftest import PROJECT, SAMPLE_LYRICS

SHIPPED = sorted(PROJECT.glob("modeling_lyricgpt/*.py")) + sorted(PROJECT.glob("tokenization_lyricgpt/*.py"))
ALLOWED = {
    "modeling_lyricgpt": {
        "torch",
        "transformers",
        "packaging",
        "numpy",
        "math",
        "collections",
        "contextlib",
        "dataclasses",
        "importlib",
        "functools",
        "inspect",
        "itertools",
        "operator",
        "typing",
        "warnings",
    }
}
ALLOWED["tokenization_lyricgpt"] = {"transformers", "tokenizers", "jinja2", "numpy", "json", "os", "collections"}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_shipped_files_import_only_what_every_user_has(path):
    for name in imports(path):
        assert name.startswith(".") or name.split(".")[0] in ALLOWED[path.parent.name], name


@pytest.mark.parametrize("path", sorted(PROJECT.glob("training_lyricgpt/*.py")), ids=lambda path: path.name)
def test_the_training_room_imports_no_script(path):
    assert not {"train_hf", "push_to_hub"} & {name.split(".")[0] for name in imports(path)}


def test_the_embedded_corpus_is_large_enough_and_clean():
    with SAMPLE_LYRICS.open(encoding="utf-8", newline="") as file:
        songs = list(csv.DictReader(file))
    assert list(songs[0]) == ["artist", "song", "link", "text"]
    assert len(songs) >= 120
    assert sum(len(song["text"]) for song in songs) >= 120_000
    assert len({song["song"] for song in songs}) == len(songs)
    lines = [line for song in songs for line in set(song["text"].splitlines()) if len(line) > 15]
    assert len(set(lines)) > 0.99 * len(lines), "songs share lines"


def test_songs_have_verses_and_lines_that_return():
    with SAMPLE_LYRICS.open(encoding="utf-8", newline="") as file:
        texts = [song["text"] for song in csv.DictReader(file)]
    returning = sum(len(set(lines := [x for x in t.splitlines() if x])) < len(lines) for t in texts)
    assert returning > 0.8 * len(texts)
    assert all("\n\n" in text for text in texts)


def test_every_file_says_what_it_is():
    for path in [*PROJECT.glob("*.py"), *PROJECT.glob("*_lyricgpt/*.py"), *PROJECT.glob("benchmarks/*.py")]:
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_the_files_that_the_readme_names_exist():
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    for name in re.findall(r"(?:configs|data|benchmarks|docs|space)/[\w./]+\.(?:yaml|csv|py|png)", text):
        assert (PROJECT / name).exists(), name


def test_every_machine_configuration_says_whether_it_was_measured():
    for path in (PROJECT / "configs" / "accelerate").glob("*.yaml"):
        assert re.search(r"[Mm]easured", path.read_text(encoding="utf-8")), path
