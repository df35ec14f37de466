"""Lists the fields that LyricGPT reads from the settings files that transformers writes. All other fields are dropped."""

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from ..record_types import Share, typed

Size = Annotated[int, Field(ge=1, lt=2**31)]
Id = Annotated[int, Field(ge=0, lt=2**31)]
Positive = Annotated[float, Field(gt=0, le=1e30)]


@typed
class Rope(TypedDict, total=False):
    """Settings of rotary positions, and how they are stretched to longer texts."""

    rope_type: Literal["default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional"]
    rope_theta: Positive
    factor: Positive
    partial_rotary_factor: Positive
    original_max_position_embeddings: Size
    attention_factor: Positive | None
    beta_fast: Positive
    beta_slow: Positive
    low_freq_factor: Positive
    high_freq_factor: Positive
    mscale: Positive
    mscale_all_dim: Positive
    truncate: bool
    short_factor: list[Positive]
    long_factor: list[Positive]


@typed
class ModelSettings(TypedDict, total=False):
    """`config.json`: arguments of `LyricGPTConfig`."""

    variant: Literal["classic", "modern"]
    vocab_size: Size
    hidden_size: Size
    num_hidden_layers: Size
    num_attention_heads: Size
    max_position_embeddings: Size
    intermediate_size: Size | None
    hidden_act: Annotated[str, Field(pattern="^[a-z0-9_]{1,40}$")] | None
    attention_dropout: Share | None
    hidden_dropout: Share | None
    norm_eps: Positive
    initializer_range: Annotated[float, Field(ge=0, le=1e30)]
    sliding_window: Size | None
    layer_types: list[Literal["full_attention", "sliding_attention"]] | None
    rope_parameters: Rope | None
    rope_scaling: Rope | None  # the name of rope_parameters in transformers 4
    use_cache: bool
    tie_word_embeddings: bool
    bos_token_id: Id | None
    eos_token_id: Id | list[Id] | None
    pad_token_id: Id | None
    dtype: Literal["float64", "float32", "float16", "bfloat16"] | None


@typed
class GenerationSettings(TypedDict, total=False):
    """`generation_config.json`: how songs are sampled."""

    do_sample: bool
    temperature: Positive | None
    top_k: Id | None
    top_p: Annotated[Share, Field(gt=0)] | None
    min_p: Share | None
    typical_p: Annotated[Share, Field(gt=0)] | None
    repetition_penalty: Positive | None
    no_repeat_ngram_size: Id | None
    max_new_tokens: Size | None
    min_new_tokens: Id | None
    suppress_tokens: list[Id] | None
    bos_token_id: Id | None
    eos_token_id: Id | list[Id] | None
    pad_token_id: Id | None


@typed
class Vocabulary(TypedDict):
    vocab: dict[str, Id]


@typed
class TokenizerFile(TypedDict):
    """`tokenizer.json`."""

    model: Vocabulary


@typed
class TokenizerSettings(TypedDict, total=False):
    """`tokenizer_config.json`."""

    song_template: Annotated[str, Field(max_length=4000)] | None


@typed
class WeightsIndex(TypedDict):
    """`model.safetensors.index.json`: which file contains which tensor."""

    weight_map: dict[str, Annotated[str, Field(pattern=r"^[\w-][\w.-]*\.safetensors$")]]
