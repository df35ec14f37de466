"""Optimizers, fast code for CPUs, evaluation, checkpoints and cost estimates."""
