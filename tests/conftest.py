"""Shared by the tests: the project's commands as a user runs them, a corpus in the Spotify schema, a tiny trained run.

Nothing here connects to the internet or writes outside temporary folders.
"""

import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Several tests run at once: a thread that waits must not keep a core busy.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

from modeling_lyricgpt import LyricGPTConfig, LyricGPTForCausalLM

PROJECT = Path(__file__).resolve().parent.parent
SAMPLE_LYRICS = PROJECT / "data" / "sample_lyrics.csv"

# The tests train with this configuration and corpus unless they say otherwise.
TINY = {"config": PROJECT / "tests" / "tiny.yaml", "dataset": SAMPLE_LYRICS}


@pytest.fixture(autouse=True, scope="session")
def own_caches(tmp_path_factory):
    """Keeps prepared corpora and transformers' module cache in temporary folders of this test session."""
    folder = tmp_path_factory.mktemp("caches")
    os.environ["LYRICGPT_CACHE"] = str(folder / "lyricgpt")
    os.environ["HF_HOME"] = str(folder / "huggingface")
    yield
    for server in _servers.values():
        server.kill()


# Processes of `command_server.py`. The keys are the environment variables that they have in addition to ours.
_servers = {}


def python(script, *arguments, client=None, cwd=PROJECT, **environment):
    """Runs `python SCRIPT ARGUMENTS` in a process that has imported torch and transformers already.

    Args:
        client: Environment variables that must be set before the imports, such as those of the Hub's client.
    """
    key = tuple(sorted((client or {}).items()))
    if key not in _servers:
        command = [sys.executable, PROJECT / "tests" / "command_server.py"]
        _servers[key] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | dict(key)
        )
        assert _servers[key].stdout.readline() == "ready\n"
    server = _servers[key]
    command = [str(part) for part in (script, *arguments)]
    with tempfile.TemporaryDirectory() as folder:
        request = {
            "command": command,
            "folder": str(cwd),
            "environment": dict(os.environ) | dict(key) | environment,
            "stdout": f"{folder}/stdout",
            "stderr": f"{folder}/stderr",
        }
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        output, errors = (Path(request[name]).read_text() for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess(command, status, output, errors)


@pytest.fixture(scope="session")
def hub_server(tmp_path_factory):
    """A local Hub. Its `client` holds the environment variables with which a process uses it, without a token."""
    from hub_server import HubServer

    server = HubServer()
    server.hub.client = {
        "HF_ENDPOINT": server.hub.endpoint,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HOME": str(tmp_path_factory.mktemp("hub-client")),
    }
    yield server.hub
    server.stop()


@pytest.fixture
def hub(hub_server):
    """An empty local Hub: see `hub_server.Hub`."""
    hub_server.reset()
    return hub_server


def options(**values):
    """Turns keyword arguments into command-line options."""
    return [f"--{name}={value}" for name, value in values.items()]


def run(command, cwd=PROJECT, timeout=300, **environment):
    """Runs a command and returns the finished process, its output as text."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
    )


def train(*arguments, **values):
    """Runs `train_hf.py` with the tiny configuration. Keyword arguments override it."""
    return python("train_hf.py", *options(**(TINY | values)), *arguments)


ALONE = """
import sys
for name in ("modeling_lyricgpt", "tokenization_lyricgpt", "training_lyricgpt", "train_hf", "push_to_hub"):
    sys.modules[name] = None  # importing it fails from here on, installed or not
"""


def isolated(code, *arguments, cwd="/"):
    """Runs code in a process that cannot import this project."""
    return run([sys.executable, "-I", "-c", ALONE + code, *arguments], cwd=cwd)


def read_songs_of(dataset, **values):
    """The artist, title and text of each song in file order, uncleaned by default, and the report."""
    from training_lyricgpt.arguments import parse_arguments
    from training_lyricgpt.corpus.songs import read_songs

    given = options(dataset=dataset, output_dir="unused", **({"cleaning": "none"} | values))
    with tempfile.TemporaryDirectory() as folder:
        songs = read_songs(parse_arguments(given), str(dataset), Path(folder))
        return songs.dataset.to_list(), songs.report


def isolated_cache(folder, code):
    """Runs code in a process with its own caches and returns its output."""
    result = run(
        [sys.executable, "-c", textwrap.dedent(code)],
        HF_HOME=str(folder / "hf"),
        PYTHONPATH=f"{PROJECT}:{PROJECT / 'tests'}",
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def write_songs(path, texts, encoding="utf-8", titles=None):
    """Writes texts as they are into a CSV in the Spotify schema."""
    with Path(path).open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow(["artist", "song", "link", "text"])
        for index, text in enumerate(texts):
            title = titles[index] if titles else f"Song {index}"
            writer.writerow([f"Artist {index % 3}", title, f"/a/artist/{index}.html", text])
    return Path(path)


def spotify_text(lines):
    """A song as in the Spotify file: each line ends in two spaces, CR and LF, and the song in CR LF CR LF."""
    return "".join(f"{line}  \r\n" for line in lines) + "\r\n\r\n"


@pytest.fixture
def make_songs():
    """Makes distinct songs of made-up words, with the line endings of the Spotify file."""

    def make(count, lines=8, seed=0):
        draw = random.Random(seed)
        word = lambda: "".join(draw.choice("abcdefghij") for _ in range(draw.randint(2, 6)))  # noqa: E731
        return [
            spotify_text([f'{word()} "{word()}", {word()}' for _ in range(lines)] + [f"end {index}"])
            for index in range(count)
        ]

    return make


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """A run trained on the embedded songs with `accelerate launch`, as `make train` does."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/cpu.yaml"]
    result = run([*launch, "train_hf.py", *options(**TINY, output_dir=folder)])
    assert result.returncode == 0, result.stderr
    (folder.parent / "stdout.txt").write_text(result.stdout)
    (folder.parent / "stderr.txt").write_text(result.stderr)
    return folder


# Block size of the `model` fixture.
BLOCK = 32


@pytest.fixture(params=["classic", "modern"])
def model(request):
    torch.manual_seed(0)
    config = LyricGPTConfig(
        variant=request.param,
        vocab_size=40,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=BLOCK,
    )
    model = LyricGPTForCausalLM(config).eval()
    with torch.no_grad():  # large weights, so that every position matters to the next character
        for parameter in model.parameters():
            parameter.mul_(6)
    return model


def prompts(*lengths):
    """Random prompts of these lengths, left-padded, with their attention mask."""
    torch.manual_seed(1)
    width = max(lengths)
    ids, mask = torch.zeros(len(lengths), width, dtype=torch.long), torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        ids[row, width - length :] = torch.randint(1, 40, (length,))
        mask[row, width - length :] = 1
    return {"input_ids": ids, "attention_mask": mask}
