"""Flax's modules that a mode switches: normalization, and dropout of a model's own."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn

from vnets.layers.calls import deterministic
from vnets.layers.mode import Mode
from vnets.types import Array

# Those with an attribute and an argument `deterministic`.
KINDS = nn.Dropout | nn.MultiHeadDotProductAttention
FLAG = "deterministic"


def called(module: Any, mode: Mode, call: Callable, args: tuple, kwargs: dict) -> Array:
    """The call of a dropout, or of attention, which has dropout within.

    `mode.dropout` decides, if it says anything; else the module or its caller; and if
    these say nothing, either, there is dropout in training.
    """
    place = 1 if isinstance(module, nn.Dropout) else len(args)
    given = *args[place : place + 1], kwargs.get(FLAG), getattr(module, FLAG)
    if mode.dropout is not None:
        quiet = not mode.dropout
    elif all(one is None for one in given):
        quiet = deterministic(mode)
    else:
        return call(*args, **kwargs)
    # Flax refuses a flag that is given twice; the module is this call's own.
    own = getattr(module, FLAG)
    object.__setattr__(module, FLAG, None)
    try:
        if len(args) > place:  # given by its place
            args = *args[:place], quiet, *args[place + 1 :]
            return call(*args, **kwargs)
        return call(*args, **{**kwargs, FLAG: quiet})
    finally:
        object.__setattr__(module, FLAG, own)


def normalizing(module: nn.BatchNorm, mode: Mode, args: tuple, kwargs: dict):
    """The arguments of a batch normalization that leaves its statistics to the mode."""
    said = *args[1:2], kwargs.get("use_running_average"), module.use_running_average
    if all(one is None for one in said):
        args, kwargs = args[:1], {**kwargs, "use_running_average": deterministic(mode)}
    return args, kwargs
