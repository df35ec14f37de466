"""Makes the model card, the `README.md` of a run folder and of a published repository, from the run's records.

Notes:
- The text is in the template, `card.md.jinja`. The values are already Markdown: text from records is escaped first.
- All figures are read from the records, and none is typed by hand. The tests run the code blocks as they are.
- The songs on it are unedited, and the code block above them prints exactly these songs: weights and seed determine a song.
- It does not guess the language of the songs, and names only a license that the user stated.
- `assessment` describes how good the model is, and `provenance` where it comes from.
"""

import shlex
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from modeling_lyricgpt.compat_lyricgpt import NEWEST, OLDEST

from ..corpus.headers import LABELS
from ..corpus.sources import HUB_ID
from ..engine.metrics import SAMPLE_CHARACTERS
from ..wording import duration, plural, shown
from .assessment import figures, limits, originality
from .licenses import license_metadata, shown_license, stated_license
from .markdown import code_block, code_span, escape, literal, table
from .provenance import (
    data,
    device_of,
    has_public_dataset,
    has_public_parent,
    parent_name,
    recipe,
    reproduction,
)
from .records import Records

TEMPLATE = Path(__file__).with_name("card.md.jinja")
OPENING_WORDS, OPENING_CHARACTERS = 3, 30


# ----------------------------------------------------------------------------------------------------------------------
# What it is


def metadata(records: Records) -> ModelCardData:
    """Returns the card's YAML metadata, with the best evaluation as its model-index."""
    best, dataset = records.best, ", ".join(shown(file["name"]) for file in records.corpus["files"][:3])
    metrics = [("loss", "val_loss"), ("accuracy", "val_accuracy"), ("bits_per_character", "val_bits_per_char")]
    optional = license_metadata(records.args.data_license)
    if has_public_dataset(records):
        optional["datasets"] = [HUB_ID.fullmatch(records.args.dataset)["id"]]
    if has_public_parent(records):
        optional["base_model"] = records.args.init_from
    return ModelCardData(
        model_name=f"lyricgpt-{shown(records.name)}",
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["lyricgpt", "character-level", "lyrics", "custom_code"],
        eval_results=[
            EvalResult(
                task_type="text-generation",
                task_name="Next-character prediction",
                dataset_type="lyrics",
                dataset_name=f"{dataset} (validation part)",
                metric_type=kind,
                metric_value=round(best[key], 4),
            )
            for kind, key in metrics
        ],
        **optional,
    )


def about(records: Records) -> dict[str, Any]:
    """Returns what the model is, and the figures that a reader looks for first."""
    args, corpus, best, config = records.args, records.corpus, records.best, records.config
    songs = corpus["songs_in"].get("train", 0)
    where = f"; device: {device_of(records)}" if records.environment else ""
    rows = [
        ("model", f"LyricGPT's `{config.variant}` variant: {plural(config.num_hidden_layers, 'layer')}, {plural(config.num_attention_heads, 'attention head')}, width {config.hidden_size}"),
        ("alphabet", f"{plural(corpus['alphabet_size'], 'character')}, all that it knows"),
        ("block", f"{plural(args.block_size, 'character')}: how much text the model saw at once in training (a song can be longer)"),
        ("validation loss", f"**{best['val_loss']:.4f}** nats per character ({best['val_bits_per_char']:.4f} bits), at step {best['step']:,}; lower is better"),
        ("validation accuracy", f"{best['val_accuracy']:.1%} of the next characters guessed right"),
        ("training", f"{plural(records.rows[-1]['step'], 'step')} in {duration(records.rows[-1]['elapsed_seconds'])}{where}"),
        ("license of the songs", escape(stated_license(args.data_license) or "not stated")),
    ]  # fmt: skip
    return {
        "name": escape(records.name),
        "begun_with": parent_name(records) if args.init_from else None,
        "trained_on": plural(songs, "song")
        if corpus["split"] == "songs"
        else plural(corpus["tokens"]["train"], "character"),
        "properties": table(("property", "value"), rows),
        "conditioning": corpus["conditioning"],
        "best_step": f"{best['step']:,}",
        "block_size": args.block_size,
        "seed": args.seed,
        "license": shown_license(args.data_license),
    }


# ----------------------------------------------------------------------------------------------------------------------
# How to use it, and its songs


def shown_songs(records: Records) -> dict[str, Any]:
    """Returns the content of `songs.json`; without that file, the sample of the best evaluation in the same form."""
    best = records.best
    song = {"seed": best["sample_seed"], "artist": "", "title": "", "song": best["sample"]}
    drawn = {"prompt": records.args.sample_prompt, "max_new_tokens": SAMPLE_CHARACTERS, "songs": [song]}
    return records.songs or drawn


def opening(records: Records) -> str:
    """Returns the first words of a song: a prompt that the alphabet can spell."""
    text = shown_songs(records)["songs"][0]["song"]
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(LABELS)]
    return " ".join(lines[0].split()[:OPENING_WORDS])[:OPENING_CHARACTERS] if lines else ""


def pipeline_code(records: Records, source: str) -> str:
    """Returns the shortest code that writes a song."""
    lines = [
        "from transformers import pipeline",
        "",
        f'write = pipeline("text-generation", model={literal(source)}, trust_remote_code=True)',
        'print(write("")[0]["generated_text"])  # a new song',
    ]
    if begin := opening(records):
        lines.append(f'print(write({literal(begin)}, temperature=0.7)[0]["generated_text"])  # continues this line')
    return code_block("\n".join(lines), "python")


def songs_code(records: Records, source: str) -> str:
    """Returns the code that writes the songs on the card, each with its seed."""
    drawn = shown_songs(records)
    is_asked = any(song["artist"] or song["title"] for song in drawn["songs"])
    # Only this project's tokenizer has `song_prompt`. Without it, a stock tokenizer is enough: it gives the same ids.
    lines = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed",
        "",
        f"tokenizer = AutoTokenizer.from_pretrained({literal(source)}, trust_remote_code={is_asked})",
        f"model = AutoModelForCausalLM.from_pretrained({literal(source)}, trust_remote_code=True)",
    ]
    if is_asked:
        lines.append("for seed, artist, title in [")
        lines += [
            f"    ({song['seed']}, {literal(song['artist'])}, {literal(song['title'])})," for song in drawn["songs"]
        ]
        lines.append("]:")
        prompt = "tokenizer.song_prompt(artist=artist, title=title)"
        prompt += f" + {literal(drawn['prompt'])}" if drawn["prompt"] else ""
    else:
        lines.append(f"for seed in {[song['seed'] for song in drawn['songs']]}:")
        prompt = literal(drawn["prompt"])
    has_prompt = is_asked or drawn["prompt"]
    if has_prompt:
        lines.append(f'    inputs = tokenizer({prompt}, return_tensors="pt")')
    lines += [
        "    set_seed(seed)",
        f"    song = model.generate({'**inputs, ' if has_prompt else ''}max_new_tokens={drawn['max_new_tokens']})[0]",
        "    print(tokenizer.decode(song, skip_special_tokens=True))",
    ]
    return code_block("\n".join(lines), "python")


def stock_code(source: str, branch: str) -> str:
    """Returns the code that loads the stock model from a branch of the repository."""
    load = f"from_pretrained({literal(source)}, revision={literal(branch)})"
    code = f"""from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.{load}
model = AutoModelForCausalLM.{load}"""
    return code_block(code, "python")


def use(records: Records, source: str, stock_branch: str | None) -> dict[str, Any]:
    """Returns how to use the model."""
    return {
        "pipeline_code": pipeline_code(records, source),
        "songs_code": songs_code(records, source),
        "oldest": OLDEST,
        "newest": NEWEST,
        "trustless_tokenizer": code_span(f"AutoTokenizer.from_pretrained({literal(source)}, trust_remote_code=False)"),
        "stock_branch": stock_branch and code_span(stock_branch),
        "stock_code": stock_branch and stock_code(source, stock_branch),
    }


def samples(records: Records, source: str) -> dict[str, Any]:
    """Returns unedited songs, and how to get them again."""
    drawn, blocks = shown_songs(records), []
    for song in drawn["songs"]:
        asked = [f"{key} {escape(song[key])}" for key in ("artist", "title") if song[key]]
        blocks.append(f"Seed {song['seed']}{''.join(', ' + part for part in asked)}:\n\n{code_block(song['song'])}")
    first = drawn["songs"][0]
    asked = {"artist": first["artist"], "title": first["title"], "prompt": drawn["prompt"]}
    options = [f"--{option}={shlex.quote(value)}" for option, value in asked.items() if value]
    options += [f"--seed {first['seed']}", f"--max_new_tokens {drawn['max_new_tokens']}"]
    command = f"python -m training_lyricgpt.sample {shlex.quote(source)} \\\n    {' '.join(options)}"
    return {
        "song_characters": drawn["max_new_tokens"],
        "prompt": code_span(drawn["prompt"]) if drawn["prompt"] else None,
        "device_kind": records.environment[-1]["device"] if records.environment else None,
        "sample_command": code_block(command, "bash"),
        "songs": "\n\n".join(blocks),
        "sample_seed": records.best["sample_seed"],
        "sample_characters": SAMPLE_CHARACTERS,
    }


# ----------------------------------------------------------------------------------------------------------------------
# The page


def model_card(records: Records, repository: str | None = None, stock_branch: str | None = None) -> ModelCard:
    """Returns the card of a run.

    Args:
        repository: Where it is published; None for the card in the run folder itself.
        stock_branch: Branch of the repository that holds the stock model, if there is one.
    """
    source = repository or records.args.output_dir
    return ModelCard.from_template(
        metadata(records),
        template_path=str(TEMPLATE),
        **about(records),
        **use(records, source, stock_branch),
        **samples(records, source),
        **figures(records),
        **originality(records),
        **limits(records),
        **data(records),
        **recipe(records),
        **reproduction(records, repository),
    )
