"""Proves that a published model loads: in a fresh process that cannot import this project and has an empty cache.

It computes logits of a text, which are compared with this process's.
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
# Where a cache may lie besides HF_HOME.
CACHES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE", "HF_MODULES_CACHE", "HF_XET_CACHE")


def prove(source: str, revision: str | None, run: Path, trust: bool = True) -> str:
    """Loads a published model in a fresh process and compares it with the run; returns what it sang.

    Args:
        trust: Whether the code beside the weights may run; the stock needs none.

    Raises:
        LyricGPTError: it does not load, or does not compute the same.
    """
    model, tokenizer = load_run(str(run))
    text = tokenizer.alphabet[: model.config.max_position_embeddings]
    ids = tokenizer(text, return_tensors="pt", split_special_tokens=True).input_ids
    with torch.no_grad():
        logits = model(ids).logits[0, -1]
    with tempfile.TemporaryDirectory(prefix="lyricgpt-proof-") as home:
        # An empty HF_HOME leaves every cache out of the way.
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
        again = "; if the network failed, run the same command again: it only loads it then" if revision else ""
        raise LyricGPTError(f"{source} does not load in a fresh process: {said} (more in {log}){again}")
    proof = json.loads(result.stdout.splitlines()[-1])
    difference = (torch.tensor(proof["logits"]) - logits).abs().max() / logits.abs().max()
    if proof["ids"] != ids[0].tolist() or not difference <= TOLERANCE:
        raise LyricGPTError(
            f"{source} loads, but computes something else (logits differ by {difference:.1e} of the largest)"
        )
    return proof["song"]
