"""Names shared by the whole library, and the glossary of shapes in its docstrings.

B batch    S samples    H, W height and width    C channels
I input units    O output units    K classes    N examples in a data set
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array
Key = Any  # a PRNG key, typed or legacy; None where nothing is drawn
Moment = Any  # an array, or None for zero
Params = Any  # a tree whose leaves are arrays and posterior nodes
Shape = tuple[int, ...]
Initializer = Callable[[Key, Shape], Array]


def brief(value: Any) -> str:
    """A value on one line: an array by its type and shape, a tree by its size."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, Mapping):
        leaves = jax.tree.leaves(value)
        numbers = sum(getattr(leaf, "size", 1) for leaf in leaves)
        return f"{{{', '.join(map(str, value))}: {numbers:,} numbers}}"
    return " ".join(repr(value).split())


def choose(kind: str, name: Hashable, choices) -> Any:
    """Returns `choices[name]` of a mapping, or `name` itself of another collection.

    Raises:
      ValueError: the name is unknown; the message lists the valid ones.
    """
    if name not in choices:
        raise ValueError(f"unknown {kind} {name!r}; choose from {sorted(choices)}")
    return choices[name] if isinstance(choices, Mapping) else name


def in_float32(x: Any) -> Any:
    """Numbers of half precision as float32; whatever else stays as it is."""
    half = getattr(x, "dtype", None) in (jnp.bfloat16, jnp.float16)
    return x.astype(jnp.float32) if half else x
