"""Adapts a run to its machine (cores, memory, accelerator) and notices when it should stop.

Notes:
- `accelerate launch` without a GPU gives each process one core. Here, each process takes an equal share of all cores.
- A killed launcher sends its processes no signal, so a run checks whether its launcher still exists and stops if not.
"""

import contextlib
import ctypes
import os
import signal
import sys
from types import FrameType
from typing import Any

import datasets
import torch
import transformers
from accelerate import Accelerator

from .. import LyricGPTError
from ..arguments import ModelArguments, OptimizationArguments, RunArguments
from ..processes import core_count
from ..terminal import Output
from ..wording import plural

# On a CPU, the hidden states `(B, T, hidden_size)` of a micro-batch have at most this many elements. With 6 layers of
# width 384 on two cores with 1 MiB of second-level cache each, 4 to 16 windows of 256 are equally fast. 64 are 10%
# slower.
CACHED_ELEMENTS = 2**20


def use_all_cores() -> None:
    """Gives each process on this machine an equal share of the cores."""
    if os.environ.get("OMP_NUM_THREADS", "") in ("", "1"):
        torch.set_num_threads(max(1, core_count() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def keep_freed_memory() -> None:
    """Stops glibc from returning large buffers to the system, which would cause page faults at every step."""
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of <malloc.h>
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)


def start_accelerator(args: OptimizationArguments, run: RunArguments) -> Accelerator:
    """Returns this machine's accelerator, with the tracker of `run`. Hides progress bars unless this is a terminal.

    Raises:
        LyricGPTError: this machine or the optimizer does not support the chosen precision.
    """
    use_all_cores()
    keep_freed_memory()
    wants_cpu = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true", "yes")
    accelerator = Accelerator(
        # Several processes on a CPU only find each other if `cpu` is set.
        cpu=wants_cpu or not torch.accelerator.is_available(),
        mixed_precision=args.mixed_precision,
        log_with=None if run.tracker == "none" else run.tracker,
        project_dir=run.output_dir,
    )
    transformers.utils.logging.disable_progress_bar()  # a run shows its own bar
    if not (accelerator.is_main_process and sys.stderr.isatty()):
        datasets.disable_progress_bars()
    if accelerator.mixed_precision == "fp16":
        if accelerator.device.type == "cpu":
            raise LyricGPTError("mixed_precision is 'fp16', but this run has no GPU; set mixed_precision to bf16 or no")
        if args.optimizer == "muon":
            raise LyricGPTError(
                "mixed_precision is 'fp16', which doesn't work with the optimizer muon; set mixed_precision to bf16 or no, "
                "or optimizer to adamw"
            )
    return accelerator


def start_tracker(accelerator: Accelerator, run: RunArguments, settings: dict[str, Any]) -> None:
    """Starts or resumes the run's tracker, if it has one."""
    if run.tracker != "none":
        names = {"trackio": {"name": run.output_dir, "resume": "allow"}, "wandb": {"name": run.output_dir}}
        known = {name: value for name, value in settings.items() if value is not None}
        accelerator.init_trackers("lyricgpt", config=known, init_kwargs=names)


def micro_batch_count(args: OptimizationArguments, shape: ModelArguments, accelerator: Accelerator) -> int:
    """Returns how many micro-batches each process divides its share of a batch into.

    Raises:
        LyricGPTError: `batch_size` cannot be divided that way.
    """
    processes, parts = accelerator.num_processes, args.gradient_accumulation_steps
    share = args.batch_size // processes
    if parts is None:
        parts, elements = 1, share * shape.block_size * shape.hidden_size
        if accelerator.device.type == "cpu" and not args.batch_size % processes:
            divisors = [parts for parts in range(1, share + 1) if share % parts == 0]
            parts = next((parts for parts in divisors if elements <= parts * CACHED_ELEMENTS), share)
    if args.batch_size % (processes * parts):
        raise LyricGPTError(
            f"batch_size {args.batch_size} is not divisible by {plural(processes, 'process', 'es')} x "
            f"{parts} gradient_accumulation_steps = {processes * parts}; choose a multiple of {processes * parts}"
        )
    return parts


def another_process_ended(error: RuntimeError) -> bool:
    """Returns whether an error means that another process of this run has ended. gloo has no error class for this."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return False
    return isinstance(error, distributed.DistError) or "gloo" in str(error)


class Stop:
    """Notices when the run should stop: on a signal, or if its launcher or the reader of its output is gone.

    Closing the terminal (SIGHUP) also stops the run, unless `nohup` made this process ignore it.
    """

    def __init__(self, output: Output):
        self.number, self.output = 0, output
        # A killed launcher sends its processes no signal.
        self.launcher = os.getppid() if "ACCELERATE_MIXED_PRECISION" in os.environ else None
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # (Windows has no SIGHUP)
            if number is not None and not (name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN):
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C does not wait
        self.number = number
        if os.environ.get("LOCAL_RANK", "0") == "0":
            with contextlib.suppress(OSError):  # the terminal may be gone
                os.write(2, b"\nstopping after this step; press Ctrl-C again to stop at once\n")

    def requested(self, accelerator: Accelerator, is_logging: bool) -> signal.Signals | None:
        """Returns the signal that any process received, the same on every process. SIGTERM if the launcher is gone.

        With several GPUs, it only checks at logging steps, because a check makes all processes wait for each other.
        """
        if self.launcher is not None and os.getppid() != self.launcher:
            self.number = self.number or signal.SIGTERM
        if isinstance(self.output.error, BrokenPipeError):
            self.number = self.number or signal.SIGPIPE
        number = self.number
        if accelerator.num_processes > 1:
            if accelerator.device.type != "cpu" and not is_logging:
                return None
            number = int(accelerator.gather(torch.tensor([number], device=accelerator.device)).max())
        return signal.Signals(number) if number else None
