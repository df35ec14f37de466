"""Tries a published model with many releases of transformers: `python tests/releases.py [RELEASE …]` prints a table.

Notes:
- pip installs each release into its own folder (`.venv/releases/5.0.0`), without its dependencies. A dependency goes into that
  folder too if the release does not accept the version in this environment (`huggingface_hub`, `tokenizers`).
- `release_probe.py` reads a bare copy of a run folder, in a process that has that folder before site-packages and cannot import
  this project. Its songs are compared with the right ones: characters chosen one by one from plain forward passes with the
  project's own classes, without a cache or transformers' `generate`.
- Without arguments, it tries 4.57.6 and the latest patch of every minor release since 5.0 in the package index.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import torch
from filelock import FileLock
from packaging.requirements import Requirement
from packaging.version import Version

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from modeling_lyricgpt import LyricGPTForCausalLM  # noqa: E402
from tokenization_lyricgpt import LyricGPTTokenizer  # noqa: E402

# Tiny run folders of both variants, written before `compat_lyricgpt.py` existed.
FIXTURES = PROJECT / "tests" / "fixtures"
VARIANTS = ("classic", "modern")
LOGITS = "logits.safetensors"  # recorded when the weights were saved; not part of a run folder

# The oldest and the newest release, and those in which something changed. `make test-slow` tries these.
PINNED = ("4.57.6", "5.0.0", "5.3.0", "5.4.0", "5.19.0", "5.23.0", "5.24.0")

PROMPTS = ["I walked", "The wind and the rain came over the hill, and", "O"]
TEXT = "I walked along the road"
LENGTH, BEAMS = 600, 120

# The answers that must all be the first prompt's song, and those that must be one song for each prompt.
SAME_SONG = ("uncached", "as a dictionary", "streamer", "pipeline", "saved and loaded")
SAME_SONGS = ("alone", "batch", "uncached batch", "batch as a dictionary")


def pip(*arguments: str) -> str:
    """Runs pip and returns its output. Raises `RuntimeError` with pip's message if it fails."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if result.returncode:
        raise RuntimeError(f"pip {' '.join(arguments)}:\n{result.stderr.strip()}")
    return result.stdout


def all_minors() -> list[str]:
    """4.57.6, then the latest patch of every minor release since 5.0, oldest first."""
    listed = re.search(r"Available versions: (.*)", pip("index", "versions", "transformers")).group(1).split(", ")
    latest = {}
    for version in sorted(map(Version, listed)):
        if version.major >= 5 and not version.is_prerelease:
            latest[version.release[:2]] = str(version)
    return ["4.57.6", *latest.values()]


def install(release: str, root: Path) -> Path:
    """The folder of a release, which is installed on first use (seconds, 60 MB)."""
    folder = root / release
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f"{release}.lock"):
        if not (folder / ".complete").exists():
            shutil.rmtree(folder, ignore_errors=True)  # left by an interrupted installation
            waiting = [Requirement(f"transformers=={release}")]
            while waiting:
                need = waiting.pop(0)  # breadth first, so that transformers' own requirements count first
                if is_met(need, folder):
                    continue
                wanted = f"{need.name}{need.specifier}"
                pip("install", "--quiet", "--no-deps", "--no-compile", "--target", str(folder), wanted)
                (installed,) = metadata.distributions(name=need.name, path=[str(folder)])
                waiting += map(Requirement, installed.requires or [])
            (folder / ".complete").touch()
    return folder


def is_met(need: Requirement, folder: Path) -> bool:
    """Whether a dependency is optional, in the folder already, or in this environment in a version that fits."""
    if need.marker is not None and not need.marker.evaluate({"extra": ""}):
        return True
    if any(metadata.distributions(name=need.name, path=[str(folder)])):
        return True
    try:
        return need.name != "transformers" and need.specifier.contains(metadata.version(need.name), prereleases=True)
    except metadata.PackageNotFoundError:
        return False


def request(folder: Path, **values: object) -> dict:
    """The request to `release_probe.py` about a run folder."""
    asked = {"folder": str(folder), "prompts": PROMPTS, "text": TEXT, "length": LENGTH, "beams": BEAMS}
    return asked | values


def probe(release: Path | str, asked: dict) -> dict:
    """The answer of `release_probe.py`, or `{"error": …}` with the last line of its errors."""
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-I", PROJECT / "tests" / "release_probe.py", str(release), json.dumps(asked)]
        environment = os.environ | {"HF_HOME": home, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": f"{home}/modules"}
        result = subprocess.run(command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)
    lines = result.stderr.strip().split("\n")
    return json.loads(result.stdout) if result.returncode == 0 else {"error": lines[-1], "traceback": result.stderr}


@torch.no_grad()
def right_song(model: LyricGPTForCausalLM, ids: torch.Tensor, length: int, ngram: int) -> list[int]:
    """Writes the likeliest ids one by one, each from a forward pass over all of the text that the model may see.

    Args:
        ids: The prompt, `(T,)`.
        ngram: The text never repeats a run of this many characters. 0 allows repetition.
    """
    ids = ids.tolist()
    block_size = model.config.max_position_embeddings
    for _ in range(length):
        start = 0
        if model.config.variant == "classic" and len(ids) > block_size:
            stride = block_size // 2
            start = -(-(len(ids) - block_size) // stride) * stride
        logits = model(torch.tensor([ids[start:]])).logits[0, -1]
        logits[:3] = -torch.inf  # the special tokens
        if ngram:
            end = ids[len(ids) - ngram + 1 :]
            for place in range(len(ids) - ngram + 1):
                if ids[place : place + ngram - 1] == end:
                    logits[ids[place + ngram - 1]] = -torch.inf
        ids.append(int(logits.argmax()))
    return ids[-length:]


def right(folder: Path) -> dict:
    """The right logits and songs for a run folder, computed with the project's own classes."""
    model, tokenizer = LyricGPTForCausalLM.from_pretrained(folder).eval(), LyricGPTTokenizer.from_pretrained(folder)
    prompts = [torch.tensor(tokenizer(prompt).input_ids) for prompt in PROMPTS]
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer(TEXT).input_ids])).logits[0]
    inputs = {"input_ids": prompts[0][None], "attention_mask": torch.ones_like(prompts[0])[None]}
    beams = model.generate(
        **inputs, do_sample=False, num_beams=3, use_cache=False, max_new_tokens=BEAMS, suppress_tokens=[0, 1, 2]
    )
    return {
        "logits": logits,
        "songs": [tokenizer.decode(right_song(model, ids, LENGTH, ngram=6)) for ids in prompts],
        "plain": tokenizer.decode(right_song(model, prompts[0], LENGTH, ngram=0)),
        "beams": tokenizer.decode(beams[0, len(prompts[0]) :]),
    }


def wrong(found: dict, expected: dict) -> list[str]:
    """Names what a release got wrong. Empty if everything is right."""
    if "error" in found:
        return [found["error"]]
    logits = torch.tensor(found["logits"])
    names = []
    if (logits - expected["logits"]).abs().max() > 1e-5 * expected["logits"].abs().max():
        names.append("logits")
    names += [name for name in SAME_SONG if found[name] != expected["songs"][0]]
    names += [name for name in SAME_SONGS if found[name] != expected["songs"]]
    names += [name for name in ("plain", "prompt lookup") if found[name] != expected["plain"]]
    names += [name for name in ("beams", "beams in a batch") if found[name] != expected["beams"]]
    names += ["max_length"] if found["pipeline of 20"] != 20 else []
    names += ["empty prompts"] if found["empty prompts"] != [9, 10] else []
    return names


def bare_copy(variant: str, folder: Path) -> Path:
    """Makes a run folder as it would be published: a fixture's weights and settings with today's code."""
    folder.mkdir()
    code = [*PROJECT.glob("modeling_lyricgpt/*_lyricgpt.py"), *PROJECT.glob("tokenization_lyricgpt/*_lyricgpt.py")]
    for path in [*(FIXTURES / variant).iterdir(), *code]:
        if path.name != LOGITS:
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def row(release: str, variant: str, found: dict, expected: dict) -> str:
    """A line of the table."""
    if "error" in found:
        return f"{release:>8} {variant:8} {found['error']}"
    logits = (torch.tensor(found["logits"]) - expected["logits"]).abs().max() / expected["logits"].abs().max()
    marks = (
        found["plain"] == expected["plain"],
        found["batch"] == expected["songs"],
        found["uncached"] == expected["songs"][0],
        found["prompt lookup"] == expected["plain"],
        found["beams"] == expected["beams"],
        not wrong(found, expected),
    )
    loop = "ours" if found["own_loop"] else "theirs"
    noise = len(found["loading warnings"]) + len(found["warnings"]) + len(found["python warnings"])
    return (
        f"{release:>8} {variant:8} {logits:9.1e}"
        + "".join(f"{'right' if mark else 'WRONG':>10}" for mark in marks)
        + f"{loop:>10}{found['characters_per_second']:>10,.0f}{noise:>10}"
    )


HEADINGS = ("greedy", "batch", "no cache", "lookup", "beams", "all", "loop", "chars/s", "warnings")


def main(releases: list[str]) -> str | None:
    root = PROJECT / ".venv" / "releases"
    print(f"{'release':>8} {'variant':8} {'logits':>9}" + "".join(f"{heading:>10}" for heading in HEADINGS))
    failed, said = [], set()
    with tempfile.TemporaryDirectory() as temporary:
        folders = {variant: bare_copy(variant, Path(temporary) / variant) for variant in VARIANTS}
        expected = {variant: right(folder) for variant, folder in folders.items()}
        tasks = [(release, variant) for release in releases or all_minors() for variant in VARIANTS]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            answers = pool.map(lambda task: probe(install(task[0], root), request(folders[task[1]])), tasks)
            for (release, variant), found in zip(tasks, answers, strict=True):
                print(row(release, variant, found, expected[variant]), flush=True)
                if problems := wrong(found, expected[variant]):
                    failed.append(f"{release} {variant}: {', '.join(problems)}")
                for name in ("loading warnings", "warnings", "python warnings"):
                    for message in set(found.get(name, ())) - said:
                        said.add(message)
                        print(f"{'':18}{release} {name}: {message[:300]}")
    return "\n".join(failed) or None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
