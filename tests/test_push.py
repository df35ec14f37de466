"""Publishing: what is sent, and the proof that it loads."""

import json
from pathlib import Path

from conftest import python, run


def push(*arguments, **environment):
    return python("push_to_hub.py", *arguments, **environment)


def test_a_dry_run_leaves_what_would_be_sent_and_proves_that_it_loads(tiny_run):
    result = push(tiny_run, "you/lyricgpt-tiny", "--dry_run")
    assert result.returncode == 0, result.stderr
    assert "it loads in a fresh process and sings:" in result.stdout
    folder = Path(result.stdout.split("the folder is ")[1].strip())
    names = {path.name for path in folder.iterdir()}
    assert names == {path.name for path in tiny_run.iterdir()} - {"checkpoints"}
    for path in folder.iterdir():
        content = path.read_bytes()
        assert str(tiny_run.parent).encode() not in content, path
        assert str(Path.cwd()).encode() not in content, path
    assert 'model="you/lyricgpt-tiny"' in (folder / "README.md").read_text()
    assert f"{(folder / 'model.safetensors').stat().st_size:,} bytes  model.safetensors" in result.stdout


def test_weights_that_are_not_finite_are_not_published(tiny_run, tmp_path):
    from safetensors.torch import load_file, save_file

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


def test_a_name_that_is_no_repository_is_refused(tiny_run):
    result = push(tiny_run, "you/a/b", "--dry_run")
    assert result.returncode == 1
    assert "'you/a/b' is not a repository name" in result.stderr


def test_offline_it_says_so(tiny_run):
    result = push(tiny_run, "you/x", HF_HUB_OFFLINE="1", HF_TOKEN="hf_x")
    assert result.returncode == 1
    assert "HF_HUB_OFFLINE is set" in result.stderr
    assert "hf_x" not in result.stdout + result.stderr


def test_the_proof_notices_other_weights(tiny_run, tmp_path, monkeypatch):
    import pytest

    from push_to_hub import prove, stage
    from training_lyricgpt import LyricGPTError

    (tmp_path / "sent").mkdir()
    stage(tiny_run, "you/x", tmp_path / "sent")
    config = json.loads((tmp_path / "sent" / "config.json").read_text())
    (tmp_path / "sent" / "config.json").write_text(json.dumps(config | {"norm_eps": 0.5}))
    with pytest.raises(LyricGPTError, match="computes something else"):
        prove(str(tmp_path / "sent"), None, tiny_run)
