"""Frozen dataclasses that are pytrees, each with a structure of its own.

    @pytree
    class Line:
        slope: Array
        name: str = static(default="line")

As `flax.struct.dataclass`, but for one thing. JAX 0.10.2 takes the structures of two
classes that it registers as dataclasses for equal if their static fields are, whatever
the classes. Once in some hundred times a compiled function then runs for one class what
it traced for the other, and gives a wrong number without a word. Here they are
registered as nodes of their own kind, which JAX tells apart.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform

import jax
from flax import serialization

Kind = TypeVar("Kind", bound=type)


def static(**options) -> Any:
    """A field that is part of the structure: not traced and not trained.

    Args:
      **options: of `dataclasses.field`, such as a default.
    """
    return dataclasses.field(metadata={"static": True}, **options)


@dataclass_transform(frozen_default=True, field_specifiers=(static,))
def pytree(kind: Kind) -> Kind:
    """Makes a class a frozen dataclass and a pytree, with a method `replace`.

    `flax.serialization` knows it, too.
    """
    made: Any = dataclasses.dataclass(frozen=True)(kind)
    fields = dataclasses.fields(made)
    leaves = tuple(f.name for f in fields if not f.metadata.get("static"))
    statics = tuple(f.name for f in fields if f.metadata.get("static"))

    def flatten(one: Any) -> tuple[tuple, tuple]:
        return _values(one, leaves), _values(one, statics)

    def flatten_with_keys(one: Any) -> tuple[tuple, tuple]:
        keyed = ((jax.tree_util.GetAttrKey(n), getattr(one, n)) for n in leaves)
        return tuple(keyed), _values(one, statics)

    def unflatten(held: tuple, children: Any) -> Any:
        given = zip((*leaves, *statics), (*children, *held), strict=True)
        return made(**dict(given))

    made.replace = _replace
    jax.tree_util.register_pytree_with_keys(made, flatten_with_keys, unflatten, flatten)
    serialization.register_serialization_state(made, *_state(leaves))
    return made


def _values(one: Any, names: tuple[str, ...]) -> tuple:
    return tuple(getattr(one, name) for name in names)


def _replace(self, **values):
    """The same with other values of some fields."""
    return dataclasses.replace(self, **values)


def _state(leaves: tuple[str, ...]) -> tuple[Callable, Callable]:
    """To a dictionary of what is no static field, and back into one that is there."""

    def to_state(one: Any) -> dict:
        return {n: serialization.to_state_dict(getattr(one, n)) for n in leaves}

    def from_state(one: Any, state: dict) -> Any:
        if set(state) != set(leaves):
            raise ValueError(
                f"a {type(one).__name__} has {list(leaves)}, not {sorted(state)}"
            )
        values = {
            n: serialization.from_state_dict(getattr(one, n), state[n], name=n)
            for n in leaves
        }
        return dataclasses.replace(one, **values)

    return to_state, from_state
