"""Whether a run may write into a folder, and goes on with what is there.

Notable:
- Nothing is ever overwritten: a folder with another run, with files that are none, or with a run that lost its record
  or its checkpoints is refused with what to do.
"""

from pathlib import Path

from . import LyricGPTError
from .arguments import Arguments, describe_differences, load_arguments
from .checkpoints import latest_checkpoint, list_checkpoints
from .files import UNFINISHED
from .record_types import Corpus, read_record
from .reports import read_metrics
from .run_folder import check_code, check_links
from .tokens import TokenizedCorpus


def check_folder(args: Arguments, corpus: TokenizedCorpus) -> bool:
    """Whether `output_dir` holds a run that goes on.

    Raises:
        LyricGPTError: it holds another run, or files that are none, or a run whose checkpoints are gone; nothing is
            ever overwritten.
    """
    folder = Path(args.output_dir)
    if folder.exists() and not folder.is_dir():
        raise LyricGPTError(f"output_dir {folder} is a file; choose another --output_dir")
    if not folder.exists() or all(path.name.startswith(UNFINISHED) for path in folder.iterdir()):
        return False
    if not (folder / "run.yaml").exists():
        raise LyricGPTError(f"output_dir {folder} is not empty and holds no run; choose another --output_dir")
    if args.resume == "never":
        raise LyricGPTError(f"output_dir {folder} holds a run and resume is 'never'; choose another --output_dir")
    check_links(folder)
    check_code(folder)
    before, rows = load_arguments(folder / "run.yaml"), read_metrics(folder)
    has_checkpoints = bool(list_checkpoints(folder / "checkpoints"))
    if not has_checkpoints and all(row["step"] == 0 for row in rows) and not args.eval_only:
        return False  # it was stopped before there was anything to lose
    differences = describe_differences(before, args)
    if (folder / "corpus.json").exists() and not differences:
        then, now = read_record(folder / "corpus.json", Corpus)["checksum"], corpus.report["checksum"]
        if then != now:
            differences.append(f"corpus: checksum {then[:12]}… in the run, {now[:12]}… now")
    if differences:
        listed = "\n  ".join(differences)
        raise LyricGPTError(
            f"output_dir {folder} holds another run. It differs in\n  {listed}\n"
            "Choose another --output_dir, or repeat the run's own settings to go on with it"
        )
    if has_checkpoints and not rows:
        raise LyricGPTError(
            f"{folder} has checkpoints but no record (metrics.jsonl); restore it, or choose another --output_dir"
        )
    checkpoint, complaints = latest_checkpoint(folder / "checkpoints")
    if (
        checkpoint is None
        and rows
        and rows[-1]["step"] >= min(before.save_interval, before.max_steps)
        and not args.eval_only
    ):
        raise LyricGPTError(
            f"the run in {folder} has come to step {rows[-1]['step']}, but none of its checkpoints can be read"
            f"{''.join(f'; {complaint}' for complaint in complaints)}. Starting again would overwrite its model: restore "
            "the folder checkpoints/, or choose another --output_dir"
        )
    return True
