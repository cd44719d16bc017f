"""Models as keys: hashable and comparable, whatever attributes they have.

A Flax module with a list, a dict or an array among its attributes cannot be hashed, and
so can be no argument of what is compiled once per model. Here it is known by what these
contain.
"""

import dataclasses
from collections.abc import Hashable, Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from vnets.layers.calls import takes_mode


def fingerprint(value: Any) -> Hashable:
    """Equal for values that are equal: the value itself where it can be hashed."""
    try:
        hash(value)
    except TypeError:
        return type(value), _contents(value)
    return value


def _contents(value: Any) -> Hashable:
    if isinstance(value, Mapping):
        return tuple((name, fingerprint(one)) for name, one in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(fingerprint, value))
    if isinstance(value, set):
        return frozenset(value)
    if isinstance(value, np.ndarray | jax.Array):
        array = np.asarray(value)
        return array.shape, str(array.dtype), array.tobytes()
    if dataclasses.is_dataclass(value):
        names = (field.name for field in dataclasses.fields(value))
        held = ((name, getattr(value, name)) for name in names if name != "parent")
        return tuple((name, fingerprint(one)) for name, one in held)
    return id(value)  # the same only as itself, which whoever holds this keeps alive


class Keyed:
    """A model that cannot be hashed, as one that can."""

    def __init__(self, model: Any):
        self.model = model
        self._print = fingerprint(model)

    def __hash__(self) -> int:
        return hash(self._print)

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Keyed) and self._print == other._print

    def apply(self, *args, **kwargs):
        """The model's own."""
        return self.model.apply(*args, **kwargs)


def checked(model: Any) -> Any:
    """A model as losses and tests take it: called with a mode, and hashable.

    Raises:
      ValueError: a Flax module that knows no mode, or what is no such model.
    """
    name = type(model).__name__
    if isinstance(model, nn.Module) and not takes_mode(model):
        raise ValueError(
            f"{name} takes no mode: give layers.stochastic(model, {{...}}), or "
            "layers.call(model) where no layer becomes stochastic"
        )
    if not hasattr(model, "apply"):
        raise ValueError(
            f"a model is made by layers.stochastic or a net of vnets.nets, not {name}"
        )
    try:
        hash(model)
    except TypeError:
        return Keyed(model)
    return model
