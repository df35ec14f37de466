"""The tests' own Hub, used with the real clients. The tests of publishing rely on it."""

import sys
import textwrap

import pytest
from conftest import run
from hub_server import Blob


def client(hub, code, token=None):
    """Runs code in its own process, logged in with a token, and returns the lines that it prints."""
    code = "from huggingface_hub import *\nfrom huggingface_hub.errors import *\napi = HfApi()\n" + textwrap.dedent(
        code
    )
    result = run([sys.executable, "-c", code], **hub.client, **({"HF_TOKEN": token} if token else {}))
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_the_real_client_creates_commits_branches_tags_and_reads_every_revision_back(hub):
    printed = client(
        hub,
        """
        print(api.whoami()["name"])
        print(api.create_repo("you/a", private=True), api.create_repo("you/a", private=True, exist_ok=True))
        first = api.create_commit("you/a", [
            CommitOperationAdd("README.md", b"---\\ntags: [x]\\n---\\nhello"),
            CommitOperationAdd("sub/w.safetensors", bytes(range(256)) * 100),
            CommitOperationAdd("old.txt", b"old"),
        ], commit_message="first")
        second = api.create_commit("you/a", [
            CommitOperationAdd("README.md", b"bye"), CommitOperationDelete("old.txt")
        ], commit_message="second", parent_commit=first.oid)
        try:
            api.create_commit("you/a", [CommitOperationAdd("x", b"x")], commit_message="x", parent_commit=first.oid)
        except HfHubHTTPError as error:
            print(error.response.status_code)
        api.create_branch("you/a", branch="b/c", revision=first.oid)
        api.create_tag("you/a", tag="v1", revision=second.oid)
        refs = api.list_repo_refs("you/a")
        print({b.name: b.target_commit == first.oid for b in refs.branches}, {t.name for t in refs.tags})
        for revision in (first.oid, "main", "b/c", "v1"):
            names = sorted(f.path for f in api.list_repo_tree("you/a", revision=revision, recursive=True) if hasattr(f, "size"))
            print(revision[:3] if len(revision) < 40 else "oid", names, open(hf_hub_download("you/a", "README.md", revision=revision)).read()[-3:])
        folder = snapshot_download("you/a", revision="b/c")
        print(open(folder + "/sub/w.safetensors", "rb").read() == bytes(range(256)) * 100)
        print([c.title for c in api.list_repo_commits("you/a")], api.model_info("you/a").sha == second.oid)
        print([f.path for f in api.get_paths_info("you/a", ["README.md", "none"])])
        try:
            hf_hub_download("you/a", "none")
        except RemoteEntryNotFoundError:
            print("no such file")
        try:
            hf_hub_download("you/a", "README.md", revision="none")
        except RevisionNotFoundError:
            print("no such revision")
        """,
        hub.token(),
    )
    assert printed == [
        "you",
        f"{hub.endpoint}/you/a {hub.endpoint}/you/a",
        "412",
        "{'main': False, 'b/c': True} {'v1'}",
        "oid ['.gitattributes', 'README.md', 'old.txt', 'sub/w.safetensors'] llo",
        "mai ['.gitattributes', 'README.md', 'sub/w.safetensors'] bye",
        "b/c ['.gitattributes', 'README.md', 'old.txt', 'sub/w.safetensors'] llo",
        "v1 ['.gitattributes', 'README.md', 'sub/w.safetensors'] bye",
        "True",
        "['second', 'first', 'initial commit'] True",
        "['README.md']",
        "no such file",
        "no such revision",
    ]
    assert [commit.title for commit in hub.commits("you/a")] == ["second", "first"]
    assert ("PUT", "/lfs/" + hub.repository("you/a").find("main").files["sub/w.safetensors"].sha256) in hub.requests
    assert hub.tokens_at_storage == []


def test_private_repositories_and_scopes_are_guarded(hub):
    hub.create("you/secret")
    hub.create("band/shared")
    hub.create("label/closed", private=False)
    code = """
        for call in (
            lambda: api.model_info("you/secret"),
            lambda: api.model_info("band/shared"),
            lambda: api.create_repo("you/new"),
            lambda: api.create_repo("label/new"),
            lambda: api.create_repo("nobody/new"),
            lambda: api.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id="label/closed"),
        ):
            try:
                call()
                print("done")
            except HfHubHTTPError as error:
                print(error.response.status_code, type(error).__name__)
    """
    missing, forbidden = "RepositoryNotFoundError", "403 HfHubHTTPError"
    no_space = "404 HfHubHTTPError"
    assert client(hub, code, hub.token()) == ["done", "done", "done", forbidden, no_space, forbidden]
    assert client(hub, code, hub.token("read")) == ["done", "done", forbidden, forbidden, no_space, forbidden]
    other = client(hub, code, hub.token(user="other"))
    assert other == [f"404 {missing}", "done", forbidden, "done", no_space, "done"]
    nobody = client(hub, code.replace("api.", "HfApi(token=False)."))
    assert len(nobody) == 6 and all(line.startswith("401") for line in nobody)


@pytest.mark.parametrize("cut", ["request", "response"])
def test_a_commit_that_is_cut_off_takes_effect_only_if_its_answer_was_cut(hub, cut):
    hub.create("you/a")
    hub.fault("/commit/", cut=cut)
    printed = client(
        hub,
        """
        import httpx2
        try:
            api.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id="you/a")
        except httpx2.HTTPError as error:
            print("lost")
        """,
        hub.token(),
    )
    assert printed == ["lost"]
    assert len(hub.commits("you/a")) == (cut == "response")


def test_a_download_that_is_cut_off_resumes_where_it_stopped(hub):
    content = bytes(range(256)) * 4000
    hub.create("you/a", private=False)
    hub.commit_as("you", "you/a", {"w.safetensors": content})
    hub.fault("^/lfs/", method="GET", cut="response")
    printed = client(
        hub,
        "import hashlib; print(hashlib.sha256(open(hf_hub_download('you/a', 'w.safetensors'), 'rb').read()).hexdigest())",
    )
    assert printed == [hub.repository("you/a").find("main").files["w.safetensors"].sha256]
    assert [path.split("/")[1] for method, path in hub.requests if method == "GET"].count("lfs") == 2


def test_datasets_reads_a_table_of_the_hub(hub):
    hub.create("you/songs", kind="datasets", private=True)
    repository = hub.repository("you/songs", "datasets")
    repository.commit("main", "you", "songs", "", {"songs.csv": Blob(b"artist,song,text\nA,B,la la\n", False)})
    printed = client(
        hub, "from datasets import load_dataset; print(load_dataset('you/songs', split='train')[0])", hub.token()
    )
    assert printed == ["{'artist': 'A', 'song': 'B', 'text': 'la la'}"]
