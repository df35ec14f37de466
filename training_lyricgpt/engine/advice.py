"""Advice on small corpora: how many epochs a run may read before its validation loss turns, and what to change.

Measured with `benchmarks/recipe.py` at 4 x 192, 1,000 steps or more: the epoch after which the validation loss was lowest.

| corpus (training characters) | recipe | dropout 0 | dropout 0.2 |
|---|---|---|---|
| embedded songs (202,957) | modern: Muon at 0.02 | 4.0 | 11.1 |
| hymns (265,470) | modern: Muon at 0.02 | 3.1 | 7.7 |
| embedded songs | modern: AdamW at 2e-3, cosine | 9.1 | 12.1 |
| embedded songs | classic: AdamW at 3e-4 | 22 | more than 20 |

The rule fitted to them is a rule of thumb: it knows neither the size of the model nor the kind of text. Where it was wrong
it was so by less than a factor of two: a larger model (10.7 million parameters, Muon, dropout 0.1) turned after 4 epochs
where it says 6, the published run of 6 x 384 on 303,000 characters after about 80 where it says 58. What it says helped on
the embedded songs (lowest validation loss of the modern recipe): 1,000 steps without dropout 1.492, 250 steps 1.463; with
dropout 0.2 1,000 steps 1.419, 500 steps 1.385.
"""

import math

from ..arguments import ModelArguments, OptimizationArguments

# Epochs without dropout at a learning rate; they go with its inverse square root.
TURNS_AFTER = {"muon": (4.0, 0.02), "adamw": (9.0, 2e-3)}
DROPOUT = 0.2  # multiplies the epochs by
DROPOUT_GAIN = 2.5
# A run that ends a little later than that is left alone: its learning rate has mostly come down by then.
TOLERANCE = 1.25
# With Muon 0.5 held off the turn: 1.505 at step 500 where 0.01 was at 1.790, and 1.483 at best for 1.492 (embedded songs).
# AdamW's is the usual choice of the field, not measured here.
WEIGHT_DECAY = {"muon": 0.5, "adamw": 0.1}


def epochs(args: OptimizationArguments, block_size: int, characters: int) -> float:
    """How often a run reads each training character."""
    return args.max_steps * args.batch_size * block_size / characters


def epochs_that_help(args: OptimizationArguments, dropout: float) -> float:
    """After how many epochs, about, the validation loss of such a run would turn."""
    turn, rate = TURNS_AFTER[args.optimizer]
    own = args.muon_learning_rate if args.optimizer == "muon" else args.learning_rate
    return turn * math.sqrt(rate / own) * DROPOUT_GAIN ** (dropout / DROPOUT)


def advise(args: OptimizationArguments, shape: ModelArguments, dropout: float, characters: int) -> str | None:
    """What to change if the corpus is too small for the run; None if it is not.

    Args:
        dropout: What the model has, which for `shape.dropout` None is the variant's.
        characters: Training characters.
    """
    reads, lasts = epochs(args, shape.block_size, characters), epochs_that_help(args, dropout)
    if reads <= TOLERANCE * lasts:
        return None
    rate = args.muon_learning_rate if args.optimizer == "muon" else args.learning_rate
    a_step = args.batch_size * shape.block_size

    def steps(count: float) -> int:
        """A number of steps that a person would choose, and no less than the warm-up needs."""
        exact = count * characters / a_step
        digits = max(0, math.floor(math.log10(exact)) - 1) if exact >= 1 else 0
        return max(1, 2 * args.warmup_steps, round(exact / 10**digits) * 10**digits)

    lines = [
        f"advice: the corpus is small for this run. An epoch is {characters:,} characters, {characters / a_step:.3g} steps, and "
        f"it is read {reads:.3g} times; with {args.optimizer} at {rate:g} and dropout {dropout:g} the validation loss tends to "
        f"turn after about {lasts:.2g} epochs. What helps:"
    ]
    if dropout < DROPOUT:
        lasts_longer = epochs_that_help(args, DROPOUT)
        shorter = f" --max_steps {steps(lasts_longer)}" if steps(lasts_longer) < args.max_steps else ""
        lines.append(f"  --dropout {DROPOUT}{shorter}: that lasts about {lasts_longer:.2g} epochs")
    if steps(lasts) < args.max_steps:
        come_down = "" if args.lr_schedule == "constant" else ", and the learning rate has come down when they end"
        lines.append(f"  --max_steps {steps(lasts)}: fewer steps{come_down}")
    if args.weight_decay < WEIGHT_DECAY[args.optimizer]:
        lines.append(f"  --weight_decay {WEIGHT_DECAY[args.optimizer]}: the turn comes later")
    if not shape.init_from:
        lines.append("  --init_from with a model of other songs: a small corpus then needs to teach less")
    lines.append("(fewer steps can be given to this run as well; the rest needs another --output_dir)")
    return "\n".join(lines)
