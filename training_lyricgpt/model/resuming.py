"""Decides whether a run may write into a folder, and whether it resumes a run there.

No run is ever overwritten. A folder is refused if it contains another run, files that are not a run, or a run whose
record or checkpoints are missing. The error says what to do.
"""

from collections.abc import Callable
from pathlib import Path

from .. import LyricGPTError
from ..arguments import Arguments, RunArguments, load_arguments
from ..engine.checkpoints import latest_checkpoint, list_checkpoints
from ..engine.metrics import read_metrics
from ..files import UNFINISHED
from ..record_types import Corpus, read_record
from .folder import check_code, check_links


def check_folder(args: RunArguments, checksum: str, describe_differences: Callable[[Arguments], list[str]]) -> bool:
    """Returns whether `output_dir` contains a run to resume.

    Args:
        checksum: The checksum of the corpus.
        describe_differences: Lists the settings that must be the same as in the given run, but are not.

    Raises:
        LyricGPTError: the folder contains another run, files that are not a run, or a run without its checkpoints.
    """
    folder = Path(args.output_dir)
    if folder.exists() and not folder.is_dir():
        raise LyricGPTError(f"output_dir {folder} is a file; choose another --output_dir")
    if not folder.exists() or all(path.name.startswith(UNFINISHED) for path in folder.iterdir()):
        return False
    if not (folder / "run.yaml").exists():
        raise LyricGPTError(f"output_dir {folder} is not empty and contains no run; choose another --output_dir")
    if args.resume == "never":
        raise LyricGPTError(f"output_dir {folder} contains a run, and resume is 'never'; choose another --output_dir")
    check_links(folder)
    check_code(folder)
    before, rows = load_arguments(folder / "run.yaml"), read_metrics(folder)
    if not list_checkpoints(folder / "checkpoints"):
        if all(row["step"] == 0 for row in rows) and not args.eval_only:
            return False  # it stopped before there was anything to lose
    elif not rows:
        raise LyricGPTError(
            f"{folder} has checkpoints, but no evaluations in metrics.jsonl; restore it, or choose another --output_dir"
        )
    differences = describe_differences(before)
    if (folder / "corpus.json").exists() and not differences:
        then = read_record(folder / "corpus.json", Corpus)["checksum"]
        if then != checksum:
            differences.append(f"corpus: checksum {then[:12]}… in the run, {checksum[:12]}… now")
    if differences:
        listed = "\n  ".join(differences)
        raise LyricGPTError(
            f"output_dir {folder} contains another run. These are different:\n  {listed}\n"
            "Choose another --output_dir, or use that run's settings to resume it"
        )
    checkpoint, complaints = latest_checkpoint(folder / "checkpoints")
    is_past_first = bool(rows) and rows[-1]["step"] >= min(before.save_interval, before.max_steps)
    if checkpoint is None and is_past_first and not args.eval_only:
        raise LyricGPTError(
            f"the run in {folder} has reached step {rows[-1]['step']}, but none of its checkpoints can be read"
            f"{''.join(f'; {complaint}' for complaint in complaints)}. Starting again would overwrite its model. "
            "Restore the folder checkpoints/, or choose another --output_dir"
        )
    return True
