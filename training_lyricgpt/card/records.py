"""What a run keeps of itself, in one place for its card; and `environment.json`, what it was trained with.

Notable:
- Versions and devices are noted when training starts: the process that draws a card later may have others.
- A start adds an entry only if it differs from the one before it, so that a run that was interrupted keeps the record of
  one that never was. What a start left undone is dropped with the steps that it left undone.
- Neither the machine's name nor a path is in it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeling_lyricgpt import LyricGPTConfig

from ..arguments import Arguments, load_arguments
from ..engine.environment import read_environment
from ..engine.metrics import best_evaluation
from ..quality.judging import read_quality, read_songs


@dataclass
class Records:
    """Everything that a card is rendered from.

    Attributes:
        args: The run's configuration, `run.yaml`.
        corpus: `corpus.json`.
        rows: `metrics.jsonl`, at least one evaluation.
        config: The model's, `config.json`.
        quality: `quality.json`, if it is of the best model.
        songs: `songs.json`, likewise.
        environment: `environment.json`, an entry for each start that differs; empty in a run that kept none.
        has_curves: Whether `curves.png` is there.
    """

    args: Arguments
    corpus: dict[str, Any]
    rows: list[dict[str, Any]]
    config: LyricGPTConfig
    quality: dict[str, Any] | None
    songs: dict[str, Any] | None
    environment: list[dict[str, Any]]
    has_curves: bool

    @property
    def best(self) -> dict[str, Any]:
        """The evaluation whose weights the run folder holds."""
        return best_evaluation(self.rows)

    @property
    def name(self) -> str:
        """What the run is called: its folder's name, which publishing has looked up already."""
        path = Path(self.args.output_dir)
        return path.name if path.name not in ("", "..") else path.resolve().name


def read_records(folder: Path, corpus: dict[str, Any], rows: list[dict[str, Any]]) -> Records:
    """The records of a run folder; what a caller has at hand is not read again.

    Raises:
        LyricGPTError: one of them is damaged.
    """
    step = best_evaluation(rows)["step"]
    return Records(
        load_arguments(folder / "run.yaml"),
        corpus,
        rows,
        LyricGPTConfig.from_pretrained(folder),
        read_quality(folder, step),
        read_songs(folder, step),
        read_environment(folder),
        (folder / "curves.png").exists(),
    )
