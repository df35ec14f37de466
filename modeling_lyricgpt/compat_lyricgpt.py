"""All differences between releases of transformers, in one place.

Notes:
- The model runs on every minor release from `OLDEST` to `NEWEST`. The other files use only names that all of them have.
- Up to 5.23, the cache of keys and values is called `past_key_values`. From 5.24 on, it is called `cache`. The model
  accepts both names.
- Importing this file fails on a release before `OLDEST`. On one after `NEWEST`, the model raises an error if it can't
  give the right result. The error names that release and the releases that work. Without this check, the model could
  overlook a cache and silently write a wrong song.

When a new release renames something, this is the file to change.
"""

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from functools import lru_cache
from importlib import import_module
from operator import attrgetter
from typing import Any

import torch
import transformers
from packaging.version import Version

OLDEST, NEWEST, BEYOND = "4.57.6", "5.24", "5.25"
RELEASE = Version(transformers.__version__)
logger = transformers.utils.logging.get_logger(__name__)


def unsupported(problem: str) -> str:
    """Returns an error message that says what doesn't work in this release of transformers, and what does."""
    return (
        f"{problem} (this is transformers {RELEASE}; LyricGPT's code was tested with {OLDEST} to {NEWEST}). Install one of "
        f"those: pip install 'transformers>={OLDEST},<{BEYOND}'. Or load the stock model with revision='native', which needs "
        "none of LyricGPT's code (classic from transformers 4.28 on, modern from 4.51)"
    )


if Version(OLDEST) > RELEASE:
    raise ImportError(unsupported(f"LyricGPT needs transformers {OLDEST} or newer"))


@contextmanager
def names_of_every_release() -> Iterator[None]:
    """Wraps imports from transformers. If a newer release has dropped a name, the error says so (see `unsupported`)."""
    try:
        yield
    except ImportError as error:
        raise ImportError(unsupported(str(error))) from error


def find(*places: str) -> Any:
    """Returns the first of `places` that this release of transformers has.

    Args:
        places: `module:name` or `module:class.method`.

    Raises:
        ImportError: it has none of them.
    """
    for place in places:
        module, name = place.split(":")
        try:
            return attrgetter(name)(import_module(f"transformers.{module}"))
        except (ImportError, AttributeError):
            continue
    raise ImportError(unsupported(f"transformers.{places[0].replace(':', '.')} doesn't exist"))


# Methods that the model needs. Without this check it would fail in the middle of a song.
find("cache_utils:Cache.update")
find("cache_utils:Cache.get_seq_length")
find("cache_utils:Cache.reset")
find("modeling_utils:PreTrainedModel.post_init")

PreTrainedConfig = find("configuration_utils:PreTrainedConfig", "configuration_utils:PretrainedConfig")

# Before 5.2, one decorator collected hidden states and filled in the configuration's defaults.
capture_outputs = find("utils.output_capturing:capture_outputs", "utils.generic:check_model_inputs")
if capture_outputs.__name__ == "check_model_inputs":

    def merge_with_config_defaults(forward: Callable) -> Callable:
        """Does nothing, because `check_model_inputs` has done it."""
        return forward
else:
    merge_with_config_defaults = find("utils.generic:merge_with_config_defaults")

# Since 5.0, these functions skip weights that were loaded from a checkpoint. In 4.57, transformers does that itself.
with names_of_every_release():
    init = import_module("transformers.initialization") if RELEASE.major >= 5 else torch.nn.init

# The cache of keys and values

Cache = find("cache_utils:Cache")
_output_fields = {field.name: str(field.type) for field in fields(find("modeling_outputs:BaseModelOutputWithPast"))}
# What this release calls the cache, in outputs and in calls.
CACHE_NAME = next((name for name, kind in _output_fields.items() if "Cache" in kind), "past_key_values")
CACHE_NAMES = tuple(dict.fromkeys(("past_key_values", "cache", CACHE_NAME)))

# Since 5.15, a cache can always remove the characters of a rejected draft again.
_take_back = getattr(find("cache_utils:DynamicLayer"), "crop", None)
CACHE_TAKES_BACK = _take_back is not None and "tokens_to_remove" in inspect.signature(_take_back).parameters

_mask_arguments = inspect.signature(find("masking_utils:create_causal_mask")).parameters
_cache_in_masks = next((name for name in CACHE_NAMES if name in _mask_arguments), None)
_update_takes_positions = "cache_kwargs" in inspect.signature(Cache.update).parameters

# Keywords that transformers' generation and its Trainer pass besides the declared arguments of `forward`.
KNOWN_KEYWORDS = {
    *inspect.get_annotations(find("utils:TransformersKwargs")),
    *inspect.get_annotations(find("modeling_flash_attention_utils:FlashAttentionKwargs")),
    *("cache_position", "labels", "logits_to_keep", "num_items_in_batch", "use_cache"),
    *("output_attentions", "output_hidden_states", "return_dict", "ignore_index", "shift_labels"),
    "token_type_ids",
}


def holds_cache(value: Any) -> bool:
    """Returns whether an argument is a cache of keys and values, either an object or the older tuples of tensors."""
    if isinstance(value, tuple):
        return bool(value) and isinstance(value[0], tuple)
    return isinstance(value, Cache) or hasattr(value, "get_seq_length")


def take_cache(keywords: dict[str, Any], past_key_values: Any = None, cache: Any = None) -> Any:
    """Returns the cache that a call passes under any of its names, and removes it from `keywords`.

    Raises:
        ValueError: two caches are given.
        RuntimeError: an unknown keyword holds a cache. Without that cache, the song would be wrong.
    """
    if past_key_values is not None and CACHE_NAME != "past_key_values":
        warnings.warn(f"`past_key_values` is deprecated: use `{CACHE_NAME}`", FutureWarning, stacklevel=3)
    given = [past_key_values, cache, *(keywords.pop(name, None) for name in CACHE_NAMES)]
    for name, value in keywords.items():
        if name not in KNOWN_KEYWORDS and holds_cache(value):
            raise RuntimeError(unsupported(f"a cache was passed as {name!r}, which the model does not know"))
    given = [cache for cache in given if cache is not None]
    if any(other is not given[0] for other in given):
        raise ValueError("two caches are given: pass either past_key_values or cache")
    return given[0] if given else None


@lru_cache
def warn_once(message: str) -> None:
    """Logs a warning, unless the same has been logged before."""
    logger.warning(message)


def warn_of_unknown(keywords: dict[str, Any]) -> None:
    """Warns once about each keyword that the model does not know and therefore ignores."""
    for name in keywords.keys() - KNOWN_KEYWORDS:
        warn_once(f"the model does not know {name!r} and ignores it")


def check_mask(attention_mask: Any, cached: int | torch.Tensor, new: int) -> None:
    """Checks that the mask of a call covers the `cached` characters and the `new` ones.

    Raises:
        ValueError: the mask `(B, T)` has another length. A cache got lost, or the mask belongs to another call.
    """
    if not isinstance(attention_mask, torch.Tensor) or attention_mask.ndim != 2 or not isinstance(cached, int):
        return  # a static cache counts on the device, and reading that would cost a synchronisation at each step
    if attention_mask.shape[1] != cached + new:
        problem = (
            f"attention_mask covers {attention_mask.shape[1]} characters, but {cached} are cached and {new} were passed. Pass a "
            f"mask with {cached + new} columns, or the cache that belongs to this mask"
        )
        raise ValueError(unsupported(f"{problem}. If your code passes no mask, transformers lost the cache"))


def update_cache(
    cache: Any, key: torch.Tensor, value: torch.Tensor, layer_idx: int, positions: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Adds keys and values at `positions` `(T,)` to a layer of the cache. Returns all those that the layer sees."""
    if _update_takes_positions:  # before 5.4
        return cache.update(key, value, layer_idx, {"cache_position": positions})
    return cache.update(key, value, layer_idx)


def empty_cache(cache: Any) -> None:
    """Empties a cache."""
    cache.reset()
    if left := cache.get_seq_length():  # before 5.18, `reset` does not shorten a growing cache
        cache.crop(-left)


def cache_for_masks(cache: Any, positions: torch.Tensor) -> dict[str, Any]:
    """Returns the arguments with which transformers' mask functions take a cache and its new columns.

    Args:
        positions: Index of each new column in the cache, `(T,)`.

    Raises:
        RuntimeError: they take the cache under an unknown name.
    """
    if _cache_in_masks is None:
        raise RuntimeError(unsupported("create_causal_mask takes the cache under an unknown name"))
    arguments = {_cache_in_masks: cache}
    if "cache_position" in _mask_arguments:  # before 5.9
        arguments["cache_position"] = positions
    return arguments


# Calls


def arguments_by_name(function: Callable, args: tuple, kwargs: dict) -> dict[str, Any]:
    """Returns the arguments of a call by name, including those in the function's `**kwargs` and its defaults."""
    call = inspect.signature(function).bind(*args, **kwargs)
    call.apply_defaults()
    arguments = dict(call.arguments)
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments |= arguments.pop(name)
    return arguments


@lru_cache
def declared_names(function: Callable) -> frozenset[str]:
    """Returns the names of a function's parameters."""
    return frozenset(inspect.signature(function).parameters)


def refuse_unknown_tensors(forward: Callable, model_inputs: dict[str, Any]) -> None:
    """Checks what a step of generation is about to pass to `forward`.

    Raises:
        RuntimeError: a tensor, such as a mask, has a name that the model does not know and would ignore.
    """
    declared = declared_names(forward)
    for name, value in model_inputs.items():
        if name not in declared and name not in KNOWN_KEYWORDS and isinstance(value, torch.Tensor):
            raise RuntimeError(unsupported(f"generate passes {name!r}, which the model does not know"))


def has_global_hooks() -> bool:
    """Returns whether hooks are registered for all modules at once. If torch no longer reports this, returns True."""
    return getattr(torch.nn.modules.module, "_has_any_global_hook", lambda: True)()


def declare_causal_lm(model_type: str, class_name: str) -> None:
    """Adds a class to transformers' table of causal language models.

    The table decides whether the Trainer shifts labels when it smooths them, which models `transformers serve` accepts, and
    which ones a pipeline calls supported. `AutoModel.register` does not add to it.
    """
    with suppress(ImportError):
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.setdefault(model_type, class_name)
