"""Targets: classes of examples or of their positions, numbers, shares, or none.

`check` and `check_range` look at values, once and on the host, where data enter;
`check_classes` looks at shapes and types alone, and belongs under jit.
"""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from vnets.types import Array, choose

KINDS = ("classes", "positions", "numbers", "probabilities", "distributions")
NONE = -1  # the largest class where there are none
OFF_ONE = 0.01  # by which probabilities, of half precision, may miss a sum of 1


def rows(inputs) -> int:
    """How many examples there are of an array, or of a tree of arrays, [N, ...].

    Raises:
      ValueError: no array, or arrays of different lengths.
    """
    counts = {np.shape(array)[:1] for array in leaves(inputs)}
    if len(counts) != 1 or () in counts:
        raise ValueError(f"inputs are arrays [N, ...] of one N, not {sorted(counts)}")
    return counts.pop()[0]


def are_classes(kind: str) -> bool:
    """True for the kinds of `check` that are integers from 0 on."""
    return kind in ("classes", "positions")


def leaves(inputs) -> list:
    """The arrays of a tree of inputs; a list is one array."""
    return jax.tree.leaves(inputs, is_leaf=lambda node: isinstance(node, list))


def check(split, kind: str = "classes") -> int:
    """Refuses a split whose targets are not what they are said to be.

    Args:
      split: has `inputs` [N, ...], an array or a tree of them; may have a `target`, and
        a `mask` of its shape: 1 where a part counts, 0 where it does not and may be
        anything; another number from 0 on is its weight.
      kind: "classes", int [N], or [N, T] and so on of positions, but nothing that looks
        one-hot; "positions", any int [N, ...]; "numbers" of any shape, finite;
        "probabilities", of a yes each, from 0 to 1; or "distributions", those of K
        classes, [N, ..., K], whose sum is 1.

    Returns:
      The largest class that counts; -1 if none does, and where there are no classes.

    Raises:
      ValueError: no such targets, another number of them than of inputs, or a mask that
        does not fit.
    """
    choose("kind of target", kind, KINDS)
    target, mask = getattr(split, "target", None), getattr(split, "mask", None)
    if target is None:
        rows(split.inputs)
        if mask is not None:
            raise ValueError("a mask is one of targets, and there are none")
        return NONE
    for array in leaves(split.inputs):
        if np.ndim(target) == 0 or len(array) != len(target):
            raise ValueError(
                f"inputs {np.shape(array)} and targets {np.shape(target)} must be "
                "equally many"
            )
    if mask is not None:
        shapes = [np.shape(target)]
        if not are_classes(kind) and np.ndim(target) > 1:
            shapes.append(np.shape(target)[:-1])  # of probabilities of classes
        if np.shape(mask) not in shapes:
            raise ValueError(
                f"a mask has the shape of the targets, {np.shape(target)}, not "
                f"{np.shape(mask)}"
            )
        if np.size(mask) and not np.min(np.asarray(mask)) >= 0:
            raise ValueError("a mask is 1 where a target counts and 0 elsewhere")
    return check_values(target, mask, kind)


def check_values(target: ArrayLike, mask: ArrayLike | None, kind: str) -> int:
    """What `check` does with the targets themselves, once their shapes fit."""
    if are_classes(kind):
        return largest(target, mask, kind)
    _check_numbers(np.asarray(target), mask, kind)
    return NONE


def _check_numbers(target: np.ndarray, mask: ArrayLike | None, kind: str) -> None:
    """Refuses what counts and is not finite, or no probability where it shall be."""
    if target.dtype.kind in "OSUMm":
        raise ValueError(f"targets are {target.dtype}, and no numbers")
    if mask is not None:
        target = target[np.asarray(mask) > 0]
    if not target.size:
        return
    low, high = target.min(), target.max()  # of a NaN both are
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(
            f"targets are from {low} to {high}; those that count must be finite"
        )
    if kind == "numbers":
        return
    if low < 0 or high > 1:
        raise ValueError(f"{kind} are from 0 to 1, and the targets {low} to {high}")
    if kind == "distributions":
        totals = target.sum(-1, dtype=np.float64).ravel()
        worst = totals[np.argmax(np.abs(totals - 1))]
        if abs(worst - 1) > OFF_ONE:
            raise ValueError(
                f"probabilities of all classes add up to 1, not to {worst:.4g}"
            )


def largest(target: ArrayLike, mask: ArrayLike | None = None, kind="positions") -> int:
    """The largest class that counts, -1 if none does; see `check`.

    Raises:
      ValueError: targets that are no classes.
    """
    target = np.asarray(target)
    if not np.issubdtype(target.dtype, np.integer):
        if _is_one_hot(target):
            raise ValueError(_one_hot(target.shape))
        raise ValueError(
            f"targets are {target.dtype}; classes are integers from 0 on. Those of a "
            "regression, and probabilities, are "
            '`sources.Resident(..., target="numbers")`'
        )
    if kind == "classes" and target.ndim > 1:
        hint = 'If they are of positions, say so: target="positions"'
        if target.shape[1:] == (1,):
            raise ValueError(f"{_column(target.shape)}. {hint}")
        if _is_one_hot(target):
            raise ValueError(f"{_one_hot(target.shape)}. {hint}")
    if mask is not None:
        target = target[np.asarray(mask) > 0]
    if target.size and target.min() < 0:
        raise ValueError(f"class {target.min()} is below 0; classes are 0 to K - 1")
    return int(target.max()) if target.size else NONE


def check_range(largest: int, classes: int) -> None:
    """Refuses targets of more classes than a net has.

    Raises:
      ValueError: the largest is not below `classes`.
    """
    if largest >= classes:
        raise ValueError(
            f"class {largest} is outside 0 to {classes - 1}: the net has {classes} "
            "classes, counted from 0"
        )


def check_classes(log_p: Array, target: Array) -> None:
    """Refuses classes that are not one for each prediction, [..., K] and [...].

    Raises:
      ValueError: other shapes, or targets that are no integers; it has both shapes.
    """
    shape, need = jnp.shape(target), jnp.shape(log_p)[:-1]
    if shape != need:
        raise ValueError(
            f"predictions {jnp.shape(log_p)} need targets {need}; {_named(shape, need)}"
        )
    if not jnp.issubdtype(jnp.result_type(target), jnp.integer):
        raise ValueError(
            f"targets are {jnp.result_type(target)}; classes are integers from 0 on"
        )


def _named(shape, need) -> str:
    """What targets of a wrong shape are."""
    if shape == (*need, 1):
        return _column(shape)
    if len(shape) == len(need) + 1 and shape[:-1] == need:
        return _one_hot(shape)
    return f"these are {shape}"


def _column(shape) -> str:
    return f"targets {shape} are a column: give target[..., 0], {shape[:-1]}"


def _one_hot(shape) -> str:
    return f"targets {shape} are one-hot: give target.argmax(-1), {shape[:-1]}"


def _is_one_hot(target: np.ndarray) -> bool:
    if target.ndim < 2 or target.shape[-1] < 2 or not target.size:
        return False
    if target.dtype.kind not in "biuf" or target.min() != 0 or target.max() != 1:
        return False
    return bool(np.all((target == 0) | (target == 1)) and np.all(target.sum(-1) == 1))
