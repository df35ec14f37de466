"""The sampling loop of `LyricGPTForCausalLM.generate`: it writes the same characters as transformers' loop, but faster.

Notes:
- For each character of a song, all weights have to be loaded from memory, and that limits the speed. So each pass of the
  model also processes a *draft* of the next few characters: a matrix product of a few rows takes hardly longer than one
  of a single row.
- A draft comes from what the model predicted after the same n-grams earlier in the text, because lyrics repeat. It is
  drawn with the same random numbers as the model's own characters, so the two agree more often. A draft's characters are
  kept only as long as the model then draws the same ones. So the distribution does not change, and neither does the
  song for a seed.
- Query, key and value are one matrix here, and so are SwiGLU's gate and up. They are copied at each call of `generate`
  and never saved.
- Keys and values stay in one buffer of about two windows, however long the song.
- It does only plain sampling and greedy search. Everything else (beams, assistants, returned scores, adapters, hooks,
  other attention implementations, …) goes through transformers' loop.
"""

from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import nn
from torch.nn import functional as F

from .compat_lyricgpt import CACHE_NAMES, has_global_hooks, names_of_every_release
from .drafts_lyricgpt import NgramDrafts, noise_ahead

with names_of_every_release():
    from transformers.activations import ACT2FN
    from transformers.cache_utils import DynamicCache
    from transformers.generation import GenerationConfig, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
    from transformers.generation.streamers import BaseStreamer
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

# Number of characters to guess. Longer drafts cost more than they save (measured: 6 layers, width 384, two cores).
DRAFT_LENGTH = 2
# Number of characters of a prompt to read at a time.
CHUNK_LENGTH = 256


class StopSpellingCriteria(StoppingCriteria):
    """Stops a row when it ends in one of the stop strings.

    transformers' own criterion encodes the text "abcdef" to see how the tokenizer works, so it fails if the alphabet lacks one
    of these letters.

    Raises:
        ValueError: none of the stop strings can be written with the alphabet.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop_strings: str | list[str]):
        vocab = tokenizer.get_vocab()
        texts = [stop_strings] if isinstance(stop_strings, str) else stop_strings
        self.spellings = [
            torch.tensor([vocab[character] for character in text]) for text in texts if text and set(text) <= set(vocab)
        ]
        if not self.spellings:
            unknown = sorted(set("".join(texts)).difference(vocab))
            raise ValueError(
                f"the model can never write any of stop_strings={texts}: its alphabet has no {unknown}. Use only characters of "
                "tokenizer.alphabet"
            )

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor | None, **kwargs) -> torch.Tensor:
        done = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        for spelling in self.spellings:
            if input_ids.shape[1] >= len(spelling):
                done |= (input_ids[:, -len(spelling) :] == spelling.to(input_ids.device)).all(dim=-1)
        return done


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Computes `F.linear` of `x` `(rows, in)`, faster for a few rows on a CPU.

    It computes the transposed product, for which MKL reads the weights in another way. With 2 to 16 rows and the
    matrices of a model with 6 layers of width 384, this took a third to two thirds of the time.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32 or not 2 <= len(x) <= 16:
        return F.linear(x, weight, bias)
    product = torch.mm(weight, x.t()) if bias is None else torch.addmm(bias[:, None], weight, x.t())
    return product.t().contiguous()


@dataclass
class FusedLayer:
    """The weights of one decoder layer in fewer, larger matrices. A weight that the variant doesn't have is `None`."""

    norms: tuple[tuple[torch.Tensor, torch.Tensor | None], ...]  # weight and bias of both norms
    qkv: torch.Tensor  # (3 * hidden_size, hidden_size)
    qk_norm: torch.Tensor | None  # (2, 1, head_dim)
    out: tuple[torch.Tensor, torch.Tensor | None]
    up: tuple[torch.Tensor, torch.Tensor | None]  # gate and up together (`modern`)
    down: tuple[torch.Tensor, torch.Tensor | None]

    @classmethod
    def of(cls, layer: nn.Module) -> "FusedLayer":
        attention, mlp = layer.self_attn, layer.mlp
        norms = (layer.input_layernorm, layer.post_attention_layernorm)
        modern = mlp.gate_proj is not None
        return cls(
            norms=tuple((norm.weight, getattr(norm, "bias", None)) for norm in norms),
            qkv=torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]),
            qk_norm=torch.stack([attention.q_norm.weight, attention.k_norm.weight])[:, None] if modern else None,
            out=(attention.o_proj.weight, attention.o_proj.bias),
            up=(torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]), None)
            if modern
            else (mlp.up_proj.weight, mlp.up_proj.bias),
            down=(mlp.down_proj.weight, mlp.down_proj.bias),
        )


class IncrementalDecoder:
    """Reads texts a few characters at a time and returns the logits of what comes next.

    Texts are rows of left-padded ids, and a *column* is an index into them. The buffer holds the keys and values of the
    columns from `origin` to `end`.

    Args:
        model: A `LyricGPTForCausalLM`.
        padding: Number of padded columns at the left of each row, `(B,)`.
    """

    def __init__(self, model: nn.Module, padding: torch.Tensor):
        config = model.config
        self.model = model
        self.padding = padding
        self.block_size = config.max_position_embeddings
        self.sliding_window = config.sliding_window  # None in `classic`
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // self.num_heads
        self.eps = config.norm_eps
        self.act_fn = ACT2FN[config.hidden_act]
        self.layers = [FusedLayer.of(layer) for layer in model.model.layers]
        self.capacity = self.block_size
        if self.sliding_window is not None:
            self.capacity = 2 * self.sliding_window + DRAFT_LENGTH + CHUNK_LENGTH
        shape = (len(self.layers), 2, len(padding), self.num_heads, self.capacity, self.head_dim)
        self.buffer = torch.empty(shape, dtype=model.dtype, device=model.device)
        self.masks = {}  # for a single row, by the number of columns read; as wide as the buffer, used from the right
        self.rotary = (0, (), ())  # first position, cosines and sines of the positions from there on
        self.start = padding  # first column that each row still sees
        self.origin = self.end = int(padding.min())

    def read(self, input_ids: torch.Tensor, keep: int) -> torch.Tensor:
        """Returns the logits `(B, keep, vocab_size)` after each of the last `keep` columns of `input_ids` `(B, T)`.

        Columns are read only once, unless the window of `classic` has moved.
        """
        total = input_ids.shape[1]
        if self.sliding_window is None:
            start = self.padding + self.model._window_start(total - self.padding)
            if not torch.equal(start, self.start):
                self.start = start
                self.origin = self.end = int(start.min())
        first = (total - self.end) % CHUNK_LENGTH or CHUNK_LENGTH  # so that the last chunk holds all columns to keep
        for stop in range(self.end + first, total + 1, CHUNK_LENGTH):
            hidden_states = self._forward(input_ids[:, self.end : stop])
        head = self.model.lm_head
        hidden_states = self.model.model.norm(hidden_states[:, -keep:]).flatten(0, 1)
        return linear(hidden_states, head.weight, head.bias).view(len(input_ids), keep, -1)

    def rewind(self, end: int) -> None:
        """Forgets the columns from `end` on."""
        self.end = end

    def room(self, total: int) -> int:
        """Returns how many columns can follow the first `total` before the window of a row moves."""
        if self.sliding_window is not None:
            return self.block_size
        length = total - self.padding
        return self.block_size - int((length - self.model._window_start(length)).max())

    def _forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Returns the hidden states `(B, n, hidden_size)` before the last norm, for the `n` columns from `end` on."""
        batch_size, n = input_ids.shape
        model = self.model.model
        if self.end - self.origin + n > self.capacity:  # only a sliding window's buffer fills up
            kept = self.sliding_window + DRAFT_LENGTH  # a draft may still be removed
            used = self.end - self.origin
            self.buffer[..., :kept, :] = self.buffer[..., used - kept : used, :].clone()
            self.origin = self.end - kept
        stop = self.end + n
        lowest = self.origin
        if self.sliding_window is not None:
            lowest = max(lowest, self.end - self.sliding_window + 1)
        positions = torch.arange(self.end, stop, device=input_ids.device) - self.start[:, None]
        positions = positions.clamp_(min=0)  # (B, n), 0 where a row is padded
        mask = self._mask(lowest, stop, n)
        hidden_states = model.embed_tokens(input_ids)
        cos = sin = None
        if self.sliding_window is None:
            hidden_states = hidden_states + model.embed_positions(positions)
        else:
            cos, sin = self._rotary_table(positions)
        hidden_states = hidden_states.flatten(0, 1)  # (B * n, hidden_size)
        begin, lowest, stop = self.end - self.origin, lowest - self.origin, stop - self.origin
        for layer, (keys, values) in zip(self.layers, self.buffer, strict=True):
            qkv = linear(self._norm(hidden_states, *layer.norms[0]), layer.qkv)
            query, key, value = qkv.view(batch_size, n, 3, self.num_heads, self.head_dim).unbind(2)
            if cos is not None:
                qk = qkv.view(batch_size, n, 3, self.num_heads, self.head_dim)[:, :, :2]
                qk = F.rms_norm(qk, (self.head_dim,), eps=self.eps) * layer.qk_norm
                query, key = torch.addcmul(qk * cos, qk.roll(self.head_dim // 2, -1), sin).unbind(2)
            keys[:, :, begin:stop] = key.transpose(1, 2)
            values[:, :, begin:stop] = value.transpose(1, 2)
            attn_output = F.scaled_dot_product_attention(
                query.transpose(1, 2), keys[:, :, lowest:stop], values[:, :, lowest:stop], attn_mask=mask
            )
            attn_output = attn_output.transpose(1, 2).reshape(batch_size * n, -1)
            hidden_states = hidden_states + linear(attn_output, *layer.out)
            up = linear(self._norm(hidden_states, *layer.norms[1]), *layer.up)
            if cos is None:
                up = self.act_fn(up)
            else:
                gate, up = up.chunk(2, dim=-1)
                up = self.act_fn(gate) * up
            hidden_states = hidden_states + linear(up, *layer.down)
        self.end += n
        return hidden_states.view(batch_size, n, -1)

    def _mask(self, lowest: int, stop: int, n: int) -> torch.Tensor | None:
        """Returns the mask of the last `n` columns before `stop` over the columns from `lowest` on.

        It is 0 for a column that is seen. Otherwise it is the lowest number, not -inf: a padded column sees nothing,
        and would become NaN.
        """
        alone = len(self.start) == 1
        if alone and n == 1:
            return None
        if alone and n in self.masks:
            return self.masks[n][..., lowest - stop :]
        device = self.buffer.device
        first = stop - self.capacity if alone else lowest  # for a single row, the end of one mask fits any width
        columns = torch.arange(stop - n, stop, device=device)
        seen = torch.arange(first, stop, device=device)
        visible = seen <= columns[:, None]
        if self.sliding_window is not None:
            visible &= seen > columns[:, None] - self.sliding_window
        if not alone:
            visible = visible & (seen >= self.start[:, None, None])
        mask = torch.zeros(visible.shape, dtype=self.buffer.dtype, device=device)
        mask = mask.masked_fill_(~visible, torch.finfo(mask.dtype).min)
        if alone:
            self.masks[n] = mask
            return mask[..., lowest - stop :]
        return mask[:, None]  # (B, 1, n, stop - lowest)

    def _rotary_table(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns cosines and sines `(B, n, 1, 1, head_dim)` of positions `(B, n)`.

        They are for `x * cos + x.roll(head_dim / 2) * sin`.
        """
        first, last = int(positions.min()), int(positions.max())
        begin, cos, sin = self.rotary
        if not begin <= first <= last < begin + len(cos):
            begin = max(0, first - CHUNK_LENGTH)
            table = torch.arange(begin, last + CHUNK_LENGTH, device=positions.device)[None]
            cos, sin = (part[0] for part in self.model.model.rotary_emb(self.buffer, table))
            # To rotate half a head is to roll it and negate its first half. The sines contain the negation.
            half = self.head_dim // 2
            sin = torch.cat((-sin[:, :half], sin[:, half:]), dim=-1)
            self.rotary = begin, cos, sin
        rows = positions - begin
        return cos[rows][:, :, None, None], sin[rows][:, :, None, None]

    def _norm(self, hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if self.sliding_window is None:
            return F.layer_norm(hidden_states, weight.shape, weight, bias, self.eps)
        return F.rms_norm(hidden_states, weight.shape, weight, self.eps)


def begin_songs(
    input_ids: torch.Tensor, attention_mask: torch.Tensor | None, bos_token_id: int | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Returns prompts `(B, T)` and their mask, with the token that begins a song in each empty row.

    Raises:
        ValueError: a row is empty and there is no such token.
    """
    if input_ids.shape[1] == 0:
        input_ids = torch.zeros(len(input_ids), 1, dtype=torch.long, device=input_ids.device)
        attention_mask = torch.zeros_like(input_ids)
    if attention_mask is None or attention_mask.ndim != 2 or attention_mask.any(dim=-1).all():
        return input_ids, attention_mask
    if bos_token_id is None:
        raise ValueError(
            "the prompt is empty, but this model has no token that begins a song: pass at least one character"
        )
    empty = ~attention_mask.any(dim=-1)
    input_ids, attention_mask = input_ids.clone(), attention_mask.clone()
    input_ids[empty, -1] = bos_token_id
    attention_mask[empty, -1] = 1
    return input_ids, attention_mask


def keep_max_length(prompt_length: int, generation_config: GenerationConfig | None, options: dict) -> None:
    """Turns the caller's `max_length` into `max_new_tokens`. The model's own `max_new_tokens` would override it.

    Args:
        options: What the caller passed to `generate`; changed in place.

    Raises:
        ValueError: the prompt is already that long.
    """
    asked = options.get("max_length")
    if asked is None and generation_config is not None and generation_config.max_new_tokens is None:
        asked = generation_config.max_length
        if asked == GenerationConfig().max_length:  # before 5.0 it is 20, even if nobody has set it
            return
    if asked is None or options.get("max_new_tokens") is not None:
        return
    if prompt_length >= asked:
        raise ValueError(
            f"the prompt is {prompt_length} characters long, so max_length={asked} leaves no room for a song: pass a "
            "larger one, or max_new_tokens"
        )
    options.pop("max_length", None)
    options["max_new_tokens"] = asked - prompt_length


# The arguments of transformers' `_sample` that `sample` uses.
SAMPLE_ARGUMENTS = (
    "input_ids",
    "logits_processor",
    "stopping_criteria",
    "generation_config",
    "attention_mask",
    "streamer",
)


def knows_call(model: nn.Module, call: dict) -> bool:
    """Returns whether `sample` can do everything that a call of transformers' `_sample` asks for.

    Args:
        call: The arguments by name, as `arguments_by_name` gives them.
    """
    handled = {*SAMPLE_ARGUMENTS, *CACHE_NAMES, "synced_gpus", "position_ids", "use_cache", "logits_to_keep"}
    # Older releases also pass the indices of the columns in the cache.
    if not {*SAMPLE_ARGUMENTS, "use_cache"} <= call.keys() <= {*handled, "cache_position"}:
        return False
    input_ids, generation_config = call["input_ids"], call["generation_config"]
    cache = next((call[name] for name in CACHE_NAMES if call.get(name) is not None), None)
    # If this release does not have a setting, assume that it is set, so that transformers' own loop runs.
    asks = ("is_assistant", "return_dict_in_generate", "prefill_chunk_size")
    if (
        call.get("synced_gpus")
        or any(getattr(generation_config, name, True) for name in asks)
        or not call["use_cache"]
        or (cache is not None and type(cache) is not DynamicCache)  # in some releases, `forward` creates it
        or getattr(cache, "is_the_callers", False)
        or (cache is not None and cache.get_seq_length() > 0)
        or input_ids.device != model.device
        or input_ids.device.type not in ("cpu", "cuda")
        or input_ids.shape[1] == 0
        or not hasattr(generation_config, "_pad_token_tensor")
    ):
        return False
    attention_mask = call["attention_mask"]
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    if attention_mask.shape != input_ids.shape or not (attention_mask[:, -1] == 1).all():
        return False
    if not (attention_mask.long().diff(dim=-1) >= 0).all():  # padded somewhere else than at the left
        return False
    positions = call.get("position_ids")
    counted = attention_mask.long().cumsum(-1) - 1
    return positions is None or torch.equal(positions * attention_mask, counted * attention_mask)


def knows_model(model: nn.Module) -> bool:
    """Returns whether `IncrementalDecoder` computes the same as a model, because all modules are unchanged.

    Adapters, quantisation, pruning and parametrisations replace modules. Offloading and profilers add hooks. So each
    module is compared with the one that the configuration builds (without weights, in 8 ms for 6 layers of width 384).
    """
    config, own = model.config, model.model.__module__
    kind = "full_attention" if config.sliding_window is None else "sliding_attention"
    if model.__module__ != own or config._attn_implementation != "sdpa" or set(config.layer_types) != {kind}:
        return False
    if config.sliding_window is not None and model.model.rotary_emb.rope_type in ("dynamic", "longrope"):
        return False  # their frequencies change with the length of the text
    if has_global_hooks():
        return False
    with torch.device("meta"):
        built = type(model)(config)

    def is_as_built(module: nn.Module | None, other: nn.Module | None) -> bool:
        if type(module) is not type(other) or module.extra_repr() != other.extra_repr() or module.training:
            return False
        # transformers leaves behind hooks that record hidden states on request.
        hooks = [
            hook for hook in module._forward_hooks.values() if not hook.__module__.startswith("transformers.utils")
        ]
        return (
            not hooks
            and not module._forward_pre_hooks
            and type(module).forward.__module__.startswith((own, "torch.nn.modules.", "transformers."))
            and not any(callable(getattr(type(module), name, None)) for name in vars(module))  # a replaced method
            and getattr(module, "scaling", None) == getattr(other, "scaling", None)
            and all(type(parameter) is nn.Parameter for parameter in module.parameters(recurse=False))
        )

    return all(is_as_built(*pair) for pair in zip_longest(model.modules(), built.modules()))


def sample(
    model: nn.Module,
    input_ids: torch.Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    attention_mask: torch.Tensor | None = None,
    streamer: BaseStreamer | None = None,
) -> torch.Tensor:
    """Continues the rows of `input_ids` `(B, T)`, sampling or greedily. Returns `(B, T_new)`, including the prompts.

    It draws the same as transformers' `_sample`, with the same random numbers: one `multinomial` for each character of
    the batch, after the same logits processors. Drafts only save passes, and only a batch of one row uses them. (The
    logits are equal except for rounding. In bfloat16, which rounds coarsely, a seed may give another song.)
    """
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    batch_size, vocab_size = len(input_ids), model.config.vocab_size
    decoder = IncrementalDecoder(model, padding=(attention_mask == 0).sum(-1))
    drafts = NgramDrafts(input_ids[0].tolist(), vocab_size) if batch_size == 1 else None
    pad_token_id = generation_config._pad_token_tensor
    ends = any(hasattr(criterion, "eos_token_id") for criterion in stopping_criteria)
    unfinished = torch.ones(batch_size, dtype=torch.long, device=input_ids.device)
    while unfinished.max() > 0:
        draft = []
        if drafts is not None:
            length = min(DRAFT_LENGTH, decoder.room(input_ids.shape[1]))
            noise = (
                noise_ahead(length, vocab_size, input_ids.device) if generation_config.do_sample else [None] * length
            )
            draft = drafts.propose(noise)
        columns = torch.cat([input_ids, input_ids.new_tensor(draft).expand(batch_size, -1)], dim=-1)
        logits = decoder.read(columns, keep=len(draft) + 1).to(torch.float32)
        for index in range(len(draft) + 1):
            scores = logits[:, index]
            for processor in logits_processor:
                scores = processor(input_ids, scores)
            probabilities = F.softmax(scores, dim=-1)
            if generation_config.do_sample:
                next_tokens = torch.multinomial(probabilities, num_samples=1).squeeze(1)
            else:
                next_tokens = torch.argmax(scores, dim=-1)
            if ends:
                next_tokens = next_tokens * unfinished + pad_token_id * (1 - unfinished)
            input_ids = torch.cat([input_ids, next_tokens[:, None]], dim=-1)
            if streamer is not None:
                streamer.put(next_tokens.cpu())
            unfinished = unfinished & ~stopping_criteria(input_ids, None)
            if drafts is not None:
                drafts.append(int(next_tokens), probabilities[0].cpu().numpy())
                if unfinished.max() == 0 or (index < len(draft) and drafts.ids[-1] != draft[index]):
                    break
        decoder.rewind(input_ids.shape[1] - 1)
    if streamer is not None:
        streamer.end()
    return input_ids
