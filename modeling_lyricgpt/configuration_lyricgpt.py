"""Configuration of LyricGPT: one class, two variants.

Notes:
- `variant="classic"` is the original notebook's character GPT: learned positions, LayerNorm, ReLU, dropout 0.2.
- `variant="modern"` is a current design: rotary positions, RMSNorm, query/key norm, SwiGLU, a sliding window.
- A field that is `None` gets the variant's default, so `LyricGPTConfig(variant="modern")` is complete.
- nanoGPT's names (`n_embd`, `n_layer`, `n_head`, `block_size`) work as aliases of transformers' names.
"""

from .compat_lyricgpt import RELEASE, PreTrainedConfig

VARIANTS = ("classic", "modern")


def swiglu_width(hidden_size: int) -> int:
    """Returns the width, a multiple of 8, with which SwiGLU is about as large as an MLP of width `4 * hidden_size`."""
    return max(8, round(8 * hidden_size / 3 / 8) * 8)


class LyricGPTConfig(PreTrainedConfig):
    """Configuration of a LyricGPT model. The defaults are those of the original notebook's model (10.8M parameters).

    Args:
        variant: `"classic"` or `"modern"`.
        vocab_size: Size of the alphabet, including special tokens.
        hidden_size: Width of the residual stream; a multiple of `num_attention_heads`.
        num_hidden_layers: Number of decoder layers.
        num_attention_heads: Number of attention heads.
        max_position_embeddings: Number of characters in a training window (nanoGPT's `block_size`). Songs can be
            longer.
        intermediate_size: Width inside the MLP. Default: `4 * hidden_size` (`classic`), or the SwiGLU width with the
            same number of parameters (`modern`).
        hidden_act: Activation inside the MLP. Default: `"relu"` (`classic`), `"silu"` (`modern`).
        attention_dropout: Dropout of the attention weights. Default: 0.2 (`classic`), 0.0 (`modern`).
        hidden_dropout: Dropout of both residual branches. Default: 0.2 (`classic`), 0.0 (`modern`).
        norm_eps: Epsilon of LayerNorm and RMSNorm.
        initializer_range: Standard deviation of the normal initialization.
        sliding_window: Number of characters that a `modern` layer attends to, including the current one. Default: half
            of `max_position_embeddings`, so that the window slides in training as it does in generation. Unused by
            `classic`.
        layer_types: Attention type of each layer. Default: given by the variant.

    Raises:
        ValueError: unknown variant, heads that do not divide the width, or a window larger than the block.
    """

    model_type = "lyricgpt"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]
    attribute_map = {
        "n_embd": "hidden_size",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "block_size": "max_position_embeddings",
    }
    base_model_tp_plan = {
        "layers.*.self_attn.q_proj": "colwise",
        "layers.*.self_attn.k_proj": "colwise",
        "layers.*.self_attn.v_proj": "colwise",
        "layers.*.self_attn.q_norm": "replicated_with_grad_allreduce",
        "layers.*.self_attn.k_norm": "replicated_with_grad_allreduce",
        "layers.*.self_attn.o_proj": "rowwise",
        "layers.*.mlp.gate_proj": "colwise",
        "layers.*.mlp.up_proj": "colwise",
        "layers.*.mlp.down_proj": "rowwise",
    }
    base_model_pp_plan = {
        "embed_tokens": (["input_ids"], ["inputs_embeds"]),
        "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
        "norm": (["hidden_states"], ["hidden_states"]),
    }

    # Written by hand, because transformers turns configurations into dataclasses only since 5.4.
    def __init__(
        self,
        variant: str = "classic",
        vocab_size: int = 77,
        hidden_size: int = 384,
        num_hidden_layers: int = 6,
        num_attention_heads: int = 6,
        max_position_embeddings: int = 256,
        intermediate_size: int | None = None,
        hidden_act: str | None = None,
        attention_dropout: float | None = None,
        hidden_dropout: float | None = None,
        norm_eps: float = 1e-5,
        initializer_range: float = 0.02,
        sliding_window: int | None = None,
        layer_types: list[str] | None = None,
        rope_parameters: dict | None = None,
        use_cache: bool = True,
        tie_word_embeddings: bool = False,
        bos_token_id: int | None = None,
        eos_token_id: int | list[int] | None = None,
        pad_token_id: int | None = None,
        **kwargs,
    ):
        self.variant = variant
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.max_position_embeddings = max_position_embeddings
        self.intermediate_size = intermediate_size
        self.hidden_act = hidden_act
        self.attention_dropout = attention_dropout
        self.hidden_dropout = hidden_dropout
        self.norm_eps = norm_eps
        self.initializer_range = initializer_range
        self.sliding_window = sliding_window
        self.layer_types = layer_types
        self.use_cache = use_cache
        for alias in self.attribute_map:  # before anything is derived from the fields
            if alias in kwargs:
                setattr(self, alias, kwargs.pop(alias))
        if self.variant not in VARIANTS:
            raise ValueError(f"variant is {self.variant!r}; it must be one of {', '.join(VARIANTS)}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not divisible by num_attention_heads {self.num_attention_heads}; "
                f"choose a hidden_size that is a multiple of {self.num_attention_heads}"
            )
        modern = self.variant == "modern"
        if self.intermediate_size is None:
            self.intermediate_size = swiglu_width(self.hidden_size) if modern else 4 * self.hidden_size
        if self.hidden_act is None:
            self.hidden_act = "silu" if modern else "relu"
        if self.attention_dropout is None:
            self.attention_dropout = 0.0 if modern else 0.2
        if self.hidden_dropout is None:
            self.hidden_dropout = 0.0 if modern else 0.2
        if modern:
            if self.hidden_size // self.num_attention_heads % 2:
                raise ValueError(
                    f"hidden_size {self.hidden_size} / num_attention_heads {self.num_attention_heads} is odd, but rotary "
                    f"positions need an even number; choose a hidden_size that is a multiple of {2 * self.num_attention_heads}"
                )
            if self.sliding_window is None:
                self.sliding_window = max(2, self.max_position_embeddings // 2)
            # transformers' sliding caches treat a window of 1 as unlimited.
            if not 2 <= self.sliding_window <= self.max_position_embeddings:
                raise ValueError(
                    f"sliding_window is {self.sliding_window}; it must be between 2 and max_position_embeddings "
                    f"({self.max_position_embeddings})"
                )
            # Only `modern` has rotary positions: `classic` must not even have the attribute. The older name comes from
            # configurations that transformers 4 wrote.
            self.rope_parameters = rope_parameters or kwargs.pop("rope_scaling", None) or {}
            self.rope_parameters = {"rope_type": "default", "rope_theta": 10_000.0} | self.rope_parameters
            if RELEASE.major < 5:  # where transformers 4 looks for them
                self.rope_theta, self.rope_scaling = self.rope_parameters["rope_theta"], self.rope_parameters
        else:
            self.sliding_window = None
            # Parallel plans must name only modules that exist, and `classic` does not have these three.
            self.base_model_tp_plan = {
                name: style
                for name, style in self.base_model_tp_plan.items()
                if not name.endswith(("q_norm", "k_norm", "gate_proj"))
            }
        if self.layer_types is None:
            self.layer_types = ["sliding_attention" if modern else "full_attention"] * self.num_hidden_layers
        # Always declare all three classes: `save_pretrained` alone would name only the class that it is called on.
        kwargs.setdefault(
            "auto_map",
            {
                "AutoConfig": "configuration_lyricgpt.LyricGPTConfig",
                "AutoModel": "modeling_lyricgpt.LyricGPTModel",
                "AutoModelForCausalLM": "modeling_lyricgpt.LyricGPTForCausalLM",
            },
        )
        super().__init__(
            tie_word_embeddings=tie_word_embeddings,
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            pad_token_id=pad_token_id,
            **kwargs,
        )


__all__ = ["LyricGPTConfig"]
