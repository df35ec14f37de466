"""The model card: `README.md` of a run folder and of a published repository, rendered from the run's records.

Notable:
- No figure is typed: all are read from the records, and the code blocks are run by the tests as they stand.
- The songs in it are unedited, and the code block above them prints exactly them: a song is a function of weights and seed.
- What a card cannot know it does not say: the language of the songs, and a licence that nobody stated.
- How good the model is stands in `assessment`, where it comes from in `provenance`.
"""

import shlex
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from modeling_lyricgpt.compat_lyricgpt import NEWEST, OLDEST

from .arguments import Arguments
from .assessment import figures_section, limits_section, originality_section
from .conditioning import LABELS
from .files import write_text
from .licences import licence_metadata, licence_section, stated_licence
from .markdown import code_block, code_span, escape, literal, table
from .provenance import (
    data_section,
    device_of,
    has_public_dataset,
    has_public_parent,
    parent_name,
    recipe_section,
    reproduction_section,
)
from .records import Records, read_records
from .reports import SAMPLE_CHARACTERS, draw_curves, write_samples
from .sources import HUB_ID, shown
from .wording import duration, plural

OPENING_WORDS, OPENING_CHARACTERS = 3, 30


# ----------------------------------------------------------------------------------------------------------------------
# What it is


def metadata(records: Records) -> ModelCardData:
    """The card's YAML, with the best evaluation as model-index."""
    best, dataset = records.best, ", ".join(shown(file["name"]) for file in records.corpus["files"][:3])
    metrics = [("loss", "val_loss"), ("accuracy", "val_accuracy"), ("bits_per_character", "val_bits_per_char")]
    optional = licence_metadata(records.args.data_license)
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
                dataset_name=f"{dataset} (held-out part)",
                metric_type=kind,
                metric_value=round(best[key], 4),
            )
            for kind, key in metrics
        ],
        **optional,
    )


def title_section(records: Records) -> str:
    """Name, one sentence, and the figures that a reader looks for first."""
    args, corpus, best, config = records.args, records.corpus, records.best, records.config
    songs = corpus["songs_in"].get("train", 0)
    on = plural(songs, "song") if corpus["split"] == "songs" else plural(corpus["tokens"]["train"], "character")
    begun = (
        f"begun with the weights of {parent_name(records)} and trained on"
        if args.init_from
        else "trained from scratch on"
    )
    where = f", on {device_of(records)}" if records.environment else ""
    rows = [
        ("model", f"`{config.variant}`: {plural(config.num_hidden_layers, 'layer')}, {plural(config.num_attention_heads, 'head')}, width {config.hidden_size}"),
        ("alphabet", plural(corpus["alphabet_size"], "character")),
        ("window", f"{plural(args.block_size, 'character')} in training; a song may be longer"),
        ("validation loss", f"**{best['val_loss']:.4f}** nats a character ({best['val_bits_per_char']:.4f} bits), at step {best['step']:,}"),
        ("accuracy", f"{best['val_accuracy']:.1%} of the next characters of held-out text"),
        ("training", f"{plural(records.rows[-1]['step'], 'step')} in {duration(records.rows[-1]['elapsed_seconds'])}{where}"),
        ("licence of the songs", escape(stated_licence(args.data_license) or "none stated")),
    ]  # fmt: skip
    return f"""# lyricgpt-{escape(records.name)}

A character-level GPT that writes song lyrics, {begun} {on} with LyricGPT. It reads and writes one character at a time.

{table(("property", "value"), rows)}
"""


# ----------------------------------------------------------------------------------------------------------------------
# How to use it, and its songs


def shown_songs(records: Records) -> dict[str, Any]:
    """What `songs.json` holds; without it the sample of the best evaluation, in the same form."""
    best = records.best
    song = {"seed": best["sample_seed"], "artist": "", "title": "", "song": best["sample"]}
    drawn = {"prompt": records.args.sample_prompt, "max_new_tokens": SAMPLE_CHARACTERS, "songs": [song]}
    return records.songs or drawn


def opening(records: Records) -> str:
    """The first words of a song: a prompt that this alphabet can spell."""
    text = shown_songs(records)["songs"][0]["song"]
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(LABELS)]
    return " ".join(lines[0].split()[:OPENING_WORDS])[:OPENING_CHARACTERS] if lines else ""


def pipeline_code(records: Records, source: str) -> str:
    """The shortest way to a song."""
    lines = [
        "from transformers import pipeline",
        "",
        f'write = pipeline("text-generation", model={literal(source)}, trust_remote_code=True)',
        'print(write("")[0]["generated_text"])  # a new song',
    ]
    if begin := opening(records):
        lines.append(f'print(write({literal(begin)}, temperature=0.7)[0]["generated_text"])  # going on with a line')
    return code_block("\n".join(lines), "python")


def songs_code(records: Records, source: str) -> str:
    """Several songs, each with its seed: those that the card shows."""
    drawn = shown_songs(records)
    is_asked = any(song["artist"] or song["title"] for song in drawn["songs"])
    # Prompts by name need this project's tokenizer; the ids are those of a stock one.
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


def use_section(records: Records, source: str, twin: str | None) -> str:
    """The section on use: the pipeline, seeds, trust, and the twin."""
    names = ""
    if records.corpus["conditioning"] != "none":
        what = "artist or title, or both" if records.corpus["conditioning"] == "artist_title" else "title"
        names = f"""
This model can be asked for a song by {what}: `tokenizer.song_prompt` gives the prompt. Names that it never saw are allowed.
Asked for none, it writes a header of its own.
"""
    return f"""## Use

{pipeline_code(records, source)}

An empty prompt starts a new song; any other prompt is continued. A song ends by itself or after `max_new_tokens` characters.
The defaults stand in `generation_config.json`.
{names}
A seed gives the same song again. This prints the samples below:

{songs_code(records, source)}

### Custom code

transformers has no such architecture: the `.py` files beside the weights are the model, and `trust_remote_code=True` lets them run on
your machine, with your rights (the tag `custom_code` says so). They import torch, transformers, numpy, tokenizers, jinja2, packaging and
Python's own library, and work with transformers {OLDEST} to {NEWEST}. Read them once, then pin what you have read: `revision="…"`, with the full hash of that commit, in each of the calls
above. Without it, whatever is in the repository by then is run. The weights are safetensors: nothing is unpickled. The tokenizer
alone needs no trust: {code_span(f"AutoTokenizer.from_pretrained({literal(source)}, trust_remote_code=False)")}. If you leave the
argument out, transformers asks you first.
{twin_passage(source, twin) if twin else ""}"""


def twin_passage(source: str, branch: str) -> str:
    """How the same weights load as a stock architecture, from a branch of the repository."""
    load = f"from_pretrained({literal(source)}, revision={literal(branch)})"
    code = f"""from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.{load}
model = AutoModelForCausalLM.{load}"""
    return f"""
Without `trust_remote_code`, the same weights as a stock architecture are on the branch {code_span(branch)}; its card says what it
cannot do:

{code_block(code, "python")}
"""


def samples_section(records: Records, source: str) -> str:
    """The section with songs, unedited, and how each is drawn again."""
    drawn, blocks = shown_songs(records), []
    for song in drawn["songs"]:
        asked = [f"{key} {escape(song[key])}" for key in ("artist", "title") if song[key]]
        blocks.append(f"Seed {song['seed']}{''.join(', ' + part for part in asked)}:\n\n{code_block(song['song'])}")
    first, songs = drawn["songs"][0], "\n\n".join(blocks)
    asked = {"artist": first["artist"], "title": first["title"], "prompt": drawn["prompt"]}
    options = [f"--{option}={shlex.quote(value)}" for option, value in asked.items() if value]
    options += [f"--seed {first['seed']}", f"--max_new_tokens {drawn['max_new_tokens']}"]
    command = f"python -m training_lyricgpt.sample {shlex.quote(source)} \\\n    {' '.join(options)}"
    prompt = f", each begun with {code_span(drawn['prompt'])}" if drawn["prompt"] else ""
    device = f" (these were drawn on `{records.environment[-1]['device']}`)" if records.environment else ""
    best = records.best
    return f"""## Samples

Unedited and not chosen, {drawn["max_new_tokens"]} characters at most{prompt}. The code above prints them, and so does LyricGPT, one at a time.
On another kind of device{device} a seed gives another song.

{code_block(command, "bash")}

{songs}

`samples.txt` has the song of each evaluation. That of step {best["step"]:,}, whose weights these are, is drawn with seed
{best["sample_seed"]} and {SAMPLE_CHARACTERS} characters; those of other steps come out when the training is repeated (see Reproduce).
"""


# ----------------------------------------------------------------------------------------------------------------------
# The page


def model_card(records: Records, repository: str | None = None, twin: str | None = None) -> ModelCard:
    """The card of a run.

    Args:
        repository: Where it is published; None for the card of the run folder itself.
        twin: Branch of the repository that holds the same weights as a stock architecture, if there is one.
    """
    source = repository or records.args.output_dir
    sections = [
        title_section(records),
        use_section(records, source, twin),
        samples_section(records, source),
        figures_section(records),
        originality_section(records),
        data_section(records),
        recipe_section(records),
        limits_section(records),
        reproduction_section(records, repository),
        licence_section(records.args.data_license),
    ]
    body = "\n".join(section.rstrip() + "\n" for section in sections if section)
    return ModelCard(f"---\n{metadata(records).to_yaml()}\n---\n\n{body}")


def write_reports(folder: Path, args: Arguments, corpus: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Draws everything that follows from the record: curves, samples, card."""
    draw_curves(folder, rows)
    write_samples(folder, rows)
    write_text(folder / "README.md", str(model_card(read_records(folder, args, corpus, rows))))
