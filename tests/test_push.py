"""Publishing: what is sent, and the proof that it loads."""

import json
import re
from pathlib import Path

import pytest
from conftest import PROJECT, TINY, isolated, options, python, run
from safetensors.torch import load_file, save_file

from training_lyricgpt import LyricGPTError
from training_lyricgpt.arguments import load_arguments
from training_lyricgpt.hub.proof import prove
from training_lyricgpt.hub.staging import check_sent_code, stage
from training_lyricgpt.model.folder import todays_code

SECRET = "a-password-in-the-environment"


def push(*arguments, **environment):
    return python("push_to_hub.py", *arguments, **environment)


def push_to(hub, *arguments, role="write"):
    """Pushes to the tests' Hub with a token of this role, or without a token."""
    login = {"HF_TOKEN": hub.token(role)} if role else {}
    result = python("push_to_hub.py", *arguments, client=hub.client, DATABASE_PASSWORD=SECRET, **login)
    assert "hf_" not in result.stdout + result.stderr
    return result


def error_of(result):
    """The one-line error of a failed push."""
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and result.stderr.rstrip().endswith(lines[0]), result.stderr
    return lines[0]


@pytest.fixture(scope="module")
def staged(tiny_run, tmp_path_factory):
    """What a push of the tiny run to you/tiny would send."""
    folder = tmp_path_factory.mktemp("staged")
    stage(tiny_run, "you/tiny", folder)
    return folder


def put(hub, staged, **changed):
    """Fills you/tiny with what a push of the tiny run would send, with some files changed."""
    hub.create("you/tiny")
    files = {path.name: path.read_bytes() for path in staged.iterdir()} | changed
    return hub.commit_as("you", "you/tiny", files)


def test_a_missing_argument_is_named(tiny_run):
    result = push(tiny_run, "--dry_run")
    assert result.returncode == 2
    assert "the repository is missing; write, for example: " in result.stderr
    assert f"push_to_hub.py {tiny_run} lyricgpt-tiny" in result.stderr
    assert "the run folder and the repository are missing" in push("--dry_run").stderr


def test_a_dry_run_leaves_what_would_be_sent_and_proves_that_it_loads(tiny_run):
    result = push(tiny_run, "you/lyricgpt-tiny", "--dry_run")
    assert result.returncode == 0, result.stderr
    assert "the model loads in a fresh process; sample:" in result.stdout
    folder = Path(result.stdout.split("a copy is in ")[1].splitlines()[0])
    names = {path.name for path in folder.iterdir()}
    assert names == {path.name for path in tiny_run.iterdir()} - {"checkpoints"}
    for path in folder.iterdir():
        content = path.read_bytes()
        assert str(tiny_run.parent).encode() not in content, path
        assert str(Path.cwd()).encode() not in content, path
    assert 'model="you/lyricgpt-tiny"' in (folder / "README.md").read_text()
    assert f"{(folder / 'model.safetensors').stat().st_size:,} bytes  model.safetensors" in result.stdout


def test_weights_that_are_not_finite_are_not_published(tiny_run, tmp_path):
    run(["cp", "-r", tiny_run, tmp_path / "run"])
    weights = load_file(tmp_path / "run" / "model.safetensors")
    weights["lm_head.weight"][0, 0] = float("nan")
    save_file(weights, tmp_path / "run" / "model.safetensors", metadata={"format": "pt"})
    result = push(tmp_path / "run", "you/x", "--dry_run")
    assert result.returncode == 1
    assert "the weights of lm_head.weight are not finite" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_folder_without_a_run_is_refused(tmp_path):
    result = push(tmp_path, "you/x", "--dry_run")
    assert result.returncode == 1
    assert "is not a run that can be published: it has no config.json" in result.stderr


def test_an_invalid_repository_name_is_refused(tiny_run):
    result = push(tiny_run, "you/a/b", "--dry_run")
    assert result.returncode == 1
    assert "'you/a/b' is not a repository name" in result.stderr


def test_a_push_while_offline_says_so(tiny_run):
    result = push(tiny_run, "you/x", HF_HUB_OFFLINE="1", HF_TOKEN="hf_x")
    assert result.returncode == 1
    assert "HF_HUB_OFFLINE is set" in result.stderr
    assert "hf_x" not in result.stdout + result.stderr


def test_the_proof_notices_other_weights(tiny_run, tmp_path, monkeypatch):
    (tmp_path / "sent").mkdir()
    stage(tiny_run, "you/x", tmp_path / "sent")
    config = json.loads((tmp_path / "sent" / "config.json").read_text())
    (tmp_path / "sent" / "config.json").write_text(json.dumps(config | {"norm_eps": 0.5}))
    with pytest.raises(LyricGPTError, match="gives other results than"):
        prove(str(tmp_path / "sent"), None, tiny_run)


def test_a_push_is_one_private_commit_that_loads_and_holds_nothing_of_this_machine(tiny_run, hub):
    result = push_to(hub, tiny_run, "you/tiny", "--tag=v1", "--message=First songs")
    assert result.returncode == 0, result.stderr
    (commit,) = hub.commits("you/tiny")
    assert commit.title == "First songs" and commit.oid in result.stdout
    assert result.stdout.splitlines()[-1] == f"{hub.endpoint}/you/tiny"
    assert "the model loads in a fresh process; sample:" in result.stdout.splitlines()[-2]
    assert hub.repository("you/tiny").private
    assert hub.repository("you/tiny").tags["v1"] is commit
    assert hub.tokens_at_storage == []
    files = hub.files("you/tiny")
    assert set(files) - {".gitattributes"} == {path.name for path in tiny_run.iterdir()} - {"checkpoints"}
    private = [str(tiny_run.parent), str(PROJECT), str(Path.home()) + "/", hub.client["HF_HOME"], SECRET, "hf_"]
    for name, content in files.items():
        assert not [text for text in private if text.encode() in content], name
        assert not re.search(r"optimizer|checkpoint|step-\d|\.bin|\.npy|\.arrow|\.csv|index", name), name
    for size, name in re.findall(r"([\d,]+) bytes  (\S+)", result.stdout):
        assert len(files[name]) == int(size.replace(",", ""))


def test_a_push_of_the_same_run_makes_no_second_commit_and_proves_the_first(tiny_run, staged, hub):
    commit = put(hub, staged)
    result = push_to(hub, tiny_run, "tiny")  # without an owner, the name is one's own
    assert result.returncode == 0, result.stderr
    assert f"you/tiny already has these files, in commit {commit.oid}" in result.stdout
    assert "the model loads in a fresh process" in result.stdout
    assert hub.commits("you/tiny") == [commit]


@pytest.mark.slow
def test_a_push_replaces_what_an_earlier_one_wrote_and_leaves_the_rest(tiny_run, staged, hub):
    old = {"README.md": b"old", "quality.json": b"{}", "model-00001-of-00002.safetensors": b"", "photo.jpg": b"mine"}
    put(hub, staged, **old)
    hub.repository("you/tiny").private = False
    result = push_to(hub, tiny_run, "band/../x", "--public")
    assert "is not a repository name" in result.stderr
    result = push_to(hub, tiny_run, "you/tiny", "--public", "--revision=drafts/one", "--tag=v2")
    assert result.returncode == 0, result.stderr
    assert set(hub.files("you/tiny", "drafts/one")) == {path.name for path in staged.iterdir()} | {".gitattributes"}
    assert hub.files("you/tiny")["README.md"] == b"old"
    assert result.stdout.rstrip().endswith("/you/tiny/tree/drafts/one")
    result = push_to(hub, tiny_run, "you/tiny", "--public", "--tag=v2")
    assert "already has a tag v2" in error_of(result)
    result = push_to(hub, tiny_run, "you/tiny", "--public")
    assert result.returncode == 0, result.stderr
    files = hub.files("you/tiny")
    assert files["photo.jpg"] == b"mine" and files["README.md"] != b"old"
    assert set(files) - {"photo.jpg"} == {path.name for path in staged.iterdir()} | {".gitattributes"}


def test_the_stock_model_is_on_its_own_branch_and_loads_without_trust_remote_code(tiny_run, hub):
    result = push_to(hub, tiny_run, "band/tiny", "--stock")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("the model loads in a fresh process; sample:") == 2
    assert len(hub.commits("band/tiny")) == len(hub.commits("band/tiny", "native")) == 1
    stock = hub.files("band/tiny", "native")
    assert not [name for name in stock if name.endswith(".py")]
    assert json.loads(stock["config.json"])["model_type"] == "qwen3"
    assert b'from_pretrained("band/tiny", revision="native")' in stock["README.md"]
    for content in stock.values():
        assert str(tiny_run.parent).encode() not in content
    assert b'from_pretrained("band/tiny", revision="native")' in hub.files("band/tiny")["README.md"]


@pytest.mark.parametrize(
    ("path", "fault", "says"),
    [
        ("/whoami", {"status": 401}, "the Hub does not accept the token: run `"),
        ("/repos/create", {"status": 403}, "the token may not write to you/tiny: use one with write access to it"),
        ("/preupload/", {"status": 404}, "the Hub has no you/tiny that this token can see"),
        ("/repos/create", {"status": 409}, "the name you/tiny was taken just now"),
        ("/commit/", {"status": 409}, "somebody else changed you/tiny in the meantime, so nothing was committed"),
        (
            "/whoami",
            {"status": 429, "retry_after": 4000},
            "the Hub's rate limit was reached: wait 4,000 seconds, then run",
        ),
        (
            "/commit/",
            {"status": 500},
            "the Hub failed: run the same command again, which sends only what has not arrived yet",
        ),
        ("/commit/", {"cut": "request"}, "the connection to the Hub was lost"),
    ],
)
def test_a_refusal_of_the_hub_gives_a_one_line_error(tiny_run, hub, path, fault, says):
    hub.fault(path, **fault)
    result = push_to(hub, tiny_run, "you/tiny")
    assert says in error_of(result)
    assert f"{hub.endpoint}/you/tiny" not in result.stdout
    assert not hub.repositories or not hub.commits("you/tiny")


def test_a_change_by_somebody_else_during_the_push_is_noticed(tiny_run, hub):
    hub.create("you/tiny")
    theirs = lambda: hub.commit_as("other", "you/tiny", {"LICENSE": b"mine"})  # noqa: E731
    hub.fault("/commit/", before=theirs)
    assert "somebody else changed you/tiny in the meantime, so nothing was committed" in error_of(
        push_to(hub, tiny_run, "you/tiny")
    )
    assert [commit.author for commit in hub.commits("you/tiny")] == ["other"]


@pytest.mark.slow
@pytest.mark.parametrize("cut", ["request", "response"])
def test_a_push_that_lost_its_connection_resumes_when_it_is_started_again(tiny_run, hub, cut):
    hub.fault("/commit/", cut=cut)
    assert "the connection to the Hub was lost" in error_of(push_to(hub, tiny_run, "you/tiny"))
    assert len(hub.commits("you/tiny")) == (cut == "response")
    result = push_to(hub, tiny_run, "you/tiny")
    assert result.returncode == 0, result.stderr
    (commit,) = hub.commits("you/tiny")
    assert (f"already has these files, in commit {commit.oid}" in result.stdout) == (cut == "response")
    uploads = [path for method, path in hub.requests if method == "PUT"]
    assert len(uploads) == len(set(uploads)) == 2  # weights and curves


def test_a_model_that_does_not_load_back_is_not_tagged_and_no_address_is_shown(tiny_run, hub):
    hub.fault("/model.safetensors", method="HEAD", status=403, times=99)
    result = push_to(hub, tiny_run, "you/tiny", "--tag=v1")
    said = error_of(result)
    assert said.startswith("error: you/tiny does not load in a fresh process")
    log = Path(
        re.search(r": OSError: .* \(details in (.*)\); if the network failed, run the same command again", said)[1]
    )
    assert "Traceback" in log.read_text() and hub.token() not in log.read_text()
    log.unlink()
    assert f"{hub.endpoint}/you/tiny" not in result.stdout
    assert len(hub.commits("you/tiny")) == 1 and not hub.repository("you/tiny").tags


def test_a_push_survives_rate_limits_and_an_upload_that_is_cut_off(tiny_run, hub):
    for path in ("/whoami", "/repos/create", "/refs$", "/commit/"):
        hub.fault(path, status=429, retry_after=0)
    hub.fault("^/lfs/", method="PUT", cut="request")
    result = push_to(hub, tiny_run, "you/tiny")
    assert result.stdout.count("the Hub's rate limit was reached; trying again in 0 seconds") == 4
    assert result.returncode == 0, result.stderr
    assert not [fault for fault in hub.faults if fault.times]
    assert len(hub.commits("you/tiny")) == 1


def test_nothing_is_sent_without_a_token_that_may_write_there(tiny_run, hub):
    says = {
        ("you/tiny", None): "there is no Hugging Face token: run `",
        ("you/tiny", "read"): "the token of you is read-only: use one with write access to you/tiny",
        ("nobody/tiny", "write"): "you can't publish for nobody: the token belongs to you, who is in",
        ("label/tiny", "write"): "the token may not write to label/tiny: use one with write access to it",
    }
    for (repository, role), text in says.items():
        assert text in error_of(push_to(hub, tiny_run, repository, role=role))
    assert not hub.repositories


def test_a_repository_with_something_else_or_another_visibility_is_left_alone(tiny_run, hub):
    hub.create("you/other-model")
    hub.commit_as("you", "you/other-model", {"config.json": b'{"model_type": "gpt2"}', "x.safetensors": b"x"})
    assert "the name you/other-model is taken: it holds a model of type gpt2" in error_of(
        push_to(hub, tiny_run, "you/other-model")
    )
    hub.create("you/notes")
    hub.commit_as("you", "you/notes", {"notes.txt": b"x"})
    assert "the name you/notes is taken: it holds files that are not a model" in error_of(
        push_to(hub, tiny_run, "you/notes")
    )
    hub.create("you/open", private=False)
    assert "you/open exists and is public" in error_of(push_to(hub, tiny_run, "you/open"))
    assert "you/notes exists and is private" in error_of(push_to(hub, tiny_run, "you/notes", "--public"))


def test_code_that_is_not_lyricgpts_is_not_sent(staged, tmp_path):
    def changed(name, text):
        run(["rm", "-rf", tmp_path / "sent"])
        run(["cp", "-r", staged, tmp_path / "sent"])
        with (tmp_path / "sent" / name).open("a") as file:
            file.write(text)
        return tmp_path / "sent"

    check_sent_code(staged)
    with pytest.raises(LyricGPTError, match=r"modeling_lyricgpt.py is not LyricGPT's code"):
        check_sent_code(changed("modeling_lyricgpt.py", "\n"))
    with pytest.raises(LyricGPTError, match=r"other_lyricgpt.py is not LyricGPT's code"):
        check_sent_code(changed("other_lyricgpt.py", "x"))


def test_a_hub_model_whose_code_was_changed_is_not_loaded(staged, hub):
    put(hub, staged, **{"modeling_lyricgpt.py": b"open('/tmp/was-run', 'w')"})
    login = {"HF_TOKEN": hub.token("write")}
    result = python("-m", "training_lyricgpt.sample", "you/tiny", client=hub.client, **login)
    assert "modeling_lyricgpt.py is not LyricGPT's code" in error_of(result)
    put(hub, staged)
    result = python("-m", "training_lyricgpt.sample", "you/tiny", "--max_new_tokens=9", client=hub.client, **login)
    assert result.returncode == 0, result.stderr


def test_a_tokenizer_of_another_model_is_not_published(tiny_run, tmp_path):
    run(["cp", "-r", tiny_run, tmp_path / "run"])
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps(config | {"eos_token_id": 2}))
    result = push(tmp_path / "run", "you/x", "--dry_run")
    assert "eos_token_id is 2 in config.json and 0 in the tokenizer" in error_of(result)


LOAD = """
from transformers import AutoModelForCausalLM, pipeline
options = {"trust_remote_code": True, "revision": sys.argv[1]}
model = AutoModelForCausalLM.from_pretrained("you/tiny", **options)
print(type(model).__name__, round(float(sum(p.double().abs().sum() for p in model.parameters())), 4))
write = pipeline("text-generation", model="you/tiny", **options)
song = write("I ", min_new_tokens=40, max_new_tokens=40)[0]["generated_text"]
print(song.startswith("I ") and len(song) == 42)
"""


@pytest.mark.slow
def test_a_pushed_model_can_be_trained_further_and_pushed_again_and_the_old_one_still_loads(
    tiny_run, hub, tmp_path, monkeypatch
):
    for name, value in hub.client.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_TOKEN", hub.token())
    assert push_to(hub, tiny_run, "you/tiny", "--tag=first").returncode == 0

    def load(revision):
        monkeypatch.setenv("HF_HOME", str(tmp_path / revision))
        result = isolated(LOAD, revision)
        assert result.returncode == 0, result.stderr
        model, is_continued = result.stdout.splitlines()[-2:]
        assert model.startswith("LyricGPTForCausalLM") and is_continued == "True"
        return model

    first = load("main")
    further = options(**TINY, output_dir=tmp_path / "further", init_from="you/tiny", max_steps=40, learning_rate=0.01)
    result = python("train_hf.py", *further, client=hub.client)
    assert result.returncode == 0, result.stderr
    result = push_to(hub, tmp_path / "further", "you/tiny")
    assert result.returncode == 0, result.stderr
    assert len(hub.commits("you/tiny")) == 2
    (tmp_path / "run.yaml").write_bytes(hub.files("you/tiny")["run.yaml"])
    assert load_arguments(tmp_path / "run.yaml").init_from == "you/tiny"
    assert b"base_model: you/tiny" in hub.files("you/tiny")["README.md"]
    assert load("first") == first
    run(["rm", "-rf", tmp_path / "main"])
    assert load("main") != first


# Models published with older code


@pytest.mark.parametrize("variant", [pytest.param("classic", marks=pytest.mark.slow), "modern"])
def test_a_model_published_with_older_code_gets_todays_and_keeps_its_weights(hub, variant):
    fixture = PROJECT / "tests" / "fixtures" / variant
    old = {path.name: path.read_bytes() for path in fixture.iterdir() if path.name != "logits.safetensors"}
    code = ("configuration", "modeling", "tokenization", "helpers")
    old |= {f"{name}_lyricgpt.py": b"raise ImportError('older code')" for name in code}
    old |= {"README.md": b"My own words.", "notes.txt": b"mine", "play.py": b"print('mine')"}
    hub.create("you/old")
    hub.commit_as("you", "you/old", old)
    result = push_to(hub, "--refresh=you/old")
    assert result.returncode == 0, result.stderr
    assert "the model loads in a fresh process; sample:" in result.stdout
    after = {name: content for name, content in hub.files("you/old").items() if name != ".gitattributes"}
    assert after.keys() == (old.keys() | todays_code().keys()) - {"helpers_lyricgpt.py"}
    assert all(after[name] == todays_code().get(name, content) for name, content in old.items() if name in after)
    assert len(hub.commits("you/old")) == 2
    again = push_to(hub, "--refresh=you/old")
    assert again.returncode == 0 and "already has these files" in again.stdout


def test_only_a_lyricgpt_model_is_refreshed(hub):
    assert "the Hub has no you/nothing" in error_of(push_to(hub, "--refresh=you/nothing"))
    hub.create("you/gpt2")
    hub.commit_as("you", "you/gpt2", {"config.json": b'{"model_type": "gpt2"}'})
    assert "has no LyricGPT model on its branch main" in error_of(push_to(hub, "--refresh=you/gpt2"))
    hub.create("you/stock")
    hub.commit_as("you", "you/stock", {"config.json": b'{"model_type": "lyricgpt"}'})
    assert "config.json has no auto_map" in error_of(push_to(hub, "--refresh=you/stock"))
    assert len(hub.commits("you/gpt2")) == 1
