"""transformers' suites can be downloaded, and our models pass at least what GPT-2 passes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .archive import PACKAGE, fetch_suites


def test_the_suites_of_the_installed_transformers_are_fetched():
    assert (fetch_suites() / PACKAGE / "test_modeling_common.py").is_file()


@pytest.mark.slow
def test_both_variants_pass_at_least_what_gpt2_passes():
    command = [sys.executable, Path(__file__).with_name("counts.py")]
    # It must not take itself for a worker of this pytest session.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)
    assert result.returncode == 0, result.stdout + result.stderr
