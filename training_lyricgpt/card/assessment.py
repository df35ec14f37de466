"""Describes how good a model is: its evaluations, what it copies, and what it cannot do.

Notes:
- If there are many evaluations, the table shows only some, always with the first, the best and the last.
- It does not guess languages. It only says which scripts the letters of the songs belong to.
"""

import itertools
import unicodedata
from collections.abc import Iterator
from typing import Any

from ..corpus.streams import evaluation_offsets
from ..engine.metrics import overfitting
from ..quality.judging import quality_rows, share
from ..quality.metrics import WINDOW
from ..wording import plural
from .markdown import code_block, code_span, escape, table
from .records import Records

SHOWN_EVALUATIONS = 20
SHOWN_ALPHABET = 200
LINE = 26
SHOWN_PASSAGE = 4 * WINDOW
SHOWN_SCRIPTS = 5


def shown_rows(records: Records) -> list[dict[str, Any]]:
    """Returns all evaluations. If there are many, returns evenly spaced ones with the first, the best and the last."""
    rows, last = records.rows, len(records.rows) - 1
    if len(rows) <= SHOWN_EVALUATIONS:
        return rows
    chosen = {round(index * last / (SHOWN_EVALUATIONS - 2)) for index in range(SHOWN_EVALUATIONS - 1)}
    return [rows[index] for index in sorted(chosen | {rows.index(records.best)})]


def figures(records: Records) -> dict[str, Any]:
    """Returns the evaluations as a table."""
    args, best, rows = records.args, records.best, shown_rows(records)
    windows = {
        split: len(evaluation_offsets(args.seed, split, args.eval_batches * args.batch_size, tokens, args.block_size))
        for split, tokens in records.corpus["tokens"].items()
    }
    turned = overfitting(records.rows)
    mark = lambda row, text: f"**{text}**" if row is best else text  # noqa: E731
    cells = [
        [mark(row, f"{row['step']:,}")]
        + [mark(row, f"{row[key]:.4f}") for key in ("train_loss", "val_loss", "train_accuracy", "val_accuracy", "val_bits_per_char")]
        for row in rows
    ]  # fmt: skip
    head = (
        "step",
        "training loss",
        "validation loss",
        "training accuracy",
        "validation accuracy",
        "validation loss in bits",
    )
    is_part = len(rows) < len(records.rows)
    return {
        "windows": {split: f"{count:,}" for split, count in windows.items()},
        "overfitting": turned and f"{turned[0].upper()}{turned[1:]}.",
        "has_curves": records.has_curves,
        "evaluations": table(head, cells, right=True),
        "evaluations_shown": f"{len(rows)} of {len(records.rows):,}" if is_part else None,
    }


def originality(records: Records) -> dict[str, Any]:
    """Returns what the model copies, if its songs were judged."""
    quality = records.quality
    if quality is None:
        return {"is_judged": False}
    sampled, compared = quality["sampled"], quality["held_out"]
    words, lines = ([share(side[key]) for side in (sampled, compared)] for key in ("known_words", "returning_lines"))
    values = {
        "is_judged": True,
        "sampled_songs": plural(sampled["songs"], "song"),
        "compared_songs": plural(compared["songs"], "song"),
        "quality_seed": quality["seed"],
        "quality": table(("", "the model's songs", "validation songs"), quality_rows(quality), right=True),
        "known_words": words,
        "returning_lines": lines,
        "longest_copied": f"{sampled['longest_copy']:,}",
    }
    if sampled["passages"]:
        longest = sampled["passages"][0]
        names, text = [escape(longest[key]) for key in ("title", "artist") if longest[key]], longest["characters"]
        cut = f" (its first {SHOWN_PASSAGE} characters)" if len(text) > SHOWN_PASSAGE else ""
        values["longest_copy"] = code_block(text[:SHOWN_PASSAGE])
        values["longest_copy_of"] = cut + (f", from {' by '.join(names)}" if names else "")
    return values


# ----------------------------------------------------------------------------------------------------------------------
# What it cannot do


def script_of(character: str) -> str:
    """Returns the script of a letter by its Unicode name: `Latin`, `Cyrillic`, `Cjk` …"""
    return unicodedata.name(character, "unnamed").split()[0].split("-")[0].capitalize()


def kind_of(character: str) -> str:
    """Returns the Unicode category of a character, with all punctuation and symbols as one."""
    category = unicodedata.category(character)
    return "P" if category[0] in "PS" else category


def groups_of(characters: list[str]) -> Iterator[str]:
    """Yields characters grouped by kind, each group short enough for a line on a small screen."""
    for _, group in itertools.groupby(
        sorted(characters, key=lambda character: (kind_of(character), character)), key=kind_of
    ):
        text = "".join(group)
        yield from (text[begin : begin + LINE] for begin in range(0, len(text), LINE))


def alphabet_of(records: Records) -> str:
    """Returns the characters that the model knows, or the most frequent ones if there are very many."""
    alphabet, counts = records.corpus["alphabet_characters"], records.corpus["character_counts"]
    known = sorted(alphabet, key=lambda character: -counts.get(character, 0))[:SHOWN_ALPHABET]
    visible = [character for character in known if character.isprintable() and character != " "]
    rest = sum(not character.isprintable() or character == " " for character in alphabet)
    shown = [code_span(group) for group in groups_of(visible)]
    shown += [what for character, what in ((" ", "the space"), ("\n", "the line break")) if character in alphabet]
    if unnamed := rest - sum(character in alphabet for character in " \n"):
        shown.append(plural(unnamed, "character") + " that can't be shown")
    return ", ".join(shown)


def scripts_of(records: Records) -> str:
    """Returns which scripts the letters of the songs belong to, with their shares."""
    scripts: dict[str, int] = {}
    for character, count in records.corpus["character_counts"].items():
        if character.isalpha():
            scripts[script_of(character)] = scripts.get(script_of(character), 0) + count
    most = sorted(scripts.items(), key=lambda item: -item[1])[:SHOWN_SCRIPTS]
    letters = sum(scripts.values())
    return ", ".join(f"{count / letters:.1%} are {name}" for name, count in most) if letters else ""


def limits(records: Records) -> dict[str, Any]:
    """Returns what the model cannot do."""
    config, known = records.config, len(records.corpus["alphabet_characters"])
    reach = config.num_hidden_layers * (config.sliding_window - 1) if config.sliding_window else None
    return {
        "layers": plural(config.num_hidden_layers, "layer"),
        "sliding_window": config.sliding_window,
        "reach": reach and f"{reach:,}",
        "positions": config.max_position_embeddings,
        "alphabet_size": plural(known, "character"),
        "alphabet_shown": f". The {SHOWN_ALPHABET} most frequent are" if known > SHOWN_ALPHABET else "",
        "alphabet": alphabet_of(records),
        "has_special_tokens": records.corpus["special_tokens"],
        "scripts": scripts_of(records),
    }
