"""The LyricGPT model. Importing this package registers it with transformers' Auto classes.

After `import modeling_lyricgpt`, `AutoConfig`, `AutoModel` and `AutoModelForCausalLM` know the model type `lyricgpt`
without `trust_remote_code`, and `save_pretrained` puts the model's code beside its weights.
"""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from .configuration_lyricgpt import LyricGPTConfig
from .modeling_lyricgpt import LyricGPTForCausalLM, LyricGPTModel, LyricGPTPreTrainedModel

AutoConfig.register(LyricGPTConfig.model_type, LyricGPTConfig)
AutoModel.register(LyricGPTConfig, LyricGPTModel)
AutoModelForCausalLM.register(LyricGPTConfig, LyricGPTForCausalLM)

# From here on, `save_pretrained` copies the code files and writes the `auto_map` that finds them.
LyricGPTConfig.register_for_auto_class()
LyricGPTModel.register_for_auto_class("AutoModel")
LyricGPTForCausalLM.register_for_auto_class("AutoModelForCausalLM")

__all__ = ["LyricGPTConfig", "LyricGPTForCausalLM", "LyricGPTModel", "LyricGPTPreTrainedModel"]
