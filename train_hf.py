"""Trains LyricGPT on song lyrics: `accelerate launch train_hf.py --config configs/sample.yaml`.

Read it from top to bottom: settings, devices, data, model, optimizers, resuming, and one loop of evaluate -> forward ->
backward -> step -> log. Notes:

- A batch depends only on (seed, step), and dropout only on (seed, step, process, micro-batch). So there is no random
  state to save, and a resumed run gives the same result as one that never stopped.
- From the first evaluation on, the run folder is a model: the best weights so far.
- The same command resumes a run. On SIGINT, SIGTERM or a closed terminal, a run finishes the step, saves, and prints how to resume.
- On a CPU in float32, a step uses our own kernels (`cpu_kernels`). Everywhere else it uses PyTorch's.
"""

import math
import os
import shlex
import sys
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer

from modeling_lyricgpt import LyricGPTForCausalLM
from training_lyricgpt.arguments import Arguments, parse_arguments
from training_lyricgpt.corpus.streams import TokenizedCorpus, batch_offsets
from training_lyricgpt.engine.cpu_kernels import cpu_kernels, fits
from training_lyricgpt.engine.devices import another_process_ended
from training_lyricgpt.engine.optimization import build_optimizers, set_learning_rate
from training_lyricgpt.engine.planning import describe_model
from training_lyricgpt.model.initialization import build_model
from training_lyricgpt.run import Run
from training_lyricgpt.terminal import command, program

# ----------------------------------------------------------------------------------------------------------------------
# One step


def prepare(
    args: Arguments, accelerator: Accelerator, model: LyricGPTForCausalLM
) -> tuple[torch.nn.Module, list[AcceleratedOptimizer]]:
    """Returns the model as it trains on this machine, and its optimizers."""
    optimizers = build_optimizers(args, model.to(accelerator.device), args.scores_scaled_by)
    if args.compile:
        model.compile()
    prepared, *optimizers = accelerator.prepare(model, *optimizers)
    return prepared, optimizers


def key_dropout(args: Arguments, step: int, process: int, micro_batch: int) -> None:
    """Seeds torch's generators for one micro-batch, so that dropout depends only on where in the run it is."""
    words = np.random.SeedSequence([args.seed % 2**64, step, process, micro_batch]).generate_state(2)
    torch.manual_seed(int(words[0]) << 31 ^ int(words[1]))


def micro_batches(
    args: Arguments, corpus: TokenizedCorpus, accelerator: Accelerator, step: int
) -> Iterator[torch.Tensor]:
    """Yields this process's share of a step's batch in micro-batches, on its device."""
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
    """Takes one step. Returns this process's mean loss in nats and the gradient's norm, shape `(2,)`, on its device."""
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


# ----------------------------------------------------------------------------------------------------------------------
# The run


def train(args: Arguments, launch: str) -> None:
    """Trains a model from start to finish. `launch` is the command that resumes the run."""
    # Devices, data, and the folder
    run = Run(args, launch)
    args, corpus, accelerator = run.args, run.corpus, run.accelerator
    if args.eval_only:
        run.print_evaluation()
        return

    # Model and optimizers
    model = build_model(args, args.seed, corpus.tokenizer, run.parent)
    run.say(describe_model(args, model, accelerator, run.folder))
    trained, optimizers = prepare(args, accelerator, model)
    if args.plan:
        run.print_plan(model, trained, partial(train_step, args, corpus, accelerator, trained, optimizers))
        return

    # Resuming
    step, stopped_by = run.restore(model, trained, optimizers), None
    if run.goes_on and step >= args.max_steps and run.has_evaluation(step):
        run.say(f"the run in {run.folder} is complete: {step:,} steps (set a larger --max_steps to continue it)")
        if run.is_main:
            run.finish()
        return

    # The loop
    run.begin(step)
    while True:
        is_due = step % args.eval_interval == 0 or step >= args.max_steps
        if is_due and not run.has_evaluation(step) and (stopped_by := run.evaluate(step)):
            break
        if step >= args.max_steps:
            break
        if args.early_stopping and run.evaluations_since_best() >= args.early_stopping:
            run.say(f"early stopping: no better validation loss in {args.early_stopping} evaluations")
            run.save(step)
            break
        if stopped_by := run.stop.requested(accelerator, is_logging=step % args.log_interval == 0):
            break

        rate = set_learning_rate(args, run.optimizers, step)
        figures = train_step(args, corpus, accelerator, trained, optimizers, step)
        step += 1
        run.note(figures, step)
        is_saved = step % args.save_interval == 0 or step == args.max_steps
        if step % args.log_interval == 0 or step % args.eval_interval == 0 or is_saved:
            run.log(step, figures, rate)
        if is_saved:
            run.save(step)

    # The end
    run.close(step, stopped_by)


def main() -> None:
    args = parse_arguments()
    # `accelerate launch` sets this variable.
    start = f"{program('accelerate')} launch" if "ACCELERATE_MIXED_PRECISION" in os.environ else program("python")
    try:
        train(args, launch=f"{start} {shlex.join(sys.argv)}")
    except RuntimeError as error:
        if not another_process_ended(error):
            raise
        print(
            "error: another process of this run has ended. Its error is printed above, or it was killed, often because "
            "memory ran out. Everything saved so far is intact: run the same command again to resume",
            file=sys.stderr,
        )
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; what was saved is intact: run the same command again to resume", file=sys.stderr)
        sys.exit(130)


cli = command()(main)  # what `python train_hf.py` and the installed command call

if __name__ == "__main__":
    cli()
