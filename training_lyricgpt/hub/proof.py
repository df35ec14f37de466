"""Proves that a published model loads: in a fresh process that cannot import this project and has an empty cache.

That process computes logits for a text, and they are compared with those of this process.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from huggingface_hub import get_token

from .. import LyricGPTError
from ..model.loading import load_run
from ..model.stock import TOLERANCE

PROGRAM = Path(__file__).with_name("proof_program.py")
# Variables besides HF_HOME that can point to a cache.
CACHES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE", "HF_MODULES_CACHE", "HF_XET_CACHE")


def prove(source: str, revision: str | None, run: Path, trust: bool = True) -> str:
    """Loads a published model in a fresh process and compares it with the run; returns a song that it wrote.

    Args:
        trust: Whether the code beside the weights may run. A stock model has none.

    Raises:
        LyricGPTError: it does not load, or does not compute the same.
    """
    model, tokenizer = load_run(str(run))
    text = tokenizer.alphabet[: model.config.max_position_embeddings]
    ids = tokenizer(text, return_tensors="pt", split_special_tokens=True).input_ids
    with torch.no_grad():
        logits = model(ids).logits[0, -1]
    with tempfile.TemporaryDirectory(prefix="lyricgpt-proof-") as home:
        # With an empty HF_HOME and without these variables, no cache is used.
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("PYTHON") and name not in CACHES
        }
        environment["HF_HOME"] = home
        if (token := get_token()) is not None:  # which `hf auth login` keeps in the real HF_HOME
            environment["HF_TOKEN"] = token
        result = subprocess.run(
            [sys.executable, "-I", PROGRAM, source, revision or "", "trust" if trust else "", text],
            env=environment,
            cwd=home,
            capture_output=True,
            text=True,
        )
    if result.returncode:
        descriptor, log = tempfile.mkstemp(prefix="lyricgpt-proof-", suffix=".log")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(result.stderr)
        said = (result.stderr.strip().splitlines() or [f"it ended with status {result.returncode}"])[-1]
        again = "; if the network failed, run the same command again, which only repeats this check" if revision else ""
        raise LyricGPTError(f"{source} does not load in a fresh process: {said} (details in {log}){again}")
    proof = json.loads(result.stdout.splitlines()[-1])
    difference = (torch.tensor(proof["logits"]) - logits).abs().max() / logits.abs().max()
    if proof["ids"] != ids[0].tolist() or not difference <= TOLERANCE:
        raise LyricGPTError(
            f"{source} loads, but gives other results than {run} (logits differ by {difference:.1e} of the largest). Don't use "
            "it: run the same command again, with the versions of torch and transformers in constraints.txt"
        )
    return proof["song"]
