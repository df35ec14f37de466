"""transformers' model suites on both variants, and on GPT-2 as the reference.

`ModelTesterMixin` (saving, loading, gradients, attention implementations, outputs, resizing, plans, rotary scaling),
`TrainingTesterMixin` (a tiny model must overfit) and `ConfigTester` run unchanged.
`python tests/upstream/counts.py` prints the results side by side.
"""

import unittest

import torch
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model
from transformers_tests import test_modeling_common
from transformers_tests.generation.test_utils import GenerationTesterMixin
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin, ids_tensor, random_attention_mask
from transformers_tests.test_training_mixin import TrainingTesterMixin

from modeling_lyricgpt import LyricGPTConfig, LyricGPTForCausalLM, LyricGPTModel


class TinyModel:
    """Gives the suites a tiny configuration and a batch for it."""

    batch_size = 13
    seq_length = 7
    vocab_size = 99
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    is_training = True

    def __init__(self, config_class, causal_lm_class, **values):
        self.config_class = config_class
        self.causal_lm_class = causal_lm_class
        self.values = values

    def get_config(self):
        special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), self.vocab_size - 1)
        return self.config_class(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            max_position_embeddings=64,  # the training suite needs this many
            **special,
            **self.values,
        )

    def prepare_config_and_inputs_for_common(self):
        shape = [self.batch_size, self.seq_length]
        inputs = {"input_ids": ids_tensor(shape, self.vocab_size), "attention_mask": random_attention_mask(shape)}
        return self.get_config(), inputs


class Suites(ModelTesterMixin, GenerationTesterMixin, TrainingTesterMixin):
    """The suites for one model. Subclasses set the model."""

    tiny_model = None
    model_tester = property(lambda self: self.tiny_model)

    def setUp(self):
        # Weights and inputs are random: with a seed, a failure can be reproduced.
        torch.manual_seed(0)
        test_modeling_common.global_rng.seed(0)

    def test_config(self):
        values = {"initializer_range": 0.03, **self.tiny_model.values}
        ConfigTester(self, config_class=self.tiny_model.config_class, **values).run_common_tests()


class GPT2Test(Suites, unittest.TestCase):
    tiny_model = TinyModel(GPT2Config, GPT2LMHeadModel)
    all_model_classes = (GPT2Model, GPT2LMHeadModel)


class LyricGPTSuites(Suites):
    all_model_classes = (LyricGPTModel, LyricGPTForCausalLM)
    reference = GPT2Test
    justified_skips = {}  # name: reason. Empty, because GPT-2 skips whatever LyricGPT skips


class ClassicTest(LyricGPTSuites, unittest.TestCase):
    tiny_model = TinyModel(LyricGPTConfig, LyricGPTForCausalLM, variant="classic")


class ModernTest(LyricGPTSuites, unittest.TestCase):
    tiny_model = TinyModel(LyricGPTConfig, LyricGPTForCausalLM, variant="modern")
