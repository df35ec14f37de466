"""Rules for the repository itself: what imports what, the embedded songs, and what files must say."""

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


# The parts of `training_lyricgpt`, from the bottom up: each imports only from itself and from those before it.
BUILDINGS = (
    "wording", "terminal", "files", "record_types", "processes", "arguments", "corpus", "engine", "model", "quality", "card", "hub", "export",
    "sample", "run",
)  # fmt: skip
OWN = {"modeling_lyricgpt", "tokenization_lyricgpt", "training_lyricgpt", "train_hf", "push_to_hub"}
MODULES = [path for path in sorted(PROJECT.glob("training_lyricgpt/**/*.py")) if path.parent.name != "configs"]


def imported_buildings(path):
    """The parts of `training_lyricgpt` that one of its modules imports from."""
    package = path.relative_to(PROJECT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            for name in names:
                full = (*base, *name.split("."))
                if len(full) > 1 and full[1] in BUILDINGS:
                    yield full[1]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_each_part_imports_only_from_the_parts_below_it(path):
    assert not {"train_hf", "push_to_hub"} & {name.split(".")[0] for name in imports(path)}
    building = path.relative_to(PROJECT).with_suffix("").parts[1]
    if building != "__init__":
        allowed = BUILDINGS[: BUILDINGS.index(building) + 1]
        assert set(imported_buildings(path)) <= set(allowed)


def test_shipped_packages_import_nothing_else_of_the_project():
    for path in SHIPPED:
        own = OWN - {path.parent.name}
        assert not own & {name.split(".")[0] for name in imports(path)}, path


def test_training_lyricgpt_has_few_modules_outside_its_packages():
    assert len(list(PROJECT.glob("training_lyricgpt/*.py"))) <= 10


def test_no_function_takes_all_settings_where_a_group_would_do():
    for path in MODULES:
        if "arguments" in path.parts or path.stem == "run":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                notes = [argument.annotation for argument in (*node.args.args, *node.args.kwonlyargs)]
                assert "Arguments" not in [ast.unparse(note) for note in notes if note], (path, node.name)


def test_the_embedded_corpus_is_large_enough_and_clean():
    with SAMPLE_LYRICS.open(encoding="utf-8", newline="") as file:
        songs = list(csv.DictReader(file))
    assert list(songs[0]) == ["artist", "song", "link", "text"]
    assert len(songs) >= 120
    assert sum(len(song["text"]) for song in songs) >= 120_000
    assert len({song["song"] for song in songs}) == len(songs)
    lines = [line for song in songs for line in set(song["text"].splitlines()) if len(line) > 15]
    assert len(set(lines)) > 0.99 * len(lines), "songs share lines"


def test_the_embedded_songs_have_verses_and_repeated_lines():
    with SAMPLE_LYRICS.open(encoding="utf-8", newline="") as file:
        texts = [song["text"] for song in csv.DictReader(file)]
    returning = sum(len(set(lines := [x for x in t.splitlines() if x])) < len(lines) for t in texts)
    assert returning > 0.8 * len(texts)
    assert all("\n\n" in text for text in texts)


def test_every_file_has_a_docstring():
    paths = [*PROJECT.glob("*.py"), *PROJECT.glob("*_lyricgpt/**/*.py"), *PROJECT.glob("benchmarks/*.py")]
    for path in paths:
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_the_files_that_the_readme_names_exist():
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    for name in re.findall(r"(?:configs|data|benchmarks|docs|space)/[\w./]+\.(?:yaml|csv|py|png)", text):
        assert (PROJECT / name).exists(), name


def test_every_machine_configuration_says_whether_it_was_measured():
    for path in (PROJECT / "configs" / "accelerate").glob("*.yaml"):
        assert re.search(r"[Mm]easured", path.read_text(encoding="utf-8")), path
