"""The loop that `LyricGPTForCausalLM.generate` samples with: transformers' own, character for character, but faster.

Notable:
- One song costs a pass over all weights for each character, and memory traffic bounds it. So a pass reads a *draft* of
  the next few characters along with the last one: eight rows of a matrix product cost about what one costs.
- Drafts come from the text so far (lyrics repeat), by counts of its n-grams. Each character is still drawn from the
  model's own distribution, with the same random numbers as without a draft; a draft is kept as far as it happens to be
  what was drawn. So the distribution is unchanged, and so is the song that a seed gives.
- Query, key and value (and SwiGLU's gate) are one matrix each here, copied at every call of `generate`, never saved.
- Keys and values stay in one buffer of about two windows, however long the song.
- It trades generality: whatever is not plain sampling or greedy search (beams, assistants, returned scores, adapters,
  hooks, other attention implementations …) goes through transformers' loop.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.cache_utils import DynamicCache
from transformers.generation import GenerationConfig, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

# Characters guessed ahead. A row more or less hardly changes the cost of a pass, and few longer guesses come true.
DRAFT_LENGTH = 7
# Longest context that a guess is looked up by.
NGRAM_LENGTH = 6
# Contexts remembered, about 10 MB: what is held does not grow with the song.
CONTEXTS = 32768
# Characters of a prompt that are read at a time.
CHUNK_LENGTH = 256


class StopSpellingCriteria(StoppingCriteria):
    """Ends a row that ends in one of some texts, each given by the ids of its characters.

    transformers' own criterion for stop strings needs the letters from a to f in the alphabet.

    Raises:
        ValueError: none of the stop strings can ever be written with the alphabet.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop_strings: str | list[str]):
        vocab = tokenizer.get_vocab()
        texts = [stop_strings] if isinstance(stop_strings, str) else stop_strings
        self.spellings = [
            torch.tensor([vocab[character] for character in text]) for text in texts if text and set(text) <= set(vocab)
        ]
        if not self.spellings:
            unknown = sorted(set("".join(texts)).difference(vocab))
            raise ValueError(f"the model can never write any of stop_strings={texts}: its alphabet has no {unknown}")

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor | None, **kwargs) -> torch.Tensor:
        done = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        for spelling in self.spellings:
            if input_ids.shape[1] >= len(spelling):
                done |= (input_ids[:, -len(spelling) :] == spelling.to(input_ids.device)).all(dim=-1)
        return done


class NgramDrafts:
    """Guesses what comes next in a text: what the model held likeliest behind the longest context known from it.

    Of a prompt only its characters are known; from there on it is the model's own best guess that counts, with its
    probability: it says more than what was drawn, and is there for the characters of a rejected draft too. (On a
    trained model and 1,500 characters: 1.77 characters a pass instead of 1.58.)
    """

    def __init__(self, ids: list[int]):
        self.followers = {}  # context (a tuple of up to NGRAM_LENGTH ids) -> {next id: sum of probabilities}
        self.ids = []
        for index in ids:
            self.learn((), index, 1.0)
            self.ids.append(index)

    def learn(self, draft: Sequence[int], index: int, probability: float) -> None:
        """Takes in that `index` is likely behind the text so far and a draft."""
        context = (*self.ids[-NGRAM_LENGTH:], *draft)[-NGRAM_LENGTH:]
        for start in range(len(context) + 1):
            followers = self.followers.pop(context[start:], {})
            followers[index] = followers.get(index, 0.0) + probability
            self.followers[context[start:]] = followers  # at the end: the least lately met come first
        while len(self.followers) > CONTEXTS:
            del self.followers[next(iter(self.followers))]

    def propose(self, length: int) -> list[int]:
        """The next `length` ids, each guessed as if those before it were right."""
        context = tuple(self.ids[-NGRAM_LENGTH:])
        draft = []
        for _ in range(length):
            followers = next(filter(None, (self.followers.get(context[start:]) for start in range(len(context) + 1))))
            draft.append(max(followers, key=followers.get))
            context = (*context, draft[-1])[-NGRAM_LENGTH:]
        return draft


@dataclass
class FusedLayer:
    """The weights of one decoder layer, with fewer and larger matrices; `None` where the variant has none."""

    norms: tuple[tuple[torch.Tensor, torch.Tensor | None], ...]  # weight and bias of both norms
    qkv: torch.Tensor  # (3 * hidden_size, hidden_size)
    qk_norm: torch.Tensor | None  # (2, 1, head_dim)
    out: tuple[torch.Tensor, torch.Tensor | None]
    up: tuple[torch.Tensor, torch.Tensor | None]  # gate and up in one (`modern`)
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
    """Reads texts a few characters at a time and gives the logits of what comes next.

    Texts are rows of left-padded ids; a *column* is an index into them. The buffer holds the keys and values of the
    columns from `origin` to `end`.

    Args:
        model: A `LyricGPTForCausalLM`.
        padding: Padded columns at the left of each row, `(B,)`.
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
        self.capacity = self.block_size if self.sliding_window is None else 2 * self.sliding_window + CHUNK_LENGTH
        shape = (len(self.layers), 2, len(padding), self.num_heads, self.capacity, self.head_dim)
        self.buffer = torch.empty(shape, dtype=model.dtype, device=model.device)
        self.start = padding  # first column that each row still sees
        self.origin = self.end = 0

    def read(self, input_ids: torch.Tensor, keep: int) -> torch.Tensor:
        """Logits `(B, keep, vocab_size)` behind the last `keep` columns of `input_ids` `(B, T)`.

        Columns that were read before are not read again, except by `classic` when its window has moved on.
        """
        total = input_ids.shape[1]
        if self.sliding_window is None:
            start = self.padding + self.model._window_start(total - self.padding)
            if self.end == 0 or not torch.equal(start, self.start):
                self.start = start
                self.origin = self.end = int(start.min())
        first = (total - self.end) % CHUNK_LENGTH or CHUNK_LENGTH  # so that the last chunk holds all that is kept
        for stop in range(self.end + first, total + 1, CHUNK_LENGTH):
            hidden_states = self._forward(input_ids[:, self.end : stop])
        return self.model.lm_head(self.model.model.norm(hidden_states[:, -keep:]))

    def rewind(self, end: int) -> None:
        """Forgets the columns from `end` on."""
        self.end = end

    def room(self, total: int) -> int:
        """Columns that can follow `total` columns until some row's window moves on."""
        if self.sliding_window is not None:
            return self.block_size
        length = total - self.padding
        return self.block_size - int((length - self.model._window_start(length)).max())

    def _forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Hidden states `(B, n, hidden_size)` before the last norm, of the `n` columns from `end` on."""
        batch_size, n = input_ids.shape
        model = self.model.model
        if self.end - self.origin + n > self.capacity:  # only a sliding window's buffer fills up
            kept = self.sliding_window + DRAFT_LENGTH  # a draft may still be taken back
            used = self.end - self.origin
            self.buffer[..., :kept, :] = self.buffer[..., used - kept : used, :].clone()
            self.origin = self.end - kept
        stop = self.end + n
        lowest = self.origin
        if self.sliding_window is not None:
            lowest = max(lowest, self.end - self.sliding_window + 1)
        columns = torch.arange(self.end, stop, device=input_ids.device)
        mask = None
        if n > 1 or batch_size > 1:
            seen = torch.arange(lowest, stop, device=input_ids.device)
            visible = (seen <= columns[:, None]) & (seen >= self.start[:, None, None])
            if self.sliding_window is not None:
                visible &= seen > columns[:, None] - self.sliding_window
            # The lowest number and not -inf: a padded column sees nothing, and would become NaN.
            mask = torch.zeros(visible.shape, dtype=self.buffer.dtype, device=visible.device)
            mask = mask.masked_fill_(~visible, torch.finfo(mask.dtype).min)[:, None]  # (B, 1, n, T_seen)
        positions = (columns - self.start[:, None]).clamp_(min=0)  # (B, n)

        hidden_states = model.embed_tokens(input_ids)
        cos = sin = None
        if self.sliding_window is None:
            hidden_states = hidden_states + model.embed_positions(positions)
        else:
            cos, sin = (part[:, :, None, None] for part in model.rotary_emb(hidden_states, positions))
            # `rotate_half` is a roll by half a head with its first half negated: the sign moves into the sines.
            half = self.head_dim // 2
            sin = torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)  # (B, n, 1, 1, head_dim)

        begin, lowest, stop = self.end - self.origin, lowest - self.origin, stop - self.origin
        for layer, (keys, values) in zip(self.layers, self.buffer, strict=True):
            qkv = F.linear(self._norm(hidden_states, *layer.norms[0]), layer.qkv)
            qkv = qkv.view(batch_size, n, 3, self.num_heads, self.head_dim)
            query, key = qkv[:, :, 0], qkv[:, :, 1]
            if cos is not None:
                qk = F.rms_norm(qkv[:, :, :2], (self.head_dim,), eps=self.eps) * layer.qk_norm
                query, key = torch.addcmul(qk * cos, qk.roll(self.head_dim // 2, -1), sin).unbind(2)
            keys[:, :, begin:stop] = key.transpose(1, 2)
            values[:, :, begin:stop] = qkv[:, :, 2].transpose(1, 2)
            attn_output = F.scaled_dot_product_attention(
                query.transpose(1, 2), keys[:, :, lowest:stop], values[:, :, lowest:stop], attn_mask=mask
            )
            attn_output = attn_output.transpose(1, 2).reshape(batch_size, n, -1)
            hidden_states = hidden_states + F.linear(attn_output, *layer.out)
            up = F.linear(self._norm(hidden_states, *layer.norms[1]), *layer.up)
            if cos is None:
                up = self.act_fn(up)
            else:
                gate, up = up.chunk(2, dim=-1)
                up = self.act_fn(gate) * up
            hidden_states = hidden_states + F.linear(up, *layer.down)
        self.end += n
        return hidden_states

    def _norm(self, hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if self.sliding_window is None:
            return F.layer_norm(hidden_states, weight.shape, weight, bias, self.eps)
        return F.rms_norm(hidden_states, weight.shape, weight, self.eps)


def reads_plainly(
    model: nn.Module,
    input_ids: torch.Tensor,
    generation_config: GenerationConfig,
    synced_gpus: bool,
    model_kwargs: dict,
) -> bool:
    """Whether `sample` does all that is asked for, with a model whose modules nobody has changed."""
    cache, attention_mask = model_kwargs.get("past_key_values"), model_kwargs.get("attention_mask")
    if (
        synced_gpus
        or model.training
        or generation_config.is_assistant
        or generation_config.return_dict_in_generate
        or generation_config.prefill_chunk_size is not None
        or not model_kwargs.get("use_cache")
        or not set(model_kwargs) <= {"attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep"}
        or type(cache) is not DynamicCache
        or cache.get_seq_length() > 0
        or model.config._attn_implementation != "sdpa"
    ):
        return False
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    if attention_mask.shape != input_ids.shape or not (attention_mask[:, -1] == 1).all():
        return False
    if not (attention_mask.diff(dim=-1) >= 0).all():  # padded elsewhere than at the left
        return False
    default = model._prepare_position_ids_for_generation(input_ids, {"attention_mask": attention_mask})
    if (positions := model_kwargs.get("position_ids")) is not None and not (positions == default).all():
        return False
    kind = "full_attention" if model.config.sliding_window is None else "sliding_attention"
    if set(model.config.layer_types) != {kind}:
        return False
    if model.config.sliding_window is not None and "dynamic" in model.model.rotary_emb.rope_type:
        return False
    # Adapters, quantisation and parametrisations put other classes in place; offloading and profilers add hooks.
    own = model.__module__
    return all(
        (type(module).__module__ == own or type(module).__module__.startswith(("torch.nn.modules.", "transformers.")))
        and not (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))
        and all(type(parameter) is nn.Parameter for parameter in module.parameters(recurse=False))
        for module in model.modules()
    )


def sample(
    model: nn.Module,
    input_ids: torch.Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    attention_mask: torch.Tensor | None = None,
    streamer: BaseStreamer | None = None,
) -> torch.Tensor:
    """Continues the rows of `input_ids` `(B, T)`, sampling or greedily: `(B, T_new)`, prompts included.

    What is drawn, and from which random numbers, is what transformers' `_sample` draws: one `multinomial` for each
    character of the batch, after the same logits processors. Drafts only spare passes, and only a single row has them.
    """
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    batch_size = input_ids.shape[0]
    decoder = IncrementalDecoder(model, padding=(attention_mask == 0).sum(-1))
    drafts = NgramDrafts(input_ids[0].tolist()) if batch_size == 1 else None
    pad_token_id = generation_config._pad_token_tensor
    ends = any(hasattr(criterion, "eos_token_id") for criterion in stopping_criteria)
    unfinished = torch.ones(batch_size, dtype=torch.long, device=input_ids.device)
    while unfinished.max() > 0:
        draft = []
        if drafts is not None:
            draft = drafts.propose(min(DRAFT_LENGTH, decoder.room(input_ids.shape[1])))
        columns = torch.cat([input_ids, input_ids.new_tensor(draft).expand(batch_size, -1)], dim=-1)
        logits = decoder.read(columns, keep=len(draft) + 1).to(torch.float32)
        if drafts is not None:
            best = F.softmax(logits[0], dim=-1).max(dim=-1)
            for index, (probability, token) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
                drafts.learn(draft[:index], token, probability)
        for index in range(len(draft) + 1):
            scores = logits_processor(input_ids, logits[:, index])
            if generation_config.do_sample:
                next_tokens = torch.multinomial(F.softmax(scores, dim=-1), num_samples=1).squeeze(1)
            else:
                next_tokens = torch.argmax(scores, dim=-1)
            if ends:
                next_tokens = next_tokens * unfinished + pad_token_id * (1 - unfinished)
            input_ids = torch.cat([input_ids, next_tokens[:, None]], dim=-1)
            if streamer is not None:
                streamer.put(next_tokens.cpu())
            unfinished = unfinished & ~stopping_criteria(input_ids, None)
            if drafts is None:
                continue
            drafts.ids.append(int(next_tokens))
            if unfinished.max() == 0 or (index < len(draft) and drafts.ids[-1] != draft[index]):
                break
        decoder.rewind(input_ids.shape[1] - 1)
    if streamer is not None:
        streamer.end()
    return input_ids
