"""Labels: classes of examples, int [B], or of their positions, int [B, T] and so on.

`check` and `check_range` look at values, once and on the host, where data enter; the
other functions look at shapes and types alone, and belong under jit.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from vnets.types import Array, choose

KINDS = ("classes", "positions", "targets")
NONE = -1  # the largest of no labels


def check(split, kind: str = "classes") -> int:
    """Refuses a split whose labels are not what they are said to be.

    Args:
      split: has `image` [N, ...] and `label`, and may have a `mask` of the label's
        shape: 1 where a label counts, 0 where it does not and may be any number.
      kind: "classes", int [N], or [N, T] and so on of positions, but nothing that looks
        one-hot; "positions", any int [N, ...]; or "targets", numbers of any kind.

    Returns:
      The largest label that counts; -1 if none does, and of targets.

    Raises:
      ValueError: no such labels, another number of them than of images, or a mask that
        does not fit.
    """
    choose("labels", kind, KINDS)
    label, mask = split.label, getattr(split, "mask", None)
    several = isinstance(split.image, tuple | Mapping)
    for image in jax.tree.leaves(split.image) if several else [split.image]:
        if np.ndim(label) == 0 or len(image) != len(label):
            raise ValueError(
                f"images {np.shape(image)} and labels {np.shape(label)} must be "
                "equally many"
            )
    if mask is not None:
        if np.shape(mask) != np.shape(label):
            raise ValueError(
                f"a mask has the shape of the labels, {np.shape(label)}, not "
                f"{np.shape(mask)}"
            )
        if np.size(mask) and not np.min(np.asarray(mask)) >= 0:
            raise ValueError("a mask is 1 where a label counts and 0 elsewhere")
    return NONE if kind == "targets" else largest(label, mask, kind)


def largest(label: ArrayLike, mask: ArrayLike | None = None, kind="positions") -> int:
    """The largest label that counts, -1 if none does; see `check`.

    Raises:
      ValueError: labels that are no classes.
    """
    label = np.asarray(label)
    if not np.issubdtype(label.dtype, np.integer):
        if _is_one_hot(label):
            raise ValueError(_one_hot(label.shape))
        raise ValueError(
            f"labels are {label.dtype}; classes are integers from 0 on. Targets of a "
            'loss of your own are `sources.Resident(..., labels="targets")`'
        )
    if kind == "classes" and label.ndim > 1:
        hint = 'If they are of positions, say so: labels="positions"'
        if label.shape[1:] == (1,):
            raise ValueError(f"{_column(label.shape)}. {hint}")
        if _is_one_hot(label):
            raise ValueError(f"{_one_hot(label.shape)}. {hint}")
    if mask is not None:
        label = label[np.asarray(mask) > 0]
    if label.size and label.min() < 0:
        raise ValueError(f"label {label.min()} is below 0; classes are 0 to K - 1")
    return int(label.max()) if label.size else NONE


def check_range(largest: int, classes: int) -> None:
    """Refuses labels of more classes than a net has.

    Raises:
      ValueError: the largest label is not below `classes`.
    """
    if largest >= classes:
        raise ValueError(
            f"label {largest} is outside 0 to {classes - 1}: the net has {classes} "
            "classes, counted from 0"
        )


def check_shape(log_p: Array, label: Array) -> None:
    """Refuses labels that are not one for each prediction, [..., K] and [...].

    Raises:
      ValueError: other shapes, or labels that are no integers; it has both shapes.
    """
    shape, need = jnp.shape(label), jnp.shape(log_p)[:-1]
    if shape != need:
        raise ValueError(
            f"predictions {jnp.shape(log_p)} need labels {need}; {_named(shape, need)}"
        )
    if not jnp.issubdtype(jnp.result_type(label), jnp.integer):
        raise ValueError(
            f"labels are {jnp.result_type(label)}; classes are integers from 0 on"
        )


def of_label(log_p: Array, label: Array) -> Array:
    """What predictions have at the label, [..., K] and int [...] -> [...].

    Raises:
      ValueError: see `check_shape`.
    """
    check_shape(log_p, label)
    return jnp.take_along_axis(log_p, label[..., None], axis=-1)[..., 0]


def per_example(values: Array, mask: Array | None = None) -> Array:
    """One value for each example, [B, ...] -> [B]: the mean over its positions.

    With a mask their mean over the batch, too, is that over all positions that count:
    an example has the share of those that are its own.

    Args:
      values: of examples, [B], or of their positions.
      mask: 1 where a value counts and 0 where not, of the same shape; all by default.

    Raises:
      ValueError: a mask of another shape.
    """
    if mask is None and values.ndim == 1:
        return values
    if mask is not None:
        if jnp.shape(mask) != values.shape:
            raise ValueError(
                f"labels {values.shape} need a mask {values.shape}, not "
                f"{jnp.shape(mask)}"
            )
        mask = jnp.asarray(mask, values.dtype)
        counting = jnp.maximum(jnp.mean(mask), jnp.finfo(values.dtype).tiny)
        # What does not count may be infinite: 0 * inf must not reach the mean.
        values = jnp.where(mask > 0, values, 0) * (mask / counting)
    return jnp.mean(values, tuple(range(1, values.ndim)))


def counted(label: Array, mask: Array | None) -> Array:
    """The labels with 0 in the place of those that do not count."""
    return label if mask is None else jnp.where(jnp.asarray(mask) > 0, label, 0)


def _named(shape, need) -> str:
    """What labels of a wrong shape are."""
    if shape == (*need, 1):
        return _column(shape)
    if len(shape) == len(need) + 1 and shape[:-1] == need:
        return _one_hot(shape)
    return f"these are {shape}"


def _column(shape) -> str:
    return f"labels {shape} are a column: give label[..., 0], {shape[:-1]}"


def _one_hot(shape) -> str:
    return f"labels {shape} are one-hot: give label.argmax(-1), {shape[:-1]}"


def _is_one_hot(label: np.ndarray) -> bool:
    if label.ndim < 2 or label.shape[-1] < 2 or not label.size:
        return False
    if label.dtype.kind not in "biuf" or label.min() != 0 or label.max() != 1:
        return False
    return bool(np.all((label == 0) | (label == 1)) and np.all(label.sum(-1) == 1))
