"""Advice for small corpora: after how many epochs the validation loss is likely to rise, and what to change.

The table shows the epoch with the lowest validation loss, measured with `benchmarks/recipe.py` (4 layers of width 192,
1,000 steps or more).

| corpus (training characters) | recipe | dropout 0 | dropout 0.2 |
|---|---|---|---|
| sample songs (202,957) | modern: Muon at 0.02 | 4.0 | 11.1 |
| hymns (265,470) | modern: Muon at 0.02 | 3.1 | 7.7 |
| sample songs | modern: AdamW at 2e-3, cosine | 9.1 | 12.1 |
| sample songs | classic: AdamW at 3e-4 | 22 | more than 20 |

`epochs_that_help` is a rule of thumb fitted to this table. It ignores the size of the model and the kind of text. So
far it has been off by less than a factor of two: the loss of a larger model (10.7 million parameters, Muon, dropout
0.1) rose after 4 epochs where the rule says 6, and that of the original notebook's run (6 layers of width 384, 303,000
characters) after about 80 where it says 58.

Following the advice helped on the sample songs. Without dropout, the lowest validation loss of the modern recipe was
1.492 in 1,000 steps and 1.463 in 250. With dropout 0.2, it was 1.419 in 1,000 steps and 1.385 in 500.
"""

import math

from ..arguments import ModelArguments, OptimizationArguments

# (epochs without dropout, learning rate). The epochs are proportional to 1 / sqrt(learning rate).
TURNS_AFTER = {"muon": (4.0, 0.02), "adamw": (9.0, 2e-3)}
# This much dropout multiplies the epochs by DROPOUT_GAIN.
DROPOUT = 0.2
DROPOUT_GAIN = 2.5
# A run that is only a little too long gets no advice: its learning rate is already low by then.
TOLERANCE = 1.25
# With Muon on the sample songs, 0.5 instead of 0.01 lowered the validation loss at step 500 from 1.790 to 1.505, and
# the lowest from 1.492 to 1.483. AdamW's value is the usual choice of the field. We have not measured it.
WEIGHT_DECAY = {"muon": 0.5, "adamw": 0.1}


def epochs(args: OptimizationArguments, block_size: int, characters: int) -> float:
    """Returns how often a run reads each training character."""
    return args.max_steps * args.batch_size * block_size / characters


def epochs_that_help(args: OptimizationArguments, dropout: float) -> float:
    """Returns after about how many epochs the validation loss of such a run starts to rise."""
    turn, rate = TURNS_AFTER[args.optimizer]
    own = args.muon_learning_rate if args.optimizer == "muon" else args.learning_rate
    return turn * math.sqrt(rate / own) * DROPOUT_GAIN ** (dropout / DROPOUT)


def advise(args: OptimizationArguments, shape: ModelArguments, dropout: float, characters: int) -> str | None:
    """Returns what to change if the corpus is too small for the run, or None if it is large enough.

    Args:
        dropout: The model's dropout. (`shape.dropout` is None if it is the variant's default.)
        characters: Number of training characters.
    """
    reads, lasts = epochs(args, shape.block_size, characters), epochs_that_help(args, dropout)
    if reads <= TOLERANCE * lasts:
        return None
    rate = args.muon_learning_rate if args.optimizer == "muon" else args.learning_rate
    a_step = args.batch_size * shape.block_size

    def steps(count: float) -> int:
        """Converts epochs to a round number of steps, at least twice the warm-up."""
        exact = count * characters / a_step
        digits = max(0, math.floor(math.log10(exact)) - 1) if exact >= 1 else 0
        return max(1, 2 * args.warmup_steps, round(exact / 10**digits) * 10**digits)

    lines = [
        f"advice: the corpus is small for {args.max_steps:,} steps, so the model may learn it by heart. An epoch is "
        f"{characters:,} characters ({characters / a_step:.3g} steps), and this run reads the corpus {reads:.3g} "
        f"times. With {args.optimizer}, learning rate {rate:g} and dropout {dropout:g}, the validation loss usually "
        f"starts to rise after about {lasts:.2g} epochs. What helps:"
    ]
    if dropout < DROPOUT:
        lasts_longer = epochs_that_help(args, DROPOUT)
        shorter = f" --max_steps {steps(lasts_longer)}" if steps(lasts_longer) < args.max_steps else ""
        lines.append(f"  --dropout {DROPOUT}{shorter}: the loss then rises after about {lasts_longer:.2g} epochs")
    if steps(lasts) < args.max_steps:
        come_down = "" if args.lr_schedule == "constant" else ", so the learning rate falls before overfitting starts"
        least = " (fewer only with fewer --warmup_steps)" if 0 < steps(lasts) == 2 * args.warmup_steps else ""
        lines.append(f"  --max_steps {steps(lasts)}: fewer steps{come_down}{least}")
    if args.weight_decay < WEIGHT_DECAY[args.optimizer]:
        lines.append(f"  --weight_decay {WEIGHT_DECAY[args.optimizer]}: the loss rises later")
    if not shape.init_from:
        lines.append("  --init_from a model trained on other songs, which already knows how words are spelled")
    lines.append("(You can lower --max_steps for this run. The other changes need a new --output_dir.)")
    return "\n".join(lines)
