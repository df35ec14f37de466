"""Publishing the demo: a private Space beside the model. A second push makes no second commit."""

import re
from pathlib import Path

import pytest
from conftest import PROJECT
from huggingface_hub import SpaceCard
from test_push import SECRET, error_of, push, push_to

from training_lyricgpt.hub.staging import SPACE_FILES

TELLS_SECRET = "you/tiny is private: set the Space's secret HF_TOKEN to a token that can read it, at "


def test_the_demo_is_published_beside_the_model_privately_and_unchanged(tiny_run, hub):
    result = push_to(hub, tiny_run, "you/tiny", "--space")
    assert result.returncode == 0, result.stderr
    assert len(hub.commits("you/tiny")) == 1
    (commit,) = hub.commits("you/tiny-demo", kind="spaces")
    assert commit.title == "Upload LyricGPT demo" and commit.oid in result.stdout
    space = hub.repository("you/tiny-demo", "spaces")
    assert space.private
    assert {key: variable["value"] for key, variable in space.variables.items()} == {"MODEL": "you/tiny"}
    files = hub.files("you/tiny-demo", kind="spaces")
    assert set(files) - {".gitattributes"} == set(SPACE_FILES)
    private = [str(tiny_run.parent), str(PROJECT), f"{Path.home()}/", hub.client["HF_HOME"], SECRET, hub.token()]
    for name in SPACE_FILES:
        assert files[name] == (PROJECT / "space" / name).read_bytes(), name
        assert not [text for text in private if text.encode() in files[name]], name
    address = f"{hub.endpoint}/spaces/you/tiny-demo"
    assert result.stdout.splitlines()[-2:] == [f"{TELLS_SECRET}{address}/settings", address]

    space.secrets["HF_TOKEN"] = {}  # the owner does what the message says
    again = push_to(hub, tiny_run, "you/tiny", "--space")
    assert again.returncode == 0, again.stderr
    assert TELLS_SECRET not in again.stdout
    assert f"you/tiny-demo already has these files, in commit {commit.oid}" in again.stdout
    assert hub.commits("you/tiny-demo", kind="spaces") == [commit]
    paths = [path for method, path in hub.requests if method == "POST"]
    assert len([path for path in paths if path.endswith("/variables")]) == 1
    assert not [path for path in paths if path.endswith("/secrets")]


def test_every_file_of_the_page_is_sent():
    pages = {path.name for path in (PROJECT / "space").iterdir() if path.is_file()}
    assert pages == set(SPACE_FILES)


def test_the_header_of_the_demo_is_valid_and_names_the_tested_gradio(hub, monkeypatch):
    card = SpaceCard.load(PROJECT / "space" / "README.md")
    assert card.data.sdk == "gradio" and card.data.app_file in SPACE_FILES
    assert card.data.license == "apache-2.0" and card.data.python_version == "3.11"
    allowed = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {card.data.colorFrom, card.data.colorTo} <= allowed
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    card.validate()
    assert ("POST", "/api/validate-yaml") in hub.requests
    assert f"gradio=={card.data.sdk_version}\n" in (PROJECT / "constraints.txt").read_text()


def test_the_requirements_of_the_demo_are_those_of_the_project_and_torch_without_cuda():
    project = (PROJECT / "pyproject.toml").read_text()
    first, *requirements = (PROJECT / "space" / "requirements.txt").read_text().splitlines()
    assert first == "--extra-index-url https://download.pytorch.org/whl/cpu"
    for requirement in requirements:
        assert f'"{requirement}"' in project, requirement


@pytest.mark.slow
def test_the_name_message_and_visibility_of_the_demo_can_be_chosen(tiny_run, hub):
    result = push_to(hub, tiny_run, "you/tiny", "--space=band/sings", "--message=First", "--public")
    assert result.returncode == 0, result.stderr
    (commit,) = hub.commits("band/sings", kind="spaces")
    assert commit.title == "First"
    space = hub.repository("band/sings", "spaces")
    assert not space.private and space.variables["MODEL"]["value"] == "you/tiny"
    assert TELLS_SECRET not in result.stdout
    # Another model for the same page: no commit, another variable.
    result = push_to(hub, tiny_run, "band/tiny", "--space=band/sings", "--public")
    assert result.returncode == 0, result.stderr
    assert hub.commits("band/sings", kind="spaces") == [commit]
    assert space.variables["MODEL"]["value"] == "band/tiny"


@pytest.mark.slow
def test_another_space_with_that_name_is_left_alone(tiny_run, hub):
    hub.create("you/tiny-demo", kind="spaces")
    theirs = hub.commit_as("you", "you/tiny-demo", {"app.py": b"import gradio"}, kind="spaces")
    says = "the name you/tiny-demo is taken: it holds another Space; choose another name"
    assert says in error_of(push_to(hub, tiny_run, "you/tiny", "--space"))
    assert hub.commits("you/tiny-demo", kind="spaces") == [theirs]
    assert not hub.repository("you/tiny-demo", "spaces").variables
    hub.create("you/open", kind="spaces", private=False)
    says = "you/open exists and is public; add --public"
    assert says in error_of(push_to(hub, tiny_run, "you/tiny", "--space=you/open"))


@pytest.mark.slow
def test_a_refusal_of_the_hub_is_reported_and_the_same_command_finishes_the_demo(tiny_run, hub):
    failures = [
        ("/spaces/.*/commit/", {"cut": "request"}, "the connection to the Hub was lost"),
        ("/variables", {"status": 403}, "the token may not write to you/tiny-demo"),
        ("/repos/create", {"status": 402}, "the Hub requires payment to run you/tiny-demo"),
    ]
    hub.create("you/tiny")
    while failures:
        path, fault, says = failures.pop()
        hub.fault(path, **fault)
        result = push_to(hub, tiny_run, "you/tiny", "--space")
        assert says in error_of(result)
        assert f"{hub.endpoint}/spaces/you/tiny-demo" not in result.stdout
    result = push_to(hub, tiny_run, "you/tiny", "--space")
    assert result.returncode == 0, result.stderr
    assert len(hub.commits("you/tiny")) == len(hub.commits("you/tiny-demo", kind="spaces")) == 1


def test_a_dry_run_shows_the_demo(tiny_run):
    result = push(tiny_run, "you/tiny", "--dry_run", "--space")
    assert result.returncode == 0, result.stderr
    assert "would send to the Space you/tiny-demo, with MODEL=you/tiny:" in result.stdout
    folder = Path(re.search(r"a copy of the demo is in (.*)", result.stdout)[1])
    assert {path.name for path in folder.iterdir()} == set(SPACE_FILES)
    for name in SPACE_FILES:
        assert re.search(rf"[\d,]+ bytes  {re.escape(name)}\n", result.stdout), name


def test_a_demo_of_another_branch_or_with_an_invalid_name_is_refused(tiny_run):
    result = push(tiny_run, "you/tiny", "--space", "--revision=drafts")
    assert "a Space runs the model on the branch main" in error_of(result)
    result = push(tiny_run, "you/tiny", "--space=a/b/c")
    assert "'a/b/c' is not a repository name" in error_of(result)
