"""A run: its folder, and everything around its training steps.

Notes:
- It never overwrites another run's folder: see `model.resuming`.
- Where processes wait for each other, all of them call the same method at the same step.
- Only the main process checks and writes files. Only its `rows` are complete.
"""

import math
import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate.optimizer import AcceleratedOptimizer
from tqdm import tqdm

from modeling_lyricgpt import LyricGPTForCausalLM

from . import LyricGPTError
from .arguments import Arguments, describe_differences
from .card.reports import judge_once, write_reports
from .corpus.cache import load_corpus
from .corpus.report import describe_corpus
from .engine.advice import advise
from .engine.checkpoints import checkpoint_path, latest_checkpoint, load_checkpoint, save_checkpoint
from .engine.cpu_kernels import cpu_kernels, fits
from .engine.devices import Stop, micro_batch_count, start_accelerator, start_tracker
from .engine.environment import note_start
from .engine.evaluation import evaluate_model, windows_to_evaluate
from .engine.metrics import (
    SAMPLE_CHARACTERS,
    TABLE_HEAD,
    best_evaluation,
    describe_end,
    read_metrics,
    table_line,
    write_metrics,
)
from .engine.optimization import learning_rate
from .engine.planning import flops_per_character, matrix_product_rate, measure_plan
from .files import Place, clear_unfinished, lock_folder, saving, write_json
from .model.folder import WEIGHTS, export_model
from .model.initialization import load_parent
from .model.loading import load_model
from .model.resuming import check_folder
from .model.songs import encode_prompt, write_song
from .quality.judging import describe_quality
from .terminal import Output, program


class Run:
    """A run, from opening its folder to its end.

    Attributes:
        args: Its settings, with values from the machine and the parent filled in.
        parent: The model that it starts from, if any.
        goes_on: Whether its folder already holds this run.
        rows: Its evaluations.
        offsets: Where the windows that evaluations read begin.
        elapsed: Seconds of training before this start.

    Raises:
        LyricGPTError: something is wrong with the settings, the corpus or the folder. Nothing was changed.
    """

    def __init__(self, args: Arguments, launch: str):
        self.output, self.folder = Output(), Path(args.output_dir)
        self.accelerator = start_accelerator(args, args)
        args = args.replace(mixed_precision=self.accelerator.mixed_precision)
        # If the precision comes from the launcher's configuration, the command to resume has to name it.
        is_said = args.mixed_precision == "no" or "mixed_precision" in launch
        self.launch = launch if is_said else f"{launch} --mixed_precision {args.mixed_precision}"
        self.is_main = self.accelerator.is_main_process
        writes = self.is_main and not (args.eval_only or args.plan)
        self.lock = lock_folder(self.folder) if writes else None
        self.accelerator.wait_for_everyone()  # a run that is stopping in this folder may still be saving
        self.parent = load_parent(args.init_from, self.folder)
        if self.parent:
            args = args.begin_with(self.parent.shape, self.parent.conditioning)
        self.accelerator.gradient_accumulation_steps = micro_batch_count(args, args, self.accelerator)
        self.corpus = load_corpus(args, self.parent.alphabet if self.parent else "")
        self.corpus.check_length(args.block_size)
        checksum, tokenizer = self.corpus.report["checksum"], self.corpus.tokenizer
        encode_prompt(tokenizer, args.sample_prompt)  # report a wrong prompt now, not hours later
        self.goes_on = not args.plan and check_folder(args, checksum, lambda before: describe_differences(before, args))
        self.accelerator.wait_for_everyone()  # no process writes before all have checked the folder
        if writes:
            with saving(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                clear_unfinished(self.folder)
                args.save(self.folder / "run.yaml")
                write_json(self.folder / "corpus.json", self.corpus.report)
        self.args, self.place = args, Place(self.folder)
        self.say(describe_corpus(self.corpus.report))
        if self.parent and (remark := self.parent.describe_new(tokenizer)):
            self.say(f"{args.init_from} {remark}")
        self.rows, self.elapsed, self.saved_step = [], 0.0, None
        windows = args.eval_batches * args.batch_size
        self.offsets = windows_to_evaluate(self.corpus, args.seed, windows, args.block_size)
        self.first_wrong = torch.zeros((), dtype=torch.int64, device=self.accelerator.device)

    def say(self, message: str) -> None:
        if self.is_main:
            self.output.write(message)

    def figures(
        self, model: torch.nn.Module, offsets: dict, should_stop: Callable[[], bool] = lambda: False
    ) -> dict | None:
        """Evaluates a model on the windows at `offsets`: see `evaluate_model`."""
        with cpu_kernels(model, fits(self.args, self.accelerator)):
            return evaluate_model(
                self.accelerator, model, self.corpus, offsets, self.args.block_size, self.args.batch_size, should_stop
            )

    def print_evaluation(self) -> None:
        """Evaluates the model in the folder and prints its figures, for `--eval_only`."""
        if not self.goes_on:
            raise LyricGPTError(f"output_dir {self.folder} holds no run to evaluate; set --output_dir to a run folder")
        model = load_model(self.folder, str(self.folder))[0].to(self.accelerator.device)
        self.say("losses are in nats per character (lower is better)")
        self.say("\n".join(f"{name}: {value:.4f}" for name, value in self.figures(model, self.offsets).items()))

    def print_plan(
        self, model: LyricGPTForCausalLM, trained: torch.nn.Module, train: Callable[[int], torch.Tensor]
    ) -> None:
        """Prints what the run would take, for `--plan`. `train` trains one step."""
        args, characters = self.args, len(self.corpus.train)
        few = {split: offsets[: args.batch_size] for split, offsets in self.offsets.items()}
        share = sum(map(len, few.values())) / sum(map(len, self.offsets.values()))
        evaluations = 1 + math.ceil(args.max_steps / args.eval_interval)
        measured = (train, lambda: self.figures(trained, few), share, evaluations)
        self.say(measure_plan(args, model, self.accelerator, characters, *measured))
        if advice := advise(args, args, model.config.hidden_dropout, characters):
            self.say(advice)

    def restore(
        self, model: LyricGPTForCausalLM, trained: torch.nn.Module, optimizers: list[AcceleratedOptimizer]
    ) -> int:
        """Loads the newest checkpoint, if there is one, and returns its step.

        Args:
            model: The model as it is saved.
            trained: The same model as it trains on this machine.
        """
        self.model, self.trained = model, trained
        self.optimizers = [optimizer.optimizer for optimizer in optimizers]
        step, rows = 0, read_metrics(self.folder) if self.goes_on else []
        checkpoint, complaints = latest_checkpoint(self.folder / "checkpoints")
        for complaint in complaints:
            self.say(f"warning: {complaint}; trying the one before it")
        if checkpoint is not None:
            load_checkpoint(checkpoint, model, self.optimizers)
            step = self.saved_step = checkpoint.step
            self.elapsed = checkpoint.state.get("elapsed_seconds", 0.0)
            if (scaler := checkpoint.state.get("scaler")) and self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(scaler)
        if (self.folder / WEIGHTS).exists():  # otherwise the run stopped during the first evaluation
            self.rows = [row for row in rows if row["step"] <= step]
        if self.rows and self.is_main:  # a killed run may have written its metrics but not these
            with saving(self.folder):
                write_reports(self.folder, self.corpus.report, self.rows)
        return step

    def has_evaluation(self, step: int) -> bool:
        return bool(self.rows) and self.rows[-1]["step"] == step

    def evaluations_since_best(self) -> int:
        return len(self.rows) - 1 - self.rows.index(best_evaluation(self.rows))

    def begin(self, step: int) -> None:
        """Prints where the training begins, records the environment, and starts the clock."""
        args = self.args
        self.rate = matrix_product_rate(self.model.config, self.accelerator)
        if self.is_main:
            with saving(self.folder):
                note_start(self.folder, self.accelerator, step, args.max_steps, args.eval_interval, args.init_from)
        if step:
            is_over = step >= args.max_steps
            self.say(f"resuming from step {step:,}" + ("; no steps are left" if is_over else f" of {args.max_steps:,}"))
        start_tracker(self.accelerator, args, args.to_dict())
        self.stop = Stop(self.output)
        self.started = self.interval_started = time.perf_counter()
        self.interval_steps = 0
        self.say("\n".join([TABLE_HEAD, *map(table_line, self.rows)]))
        self.bar = tqdm(
            total=args.max_steps,
            initial=step,
            unit="step",
            disable=not (self.is_main and sys.stderr.isatty()),
            dynamic_ncols=True,
        )
        self.trained.train()
        if self.parent and self.saved_step is None:
            self.save(step)  # by the next start, the parent may be gone or trained further

    def seconds(self) -> float:
        """Returns how long the run has trained, over all its starts."""
        return self.elapsed + time.perf_counter() - self.started

    def speed(self) -> dict[str, float]:
        """Returns characters per second since the last evaluation, and what share of the machine's FLOP/s they use."""
        characters = self.interval_steps * self.args.batch_size * self.args.block_size
        speed = characters / (time.perf_counter() - self.interval_started)
        return {"chars_per_second": speed, "mfu": speed * flops_per_character(self.model.config) / self.rate}

    def evaluate(self, step: int) -> signal.Signals | None:
        """Evaluates, writes a sample, saves the best weights and reports. Returns the signal if one interrupted it."""
        args, speed, began = self.args, self.speed(), time.perf_counter()
        figures = self.figures(
            self.trained, self.offsets, lambda: self.stop.requested(self.accelerator, is_logging=True) is not None
        )
        if figures is None:
            return self.stop.requested(self.accelerator, is_logging=True)
        if not math.isfinite(figures["train_loss"] + figures["val_loss"]):
            raise LyricGPTError(
                f"the loss is not finite at step {step} (training {figures['train_loss']}, validation "
                f"{figures['val_loss']}). The folder keeps its best model. Try a lower learning_rate with another --output_dir"
            )
        row = {"step": step, **{name: value for name, value in figures.items() if not name.startswith("train_bits")}}
        row |= {"learning_rate": learning_rate(args, max(0, step - 1)), **speed}
        if self.is_main:
            self.model.eval()
            drawn = {"seed": args.seed + step, "max_new_tokens": SAMPLE_CHARACTERS}
            sample = write_song(self.model, self.corpus.tokenizer, args.sample_prompt, **drawn)
            self.model.train()
            self.place.check()
            with saving(self.folder):
                if not self.rows or row["val_loss"] < best_evaluation(self.rows)["val_loss"]:
                    export_model(self.model, self.corpus.tokenizer, self.folder)
                row |= {"evaluation_seconds": time.perf_counter() - began, "elapsed_seconds": self.seconds()}
                self.rows.append(row | {"sample_seed": drawn["seed"], "sample": sample})
                write_metrics(self.folder, self.rows)
                write_reports(self.folder, self.corpus.report, self.rows)
            self.say(table_line(row))
            advice = advise(args, args, self.model.config.hidden_dropout, len(self.corpus.train))
            if len(self.rows) == 1 and advice:
                self.say(advice)
        else:
            self.rows.append(row)
        self.accelerator.log({name: value for name, value in row.items() if name != "step"}, step=step)
        self.accelerator.wait_for_everyone()
        self.interval_started, self.interval_steps = time.perf_counter(), 0
        return None

    def note(self, figures: torch.Tensor, step: int) -> None:
        """Counts a step and notes, on the device, the first that is not finite. (Reading it here would slow a GPU.)"""
        self.interval_steps += 1
        self.bar.update()
        wrong = ~figures.isfinite().all() if self.accelerator.scaler is None else ~figures[0].isfinite()
        self.first_wrong = torch.where(wrong & (self.first_wrong == 0), step, self.first_wrong)

    def refuse_wrong(self, step: int) -> None:
        """Stops the run on every process if a loss or gradient since the last check was not finite."""
        if bad := int(self.accelerator.gather(self.first_wrong).max()):
            raise LyricGPTError(
                f"the loss or its gradient is not finite at step {bad} (found at step {step}). Nothing from that step was saved; "
                "checkpoints and the best model are from earlier steps. Try a lower learning_rate, a smaller max_grad_norm "
                "or more warmup_steps, with another --output_dir"
            )

    def log(self, step: int, figures: torch.Tensor, rate: float) -> None:
        """Shows a step's loss and sends it to the tracker."""
        self.refuse_wrong(step)
        loss, norm = self.accelerator.reduce(figures, "mean").tolist()
        speed = self.speed()
        self.bar.set_postfix_str(f"loss {loss:.4f}, {speed['chars_per_second']:,.0f} characters/s")
        self.accelerator.log({"loss": loss, "gradient_norm": norm, "learning_rate": rate, **speed}, step=step)

    def save(self, step: int) -> None:
        """Writes a checkpoint, unless it exists already."""
        if self.is_main:
            self.place.check()
        if step == self.saved_step and checkpoint_path(self.folder / "checkpoints", step).exists():
            return
        self.refuse_wrong(step)
        self.saved_step = step
        if self.is_main:
            state = {"elapsed_seconds": self.seconds()}
            if self.accelerator.scaler is not None:
                state["scaler"] = self.accelerator.scaler.state_dict()
            save_checkpoint(self.folder / "checkpoints", step, self.model, self.optimizers, state)
        self.accelerator.wait_for_everyone()

    def close(self, step: int, stopped_by: signal.Signals | None) -> None:
        """Ends this start. A run that was stopped saves, prints how to resume and exits. Any other run finishes."""
        self.bar.close()
        if stopped_by:
            if step:
                self.save(step)
            self.accelerator.end_training()
            if self.is_main:
                by = "Ctrl-C" if stopped_by == signal.SIGINT else stopped_by.name
                saved = "saved. To resume" if step else "nothing to save yet. To start again"
                self.output.write_last(
                    f"stopped by {by} at step {step:,} of {self.args.max_steps:,}; {saved}, run the same "
                    f"command:\n  {self.launch}"
                )
            sys.exit(128 + stopped_by)
        if self.is_main:
            self.place.check()
            self.finish()
        self.accelerator.end_training()
        if self.lock is not None:
            self.lock.release()
        self.output.close()

    def finish(self) -> None:
        """Prints the results, writes a song and judges the model's songs."""
        args, folder = self.args, self.folder
        self.say(f"\n{describe_end(self.rows)}")
        model, tokenizer = load_model(folder, str(folder))
        model.to(self.accelerator.device)
        self.say(f"\nA song from this model:\n\n{write_song(model, tokenizer, args.sample_prompt, seed=args.seed)}\n")
        if args.quality_songs:
            asked = (args.quality_songs, args.sample_prompt, args.seed)
            self.say(describe_quality(judge_once(folder, model, self.corpus, self.rows, *asked)) + "\n")
        self.say(f"model:  {folder}\ncurves: {folder / 'curves.png'}\nTo write more songs, run:")
        self.say(f"  {program('python')} -m training_lyricgpt.sample {shlex.quote(str(folder))}")
