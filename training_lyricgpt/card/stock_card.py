"""Makes the card of a stock model: what it is, how much it differs, and what it cannot do."""

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedModel

from modeling_lyricgpt import LyricGPTForCausalLM
from tokenization_lyricgpt import LyricGPTTokenizer

from .markdown import code_span, escape, literal

TEMPLATE = Path(__file__).with_name("stock_card.md.jinja")


def stock_card(
    model: LyricGPTForCausalLM,
    tokenizer: LyricGPTTokenizer,
    name: str,
    characters: int,
    stock: PreTrainedModel,
    difference: float,
    place: tuple[str, str] | None = None,
) -> str:
    """Returns the card of a stock model.

    Args:
        model: The model that it was made from, which is called `name`.
        characters: Number of characters on which both were compared.
        difference: Largest difference of a logit, as a share of the largest logit.
        place: Repository and branch where it is published; None for a folder.
    """
    config = model.config
    tags = ["lyrics", "character-level"]
    card = ModelCard.from_template(
        ModelCardData(library_name="transformers", pipeline_tag="text-generation", tags=tags),
        template_path=str(TEMPLATE),
        name=escape(name),
        architecture=type(stock).__name__,
        parameters=f"{stock.num_parameters():,}",
        place=f"{literal(place[0])}, revision={literal(place[1])}" if place else '"this folder or repository"',
        variant=config.variant,
        characters=f"{characters:,}",
        difference=f"{difference:.1e}",
        positions=config.max_position_embeddings,
        attention_window=config.sliding_window,
        unknown=code_span(tokenizer.unk_token) if tokenizer.unk_token else None,
    )
    return str(card)
