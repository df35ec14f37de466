"""LyricGPT: a character-level GPT, written from scratch in transformers' idiom. One class, two variants.

Notes:
- `classic`: learned positions, pre-norm LayerNorm, ReLU MLP with biases, q/k/v without bias, dropout, a biased head.
- `modern`: rotary positions, RMSNorm, query/key norm, SwiGLU, no biases, a sliding window of half a block.
- Each computes the same as an architecture that comes with transformers (GPT-2 and Qwen3), so it can be exported as a
  stock model.
- Songs are longer than a block, so `generate` continues past it. The window of `modern` slides. `classic` has a table
  of positions, so its window jumps: each time it is full, it starts half a block later. Where it starts depends only on
  a row's own length without padding, so the characters are the same with or without a cache, alone or in a batch. The
  cost: the model sees only between half a block and a whole one. The gain: it reads each character about twice, instead
  of a whole block at every step.

`trust_remote_code` needs only this file and the other files in its folder.
"""

import math
from collections.abc import Callable
from inspect import signature

import torch
from torch import nn

from .compat_lyricgpt import (
    CACHE_NAME,
    CACHE_TAKES_BACK,
    arguments_by_name,
    cache_for_masks,
    capture_outputs,
    check_mask,
    declare_causal_lm,
    empty_cache,
    init,
    merge_with_config_defaults,
    names_of_every_release,
    refuse_unknown_tensors,
    take_cache,
    unsupported,
    update_cache,
    warn_of_unknown,
    warn_once,
)
from .configuration_lyricgpt import LyricGPTConfig
from .drafts_lyricgpt import NgramDrafts  # noqa: F401 - older releases of transformers copy only what this file imports
from .generation_lyricgpt import (
    SAMPLE_ARGUMENTS,
    StopSpellingCriteria,
    begin_songs,
    keep_max_length,
    knows_call,
    knows_model,
    sample,
)

with names_of_every_release():
    from transformers.activations import ACT2FN
    from transformers.cache_utils import Cache, DynamicCache
    from transformers.generation import GenerationMixin, MaxLengthCriteria
    from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
    from transformers.modeling_flash_attention_utils import FlashAttentionKwargs
    from transformers.modeling_layers import GradientCheckpointingLayer
    from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
    from transformers.processing_utils import Unpack
    from transformers.utils import TransformersKwargs, can_return_tuple


class LyricGPTRMSNorm(nn.Module):
    """Root mean square norm, computed in float32 (https://arxiv.org/abs/1910.07467)."""

    def __init__(self, hidden_size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.variance_epsilon = eps

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        input_dtype = hidden_states.dtype
        hidden_states = hidden_states.to(torch.float32)
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        hidden_states = hidden_states * torch.rsqrt(variance + self.variance_epsilon)
        return self.weight * hidden_states.to(input_dtype)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, eps={self.variance_epsilon}"


def build_norm(config: LyricGPTConfig) -> nn.Module:
    """The norm of the residual stream: RMSNorm (`modern`) or LayerNorm (`classic`)."""
    if config.variant == "modern":
        return LyricGPTRMSNorm(config.hidden_size, eps=config.norm_eps)
    return nn.LayerNorm(config.hidden_size, eps=config.norm_eps)


class LyricGPTRotaryEmbedding(nn.Module):
    """Cosines and sines of rotary positions, with all of transformers' scaling types (`config.rope_parameters`)."""

    def __init__(self, config: LyricGPTConfig):
        super().__init__()
        self.max_seq_len_cached = config.max_position_embeddings
        self.original_max_seq_len = config.max_position_embeddings
        self.config = config
        self.rope_type = config.rope_parameters["rope_type"]
        rope_init_fn: Callable = self.compute_default_rope_parameters
        if self.rope_type != "default":
            rope_init_fn = ROPE_INIT_FUNCTIONS[self.rope_type]
        inv_freq, self.attention_scaling = rope_init_fn(config, device=None)
        self.inv_freq = nn.Buffer(inv_freq, persistent=False)
        self.original_inv_freq = nn.Buffer(inv_freq.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(config: LyricGPTConfig, **kwargs) -> tuple[torch.Tensor, float]:
        """Inverse frequencies `(head_dim / 2,)` and the attention factor (1.0) of unscaled rotary positions."""
        head_dim = config.hidden_size // config.num_attention_heads
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float) / head_dim
        return 1.0 / (config.rope_parameters["rope_theta"] ** exponents), 1.0

    @torch.no_grad()
    @dynamic_rope_update
    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        freqs = position_ids[..., None].float() * self.inv_freq.to(device=x.device, dtype=torch.float)
        emb = torch.cat((freqs, freqs), dim=-1)  # (B, T, head_dim)
        cos = emb.cos() * self.attention_scaling
        sin = emb.sin() * self.attention_scaling
        return cos.to(dtype=x.dtype), sin.to(dtype=x.dtype)


def rotate_half(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def apply_rotary_pos_emb(
    query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotates query and key `(B, heads, T, head_dim)` by cos and sin `(B, T, head_dim)`."""
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return query * cos + rotate_half(query) * sin, key * cos + rotate_half(key) * sin


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention written out: the reference for the other implementations, and the one that returns its weights."""
    attn_weights = torch.matmul(query, key.transpose(2, 3)) * scaling  # (B, heads, T, T_past + T)
    if attention_mask is not None:
        attn_weights = attn_weights + attention_mask
    precision = torch.promote_types(query.dtype, torch.float32)
    attn_weights = nn.functional.softmax(attn_weights, dim=-1, dtype=precision).to(query.dtype)
    attn_weights = nn.functional.dropout(attn_weights, p=dropout, training=module.training)
    attn_output = torch.matmul(attn_weights, value).transpose(1, 2).contiguous()  # (B, T, heads, head_dim)
    return attn_output, attn_weights


class LyricGPTAttention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: LyricGPTConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.layer_type = config.layer_types[layer_idx]
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.is_causal = True
        self.sliding_window = config.sliding_window if self.layer_type == "sliding_attention" else None
        modern = config.variant == "modern"

        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=not modern)
        self.o_proj.joins_residual = True
        if modern:
            self.q_norm = LyricGPTRMSNorm(self.head_dim, eps=config.norm_eps)
            self.k_norm = LyricGPTRMSNorm(self.head_dim, eps=config.norm_eps)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        cache_position: torch.Tensor | None = None,
        **kwargs: Unpack[FlashAttentionKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        input_shape = hidden_states.shape[:-1]
        hidden_shape = (*input_shape, -1, self.head_dim)

        query = self.q_proj(hidden_states).view(hidden_shape)  # (B, T, heads, head_dim)
        key = self.k_proj(hidden_states).view(hidden_shape)
        value = self.v_proj(hidden_states).view(hidden_shape).transpose(1, 2)
        if position_embeddings is None:
            query, key = query.transpose(1, 2), key.transpose(1, 2)  # (B, heads, T, head_dim)
        else:
            query, key = self.q_norm(query).transpose(1, 2), self.k_norm(key).transpose(1, 2)
            query, key = apply_rotary_pos_emb(query, key, *position_embeddings)

        if past_key_values is not None:
            key, value = update_cache(past_key_values, key, value, self.layer_idx, cache_position)

        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get(
            self.config._attn_implementation, eager_attention_forward
        )
        attn_output, attn_weights = attention_interface(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            sliding_window=self.sliding_window,
            **kwargs,
        )
        attn_output = attn_output.reshape(*input_shape, -1).contiguous()  # (B, T, hidden_size)
        return self.o_proj(attn_output), attn_weights


class LyricGPTMLP(nn.Module):
    """SwiGLU (`modern`, https://arxiv.org/abs/2002.05202) or a plain two-layer perceptron (`classic`)."""

    def __init__(self, config: LyricGPTConfig):
        super().__init__()
        modern = config.variant == "modern"
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False) if modern else None
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=not modern)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=not modern)
        self.down_proj.joins_residual = True
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.gate_proj is None:
            return self.down_proj(self.act_fn(self.up_proj(hidden_states)))
        return self.down_proj(self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class LyricGPTDecoderLayer(GradientCheckpointingLayer):
    """Pre-norm attention and MLP, each with dropout before it joins the residual stream."""

    def __init__(self, config: LyricGPTConfig, layer_idx: int):
        super().__init__()
        self.self_attn = LyricGPTAttention(config, layer_idx)
        self.mlp = LyricGPTMLP(config)
        self.input_layernorm = build_norm(config)
        self.post_attention_layernorm = build_norm(config)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        attn_output, _ = self.self_attn(
            hidden_states=self.input_layernorm(hidden_states),
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_embeddings=position_embeddings,
            **kwargs,
        )
        hidden_states = hidden_states + self.dropout(attn_output)
        return hidden_states + self.dropout(self.mlp(self.post_attention_layernorm(hidden_states)))


class LyricGPTPreTrainedModel(PreTrainedModel):
    """Initialisation, and what transformers has to know about the architecture."""

    config: LyricGPTConfig
    config_class = LyricGPTConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["LyricGPTDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values", "cache"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _can_compile_fullgraph = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": LyricGPTDecoderLayer, "attentions": LyricGPTAttention}

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        # By default, transformers searches the text of this file for the code with which its own models choose an attention
        # function. This file spells that code differently, so transformers would not allow other functions.
        return True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if getattr(module, "joins_residual", False) and self.config.variant == "modern":
            # Two residual branches per layer add up. GPT-2's scaling keeps the variance from growing with them.
            # transformers calls this only with modules that have parameters of their own, so those are marked.
            std = self.config.initializer_range / math.sqrt(2 * self.config.num_hidden_layers)
            init.normal_(module.weight, mean=0.0, std=std)
        else:
            super()._init_weights(module)


class LyricGPTModel(LyricGPTPreTrainedModel):
    """The decoder without a head: characters in, hidden states out."""

    # The checkpoint of a causal model has a head, which this model does not use.
    _keys_to_ignore_on_load_unexpected = [r"^lm_head\."]

    def __init__(self, config: LyricGPTConfig):
        super().__init__(config)
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        if config.variant == "modern":
            self.rotary_emb = LyricGPTRotaryEmbedding(config)
        else:
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList([LyricGPTDecoderLayer(config, index) for index in range(config.num_hidden_layers)])
        self.norm = build_norm(config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        cache: Cache | None = None,  # the name of past_key_values from 5.24 on
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPast:
        """Returns hidden states `(B, T, hidden_size)` for `input_ids` `(B, T)` or `inputs_embeds` `(B, T, hidden_size)`.

        Raises:
            ValueError: both or neither input is given, or a `classic` model gets more characters than it has positions.
        """
        if (input_ids is None) ^ (inputs_embeds is not None):
            raise ValueError("You must specify exactly one of input_ids or inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        past_key_values = take_cache(kwargs, past_key_values, cache)
        warn_of_unknown(kwargs)
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            use_cache, past_key_values = False, None  # layers run twice, and would add to a cache twice
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        past_seen_tokens = past_key_values.get_seq_length() if past_key_values is not None else 0
        # The index of each new column in the cache. Older releases need it.
        kwargs["cache_position"] = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + past_seen_tokens
        if position_ids is None:
            position_ids = kwargs["cache_position"].unsqueeze(0)  # (1, T)

        if not isinstance(mask_mapping := attention_mask, dict):
            check_mask(attention_mask, past_seen_tokens, inputs_embeds.shape[1])
            mask_kwargs = {"position_ids": position_ids, **cache_for_masks(past_key_values, kwargs["cache_position"])}
            create_mask = {
                "full_attention": create_causal_mask,
                "sliding_attention": create_sliding_window_causal_mask,
            }
            mask_mapping = {
                kind: create_mask[kind](self.config, inputs_embeds, attention_mask, **mask_kwargs)
                for kind in set(self.config.layer_types)
            }

        hidden_states = inputs_embeds
        position_embeddings = None
        if self.config.variant == "modern":
            position_embeddings = self.rotary_emb(hidden_states, position_ids)
        else:
            # A static cache counts on the device, and reading that would cost a synchronisation at each step.
            total = inputs_embeds.shape[1] + (past_seen_tokens if isinstance(past_seen_tokens, int) else 0)
            if total > self.config.max_position_embeddings:
                problem = (
                    f"the input has {total} characters, including cached ones, but this model has only "
                    f"{self.config.max_position_embeddings} positions: shorten the input to that"
                )
                if not hasattr(GenerationMixin, "prepare_inputs_for_generation"):
                    raise ValueError(unsupported(problem))
                raise ValueError(f"{problem}, or use `generate`, which has no such limit")
            hidden_states = hidden_states + self.embed_positions(position_ids)

        for layer, layer_type in zip(self.layers, self.config.layer_types, strict=True):
            hidden_states = layer(
                hidden_states,
                attention_mask=mask_mapping[layer_type],
                past_key_values=past_key_values,
                position_embeddings=position_embeddings,
                position_ids=position_ids,
                use_cache=use_cache,
                **kwargs,
            )
        return BaseModelOutputWithPast(
            last_hidden_state=self.norm(hidden_states),
            **{CACHE_NAME: past_key_values if use_cache else None},
        )


# The arguments that a step of generation passes to `forward`, also past the block.
PASSED_TO_FORWARD = ("use_cache", "logits_to_keep", "output_attentions", "output_hidden_states", "return_dict")


def slice_logits_to_keep(hidden_states: torch.Tensor, logits_to_keep: int | torch.Tensor) -> torch.Tensor:
    """Returns those of the hidden states `(B, T, hidden_size)` for which the caller wants logits.

    Args:
        logits_to_keep: How many of the last ones (0 for all), positions `(n,)` or `(B, n)`, or a boolean mask `(B, T)`.
    """
    if isinstance(logits_to_keep, int):
        return hidden_states[:, slice(-logits_to_keep, None)]
    if logits_to_keep.ndim == 1:
        return hidden_states[:, logits_to_keep]
    if logits_to_keep.dtype == torch.bool:
        return hidden_states[logits_to_keep]
    return torch.take_along_dim(hidden_states, logits_to_keep[..., None], dim=1)


class LyricGPTForCausalLM(LyricGPTPreTrainedModel, GenerationMixin):
    """The character GPT: the decoder with an untied head, and generation that continues past the block."""

    _tied_weights_keys = {}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: LyricGPTConfig):
        super().__init__(config)
        self.model = LyricGPTModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.variant == "classic")
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        cache: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutputWithPast:
        """Returns logits `(B, T, vocab_size)`, and with `labels` `(B, T)` also the mean loss in nats per character.

        The labels are shifted inside.
        """
        outputs: BaseModelOutputWithPast = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            cache=cache,
            **kwargs,
        )
        logits = self.lm_head(slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{CACHE_NAME: outputs.get(CACHE_NAME)},
        )

    def generate(self, inputs=None, generation_config=None, *args, **kwargs):
        """transformers' `generate`, but an empty prompt starts a song, and the caller's `max_length` is respected.

        Raises:
            ValueError: the prompt is empty and no token begins a song, or the prompt is as long as `max_length`.
        """
        if (cache := take_cache(kwargs)) is not None:
            cache.is_the_callers = True  # The caller wants it filled. Our own loop does not do that.
            cache.window = None  # The caller may have emptied it and filled it with another text.
            kwargs[CACHE_NAME] = cache
        if inputs is None:
            inputs = kwargs.pop("input_ids", None)
        if inputs is not None:
            bos_token_id = getattr(generation_config, "bos_token_id", None)
            if bos_token_id is None:
                bos_token_id = self.generation_config.bos_token_id
            inputs, kwargs["attention_mask"] = begin_songs(inputs, kwargs.get("attention_mask"), bos_token_id)
            keep_max_length(inputs.shape[1], generation_config, kwargs)
        if not CACHE_TAKES_BACK or not hasattr(GenerationMixin, "_get_candidate_generator"):
            # Drafts only make it faster. Without them the characters are the same.
            if kwargs.pop("assistant_model", None) is not None:
                warn_once(
                    "this release of transformers cannot remove rejected drafts from a cache; assistant_model is ignored"
                )
            for name in ("prompt_lookup_num_tokens", "assistant_early_exit"):
                if name in kwargs or getattr(generation_config or self.generation_config, name, None):
                    kwargs[name] = None
        return super().generate(inputs, generation_config, *args, **kwargs)

    # The methods from here on override methods of transformers whose names may change, so each accepts any arguments.
    # If a release no longer calls one of them, generation either still works, but more slowly, or raises an error that
    # says what is unsupported.

    def _get_stopping_criteria(self, *args, **kwargs):
        spellings = []
        generation_config, tokenizer = kwargs.get("generation_config"), kwargs.get("tokenizer")
        if tokenizer is not None and generation_config is not None and generation_config.stop_strings is not None:
            spellings = [StopSpellingCriteria(tokenizer, generation_config.stop_strings)]
            generation_config.stop_strings = None  # in this call's own copy
        criteria = super()._get_stopping_criteria(*args, **kwargs)
        criteria.extend(spellings)
        # `max_position_embeddings` is a training window here, not a limit: no warning when a song passes it.
        for criterion in criteria:
            if isinstance(criterion, MaxLengthCriteria):
                criterion.max_position_embeddings = None
        return criteria

    def _prepare_cache_for_generation(self, *args, **kwargs):
        prepare = super()._prepare_cache_for_generation
        call = signature(prepare).bind(*args, **kwargs)
        named = call.arguments
        if (
            self.config.variant == "classic"
            and {"generation_config", "model_kwargs", "max_cache_length"} <= named.keys()
        ):
            block_size = self.config.max_position_embeddings
            if named["model_kwargs"].get("inputs_embeds") is not None and named["max_cache_length"] >= block_size:
                raise ValueError(
                    f"inputs_embeds and the new characters need {named['max_cache_length'] + 1} positions, but this model has "
                    f"only {block_size}. Past them, a classic model reads the text again from a later start, and it can't do "
                    "that with embeddings: pass input_ids, or generate fewer tokens"
                )
            # The window, the cache and the text that is read at once are never longer than a block.
            named["max_cache_length"] = min(named["max_cache_length"], block_size)
            named["generation_config"].prefill_chunk_size = None
        return prepare(*call.args, **call.kwargs)

    def _sample(self, *args, **kwargs):
        loop = super()._sample
        call = arguments_by_name(loop, args, kwargs)
        if knows_call(self, call) and knows_model(self):
            return sample(self, **{name: call[name] for name in SAMPLE_ARGUMENTS})
        return loop(*args, **kwargs)

    def _get_candidate_generator(self, *args, **kwargs):
        generator = super()._get_candidate_generator(*args, **kwargs)
        # A draft that reached past the place where the window moves would be read wrongly there.
        if self.config.variant == "classic":
            propose = generator.get_candidates
            mask = kwargs.get("model_kwargs", {}).get("attention_mask")
            padding = 0 if mask is None else int((mask == 0).sum())

            def get_candidates(input_ids, **kwargs):
                candidates, logits = propose(input_ids, **kwargs)
                length = torch.tensor(input_ids.shape[1] - padding)
                room = self.config.max_position_embeddings - int(length - self._window_start(length))
                candidates = candidates[:, : input_ids.shape[1] + room]
                # Speculative sampling fails if there is nothing to verify.
                return candidates, logits[:, :room] if logits is not None and room else None

            generator.get_candidates = get_candidates
        return generator

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, inputs_embeds=None, **kwargs):
        """Does what transformers does, but past the block, `classic` reads each row from the start of its window.

        Raises:
            ValueError: a `classic` model has to go past its block, but gets only the end of the text.
            RuntimeError: this release passes something that the model does not know.
        """
        refuse_unknown_tensors(type(self).forward, kwargs)
        if attention_mask is not None and attention_mask.ndim == 2 and attention_mask.shape[1] < input_ids.shape[1]:
            check_mask(attention_mask, 0, input_ids.shape[1])
        total_length = attention_mask.shape[1] if attention_mask is not None else input_ids.shape[1]
        if self.config.variant == "classic" and total_length > self.config.max_position_embeddings:
            return self._prepare_inputs_past_the_block(input_ids, attention_mask, total_length, kwargs)
        model_inputs = super().prepare_inputs_for_generation(
            input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **kwargs
        )
        refuse_unknown_tensors(type(self).forward, model_inputs)
        return model_inputs

    def _prepare_inputs_past_the_block(self, input_ids, attention_mask, total_length, kwargs):
        block_size = self.config.max_position_embeddings
        if input_ids.shape[1] < total_length:
            raise ValueError(
                f"the text has {total_length} characters, which is more than the block of {block_size}, but input_ids has "
                f"only {input_ids.shape[1]} of them. A classic model now has to read the text again from a later start: pass "
                "all of it together with the cache, or generate fewer tokens"
            )
        cache = take_cache(kwargs)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        index = attention_mask.cumsum(-1) - 1  # (B, total_length): each character's index in its own row
        length = index[:, -1:] + 1
        start = self._window_start(length)  # (B, 1)
        # A cache remembers its window: the start of each row, and the first column of the text in the cache.
        cached = int(cache.get_seq_length()) if cache is not None else 0
        held, first = getattr(cache, "window", None) or (None, 0)
        new = total_length - first - cached
        if not cached or held is None or not torch.equal(held, start) or not 0 < new <= block_size - cached:
            # All rows are read again from their start when the window of a row moves, when padding fills the block, and
            # when the cache is the caller's, because nobody knows which window it holds.
            first = total_length - int((length - start).max())
            new = total_length - first
            if cached:
                empty_cache(cache)
        if cache is not None:
            cache.window = start, first
        return {
            "input_ids": input_ids[:, -new:],
            "attention_mask": attention_mask[:, first:] * (index[:, first:] >= start),
            "position_ids": (index - start).clamp(min=0)[:, -new:],
            CACHE_NAME: cache,
            **{name: kwargs[name] for name in PASSED_TO_FORWARD if name in kwargs},
        }

    def _window_start(self, length: torch.Tensor) -> torch.Tensor:
        """Returns the first character that `classic` still sees in a row of `length`: a multiple of half a block."""
        block_size = self.config.max_position_embeddings
        stride = max(1, block_size // 2)
        return ((length - block_size).clamp(min=0) + stride - 1) // stride * stride


declare_causal_lm(LyricGPTConfig.model_type, LyricGPTForCausalLM.__name__)

__all__ = ["LyricGPTForCausalLM", "LyricGPTModel", "LyricGPTPreTrainedModel"]
