"""Writes Markdown that may contain any text, such as names, songs and passages.

Notes:
- Text from a corpus never acts as markup. It is escaped, or put into code whose fence is longer than any in the text.
- It is made for GitHub's dialect, which the Hub's is like. There, a bar ends a table cell even within code.
"""

import json
import re
from collections.abc import Iterable

from ..wording import shown

# What GitHub and the Hub turn into a link by themselves, even if it is escaped.
ADDRESS = re.compile(r"://|www\.|@|mailto:|xmpp:", re.IGNORECASE)
MARKUP = re.compile(r"([\\`*_\[\]<>|~&#$])")


def longest_run(text: str) -> int:
    """Returns the largest number of backticks in a row."""
    return max(map(len, re.findall("`+", text)), default=0)


def escape(text: str) -> str:
    """Returns a text as one line for a sentence or a table cell; as code if it contains an address."""
    if ADDRESS.search(text):
        return code_cell(text)
    return MARKUP.sub(r"\\\1", shown(text))


def code_span(text: str) -> str:
    """Returns a name as one line of code."""
    line = shown(text)
    ticks = "`" * (longest_run(line) + 1)
    blank = " " if line[:1] in ("`", "") or line[-1:] == "`" else ""
    return f"{ticks}{blank}{line}{blank}{ticks}"


def code_cell(text: str) -> str:
    """Returns a name as code for a table cell."""
    return code_span(text).replace("|", "\\|")


def code_block(text: str, language: str = "text") -> str:
    """Returns a text, unchanged, in a code block."""
    ticks = "`" * max(3, longest_run(text) + 1)
    return f"{ticks}{language}\n{text}\n{ticks}"


def table(head: Iterable[str], rows: Iterable[Iterable[str]], right: bool = False) -> str:
    """Returns a table of cells that are Markdown already; `right` aligns all columns but the first to the right."""
    head = list(head)
    rule = ["---"] + ["---:" if right else "---"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def bullets(lines: Iterable[str]) -> str:
    """Returns a list of lines that are Markdown already."""
    return "\n".join(f"- {line}" for line in lines)


def literal(text: str) -> str:
    """Returns a text as a Python string, in double quotes unless it contains some."""
    return repr(text) if '"' in text else json.dumps(text, ensure_ascii=False)
