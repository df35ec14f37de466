"""Describes where a model comes from: data, recipe, budget, and how to train it again.

Every figure is read from the run's records. If a record is missing, its sentence is left out or says that it is missing.
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
    """Turns a line of the printed corpus report into a sentence of the card."""
    text = escape(line.strip().removeprefix("corpus: ").removeprefix("note: "))
    return f"{text[0].upper()}{text[1:]}."


# ----------------------------------------------------------------------------------------------------------------------
# Data


def files_section(records: Records) -> str:
    """Returns name, size and checksum of the files, or of the first ones if there are very many."""
    rows, more = [], ""
    for key, what in (("files", ""), ("validation_files", ", for validation")):
        files = records.corpus[key]
        rows += [
            (f"{code_cell(file['name'])}{what}", f"{file['bytes']:,}", f"`{file['sha256']}`")
            for file in files[:SHOWN_FILES]
        ]
        if len(files) > SHOWN_FILES:
            more += f"\n\nAnd {len(files) - SHOWN_FILES:,} more{what}: `corpus.json` has the checksum of each."
    return table(("file", "bytes", "SHA-256"), rows) + more


def near_duplicates_line(records: Records) -> str:
    """Says how many songs are almost the same, and what that means."""
    figures = records.corpus["near_duplicates"]
    if figures["mode"] == "ignore":
        return "Near-duplicates (songs that are almost the same, such as covers) were not searched for."
    what = (
        f"share at least {THRESHOLD:.0%} of the different sequences of {SHINGLE_BYTES} letters and digits that occur in either "
        "of them"
    )
    if not figures["clusters"]:
        return f"No near-duplicates (songs that are almost the same, such as covers) were found: no two songs {what}."
    meaning = f"Near-duplicates are songs that are almost the same, such as covers: they {what}."
    return " ".join([meaning, *map(sentence, describe_near_duplicates(records.corpus))])


def data(records: Records) -> dict[str, Any]:
    """Returns files, cleaning, near-duplicates and split."""
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
    """Returns a number of floating-point operations with a readable unit."""
    units = ("", "k", "M", "G", "T", "P", "E", "Z")
    power = min(int(math.log10(max(flops, 1)) // 3), len(units) - 1)
    return f"{flops / 1000**power:.3g} {units[power]}FLOP"


def recipe_rows(records: Records) -> Iterator[tuple[str, str]]:
    """Yields the settings of the training."""
    args, config = records.args, records.config
    rate = f"AdamW (learning rate at most {args.learning_rate:g})"
    if args.optimizer == "muon":
        rate = f"Muon (learning rate at most {args.muon_learning_rate:g}) for the matrices of the layers, {rate} for the rest"
    shape = {
        "constant": "",
        "cosine": f": falls along a cosine to {args.min_learning_rate:g}",
        "trapezoid": f": stays constant, then falls to {args.min_learning_rate:g} over the last {args.decay_fraction:.0%} of the steps",
    }
    yield "optimizer", rate
    warm_up = f", after a warm-up of {plural(args.warmup_steps, 'step')}" if args.warmup_steps else ""
    yield "learning rate schedule", f"`{args.lr_schedule}`{warm_up}{shape[args.lr_schedule]}"
    yield "betas of AdamW", f"{args.beta1:g} and {args.beta2:g}"
    yield (
        "weight decay",
        f"{args.weight_decay:g}, on {'matrices only' if args.decay_parameters == 'matrices' else 'all parameters'}",
    )
    yield "gradient clipping", f"to a norm of {args.max_grad_norm:g}" if args.max_grad_norm else "off"
    yield "dropout", f"{config.hidden_dropout:g}"
    yield "batch", f"{args.batch_size:,} blocks of {args.block_size:,} characters"
    yield "precision", {"no": "float32", None: "float32"}.get(args.mixed_precision, f"{args.mixed_precision}, mixed")
    yield "seed", f"{args.seed}"


def budget_rows(records: Records) -> Iterator[tuple[str, str]]:
    """Yields what the training has taken so far."""
    args, rows, done = records.args, records.rows, records.rows[-1]["step"]
    characters = done * args.batch_size * args.block_size
    flops = flops_per_character(records.config)
    with torch.device("meta"):
        model = LyricGPTForCausalLM(records.config)
    parts = ", ".join(f"{part} {count:,}" for part, count in parameters_by_part(model).items())
    yield "parameters", f"{model.num_parameters():,} ({parts})"
    yield "steps", f"{done:,}" if done >= args.max_steps else f"{done:,} of {args.max_steps:,}"
    yield (
        "characters read",
        f"{characters:,} (the training text {characters / records.corpus['tokens']['train']:.3g} times)",
    )
    yield (
        "floating-point operations",
        f"{size_of(flops * characters)}, {size_of(flops)} per character (forward and backward)",
    )
    yield "time", time_spent(rows)
    if speeds := [row["chars_per_second"] for row in rows if row["chars_per_second"]]:
        yield "speed", f"{statistics.median(speeds):,.0f} characters per second (median between evaluations)"
    if records.environment:
        yield "device", device_of(records)


def device_of(records: Records) -> str:
    """Describes the machine of the last start."""
    last = records.environment[-1]
    name = escape(last["device_name"])
    if last["device"] == "cpu":
        kind = f"{name}, {plural(last['threads'], 'thread')}"
        return kind + (f" in each of {plural(last['processes'], 'process', 'es')}" if last["processes"] > 1 else "")
    return f"{plural(last['processes'], 'process', 'es')} on {escape(last['device'])} ({name})"


def recipe(records: Records) -> dict[str, Any]:
    """Returns how the model was trained, and what that took."""
    return {
        "initialization": records.args.initialization,
        "recipe": table(("setting", "value"), recipe_rows(records)),
        "budget": table(("budget", "value"), budget_rows(records)),
    }


def parent_name(records: Records) -> str:
    """Returns the name of the model that a run started from, if others can look it up."""
    return code_span(records.args.init_from) if has_public_parent(records) else "another model"


def has_public_parent(records: Records) -> bool:
    """Returns whether a run started from a model on the Hub, as recorded at its start. False if nothing was recorded."""
    return names_hub(records.args.init_from) and any(entry.get("init_from") == "hub" for entry in records.environment)


def has_public_dataset(records: Records) -> bool:
    """Returns whether the corpus is a dataset on the Hub, as noted when it was prepared."""
    return names_hub(records.args.dataset) and all(file["kind"] == "hub" for file in records.corpus["files"])


def names_hub(text: str | None) -> bool:
    """Returns whether a text has the form of a name on the Hub."""
    return bool(text and HUB_ID.fullmatch(text))


# ----------------------------------------------------------------------------------------------------------------------
# How to make it again


def training_command(records: Records, repository: str | None) -> str:
    """Returns the command that trains this model again, to be run in the folder of the clone.

    Args:
        repository: Where `run.yaml` is published; None to use the one in the run folder.
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
    """Yields what the model was trained with, one line for each start with other versions or settings."""
    for entry in records.environment:
        packages = [f"{escape(name)} {escape(number)}" for name, number in entry["packages"].items() if number]
        code = f"LyricGPT {escape(entry['lyricgpt'] or '')}".strip()
        if entry["commit"]:
            commit, changed, _ = entry["commit"].partition("-dirty")
            code += f" (commit `{commit[:SHOWN_COMMIT]}`{', with local changes' if changed else ''})"
        since = f"from step {entry['from_step']:,} on " if len(records.environment) > 1 or entry["from_step"] else ""
        yield (
            f"Trained {since}with {code} and Python {escape(entry['python'])} on {escape(entry['system'])}, with {', '.join(packages)}. "
            f"Settings: `max_steps` {entry['max_steps']:,}, `eval_interval` {entry['eval_interval']:,}."
        )
    if not records.environment:
        yield "The versions that the model was trained with were not recorded."
    elif first := records.environment[0]["from_step"]:
        yield f"The versions up to step {first:,} were not recorded."


def reproduction(records: Records, repository: str | None) -> dict[str, Any]:
    """Returns how to train this model again."""
    needed = []
    if not has_public_dataset(records):
        names = [file["name"] for file in (*records.corpus["files"], *records.corpus["validation_files"])]
        needed.append("the corpus" if len(names) > 1 else code_span(names[0]))
    if records.args.init_from and not has_public_parent(records):
        needed.append("the model that it started from")
    settings = {(entry["max_steps"], entry["eval_interval"]) for entry in records.environment}
    return {
        "is_published": repository is not None,
        "needed": " and ".join(needed),
        "training_command": code_block(training_command(records, repository), "bash"),
        "settings_changed": len(settings) > 1,
        "versions": bullets(versions_lines(records)),
    }
