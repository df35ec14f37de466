"""What a card says of how good a model is: its evaluations, what it copies, and what it cannot do.

Notable:
- Of many evaluations a table shows some, and always the first, the best and the last: a page is read, a record is searched.
- Languages are not guessed: what is said of them is which scripts the letters of the songs belong to.
"""

import itertools
import unicodedata
from collections.abc import Iterator
from typing import Any

from .evaluation import WINDOW
from .markdown import bullets, code_block, code_span, escape, table
from .quality import quality_rows, share
from .records import Records
from .reports import overfitting
from .tokens import evaluation_offsets
from .wording import plural

SHOWN_EVALUATIONS = 20
SHOWN_ALPHABET = 200
LINE = 26
SHOWN_PASSAGE = 4 * WINDOW
SHOWN_SCRIPTS = 5


def shown_rows(records: Records) -> list[dict[str, Any]]:
    """All evaluations, or of many some at even distances, and always the first, the best and the last."""
    rows, last = records.rows, len(records.rows) - 1
    if len(rows) <= SHOWN_EVALUATIONS:
        return rows
    chosen = {round(index * last / (SHOWN_EVALUATIONS - 2)) for index in range(SHOWN_EVALUATIONS - 1)}
    return [rows[index] for index in sorted(chosen | {rows.index(records.best)})]


def figures_section(records: Records) -> str:
    """The section with the evaluations as picture and table."""
    args, best, rows = records.args, records.best, shown_rows(records)
    windows = {
        split: len(evaluation_offsets(args.seed, split, args.eval_batches * args.batch_size, tokens, args.block_size))
        for split, tokens in records.corpus["tokens"].items()
    }
    turned = overfitting(records.rows)
    picture = "![Loss and accuracy of both splits over the steps](curves.png)\n\n" if records.has_curves else ""
    mark = lambda row, text: f"**{text}**" if row is best else text  # noqa: E731
    cells = [
        [mark(row, f"{row['step']:,}")]
        + [mark(row, f"{row[key]:.4f}") for key in ("train_loss", "val_loss", "train_accuracy", "val_accuracy", "val_bits_per_char")]
        for row in rows
    ]  # fmt: skip
    head = ("step", "train loss", "val loss", "train acc", "val acc", "bits a character")
    part = (
        f"\n{len(rows)} of {len(records.rows):,} evaluations; `metrics.jsonl` has all.\n"
        if len(rows) < len(records.rows)
        else ""
    )
    return f"""## Figures

Loss is in nats a character, accuracy the share of next characters that are right. Each evaluation reads the same
{windows["train"]:,} windows of the training text and {windows["validation"]:,} of the held-out text, of {
        args.block_size
    } characters each.
The weights in this repository are those of step {best["step"]:,}, where the validation loss was lowest.
{
        f'''
{turned[0].upper()}{turned[1:]}.
'''
        if turned
        else ""
    }
{picture}{table(head, cells, right=True)}
{part}"""


def originality_section(records: Records) -> str:
    """The section on what the model copies; empty where its songs were not judged."""
    quality = records.quality
    if quality is None:
        return ""
    sampled, held_out = quality["sampled"], quality["held_out"]
    passage = ""
    if sampled["passages"]:
        longest = sampled["passages"][0]
        names = [escape(longest[key]) for key in ("title", "artist") if longest[key]]
        text = longest["characters"]
        cut = f" (its first {SHOWN_PASSAGE} characters)" if len(text) > SHOWN_PASSAGE else ""
        passage = f"""
The longest copy{cut}{f" stands in {', '.join(names)}" if names else ""}:

{code_block(text[:SHOWN_PASSAGE])}
"""
    return f"""## How original it is

{plural(sampled["songs"], "song")} drawn with seed {quality["seed"]}, beside {plural(held_out["songs"], "song")} that the model was not trained on, each
cut to the same length:

{table(("", "sampled", "held out"), quality_rows(quality), right=True)}
{passage}
"""


# ----------------------------------------------------------------------------------------------------------------------
# What it cannot do


def script_of(character: str) -> str:
    """The script of a letter as Unicode names it: `Latin`, `Cyrillic`, `Cjk` …"""
    return unicodedata.name(character, "unnamed").split()[0].split("-")[0].capitalize()


def kind_of(character: str) -> str:
    """Unicode's category, all marks and signs as one."""
    category = unicodedata.category(character)
    return "P" if category[0] in "PS" else category


def groups_of(characters: list[str]) -> Iterator[str]:
    """Characters by their kind, at most as many as fit into a line of a small screen."""
    for _, group in itertools.groupby(
        sorted(characters, key=lambda character: (kind_of(character), character)), key=kind_of
    ):
        text = "".join(group)
        yield from (text[begin : begin + LINE] for begin in range(0, len(text), LINE))


def alphabet_lines(records: Records) -> Iterator[str]:
    """Which characters the model knows, and of which scripts its letters are."""
    corpus = records.corpus
    alphabet, counts = corpus["alphabet_characters"], corpus["character_counts"]
    known = sorted(alphabet, key=lambda character: -counts.get(character, 0))[:SHOWN_ALPHABET]
    visible = [character for character in known if character.isprintable() and character != " "]
    rest = sum(not character.isprintable() or character == " " for character in alphabet)
    shown = [code_span(group) for group in groups_of(visible)]
    shown += [what for character, what in ((" ", "the blank"), ("\n", "the line break")) if character in alphabet]
    unnamed = rest - sum(character in alphabet for character in " \n")
    if unnamed:
        shown.append(plural(unnamed, "character") + " that cannot be shown")
    most = f", the {SHOWN_ALPHABET} most frequent" if len(alphabet) > SHOWN_ALPHABET else ""
    missing = "reads as `<|unk|>`" if corpus["special_tokens"] else "is refused"
    yield (
        f"**Characters.** It knows {plural(len(alphabet), 'character')}{most}: {', '.join(shown)}. Any other in a prompt {missing}."
    )
    scripts: dict[str, int] = {}
    for character, count in counts.items():
        if character.isalpha():
            scripts[script_of(character)] = scripts.get(script_of(character), 0) + count
    letters = sum(scripts.values())
    if letters:
        shares = [
            f"{count / letters:.1%} are {name}"
            for name, count in sorted(scripts.items(), key=lambda item: -item[1])[:SHOWN_SCRIPTS]
        ]
        yield (
            f"**Languages.** Which languages the songs are in was not determined; of their letters {', '.join(shares)}. It can "
            "write in no other."
        )


def limits_section(records: Records) -> str:
    """The section on what the model cannot do, with what was measured of it."""
    config, quality = records.config, records.quality
    meaning = "**Meaning.** It has learned which character follows which, and understands nothing."
    copies = "**Copies.** It may repeat passages of the songs it was trained on; how much it does was not measured."
    if quality is not None:
        sides = quality["sampled"], quality["held_out"]
        words, lines = ([share(side[key]) for side in sides] for key in ("known_words", "returning_lines"))
        meaning += (
            f" Of the words it writes {words[0]} stand in training songs (of those of held-out songs {words[1]})."
        )
        meaning += f" Of its lines {lines[0]} return, as those of a chorus do (of held-out songs {lines[1]})."
        copies = (
            f"**Copies.** It may repeat passages of the songs it was trained on: in the songs judged above "
            f"{quality['sampled']['longest_copy']:,} characters at most in a row. Look before you publish a song as new."
        )
    if config.sliding_window:
        reach = config.num_hidden_layers * (config.sliding_window - 1)
        memory = (
            f"**Memory.** Each of its {plural(config.num_hidden_layers, 'layer')} looks back over {config.sliding_window} characters, so "
            f"nothing that lies more than {reach:,} characters back can matter."
        )
    else:
        memory = f"**Memory.** It sees {config.max_position_embeddings} characters at most; what lies further back is forgotten."
    content = "**Content.** Nothing filters what it writes: the tone of its songs, whatever that is, and words that none of them has."
    return f"""## Limits

{bullets([meaning, copies, memory, *alphabet_lines(records), content])}
"""
