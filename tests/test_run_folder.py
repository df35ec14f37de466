"""Run folders from somebody else: files that they link to are not read, and code that they bring is not run."""

import json
import os
import shutil

import pytest
import safetensors.numpy
from conftest import PROJECT, options, python
from hypothesis import given
from hypothesis import strategies as st
from test_bad_input import assert_refused
from test_train import assert_succeeds

from modeling_lyricgpt import LyricGPTForCausalLM
from training_lyricgpt import LyricGPTError
from training_lyricgpt.files import hash_file
from training_lyricgpt.hub.staging import check_sent_code, stage
from training_lyricgpt.model import folder as run_folder
from training_lyricgpt.model.folder import (
    FETCHING_KEYS,
    check_links,
    model_folder,
    names_of_code,
    published_code,
    todays_code,
)
from training_lyricgpt.model.loading import load_run

SECRET = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjE=\n"


@pytest.fixture
def copy(tiny_run, tmp_path):
    """A copy of the tiny run, as somebody may have sent it."""
    shutil.copytree(tiny_run, tmp_path / "theirs")
    return tmp_path / "theirs"


def begin_with(folder, tmp_path):
    small = {"config": PROJECT / "tests" / "tiny.yaml", "max_steps": 1, "output_dir": tmp_path / "mine"}
    return python("train_hf.py", *options(dataset=PROJECT / "data" / "sample_lyrics.csv", init_from=folder, **small))


def every_door(folder, tmp_path):
    """Each command that reads a run folder."""
    yield python("-m", "training_lyricgpt.sample", folder, "--max_new_tokens=20")
    yield python("-m", "training_lyricgpt.export", folder, tmp_path / "stock")
    yield begin_with(folder, tmp_path)
    yield python("push_to_hub.py", folder, "you/x", "--dry_run")
    yield python("space/songs.py", MODEL=str(folder))  # the demo page, up to loading the model
    # The run resumes, and makes its card from what is in the folder.
    yield python("train_hf.py", f"--config={folder / 'run.yaml'}", f"--output_dir={folder}", "--max_steps=21")


def assert_refused_everywhere(folder, tmp_path, *parts):
    for result in every_door(folder, tmp_path):
        assert_refused(result, *parts)
        assert SECRET.splitlines()[1] not in result.stdout + result.stderr
    assert not (tmp_path / "was run").exists()


def test_an_unchanged_copy_is_accepted_by_every_command(copy, tmp_path):
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
    """A folder on the way to the file is a link."""
    (folder / "below").symlink_to(secret.parent)
    put_link(folder, name, "below/" + secret.name)


def put_chain(folder, name, secret):
    (folder / "first").symlink_to(secret)
    put_link(folder, name, "first")


def put_below(folder, name, secret):
    """The link is in a subfolder."""
    (folder / "logs" / "deeper").mkdir(parents=True)
    put_link(folder, "logs/deeper/notes.txt", secret)


@pytest.mark.parametrize("put", [put_link, put_relative_link, put_hard_link, put_folder, put_chain, put_below])
def test_links_out_of_a_run_folder_are_refused_wherever_it_is_read(copy, tmp_path, put):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "id_ed25519").write_text(SECRET)
    put(copy, "curves.png", tmp_path / "secret" / "id_ed25519")
    assert_refused_everywhere(copy, tmp_path, "link")


@pytest.mark.parametrize("name", ["run.yaml", "songs.json", "README.md", "notes.txt", "model.safetensors"])
def test_a_link_in_place_of_any_file_is_refused(copy, tmp_path, name):
    (tmp_path / "secret").write_text(SECRET)
    put_link(copy, name, tmp_path / "secret")
    assert_refused(
        python("push_to_hub.py", copy, "you/x", "--dry_run"), f"{copy / name} is a link to something outside"
    )


PARTS = {
    "above": "../../elsewhere/model.safetensors",
    "absolute": "/elsewhere/model.safetensors",
    "below": "weights/model.safetensors",
    "above, below": "weights/../../elsewhere/model.safetensors",
    "hidden": "..model.safetensors/x.safetensors",
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_weights_in_parts_must_be_in_the_folder(copy, tmp_path, part):
    (tmp_path / "elsewhere").mkdir()
    (copy / "model.safetensors").rename(tmp_path / "elsewhere" / "model.safetensors")
    (copy / "weights").symlink_to(tmp_path / "elsewhere")
    names = safetensors.numpy.load_file(tmp_path / "elsewhere" / "model.safetensors")
    index = {
        "metadata": {"total_size": 1},
        "weight_map": dict.fromkeys(names, part.replace("/else", f"{tmp_path}/else")),
    }
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(LyricGPTError, match=r"weights is a link to something outside"):
        load_run(str(copy))
    (copy / "weights").unlink()
    with pytest.raises(LyricGPTError, match=r"index\.json is damaged \(weight_map"):
        load_run(str(copy))
    (tmp_path / "elsewhere" / "model.safetensors").rename(copy / "part-1.safetensors")
    index["weight_map"] = dict.fromkeys(names, "part-1.safetensors")
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    load_run(str(copy))


@pytest.mark.parametrize("target", ["nowhere", "curves.png"])
def test_a_link_that_leads_nowhere_or_to_itself_is_refused(copy, target):
    put_link(copy, "curves.png", target)
    assert_refused(python("push_to_hub.py", copy, "you/x", "--dry_run"), "curves.png is a link to a missing file")


def snapshot(files, cache):
    """Lays a run out like a download in huggingface_hub's cache."""
    folder = cache / "models--you--x" / "snapshots" / ("5" * 40)
    folder.mkdir(parents=True)
    (cache / "models--you--x" / "blobs").mkdir()
    for path in (path for path in files.iterdir() if path.is_file()):
        blob = cache / "models--you--x" / "blobs" / hash_file(path)
        shutil.copyfile(path, blob)
        (folder / path.name).symlink_to(f"../../blobs/{blob.name}")
    return folder


def test_a_downloaded_model_consists_of_links_and_is_accepted(copy, tmp_path):
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
    """Writes code that leaves a file behind if it runs."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"open({str(tmp_path / 'was run')!r}, 'w')\n" + (path.read_text() if path.exists() else ""))


def change_json(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("name", ["modeling_lyricgpt.py", "tokenization_lyricgpt.py", "extra_lyricgpt.py"])
def test_changed_code_in_a_run_folder_is_refused_by_every_command_and_not_run(copy, tmp_path, name):
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
def test_a_configuration_that_names_other_code_is_refused_without_a_question(copy, tmp_path, name, auto_map):
    write_program(copy / "evil.py", tmp_path)
    change_json(copy / name, auto_map=auto_map)
    result = python("-m", "training_lyricgpt.sample", copy)
    assert_refused(result, f"{copy / name} names code that is not LyricGPT's in its auto_map")
    assert "[y/N]" not in result.stdout + result.stderr and not (tmp_path / "was run").exists()


def test_another_kind_of_model_with_its_own_code_is_refused_by_every_command(copy, tmp_path):
    write_program(copy / "evil.py", tmp_path)
    change_json(copy / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Config"})
    assert_refused_everywhere(copy, tmp_path, "names code that is not LyricGPT's in its auto_map: 'evil.Config'")
    change_json(copy / "config.json", auto_map=None)
    result = python("-m", "training_lyricgpt.sample", copy)
    assert_refused(result, f"{copy} contains a model of type 'evil', not a LyricGPT")


@pytest.mark.parametrize("name", ["custom_generate/generate.py", "adapter_config.json"])
def test_other_files_that_transformers_would_act_on_are_refused(copy, tmp_path, name):
    write_program(copy / name, tmp_path)
    assert_refused_everywhere(copy, tmp_path, "would bring other code or weights")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize("key", FETCHING_KEYS)
def test_settings_that_fetch_code_or_weights_are_refused(copy, name, key):
    change_json(copy / name, **{key: "somebody/kernel"})
    with pytest.raises(LyricGPTError, match=f"{name} has a key '{key}', which could bring other code"):
        load_run(str(copy))
    change_json(copy / name, **{key: None})
    load_run(str(copy))


def test_somebody_elses_pipeline_is_refused_by_every_command(copy, tmp_path):
    write_program(copy / "evil.py", tmp_path)
    pipeline = {"impl": "evil.Evil", "pt": ["AutoModelForCausalLM"], "tf": [], "type": "text"}
    change_json(copy / "config.json", custom_pipelines={"text-generation": pipeline})
    assert_refused_everywhere(copy, tmp_path, "has a key 'custom_pipelines'")


# Keys that set nothing of a model: methods, attributes that transformers looks up, and targets of aliases.
NO_SETTINGS = {
    "to_dict": 5, "save_pretrained": 1, "get_text_config": 1, "__class__": 5, "return_dict": False, "output_attentions": True,
    "is_encoder_decoder": True, "_auto_class": 5, "sub_configs": {"a": "b"}, "keys_to_ignore_at_inference": 5, "pruned_heads": {"a": 1},
    "id2label": 5, "base_model_tp_plan": 5, "chunk_size_feed_forward": "x", "temperature": "x", "architectures": 5,
}  # fmt: skip


def test_keys_that_set_nothing_of_a_model_are_ignored(copy, tmp_path):
    model, _ = load_run(str(copy))
    change_json(copy / "config.json", **NO_SETTINGS)
    odd, _ = load_run(str(copy))
    for one, name in ((model, "one"), (odd, "two")):
        one.save_pretrained(tmp_path / name)
    assert (tmp_path / "one" / "config.json").read_text() == (tmp_path / "two" / "config.json").read_text()


def test_a_tokenizer_is_built_again_from_its_characters(copy):
    _, tokenizer = load_run(str(copy))
    path = copy / "tokenizer.json"
    saved = json.loads(path.read_text())
    for change in ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, {"normalizer": {"type": "Lowercase"}}):
        path.write_text(json.dumps(saved | change))
        _, again = load_run(str(copy))
        assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    saved["model"]["vocab"] |= {"a": saved["model"]["vocab"]["b"], "b": saved["model"]["vocab"]["a"]}
    path.write_text(json.dumps(saved))
    with pytest.raises(LyricGPTError, match=r"its ids are not in the order of the characters"):
        load_run(str(copy))


def test_what_would_be_sent_is_checked_once_more(tiny_run, tmp_path):
    stage(tiny_run, "you/x", tmp_path / "model")
    check_sent_code(tmp_path / "model")
    change_json(tmp_path / "model" / "config.json", somebodys_hook="evil.py")
    with pytest.raises(LyricGPTError, match=r"has a key 'somebodys_hook' that LyricGPT does not know"):
        check_sent_code(tmp_path / "model")


@pytest.mark.parametrize(
    "content", ["", "[]", "7", "null", '"x"', "{", "[" * 200_000, '{"model_type": ' + "9" * 5000 + "}"]
)
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_an_invalid_settings_file_gives_an_error_that_names_the_folder(copy, name, content):
    (copy / name).write_text(content)
    assert_refused(python("-m", "training_lyricgpt.sample", copy), str(copy))


@given(
    st.recursive(
        st.none() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_every_name_of_code_is_found_however_deep(auto_map):
    assert set(names_of_code(auto_map)) == {str(value) for value in leaves(auto_map)}
    for _ in range(5000):
        auto_map = [auto_map, "evil.Evil"]
    assert "evil.Evil" in names_of_code(auto_map)


def leaves(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [leaf for part in value for leaf in leaves(part)]
    return [] if value is None else [value]


def test_code_of_a_published_version_is_accepted_but_ours_runs(copy, tmp_path, monkeypatch):
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


def test_the_list_of_published_code_includes_todays():
    published = published_code()
    for folder in ("modeling_lyricgpt", "tokenization_lyricgpt"):
        for path in sorted((PROJECT / folder).glob("*_lyricgpt.py")):
            line = f"{hash_file(path)}  {path.name}"
            assert (path.name, hash_file(path)) in published, (
                f"add to training_lyricgpt/model/published_code.txt:\n{line}"
            )
