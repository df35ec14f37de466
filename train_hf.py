"""Trains LyricGPT on a corpus of lyrics: `accelerate launch train_hf.py --config configs/sample.yaml`.

One file, read from top to bottom: settings, devices, data, model, optimizers, what was there before, and one loop of
evaluate -> forward -> backward -> step -> log. Notable:

- A batch is a function of (seed, step) and dropout of (seed, step, process, micro-batch), so there is no generator to
  save and a resumed run is the run that was never stopped.
- The run folder is a model from the first evaluation on: the best weights so far.
- The same command goes on after anything; SIGINT, SIGTERM and a terminal that closes finish the step, save, and say how.
- On a CPU in float32 the step has kernels of its own (`cpu_kernels`); everywhere else it is the platform's.
"""

import math
import shlex
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from tqdm import tqdm

from modeling_lyricgpt import LyricGPTForCausalLM
from tokenization_lyricgpt.tokenization_lyricgpt import describe_characters
from training_lyricgpt import LyricGPTError
from training_lyricgpt.advice import advise
from training_lyricgpt.arguments import Arguments, parse_arguments
from training_lyricgpt.card import write_reports
from training_lyricgpt.checkpoints import checkpoint_path, latest_checkpoint, load_checkpoint, save_checkpoint
from training_lyricgpt.corpus_report import describe_corpus
from training_lyricgpt.cpu_kernels import cpu_kernels, fits
from training_lyricgpt.devices import (
    Stop,
    another_process_ended,
    keep_freed_memory,
    micro_batch_count,
    start_accelerator,
    use_all_cores,
)
from training_lyricgpt.evaluation import evaluate_split
from training_lyricgpt.export import WEIGHTS, export_model
from training_lyricgpt.files import Place, clear_unfinished, lock_folder, saving, write_json
from training_lyricgpt.initialization import build_model, load_parent
from training_lyricgpt.loading import load_model
from training_lyricgpt.optimization import build_optimizers, learning_rate, set_learning_rate
from training_lyricgpt.planning import describe_needs, describe_plan, flops_per_character, matrix_product_rate
from training_lyricgpt.quality import (
    QUALITY,
    SONGS,
    describe_quality,
    draw_songs,
    judge_run,
    read_quality,
    read_songs,
)
from training_lyricgpt.records import note_start
from training_lyricgpt.reports import (
    SAMPLE_CHARACTERS,
    TABLE_HEAD,
    best_evaluation,
    overfitting,
    read_metrics,
    table_line,
    time_spent,
    write_metrics,
)
from training_lyricgpt.resuming import check_folder
from training_lyricgpt.sample import encode_prompt, write_song
from training_lyricgpt.terminal import Output, command
from training_lyricgpt.tokens import TokenizedCorpus, batch_offsets, evaluation_offsets, load_corpus
from training_lyricgpt.wording import plural

SPLIT_NAMES = {"train": "train", "val": "validation"}


# ----------------------------------------------------------------------------------------------------------------------
# One step


def prepare(
    args: Arguments, accelerator: Accelerator, model: LyricGPTForCausalLM
) -> tuple[torch.nn.Module, list[AcceleratedOptimizer]]:
    """The model as it trains on this machine, and its optimizers."""
    optimizers = build_optimizers(args, model.to(accelerator.device))
    if args.compile:
        model.compile()
    prepared, *optimizers = accelerator.prepare(model, *optimizers)
    return prepared, optimizers


def key_dropout(args: Arguments, step: int, process: int, micro_batch: int) -> None:
    """Seeds torch's generators for one micro-batch, so that dropout is a function of where in the run it is."""
    words = np.random.SeedSequence([args.seed % 2**64, step, process, micro_batch]).generate_state(2)
    torch.manual_seed(int(words[0]) << 31 ^ int(words[1]))


def micro_batches(
    args: Arguments, corpus: TokenizedCorpus, accelerator: Accelerator, step: int
) -> Iterator[torch.Tensor]:
    """This process's share of the global batch of a step, in micro-batches, on its device."""
    offsets = batch_offsets(args.seed, step, args.batch_size, len(corpus.train), args.block_size)
    mine = np.array_split(offsets, accelerator.num_processes)[accelerator.process_index]
    for part in np.array_split(mine, accelerator.gradient_accumulation_steps):
        windows = corpus.train.windows(part, args.block_size)  # (micro-batch, block_size + 1)
        if accelerator.device.type == "cuda":
            windows = windows.pin_memory()
        yield windows.to(accelerator.device, non_blocking=True)


def train_step(
    args: Arguments,
    corpus: TokenizedCorpus,
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizers: list[AcceleratedOptimizer],
    step: int,
) -> torch.Tensor:
    """One optimizer step; returns this process's mean loss in nats and the gradient's norm, shape `(2,)`, on its device."""
    losses, norm = [], None
    for index, windows in enumerate(micro_batches(args, corpus, accelerator, step)):
        key_dropout(args, step, accelerator.process_index, index)
        labels = windows[:, 1:].contiguous()
        with accelerator.accumulate(model):
            with cpu_kernels(model, fits(args, accelerator)):
                loss = model(input_ids=windows[:, :-1], labels=labels, shift_labels=labels, use_cache=False).loss
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                norm = accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm or math.inf)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        losses.append(loss.detach())
    return torch.stack([torch.stack(losses).mean(), norm.detach()])


def timed(function: Callable, *arguments: Any) -> float:
    """Seconds that a call takes; on a GPU until its last kernel."""
    started = time.perf_counter()
    result = function(*arguments)
    if isinstance(result, torch.Tensor):
        result.tolist()
    return time.perf_counter() - started


# ----------------------------------------------------------------------------------------------------------------------
# The run


def train(args: Arguments, launch: str) -> None:
    """The run from its settings to a finished model; `launch` is the command that goes on with it."""
    # Devices
    use_all_cores()
    keep_freed_memory()
    accelerator = start_accelerator(args)
    args.mixed_precision = accelerator.mixed_precision
    if args.mixed_precision != "no" and "mixed_precision" not in launch:
        launch += f" --mixed_precision {args.mixed_precision}"  # which the launcher's own configuration held
    is_main = accelerator.is_main_process
    transformers.utils.logging.disable_progress_bar()  # this run has a bar of its own
    if not (is_main and sys.stderr.isatty()):
        datasets.disable_progress_bars()
    if args.mixed_precision == "fp16" and (accelerator.device.type == "cpu" or args.optimizer == "muon"):
        raise LyricGPTError("mixed_precision fp16 needs a GPU and the optimizer adamw; use bf16, or no")

    output = Output()

    def say(message: str) -> None:
        if is_main:
            output.write(message)

    # Data
    folder = Path(args.output_dir)
    reads_only = args.eval_only or args.plan
    lock = lock_folder(folder) if is_main and not reads_only else None
    accelerator.wait_for_everyone()  # a run that is just stopping in this folder may still save
    parent = load_parent(args)
    accelerator.gradient_accumulation_steps = micro_batch_count(args, accelerator)
    corpus = load_corpus(args, parent.alphabet if parent else "")
    report = corpus.report
    encode_prompt(corpus.tokenizer, args.sample_prompt)  # a prompt that cannot be read is said now, not hours later
    going_on = check_folder(args, corpus)
    accelerator.wait_for_everyone()  # nobody writes before everybody has looked
    if is_main and not reads_only:
        with saving(folder):
            folder.mkdir(parents=True, exist_ok=True)
            clear_unfinished(folder)
            args.save(folder / "run.yaml")
            write_json(folder / "corpus.json", report)
    place = Place(folder)
    say(describe_corpus(report))
    if parent and (new := sorted(set(corpus.tokenizer.alphabet).difference(parent.alphabet))):
        say(f"{args.init_from} did not know {plural(len(new), 'character')} of this corpus: {describe_characters(new)}")
    split_offsets = {
        split: evaluation_offsets(
            args.seed, name, args.eval_batches * args.batch_size, len(getattr(corpus, name)), args.block_size
        )
        for split, name in SPLIT_NAMES.items()
    }

    def evaluate_model(
        module: torch.nn.Module, should_stop: Callable[[], bool] = lambda: False
    ) -> dict[str, float] | None:
        figures = {}
        size = args.batch_size // accelerator.num_processes // accelerator.gradient_accumulation_steps
        for split, name in SPLIT_NAMES.items():
            stream, offsets = getattr(corpus, name), split_offsets[split]
            with cpu_kernels(module, fits(args, accelerator)):
                result = evaluate_split(accelerator, module, stream, offsets, args.block_size, size, should_stop)
            if result is None:
                return None
            figures |= {f"{split}_{key}": value for key, value in result.items()}
        return figures

    if args.eval_only:
        if not going_on:
            raise LyricGPTError(f"output_dir {folder} holds no run to evaluate")
        model = load_model(folder, str(folder))[0].to(accelerator.device)
        figures = evaluate_model(model)
        say("\n".join(f"{name}: {value:.4f}" for name, value in figures.items()))
        return

    # Model and optimizers
    bare_model = build_model(args, corpus, parent)
    say(
        f"model: {args.variant}, {bare_model.num_parameters():,} parameters; {plural(accelerator.num_processes, 'process', 'es')} on "
        f"{accelerator.device.type}, precision {accelerator.mixed_precision}\n"
        f"{describe_needs(args, bare_model, accelerator)}"
    )
    model, optimizers = prepare(args, accelerator, bare_model)
    bare_optimizers = [optimizer.optimizer for optimizer in optimizers]
    if args.plan:
        peak_rate = matrix_product_rate(bare_model.config, accelerator)
        seconds = [timed(train_step, args, corpus, accelerator, model, optimizers, step) for step in range(4)]
        windows = sum(len(offsets) for offsets in split_offsets.values())
        split_offsets = {split: offsets[: args.batch_size] for split, offsets in split_offsets.items()}
        read = sum(len(offsets) for offsets in split_offsets.values())
        evaluate_model(model)  # the first one is slow
        figures = {
            "step_seconds": statistics.median(seconds[1:]),
            "evaluation_seconds": timed(evaluate_model, model) * windows / read,
            "rate": peak_rate,
        }
        say(describe_plan(args, bare_model, len(corpus.train), figures))
        return

    # What was there before
    step, rows, elapsed = 0, read_metrics(folder) if going_on else [], 0.0
    checkpoint, complaints = latest_checkpoint(folder / "checkpoints")
    for complaint in complaints:
        say(f"warning: {complaint}; going back to the one before it")
    if checkpoint is not None:
        load_checkpoint(checkpoint, bare_model, bare_optimizers)
        step, elapsed = checkpoint.step, checkpoint.state["elapsed_seconds"]
        if (scaler := checkpoint.state.get("scaler")) and accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(scaler)
    rows = [row for row in rows if row["step"] <= step]
    if not (folder / WEIGHTS).exists():
        rows = []  # stopped within the first evaluation
    if rows and is_main:  # a kill may have come between the record and what is drawn from it
        with saving(folder):
            write_reports(folder, args, report, rows)
    if going_on and step >= args.max_steps and rows and rows[-1]["step"] == step:
        say(f"the run in {folder} is complete: {step:,} steps (a larger --max_steps goes on)")
        finish(args, accelerator, corpus, folder, rows, say)
        return
    peak_rate = matrix_product_rate(bare_model.config, accelerator)
    if is_main:
        with saving(folder):
            note_start(folder, args, accelerator, step)
    if step:
        is_over = step >= args.max_steps
        say(f"going on from step {step:,}" + ("; no step is left" if is_over else f" of {args.max_steps:,}"))
    if args.tracker != "none":
        accelerator.init_trackers(
            "lyricgpt",
            config={k: v for k, v in args.to_dict().items() if v is not None},
            init_kwargs={"trackio": {"name": args.output_dir, "resume": "allow"}, "wandb": {"name": args.output_dir}},
        )

    saved_step = None if checkpoint is None else step
    first_wrong = torch.zeros((), dtype=torch.int64, device=accelerator.device)

    def refuse_wrong(current: int) -> None:
        """Stops the run, on every process, if a loss or a gradient since the last look was not finite."""
        if bad := int(accelerator.gather(first_wrong).max()):
            raise LyricGPTError(
                f"the loss or its gradient is not finite at step {bad} (found at step {current}). Nothing of it was saved: "
                "checkpoints and the best model are of earlier steps. Try a lower learning_rate, a smaller max_grad_norm "
                "or more warmup_steps, with another --output_dir"
            )

    def save(current: int) -> None:
        nonlocal saved_step
        if is_main:
            place.check()
        if current == saved_step and checkpoint_path(folder / "checkpoints", current).exists():  # it lies there already
            return
        refuse_wrong(current)
        saved_step = current
        if is_main:
            state = {"elapsed_seconds": elapsed + time.perf_counter() - started}
            if accelerator.scaler is not None:
                state["scaler"] = accelerator.scaler.state_dict()
            save_checkpoint(folder / "checkpoints", current, bare_model, bare_optimizers, state)
        accelerator.wait_for_everyone()

    def record(current: int, characters_per_second: float) -> signal.Signals | None:
        """One evaluation: figures, a sample, the best weights, the reports. A signal meanwhile leaves it undone."""
        began = time.perf_counter()
        figures = evaluate_model(model, lambda: stop.requested(accelerator, is_logging=True) is not None)
        if figures is None:
            return stop.requested(accelerator, is_logging=True)
        if not math.isfinite(figures["train_loss"] + figures["val_loss"]):
            raise LyricGPTError(
                f"the loss is not finite at step {current} (training {figures['train_loss']}, validation "
                f"{figures['val_loss']}). The run folder keeps its best model; try a lower learning_rate"
            )
        seed = args.seed + current
        row = {"step": current, **{k: v for k, v in figures.items() if not k.startswith("train_bits")}}
        row |= {"learning_rate": learning_rate(args, max(0, current - 1))}
        row |= {"chars_per_second": characters_per_second, "mfu": utilisation(characters_per_second)}
        if is_main:
            bare_model.eval()
            text = write_song(
                bare_model, corpus.tokenizer, args.sample_prompt, seed=seed, max_new_tokens=SAMPLE_CHARACTERS
            )
            bare_model.train()
            place.check()
            with saving(folder):
                if not rows or row["val_loss"] < best_evaluation(rows)["val_loss"]:
                    export_model(bare_model, corpus.tokenizer, folder)
                now = time.perf_counter()
                row |= {"evaluation_seconds": now - began, "elapsed_seconds": elapsed + now - started}
                rows.append(row | {"sample_seed": seed, "sample": text})
                write_metrics(folder, rows)
                write_reports(folder, args, report, rows)
            say(table_line(row))
            if len(rows) == 1 and (advice := advise(args, bare_model.config.hidden_dropout, len(corpus.train))):
                say(advice)
        else:
            rows.append(row)
        accelerator.log({k: v for k, v in row.items() if k != "step"}, step=current)
        accelerator.wait_for_everyone()
        return None

    # The loop
    stop, stopped_by = Stop(output), None
    characters_a_step, flops = args.batch_size * args.block_size, flops_per_character(bare_model.config)

    def utilisation(characters_per_second: float) -> float:
        """The share of the machine's rate of matrix products that the model's own take."""
        return characters_per_second * flops / peak_rate

    started = interval_started = time.perf_counter()
    interval_steps = 0
    say(TABLE_HEAD)
    for row in rows:
        say(table_line(row))
    bar = tqdm(
        total=args.max_steps,
        initial=step,
        unit="step",
        disable=not (is_main and sys.stderr.isatty()),
        dynamic_ncols=True,
    )
    model.train()
    if parent and checkpoint is None:
        save(step)  # from now on the model begun with may be gone, or trained on
    while True:
        if (step % args.eval_interval == 0 or step >= args.max_steps) and not (rows and rows[-1]["step"] == step):
            speed = interval_steps * characters_a_step / (time.perf_counter() - interval_started)
            if stopped_by := record(step, speed):
                break
            interval_started, interval_steps = time.perf_counter(), 0
        if step >= args.max_steps:
            break
        if args.early_stopping and len(rows) - 1 - rows.index(best_evaluation(rows)) >= args.early_stopping:
            say(f"early stopping: no better validation loss in {args.early_stopping} evaluations")
            save(step)
            break
        if stopped_by := stop.requested(accelerator, is_logging=step % args.log_interval == 0):
            break

        rate = set_learning_rate(args, bare_optimizers, step)
        figures = train_step(args, corpus, accelerator, model, optimizers, step)
        step += 1
        interval_steps += 1
        bar.update()
        # Which step was the first that went wrong is noted on the device, and looked at when something is read anyway.
        wrong = ~figures.isfinite().all() if accelerator.scaler is None else ~figures[0].isfinite()
        first_wrong = torch.where(wrong & (first_wrong == 0), step, first_wrong)
        is_saved = step % args.save_interval == 0 or step == args.max_steps
        if step % args.log_interval == 0 or step % args.eval_interval == 0 or is_saved:
            refuse_wrong(step)
            value, norm = accelerator.reduce(figures, "mean").tolist()
            speed = interval_steps * characters_a_step / (time.perf_counter() - interval_started)
            bar.set_postfix_str(f"loss {value:.4f}, {speed:,.0f} characters/s")
            logged = {"loss": value, "gradient_norm": norm, "learning_rate": rate, "chars_per_second": speed}
            accelerator.log(logged | {"mfu": utilisation(speed)}, step=step)
        if is_saved:
            save(step)
    bar.close()

    # The end
    if stopped_by:
        if step:
            save(step)
        accelerator.end_training()
        if is_main:
            output.write_last(
                f"stopped by {stopped_by.name} at step {step:,} of {args.max_steps:,}; "
                f"{'saved' if step else 'nothing to save yet'}. To go on, run the same command:\n  {launch}"
            )
        sys.exit(128 + stopped_by)
    if is_main:
        place.check()
    finish(args, accelerator, corpus, folder, rows, say)
    accelerator.end_training()
    if lock is not None:
        lock.release()
    output.close()


def finish(
    args: Arguments,
    accelerator: Accelerator,
    corpus: TokenizedCorpus,
    folder: Path,
    rows: list[dict],
    say: Callable[[str], None],
) -> None:
    """Says what came out of the run, lets it sing and judges its songs: the main process alone knows all of `rows`."""
    if not accelerator.is_main_process:
        return
    best = best_evaluation(rows)
    say(f"\nbest validation loss {best['val_loss']:.4f} at step {best['step']:,}; {time_spent(rows)}")
    if sentence := overfitting(rows):
        say(sentence)
    model, tokenizer = load_model(folder, str(folder))
    model.to(accelerator.device)
    say(f"\nA song it just wrote:\n\n{write_song(model, tokenizer, args.sample_prompt, seed=args.seed)}\n")
    if args.quality_songs:
        quality, songs = read_quality(folder, best["step"]), read_songs(folder, best["step"])
        is_judged = quality is not None and quality["quality_songs"] == args.quality_songs
        if not is_judged:
            quality = judge_run(args, model, corpus, best["step"])
        if not is_judged or songs is None:
            songs = draw_songs(args, model, corpus, best["step"])
            with saving(folder):
                write_json(folder / QUALITY, quality)
                write_json(folder / SONGS, songs)
                write_reports(folder, args, corpus.report, rows)
        say(describe_quality(quality) + "\n")
    say(f"model:  {folder}\ncurves: {folder / 'curves.png'}")
    say(f"more:   python -m training_lyricgpt.sample {folder}")


def main() -> None:
    args = parse_arguments()
    try:
        train(args, launch="accelerate launch " + shlex.join(sys.argv))
    except RuntimeError as error:
        if not another_process_ended(error):
            raise
        print(
            "error: another process of this run has ended; what it said stands above, and one that said nothing was killed, "
            "often for want of memory. What was saved is whole: run the same command again",
            file=sys.stderr,
        )
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; what was saved before is whole, and the same command goes on from there", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    with command():
        main()
