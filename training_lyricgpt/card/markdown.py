"""Building blocks of Markdown that any text may go into: names, songs and passages come as they are.

Notable:
- What a corpus holds is never markup: it is escaped, or stands in code whose fence is longer than any in it.
- Made for GitHub's dialect, which the Hub's is like: there a bar ends a table's cell even in code.
"""

import json
import re
from collections.abc import Iterable

from ..wording import shown

# What GitHub and the Hub make a link of by itself, escaped or not.
ADDRESS = re.compile(r"://|www\.|@|mailto:|xmpp:", re.IGNORECASE)
MARKUP = re.compile(r"([\\`*_\[\]<>|~&#$])")


def longest_run(text: str) -> int:
    """The most backticks in a row."""
    return max(map(len, re.findall("`+", text)), default=0)


def escape(text: str) -> str:
    """A text as one line of prose, for the middle of a sentence or of a table's cell; as code where it holds an address."""
    if ADDRESS.search(text):
        return code_cell(text)
    return MARKUP.sub(r"\\\1", shown(text))


def code_span(text: str) -> str:
    """A name as one line of code."""
    line = shown(text)
    ticks = "`" * (longest_run(line) + 1)
    blank = " " if line[:1] in ("`", "") or line[-1:] == "`" else ""
    return f"{ticks}{blank}{line}{blank}{ticks}"


def code_cell(text: str) -> str:
    """A name as code in a table's cell."""
    return code_span(text).replace("|", "\\|")


def code_block(text: str, language: str = "text") -> str:
    """A text word for word, on lines of its own."""
    ticks = "`" * max(3, longest_run(text) + 1)
    return f"{ticks}{language}\n{text}\n{ticks}"


def table(head: Iterable[str], rows: Iterable[Iterable[str]], right: bool = False) -> str:
    """A table of cells that are Markdown already; all columns but the first at the right where they hold figures."""
    head = list(head)
    rule = ["---"] + ["---:" if right else "---"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def bullets(lines: Iterable[str]) -> str:
    """A list of what is Markdown already."""
    return "\n".join(f"- {line}" for line in lines)


def literal(text: str) -> str:
    """A text as a string of Python, in double quotes unless it has some."""
    return repr(text) if '"' in text else json.dumps(text, ensure_ascii=False)
