"""The project as others install it: from a wheel, in another environment and folder."""

import shutil
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from conftest import PROJECT, SAMPLE_LYRICS, run
from test_train import assert_succeeds

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy of the project."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(".*", "runs", "*.egg-info", "__pycache__", "tests")
    shutil.copytree(PROJECT, folder / "source", ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    assert_succeeds(run([*command, "--wheel-dir", folder, folder / "source"]))
    (path,) = folder.glob("lyricgpt-*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """An environment with the wheel and with all packages of this one except the project."""
    folder = tmp_path_factory.mktemp("environment")
    assert_succeeds(run([sys.executable, "-m", "venv", folder]))
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    assert_succeeds(run([*pip, wheel]))
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def test_a_wheel_holds_every_module_template_list_and_configuration(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {path.relative_to(PROJECT).as_posix() for path in PROJECT.glob("*_lyricgpt/**/*.py")}
    wanted |= {path.relative_to(PROJECT).as_posix() for path in PROJECT.glob("training_lyricgpt/*/*.[jt][ix]*")}
    wanted |= {
        f"training_lyricgpt/{path.relative_to(PROJECT).as_posix()}" for path in PROJECT.glob("configs/**/*.yaml")
    }
    assert {"training_lyricgpt/card/card.md.jinja", "training_lyricgpt/model/published_code.txt"} < wanted
    assert wanted | {"train_hf.py", "push_to_hub.py"} <= names


def test_an_installed_project_trains_writes_songs_and_publishes_in_any_folder(environment, tmp_path):
    def command(name, *arguments):
        return run([environment / "bin" / name, *arguments], cwd=tmp_path)

    where = command(
        "python", "-c", "import training_lyricgpt, train_hf; print(training_lyricgpt.__file__, train_hf.__file__)"
    )
    assert all(Path(path).is_relative_to(environment) for path in where.stdout.split()), where.stderr
    shutil.copyfile(SAMPLE_LYRICS, tmp_path / "my.csv")
    small = ["--max_steps=2", "--eval_batches=1", "--quality_songs=1", "--num_hidden_layers=1", "--output_dir=mine"]
    assert_succeeds(command("lyricgpt-train", "--dataset=my.csv", *small))
    again = command("python", "-m", "train_hf", "--dataset=my.csv", *small)
    assert_succeeds(again)
    assert "is complete: 2 steps" in again.stdout
    assert_succeeds(command("lyricgpt-sample", "mine", "--max_new_tokens=9"))
    assert_succeeds(command("lyricgpt-export", "stock", "mine", "stock"))
    sent = command("lyricgpt-push", "mine", "you/mine", "--dry_run")
    assert_succeeds(sent)
    assert "the model loads in a fresh process" in sent.stdout
    space = command("lyricgpt-push", "mine", "you/mine", "--dry_run", "--space")
    assert space.returncode == 1 and "use --space in a clone" in space.stderr
