"""What a card says of where a model comes from: data, recipe, budget, and how to make it again.

Every figure is read from the run's records; a sentence whose record is missing is left out, or says that it is missing.
"""

import math
import shlex
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from modeling_lyricgpt import LyricGPTForCausalLM

from ..corpus.headers import DROPPED_SHARE
from ..corpus.near_duplicates import SHINGLE_BYTES, THRESHOLD
from ..corpus.report import describe_near_duplicates, describe_songs
from ..corpus.sources import HUB_ID
from ..engine.metrics import time_spent
from ..engine.planning import flops_per_character, parameters_by_part
from ..wording import plural
from .markdown import bullets, code_block, code_cell, code_span, escape, table
from .records import Records

SHOWN_FILES = 10
SHOWN_COMMIT = 12  # digits
MACHINES = {  # the accelerate configuration for one process and for several
    "cpu": ("cpu.yaml", "cpu_2_processes.yaml"),
    "cuda": ("gpu_a10.yaml", "gpus.yaml"),
    "mps": ("mps.yaml", "mps.yaml"),
}


def sentence(line: str) -> str:
    """A line that is printed of a corpus, as a sentence of the card."""
    text = escape(line.strip().removeprefix("corpus: ").removeprefix("note: "))
    return f"{text[0].upper()}{text[1:]}."


# ----------------------------------------------------------------------------------------------------------------------
# Data


def files_section(records: Records) -> str:
    """Name, size and checksum of the files, of very many only the first."""
    rows, more = [], ""
    for key, what in (("files", ""), ("validation_files", ", held out")):
        files = records.corpus[key]
        rows += [
            (f"{code_cell(file['name'])}{what}", f"{file['bytes']:,}", f"`{file['sha256']}`")
            for file in files[:SHOWN_FILES]
        ]
        if len(files) > SHOWN_FILES:
            more += f"\n\nAnd {len(files) - SHOWN_FILES:,} more{what}: `corpus.json` has the checksum of each."
    return table(("file", "bytes", "SHA-256"), rows) + more


def near_duplicates_line(records: Records) -> str:
    """What was found of songs that are nearly the same, and what they are."""
    figures = records.corpus["near_duplicates"]
    if figures["mode"] == "ignore":
        return "Near-duplicates were not searched for."
    what = f"share at least {THRESHOLD:.0%} of all their runs of {SHINGLE_BYTES} letters and digits"
    if not figures["clusters"]:
        return f"No near-duplicates were found: no two songs {what}."
    return " ".join([*map(sentence, describe_near_duplicates(records.corpus)), f"Near-duplicates {what}."])


def data(records: Records) -> dict[str, Any]:
    """Files, cleaning, near-duplicates and split."""
    corpus, sides = records.corpus, {}
    for split in ("train", "validation"):
        songs = f" of {plural(corpus['songs_in'].get(split, 0), 'song')}" if corpus["split"] == "songs" else ""
        sides[split] = f"{plural(corpus['tokens'][split], 'token')}{songs}"
    return {
        "files": files_section(records),
        "found": bullets(sentence(line) for line in describe_songs(corpus)),
        "cleaning": corpus["cleaning"],
        "near_duplicates": near_duplicates_line(records),
        "has_validation_file": bool(corpus["validation_files"]),
        "split": corpus["split"],
        "split_seed": corpus["split_seed"],
        "validation_fraction": f"{corpus['validation_fraction']:.0%}",
        "training_side": sides["train"],
        "validation_side": sides["validation"],
        "dropped_share": f"{DROPPED_SHARE:.0%}",
    }


# ----------------------------------------------------------------------------------------------------------------------
# Recipe and budget


def size_of(flops: float) -> str:
    """Floating-point operations as a person says them."""
    units = ("", "k", "M", "G", "T", "P", "E", "Z")
    power = min(int(math.log10(max(flops, 1)) // 3), len(units) - 1)
    return f"{flops / 1000**power:.3g} {units[power]}FLOP"


def recipe_rows(records: Records) -> Iterator[tuple[str, str]]:
    """Settings of the training, by their names in `run.yaml`."""
    args, config = records.args, records.config
    rate = f"AdamW, {args.learning_rate:g} at its peak"
    if args.optimizer == "muon":
        rate = f"Muon for the matrices of the blocks, {args.muon_learning_rate:g} at its peak; {rate} for the rest"
    shape = {
        "constant": "",
        "cosine": f": a cosine, down to {args.min_learning_rate:g}",
        "trapezoid": f": constant, then down to {args.min_learning_rate:g} over the last {args.decay_fraction:.0%} of the steps",
    }
    yield "optimizer", rate
    warm_up = f"; {plural(args.warmup_steps, 'step')} of warm-up" if args.warmup_steps else ""
    yield "learning rate", f"`{args.lr_schedule}`{shape[args.lr_schedule]}{warm_up}"
    yield "betas", f"{args.beta1:g} and {args.beta2:g}"
    yield (
        "weight decay",
        f"{args.weight_decay:g}, on {'matrices' if args.decay_parameters == 'matrices' else 'everything'}",
    )
    yield "gradient clipped to", f"{args.max_grad_norm:g}" if args.max_grad_norm else "not clipped"
    yield "dropout", f"{config.hidden_dropout:g}"
    yield "batch", f"{args.batch_size:,} windows of {args.block_size:,} characters"
    yield "precision", {"no": "float32", None: "float32"}.get(args.mixed_precision, f"{args.mixed_precision}, mixed")
    yield "seed", f"{args.seed}"


def budget_rows(records: Records) -> Iterator[tuple[str, str]]:
    """What the training took, as far as it has come."""
    args, rows, done = records.args, records.rows, records.rows[-1]["step"]
    characters = done * args.batch_size * args.block_size
    flops = flops_per_character(records.config)
    with torch.device("meta"):
        model = LyricGPTForCausalLM(records.config)
    parts = ", ".join(f"{part} {count:,}" for part, count in parameters_by_part(model).items())
    yield "parameters", f"{model.num_parameters():,} ({parts})"
    yield "steps", f"{done:,}" if done >= args.max_steps else f"{done:,} of {args.max_steps:,}"
    yield "characters read", f"{characters:,}, the corpus {characters / records.corpus['tokens']['train']:.3g} times"
    yield "operations", f"{size_of(flops * characters)}, {size_of(flops)} a character, forward and backward"
    yield "time", time_spent(rows)
    if speeds := [row["chars_per_second"] for row in rows if row["chars_per_second"]]:
        yield "speed", f"{statistics.median(speeds):,.0f} characters a second (median between evaluations)"
    if records.environment:
        yield "device", device_of(records)


def device_of(records: Records) -> str:
    """The kind of machine of the last start."""
    last = records.environment[-1]
    name = escape(last["device_name"])
    if last["device"] == "cpu":
        kind = f"{name}, {plural(last['threads'], 'thread')}"
        return kind + (f" in each of {plural(last['processes'], 'process', 'es')}" if last["processes"] > 1 else "")
    return f"{plural(last['processes'], 'process', 'es')} on {escape(last['device'])} ({name})"


def recipe(records: Records) -> dict[str, Any]:
    """How it was trained, and what that took."""
    return {
        "initialization": records.args.initialization,
        "recipe": table(("setting", "value"), recipe_rows(records)),
        "budget": table(("budget", "value"), budget_rows(records)),
    }


def parent_name(records: Records) -> str:
    """The model that a run began with, where it has a name that others can look up."""
    return code_span(records.args.init_from) if has_public_parent(records) else "another model"


def has_public_parent(records: Records) -> bool:
    """Whether a run began with a model of the Hub, as was noted when it began; what was not noted is no name to look up."""
    return names_hub(records.args.init_from) and any(entry.get("init_from") == "hub" for entry in records.environment)


def has_public_dataset(records: Records) -> bool:
    """Whether the corpus is a dataset of the Hub, as was noted when it was prepared."""
    return names_hub(records.args.dataset) and all(file["kind"] == "hub" for file in records.corpus["files"])


def names_hub(text: str | None) -> bool:
    """Whether a text has the form of a name on the Hub."""
    return bool(text and HUB_ID.fullmatch(text))


# ----------------------------------------------------------------------------------------------------------------------
# How to make it again


def training_command(records: Records, repository: str | None) -> str:
    """The command that trains this model again, from the clone's folder.

    Args:
        repository: Where `run.yaml` is published; None for that of the run folder.
    """
    launch = ["accelerate", "launch"]
    if records.environment:
        last = records.environment[-1]
        if last["device"] in MACHINES:
            launch += ["--config_file", f"configs/accelerate/{MACHINES[last['device']][last['processes'] > 1]}"]
        if last["processes"] > 1:
            launch += ["--num_processes", str(last["processes"])]
    train = ["train_hf.py", "--config", "run.yaml"]
    download = ""
    if repository is None:
        run = Path(records.args.output_dir)
        train = ["train_hf.py", "--config", str(run / "run.yaml"), "--output_dir", f"{run}-again"]
    else:
        download = shlex.join(["hf", "download", repository, "run.yaml", "--local-dir", "."]) + "\n"
    return f"{download}{shlex.join(launch)} \\\n    {shlex.join(train)}"


def versions_lines(records: Records) -> Iterator[str]:
    """What it was trained with, one line for each start with other versions or settings."""
    for entry in records.environment:
        packages = [f"{escape(name)} {escape(number)}" for name, number in entry["packages"].items() if number]
        code = f"LyricGPT {escape(entry['lyricgpt'] or '')}".strip()
        if entry["commit"]:
            commit, changed, _ = entry["commit"].partition("-dirty")
            code += f" (commit `{commit[:SHOWN_COMMIT]}`{', with changes' if changed else ''})"
        since = f"from step {entry['from_step']:,} on " if len(records.environment) > 1 or entry["from_step"] else ""
        yield (
            f"Trained {since}with {code}, Python {escape(entry['python'])} on {escape(entry['system'])}: {', '.join(packages)}; "
            f"`max_steps` {entry['max_steps']:,}, `eval_interval` {entry['eval_interval']:,}."
        )
    if not records.environment:
        yield "The versions that it was trained with were not recorded."
    elif first := records.environment[0]["from_step"]:
        yield f"The versions of the steps up to {first:,} were not recorded."


def reproduction(records: Records, repository: str | None) -> dict[str, Any]:
    """How to train this model again, word for word."""
    needed = []
    if not has_public_dataset(records):
        names = [file["name"] for file in (*records.corpus["files"], *records.corpus["validation_files"])]
        needed.append("the corpus" if len(names) > 1 else code_span(names[0]))
    if records.args.init_from and not has_public_parent(records):
        needed.append("the model that it began with")
    settings = {(entry["max_steps"], entry["eval_interval"]) for entry in records.environment}
    return {
        "is_published": repository is not None,
        "needed": " and ".join(needed),
        "training_command": code_block(training_command(records, repository), "bash"),
        "settings_changed": len(settings) > 1,
        "versions": bullets(versions_lines(records)),
    }
