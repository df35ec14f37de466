"""Run folders that somebody else made: what they link to is not read, and what they bring is not run."""

import json
import os
import shutil
import sys

import pytest
from conftest import PROJECT, options, python, run
from hypothesis import given
from hypothesis import strategies as st
from test_bad_input import assert_refused
from test_train import assert_succeeds

from modeling_lyricgpt import LyricGPTForCausalLM
from training_lyricgpt import LyricGPTError, run_folder
from training_lyricgpt.files import hash_file
from training_lyricgpt.run_folder import check_links, model_folder, names_of_code, published_code, todays_code
from training_lyricgpt.sample import load_run

SECRET = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjE=\n"


@pytest.fixture
def copy(tiny_run, tmp_path):
    """A copy of the tiny run, as somebody may have sent it."""
    shutil.copytree(tiny_run, tmp_path / "theirs")
    return tmp_path / "theirs"


def demo(folder):
    """The page, as far as it loads the model."""
    code = (
        "import sys; sys.path.insert(0, 'space'); import songs; print(next(songs.write_song('', 1.0, 20, 0, '', '')))"
    )
    return run([sys.executable, "-c", code], MODEL=str(folder))


def begin_with(folder, tmp_path):
    small = {"config": PROJECT / "tests" / "tiny.yaml", "max_steps": 1, "output_dir": tmp_path / "mine"}
    return python("train_hf.py", *options(dataset=PROJECT / "data" / "sample_lyrics.csv", init_from=folder, **small))


def every_door(folder, tmp_path):
    """Each command that reads a run folder."""
    yield python("-m", "training_lyricgpt.sample", folder, "--max_new_tokens=20")
    yield python("-m", "training_lyricgpt.export", folder, tmp_path / "stock")
    yield begin_with(folder, tmp_path)
    yield python("push_to_hub.py", folder, "you/x", "--dry_run")
    yield demo(folder)
    # The run goes on, and draws its card from what is there.
    yield python("train_hf.py", f"--config={folder / 'run.yaml'}", f"--output_dir={folder}", "--max_steps=21")


def assert_refused_everywhere(folder, tmp_path, *parts):
    for result in every_door(folder, tmp_path):
        if "songs.py" in result.stderr:  # the page is started by Python alone
            assert all(part in result.stderr for part in parts), result.stderr
            assert "LyricGPTError" in result.stderr
        else:
            assert_refused(result, *parts)
        assert SECRET.splitlines()[1] not in result.stdout + result.stderr
    assert not (tmp_path / "was run").exists()


def test_an_untouched_copy_passes_every_door(copy, tmp_path):
    for result in every_door(copy, tmp_path):
        assert_succeeds(result)


# ----------------------------------------------------------------------------------------------------------------------
# Links


def put_link(folder, name, secret):
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(secret)


def put_relative_link(folder, name, secret):
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(os.path.relpath(secret, folder))


def put_hard_link(folder, name, secret):
    (folder / name).unlink(missing_ok=True)
    (folder / name).hardlink_to(secret)


def put_folder(folder, name, secret):
    """The link is a folder above the file."""
    (folder / "below").symlink_to(secret.parent)
    put_link(folder, name, "below/" + secret.name)


def put_chain(folder, name, secret):
    (folder / "first").symlink_to(secret)
    put_link(folder, name, "first")


@pytest.mark.parametrize("put", [put_link, put_relative_link, put_hard_link, put_folder, put_chain])
def test_links_out_of_a_run_folder_are_refused_wherever_it_is_read(copy, tmp_path, put):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "id_ed25519").write_text(SECRET)
    put(copy, "curves.png", tmp_path / "secret" / "id_ed25519")
    assert_refused_everywhere(copy, tmp_path, "link")


@pytest.mark.parametrize("name", ["run.yaml", "songs.json", "README.md", "notes.txt", "model.safetensors"])
def test_any_file_of_a_run_may_be_such_a_link(copy, tmp_path, name):
    (tmp_path / "secret").write_text(SECRET)
    put_link(copy, name, tmp_path / "secret")
    assert_refused(
        python("push_to_hub.py", copy, "you/x", "--dry_run"), f"{copy / name} is a link to something outside"
    )


@pytest.mark.parametrize("target", ["nowhere", "curves.png"])
def test_a_link_that_leads_nowhere_or_to_itself_is_refused(copy, target):
    put_link(copy, "curves.png", target)
    assert_refused(python("push_to_hub.py", copy, "you/x", "--dry_run"), "curves.png is a link that leads nowhere")


def snapshot(files, cache):
    """A run as a download lies in huggingface_hub's cache."""
    folder = cache / "models--you--x" / "snapshots" / ("5" * 40)
    folder.mkdir(parents=True)
    (cache / "models--you--x" / "blobs").mkdir()
    for path in (path for path in files.iterdir() if path.is_file()):
        blob = cache / "models--you--x" / "blobs" / hash_file(path)
        shutil.copyfile(path, blob)
        (folder / path.name).symlink_to(f"../../blobs/{blob.name}")
    return folder


def test_a_downloaded_model_is_made_of_links_and_passes(copy, tmp_path):
    folder = snapshot(copy, tmp_path / "hub")
    for result in list(every_door(folder, tmp_path))[:5]:
        assert_succeeds(result)


def test_a_folder_that_looks_like_a_download_may_not_link_further(copy, tmp_path):
    (tmp_path / "secret").mkdir()
    checksum = "a" * 64
    (tmp_path / "secret" / checksum).write_text(SECRET)
    folder = snapshot(copy, tmp_path / "hub")
    blobs = tmp_path / "hub" / "models--you--x" / "blobs"
    (blobs / checksum).symlink_to(tmp_path / "secret" / checksum)
    put_link(folder, "curves.png", f"../../blobs/{checksum}")
    assert_refused(python("push_to_hub.py", folder, "you/x", "--dry_run"), "curves.png is a link to something outside")
    shutil.rmtree(blobs)
    blobs.symlink_to(tmp_path / "secret")
    assert_refused(python("push_to_hub.py", folder, "you/x", "--dry_run"), "link")


def test_a_run_folder_may_itself_be_reached_through_links_and_keep_its_checkpoints_elsewhere(copy, tmp_path):
    (copy / "checkpoints").rename(tmp_path / "large disk")
    (copy / "checkpoints").symlink_to(tmp_path / "large disk")
    (tmp_path / "runs").symlink_to(tmp_path)
    (tmp_path / "mine").symlink_to(tmp_path / "runs" / "theirs")
    check_links(tmp_path / "mine")
    assert model_folder(str(tmp_path / "runs" / "mine")) == tmp_path / "runs" / "mine"


# ----------------------------------------------------------------------------------------------------------------------
# Code


def write_program(path, tmp_path):
    """Code that leaves a trace where it runs."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"open({str(tmp_path / 'was run')!r}, 'w')\n" + (path.read_text() if path.exists() else ""))


def change_json(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("name", ["modeling_lyricgpt.py", "tokenization_lyricgpt.py", "extra_lyricgpt.py"])
def test_changed_code_in_a_run_folder_is_refused_by_every_door_and_not_run(copy, tmp_path, name):
    write_program(copy / name, tmp_path)
    assert_refused_everywhere(copy, tmp_path, f"{name} is not LyricGPT's code")


FOREIGN = {
    "another file": {"AutoModelForCausalLM": "evil.LyricGPTForCausalLM"},
    "another repository": {"AutoConfig": "somebody/else--configuration_lyricgpt.LyricGPTConfig"},
    "another class": {"AutoModel": "modeling_lyricgpt.Evil"},
    "a list": {"AutoTokenizer": ["evil.Tokenizer", None]},
    "an odd value": {"AutoModel": {"deeper": ["evil.Model"]}},
}


@pytest.mark.parametrize("auto_map", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_configuration_that_names_other_code_is_refused_and_nobody_is_asked(copy, tmp_path, name, auto_map):
    write_program(copy / "evil.py", tmp_path)
    change_json(copy / name, auto_map=auto_map)
    result = python("-m", "training_lyricgpt.sample", copy)
    assert_refused(result, f"{copy / name} names code that is not LyricGPT's in its auto_map")
    assert "[y/N]" not in result.stdout + result.stderr and not (tmp_path / "was run").exists()


def test_another_kind_of_model_with_code_of_its_own_is_refused_by_every_door(copy, tmp_path):
    write_program(copy / "evil.py", tmp_path)
    change_json(copy / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Config"})
    assert_refused_everywhere(copy, tmp_path, "names code that is not LyricGPT's in its auto_map: 'evil.Config'")
    change_json(copy / "config.json", auto_map=None)
    result = python("-m", "training_lyricgpt.sample", copy)
    assert_refused(result, f"{copy} holds a model of type 'evil', not a LyricGPT")


@pytest.mark.parametrize("name", ["custom_generate/generate.py", "adapter_config.json"])
def test_other_files_that_transformers_would_act_on_are_refused(copy, tmp_path, name):
    write_program(copy / name, tmp_path)
    assert_refused_everywhere(copy, tmp_path, "would bring other code or weights")


def test_settings_that_fetch_kernels_or_quantized_code_are_refused(copy):
    for key in ("attn_implementation", "_attn_implementation", "quantization_config"):
        change_json(copy / "config.json", **{key: "somebody/kernel"})
        assert_refused(
            python("-m", "training_lyricgpt.sample", copy), f"has a key {key!r}, which could bring other code"
        )
        change_json(copy / "config.json", **{key: None})
    assert_succeeds(python("-m", "training_lyricgpt.sample", copy, "--max_new_tokens=9"))


@pytest.mark.parametrize(
    "content", ["", "[]", "7", "null", '"x"', "{", "[" * 200_000, '{"model_type": ' + "9" * 5000 + "}"]
)
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_settings_that_are_none_are_one_line_that_names_the_file(copy, name, content):
    (copy / name).write_text(content)
    assert_refused(python("-m", "training_lyricgpt.sample", copy), str(copy))


@given(
    st.recursive(
        st.none() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_every_name_of_code_is_found_however_deep(auto_map):
    assert set(names_of_code(auto_map)) == {str(value) for value in leaves(auto_map)}


def leaves(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [leaf for part in value for leaf in leaves(part)]
    return [] if value is None else [value]


def test_code_of_a_published_version_passes_and_ours_is_what_runs(copy, tmp_path, monkeypatch):
    write_program(copy / "modeling_lyricgpt.py", tmp_path)
    earlier = ("modeling_lyricgpt.py", hash_file(copy / "modeling_lyricgpt.py"))
    assert len(published_code()) > len(todays_code())
    monkeypatch.setattr(run_folder, "published_code", lambda: {earlier})
    model, _ = load_run(str(copy))
    assert type(model) is LyricGPTForCausalLM and not (tmp_path / "was run").exists()
    (copy / "modeling_lyricgpt.py").rename(copy / "generation_lyricgpt.py")  # the right content under another name
    with pytest.raises(LyricGPTError, match=r"generation_lyricgpt.py is not LyricGPT's code"):
        load_run(str(copy))


def test_a_folder_without_code_is_loaded_with_ours(copy):
    for path in copy.glob("*_lyricgpt.py"):
        path.unlink()
    assert_succeeds(python("-m", "training_lyricgpt.sample", copy, "--max_new_tokens=9"))


def test_the_list_of_published_code_has_todays():
    published = published_code()
    for folder in ("modeling_lyricgpt", "tokenization_lyricgpt"):
        for path in sorted((PROJECT / folder).glob("*_lyricgpt.py")):
            line = f"{hash_file(path)}  {path.name}"
            assert (path.name, hash_file(path)) in published, f"add to training_lyricgpt/published_code.txt:\n{line}"
