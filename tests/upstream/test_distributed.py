"""transformers' suites of sharded models on both variants: tensor parallelism, and FSDP 2 with its checkpoints.

Each test starts two processes and compares what they compute together with what one computes alone. Minutes long. Skipped:
what is about experts, what needs four cores on fewer, and what needs torchao. GPT-2, which has no tensor parallel plan, is
no reference here.
"""

import unittest

import pytest
from transformers_tests import test_fsdp_mixin, test_tensor_parallel_mixin

from modeling_lyricgpt import LyricGPTConfig, LyricGPTForCausalLM, LyricGPTModel

from .test_models import TinyModel

pytestmark = pytest.mark.slow

# transformers runs these on a few representative architectures only; ours asks to be one of them.
test_fsdp_mixin.FSDP_DISTRIBUTED_TEST_MODEL_TYPES.add(LyricGPTConfig.model_type)
test_tensor_parallel_mixin.TP_DISTRIBUTED_TEST_MODEL_TYPES.add(LyricGPTConfig.model_type)

# Dropout draws other numbers on a shard than on the whole.
NO_DROPOUT = {"attention_dropout": 0.0, "hidden_dropout": 0.0}


class Suites(test_tensor_parallel_mixin.TensorParallelTesterMixin, test_fsdp_mixin.FSDPTesterMixin):
    """The suites of one model; a subclass names the variant."""

    all_model_classes = (LyricGPTModel, LyricGPTForCausalLM)
    tiny_model = None
    model_tester = property(lambda self: self.tiny_model)


class ClassicDistributedTest(Suites, unittest.TestCase):
    tiny_model = TinyModel(LyricGPTConfig, LyricGPTForCausalLM, variant="classic", **NO_DROPOUT)


class ModernDistributedTest(Suites, unittest.TestCase):
    tiny_model = TinyModel(LyricGPTConfig, LyricGPTForCausalLM, variant="modern", **NO_DROPOUT)
