"""What the model's own records say of it, as HTML: curves, evaluations, originality.

The curves are part of the page and no file that the server would have to give out.
"""

import base64
import html
import json
import os
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

MODEL = os.environ.get("MODEL", "you/lyricgpt-sample")


def record(name: str) -> bytes | None:
    """A file of the model's repository or run folder; None where there is none."""
    if Path(MODEL).is_dir():
        return path.read_bytes() if (path := Path(MODEL) / name).exists() else None
    try:
        return Path(hf_hub_download(MODEL, name)).read_bytes()
    except (EntryNotFoundError, LocalEntryNotFoundError):
        return None


def table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, *rows]
    cells = ["".join(f"<{'td' if i else 'th'}>{html.escape(str(cell))}</{'td' if i else 'th'}>" for cell in line)
             for i, line in enumerate(lines)]  # fmt: skip
    return f'<div class="wide"><table>{"".join(f"<tr>{line}</tr>" for line in cells)}</table></div>'


def figures() -> str:
    """Curves, evaluations and originality of the model, as HTML."""
    parts = []
    if curves := record("curves.png"):
        image = base64.b64encode(curves).decode()
        parts.append(f'<img alt="Loss and accuracy over the steps" src="data:image/png;base64,{image}">')
    if metrics := record("metrics.jsonl"):
        names = ["train_loss", "val_loss", "train_accuracy", "val_accuracy", "val_bits_per_char"]
        rows = [json.loads(line) for line in metrics.decode().splitlines()]
        heads = ["step", "train loss", "val loss", "train acc", "val acc", "val bits"]
        parts.append(
            "<h3>Evaluations</h3><p>Loss in nats a character; accuracy is the share of next characters predicted, bits are of a character.</p>"
        )
        parts.append(table(heads, [[f"{row['step']:,}", *(f"{row[name]:.4f}" for name in names)] for row in rows]))
    if quality := record("quality.json"):
        sides = [json.loads(quality)[side] for side in ("sampled", "held_out")]
        kinds = {
            "songs": ("songs", ",d"),
            "bits_per_char": ("bits a character under the model", ".3f"),
            "known_words": ("words that stand in training songs", ".1%"),
            "returning_lines": ("lines that return", ".1%"),
            "longest_copy": ("longest run copied, characters", ",d"),
            "copied_windows": ("windows of 50 characters copied", ".1%"),
        }
        rows = [[name, *(format(side[key], form) for side in sides)] for key, (name, form) in kinds.items()]
        parts.append("<h3>How original it is</h3>" + table(["", "sampled", "held out"], rows))
    return "\n".join(parts) or "<p>This model has no records beside it.</p>"
