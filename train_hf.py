"""Trains LyricGPT on a corpus of lyrics: `accelerate launch train_hf.py --config configs/sample.yaml`.

One file, read from top to bottom: settings, devices, data, model, optimizers, what was there before, and one loop of
evaluate -> forward -> backward -> step -> log. Notable:

- A batch is a function of (seed, step) and dropout of (seed, step, process, micro-batch), so there is no generator to
  save and a resumed run is the run that was never stopped.
- The run folder is a model from the first evaluation on: the best weights so far.
- The same command goes on after anything; SIGINT and SIGTERM finish the step, save, and say how.
"""

import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import datasets
import numpy as np
import torch
import transformers
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from tqdm import tqdm

from modeling_lyricgpt import LyricGPTConfig, LyricGPTForCausalLM
from training_lyricgpt import LyricGPTError
from training_lyricgpt.arguments import Arguments, describe_differences, load_arguments, parse_arguments
from training_lyricgpt.checkpoints import latest_checkpoint, list_checkpoints, load_checkpoint, save_checkpoint
from training_lyricgpt.cpu_kernels import FastDropout, training_attention
from training_lyricgpt.devices import Stop, keep_freed_memory, start_accelerator, use_all_cores
from training_lyricgpt.evaluation import evaluate_split
from training_lyricgpt.export import WEIGHTS, export_model, generation_config
from training_lyricgpt.files import UNFINISHED, clear_unfinished, lock_folder, read_json, saving, write_json
from training_lyricgpt.optimization import build_optimizers, learning_rate, set_learning_rate
from training_lyricgpt.reports import (
    TABLE_HEAD,
    best_evaluation,
    overfitting,
    read_metrics,
    table_line,
    write_metrics,
    write_reports,
)
from training_lyricgpt.sample import encode_prompt, load_run, write_song
from training_lyricgpt.tokens import TokenizedCorpus, batch_offsets, evaluation_offsets, load_corpus

SAMPLE_CHARACTERS = 300
SPLIT_NAMES = {"train": "train", "val": "validation"}


# ----------------------------------------------------------------------------------------------------------------------
# What was there before


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
    before, rows = load_arguments(folder / "run.yaml"), read_metrics(folder)
    has_checkpoints = bool(list_checkpoints(folder / "checkpoints"))
    if not has_checkpoints and all(row["step"] == 0 for row in rows) and not args.eval_only:
        return False  # it was stopped before there was anything to lose
    differences = describe_differences(before, args)
    if (folder / "corpus.json").exists() and not differences:
        then, now = read_json(folder / "corpus.json")["checksum"], corpus.report["checksum"]
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
    if checkpoint is None and rows and rows[-1]["step"] >= before.save_interval and not args.eval_only:
        raise LyricGPTError(
            f"the run in {folder} has come to step {rows[-1]['step']}, but none of its checkpoints can be read"
            f"{''.join(f'; {complaint}' for complaint in complaints)}. Starting again would overwrite its model: restore "
            "the folder checkpoints/, or choose another --output_dir"
        )
    return True


def build_model(args: Arguments, corpus: TokenizedCorpus) -> LyricGPTForCausalLM:
    """A freshly initialised model for this alphabet; the same for the same seed."""
    transformers.set_seed(args.seed)
    tokenizer = corpus.tokenizer
    model = LyricGPTForCausalLM(
        LyricGPTConfig(
            variant=args.variant,
            vocab_size=len(tokenizer),
            hidden_size=args.hidden_size,
            num_hidden_layers=args.num_hidden_layers,
            num_attention_heads=args.num_attention_heads,
            max_position_embeddings=args.block_size,
            attention_dropout=args.dropout if args.variant == "classic" else None,
            hidden_dropout=args.dropout,
            sliding_window=args.sliding_window,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.generation_config = generation_config(tokenizer)
    return model


# ----------------------------------------------------------------------------------------------------------------------
# One step


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
            with nullcontext() if args.compile else FastDropout():
                loss = model(input_ids=windows[:, :-1], labels=labels, shift_labels=labels, use_cache=False).loss
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                norm = accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm or math.inf)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        losses.append(loss.detach())
    return torch.stack([torch.stack(losses).mean(), norm.detach()])


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
    parts = accelerator.num_processes * accelerator.gradient_accumulation_steps
    if args.mixed_precision == "fp16" and (accelerator.device.type == "cpu" or args.optimizer == "muon"):
        raise LyricGPTError("mixed_precision fp16 needs a GPU and the optimizer adamw; use bf16, or no")

    def say(message: str) -> None:
        if is_main:
            tqdm.write(message)
            sys.stdout.flush()

    # Data
    corpus = load_corpus(args)
    report = corpus.report
    folder = Path(args.output_dir)
    encode_prompt(corpus.tokenizer, args.sample_prompt)  # a prompt that cannot be read is said now, not hours later
    lock = lock_folder(folder) if is_main and not args.eval_only else None
    going_on = check_folder(args, corpus)
    accelerator.wait_for_everyone()  # nobody writes before everybody has looked
    if is_main and not args.eval_only:
        with saving(folder):
            folder.mkdir(parents=True, exist_ok=True)
            clear_unfinished(folder)
            args.save(folder / "run.yaml")
            write_json(folder / "corpus.json", report)
    say(
        f"corpus: {report['songs']:,} songs or documents ({report['skipped_empty']:,} empty rows skipped), "
        f"{report['tokens']['train']:,} characters for training, {report['tokens']['validation']:,} held out, "
        f"alphabet of {report['alphabet_size']}"
    )
    if unknown := report["unknown"].get("validation", 0):
        say(f"note: {unknown:,} held-out characters are not in the training alphabet and are read as <|unk|>")
    split_offsets = {
        split: evaluation_offsets(
            args.seed, name, args.eval_batches * args.batch_size, len(getattr(corpus, name)), args.block_size
        )
        for split, name in SPLIT_NAMES.items()
    }

    def evaluate_model(module: torch.nn.Module) -> dict[str, float]:
        figures = {}
        for split, name in SPLIT_NAMES.items():
            stream, offsets, size = getattr(corpus, name), split_offsets[split], args.batch_size // parts
            result = evaluate_split(accelerator, module, stream, offsets, args.block_size, size)
            figures |= {f"{split}_{key}": value for key, value in result.items()}
        return figures

    if args.eval_only:
        if not going_on:
            raise LyricGPTError(f"output_dir {folder} holds no run to evaluate")
        model = load_run(str(folder))[0].to(accelerator.device)
        model.set_attn_implementation(training_attention(args, accelerator))
        figures = evaluate_model(model)
        say("\n".join(f"{name}: {value:.4f}" for name, value in figures.items()))
        return

    # Model and optimizers
    model = build_model(args, corpus)
    parameters = model.num_parameters()
    optimizers = build_optimizers(args, model.to(accelerator.device))
    # On a CPU training has kernels of its own; what is sampled goes through the model as everybody loads it.
    attention = training_attention(args, accelerator)
    model.set_attn_implementation(attention)
    if args.compile:
        model.compile()
    model, *optimizers = accelerator.prepare(model, *optimizers)
    bare_model = accelerator.unwrap_model(model, keep_torch_compile=False)
    bare_optimizers = [optimizer.optimizer for optimizer in optimizers]
    say(
        f"model: {args.variant}, {parameters:,} parameters; {accelerator.num_processes} process(es) on "
        f"{accelerator.device.type}, precision {accelerator.mixed_precision}"
    )

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
            write_reports(folder, args, report, rows, parameters)
    if going_on and step >= args.max_steps and rows and rows[-1]["step"] == step:
        say(f"the run in {folder} is complete: {step:,} steps (a larger --max_steps goes on)")
        finish(args, accelerator, folder, rows, say)
        return
    if step:
        say(f"going on from step {step:,} of {args.max_steps:,}")
    if args.tracker != "none":
        accelerator.init_trackers("lyricgpt", config={k: v for k, v in args.to_dict().items() if v is not None})

    def save(current: int) -> None:
        if is_main:
            state = {"elapsed_seconds": elapsed + time.perf_counter() - started}
            if accelerator.scaler is not None:
                state["scaler"] = accelerator.scaler.state_dict()
            save_checkpoint(folder / "checkpoints", current, bare_model, bare_optimizers, state)
        accelerator.wait_for_everyone()

    def record(current: int, characters_per_second: float) -> None:
        """One evaluation: figures, a sample, the best weights, the reports."""
        figures = evaluate_model(model)
        if not math.isfinite(figures["train_loss"] + figures["val_loss"]):
            raise LyricGPTError(
                f"the loss is not finite at step {current} (training {figures['train_loss']}, validation "
                f"{figures['val_loss']}). The run folder keeps its best model; try a lower learning_rate"
            )
        seed = args.seed + current
        row = {"step": current, **{k: v for k, v in figures.items() if not k.startswith("train_bits")}}
        row |= {"learning_rate": learning_rate(args, max(0, current - 1))}
        row |= {"chars_per_second": characters_per_second}
        row |= {"elapsed_seconds": elapsed + time.perf_counter() - started}
        if is_main:
            bare_model.eval().set_attn_implementation("sdpa")
            text = write_song(
                bare_model,
                corpus.tokenizer,
                args.sample_prompt,
                seed=seed,
                max_new_tokens=SAMPLE_CHARACTERS,
            )
            bare_model.train().set_attn_implementation(attention)
            with saving(folder):
                if not rows or row["val_loss"] < best_evaluation(rows)["val_loss"]:
                    export_model(bare_model, corpus.tokenizer, folder)
                rows.append(row | {"sample_seed": seed, "sample": text})
                write_metrics(folder, rows)
                write_reports(folder, args, report, rows, parameters)
            say(table_line(row))
        else:
            rows.append(row)
        accelerator.log({k: v for k, v in row.items() if k != "step"}, step=current)
        accelerator.wait_for_everyone()

    # The loop
    stop, stopped_by = Stop(), None
    characters_a_step = args.batch_size * args.block_size
    started = interval_started = time.perf_counter()
    interval_steps, first_wrong = 0, torch.zeros((), dtype=torch.int64, device=accelerator.device)
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
    while True:
        if (step % args.eval_interval == 0 or step >= args.max_steps) and not (rows and rows[-1]["step"] == step):
            speed = interval_steps * characters_a_step / (time.perf_counter() - interval_started)
            record(step, speed)
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
            value, norm = accelerator.reduce(figures, "mean").tolist()
            if bad := int(accelerator.gather(first_wrong).max()):
                raise LyricGPTError(
                    f"the loss or its gradient is not finite at step {bad} (at step {step}: loss {value}, norm of the gradient "
                    f"{norm}). Nothing of it was saved: checkpoints and the best model are of earlier steps. Try a lower "
                    "learning_rate, a smaller max_grad_norm or more warmup_steps, with another --output_dir"
                )
            speed = interval_steps * characters_a_step / (time.perf_counter() - interval_started)
            bar.set_postfix_str(f"loss {value:.4f}, {speed:,.0f} characters/s")
            logged = {"loss": value, "gradient_norm": norm, "learning_rate": rate, "chars_per_second": speed}
            accelerator.log(logged, step=step)
        if is_saved:
            save(step)
    bar.close()

    # The end
    if stopped_by:
        save(step)
        accelerator.end_training()
        say(
            f"stopped by {stopped_by.name} at step {step:,} of {args.max_steps:,}; saved. To go on, run the same command:\n  {launch}"
        )
        sys.exit(128 + stopped_by)
    finish(args, accelerator, folder, rows, say)
    accelerator.end_training()
    if lock is not None:
        lock.release()


def finish(
    args: Arguments, accelerator: Accelerator, folder: Path, rows: list[dict], say: Callable[[str], None]
) -> None:
    """Says what came out of the run, and lets it sing."""
    best = best_evaluation(rows)
    say(f"\nbest validation loss {best['val_loss']:.4f} at step {best['step']:,}")
    if sentence := overfitting(rows):
        say(sentence)
    if accelerator.is_main_process:
        model, tokenizer = load_run(str(folder))
        say(f"\nA song it just wrote:\n\n{write_song(model, tokenizer, args.sample_prompt, seed=args.seed)}\n")
    say(f"model:  {folder}\ncurves: {folder / 'curves.png'}")
    say(f"more:   python -m training_lyricgpt.sample {folder}")


def main() -> None:
    args = parse_arguments()
    train(args, launch="accelerate launch " + shlex.join(sys.argv))


if __name__ == "__main__":
    try:
        main()
    except LyricGPTError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # once a machine
            print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; what was saved before is whole, and the same command goes on from there", file=sys.stderr)
        sys.exit(130)
