"""Prepares pytest for transformers' suites, and allows our models to skip only the tests that GPT-2 skips too.

Notes:
- Without the suites, the files that need them are not collected, and `test_archive.py` fails with the reason.
- The suites skip what a model does not seem to support, so a model could pass by declaring little. Therefore, when a test of
  ours skips, the same test is run on GPT-2 and must skip there too. So if nothing fails, our models pass every test that
  GPT-2 passes.
"""

import sys
import unittest

import pytest
from transformers.models.auto import modeling_auto

from modeling_lyricgpt import LyricGPTConfig, LyricGPTModel

from .archive import SuitesUnavailableError, fetch_suites

# The suites look up class names here, but `AutoModel.register` does not add ours: it is for transformers' own models.
modeling_auto.MODEL_MAPPING_NAMES[LyricGPTConfig.model_type] = LyricGPTModel.__name__

try:
    sys.path.append(str(fetch_suites()))
except SuitesUnavailableError:
    collect_ignore = ["test_distributed.py", "test_models.py", "test_tokenizers.py"]

MARKERS = (
    "accelerate_tests",
    "flash_attn_test",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "is_fsdp_test",
    "is_tensor_parallel_test",
    "is_training_test",
    "torch_compile_test",
)


def pytest_configure(config):
    for marker in MARKERS:
        config.addinivalue_line("markers", f"{marker}: transformers' own")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    reference = getattr(item.cls, "reference", None)
    if report.skipped and reference is not None and item.name not in item.cls.justified_skips:
        result = unittest.TestResult()
        reference(item.name).run(result)
        if not result.skipped:
            report.outcome = "failed"
            report.longrepr = f"skipped, though {reference.__name__} does not skip it: {report.longrepr}"
    return report
