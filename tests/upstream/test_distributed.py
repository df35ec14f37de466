"""transformers' suites for sharded models on both variants: tensor parallelism, and FSDP 2 with its checkpoints.

Each test starts two processes and compares their result with that of one process. They take minutes. Tests of experts and
tests that need torchao are skipped, and on fewer than four cores those that need four. GPT-2 is no reference here, because
it has no tensor parallel plan.
"""

import unittest

import pytest
from transformers_tests import test_fsdp_mixin, test_tensor_parallel_mixin

from modeling_lyricgpt import LyricGPTConfig, LyricGPTForCausalLM, LyricGPTModel

from .test_models import TinyModel

pytestmark = pytest.mark.slow

# transformers runs these on a few architectures only. This adds ours to them.
test_fsdp_mixin.FSDP_DISTRIBUTED_TEST_MODEL_TYPES.add(LyricGPTConfig.model_type)
test_tensor_parallel_mixin.TP_DISTRIBUTED_TEST_MODEL_TYPES.add(LyricGPTConfig.model_type)

# Dropout draws different numbers on a shard than on the whole model.
NO_DROPOUT = {"attention_dropout": 0.0, "hidden_dropout": 0.0}


class Suites(test_tensor_parallel_mixin.TensorParallelTesterMixin, test_fsdp_mixin.FSDPTesterMixin):
    """The suites for one model. Subclasses set the variant."""

    all_model_classes = (LyricGPTModel, LyricGPTForCausalLM)
    tiny_model = None
    model_tester = property(lambda self: self.tiny_model)


class ClassicDistributedTest(Suites, unittest.TestCase):
    tiny_model = TinyModel(LyricGPTConfig, LyricGPTForCausalLM, variant="classic", **NO_DROPOUT)


class ModernDistributedTest(Suites, unittest.TestCase):
    tiny_model = TinyModel(LyricGPTConfig, LyricGPTForCausalLM, variant="modern", **NO_DROPOUT)
