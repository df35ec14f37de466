"""Collects the records of a run that its card is made from."""

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
    """Everything that a card is made from.

    Attributes:
        args: The run's configuration, `run.yaml`.
        corpus: `corpus.json`.
        rows: `metrics.jsonl`, with at least one evaluation.
        config: The model's configuration, `config.json`.
        quality: `quality.json`, if it is about the best model.
        songs: `songs.json`, if it is from the best model.
        environment: `environment.json`, an entry for each start with other versions or settings; empty without that file.
        has_curves: Whether `curves.png` exists.
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
        """The name of the run: its folder's name, also for a path such as `.` that does not show it."""
        path = Path(self.args.output_dir)
        return path.name if path.name not in ("", "..") else path.resolve().name


def read_records(folder: Path, corpus: dict[str, Any], rows: list[dict[str, Any]]) -> Records:
    """Reads the records of a run folder, except for those that the caller already has.

    Raises:
        LyricGPTError: one of the files is damaged.
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
