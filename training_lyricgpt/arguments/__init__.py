"""The settings of a run: what they are (`groups`), and how they are read (`parsing`)."""

from .groups import (
    FIELDS,
    GROUPS,
    Arguments,
    CorpusArguments,
    ModelArguments,
    OptimizationArguments,
    RunArguments,
    describe_differences,
)
from .parsing import load_arguments, parse_arguments, read_yaml

__all__ = [
    "FIELDS",
    "GROUPS",
    "Arguments",
    "CorpusArguments",
    "ModelArguments",
    "OptimizationArguments",
    "RunArguments",
    "describe_differences",
    "load_arguments",
    "parse_arguments",
    "read_yaml",
]
