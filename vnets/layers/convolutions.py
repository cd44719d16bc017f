"""From a linear layer of Flax to the linear map that an estimator applies."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import linen as nn
from jax import numpy as jnp

from vnets import ops
from vnets.layers.modules import where
from vnets.ops.linear import Pads, Pair
from vnets.types import Array, Shape

# How an input goes on beyond its edges, by Flax's name.
BEYOND: dict[Any, Any] = {"CIRCULAR": "wrap", "REFLECT": "reflect"}


def general(module: nn.DenseGeneral, x: Array) -> tuple[Array, Any, Shape]:
    """The input of a DenseGeneral with its axes in order, its op and kernel's shape.

    Raises:
      ValueError: axes of a batch of kernels, or the input's first axis summed over.
    """
    if module.batch_dims:
        raise ValueError(
            f"{where(module)}: a stochastic DenseGeneral takes no batch_dims"
        )
    axes = (module.axis,) if isinstance(module.axis, int) else tuple(module.axis)
    axes = tuple(axis % x.ndim for axis in axes)
    if 0 in axes:
        raise ValueError(f"{where(module)}: axis 0 is the batch, not one to sum over")
    x = jnp.moveaxis(x, axes, range(x.ndim - len(axes), x.ndim))
    features = module.features
    outputs = (features,) if isinstance(features, int) else tuple(features)
    inputs = x.shape[x.ndim - len(axes) :]
    return x, ops.General(inputs, outputs), (*inputs, *outputs)


def convolution(module: nn.Conv | nn.ConvTranspose, x: Array) -> tuple[Any, Shape]:
    """The op of a convolution of Flax, and the shape of its kernel.

    Args:
      module: over any number of axes.
      x: its input [B, *size, I].

    Raises:
      ValueError: an input that is not of this rank, options that do not fit it or one
        another, or a kernel that is larger than the padded input.
    """
    size = module.kernel_size
    kernel = (size,) if isinstance(size, int) else tuple(size)
    if x.ndim != len(kernel) + 2:
        raise ValueError(
            f"{where(module)}: a stochastic convolution with a kernel of {kernel} "
            f"takes [B, {len(kernel)} axes, C], not {list(x.shape)}"
        )
    groups = getattr(module, "feature_group_count", 1)
    inputs, features = x.shape[-1], module.features
    if inputs % groups or features % groups:
        raise ValueError(
            f"{where(module)}: feature_group_count {groups} does not divide {inputs} "
            f"input and {features} output channels"
        )
    if isinstance(module, nn.ConvTranspose):
        op = _transposed(module, kernel)
    else:
        op = _ordinary(module, kernel, x.shape)
    shape = (*kernel, inputs // groups, features)
    _check_size(module, op, x.shape, shape)
    return op, shape


def _transposed(module: nn.ConvTranspose, kernel: Pair) -> ops.TransposedConv:
    padding = _padding(module, len(kernel), ("SAME", "VALID", "CIRCULAR"))
    strides, dilation = (
        _each(module, name, len(kernel)) for name in ("strides", "kernel_dilation")
    )
    return ops.TransposedConv(strides, padding, dilation)


def _ordinary(module: nn.Conv, kernel: Pair, shape: Shape) -> Any:
    names = ("SAME", "VALID", *BEYOND, *(("CAUSAL",) if len(kernel) == 1 else ()))
    padding = _padding(module, len(kernel), names)
    strides, holes, dilation = (
        _each(module, name, len(kernel))
        for name in ("strides", "input_dilation", "kernel_dilation")
    )
    if isinstance(padding, str) and set(holes) != {1}:
        raise ValueError(
            f"{where(module)}: input_dilation takes a padding of numbers (as in Flax), "
            f"not {padding!r}; nn.ConvTranspose has named ones"
        )
    reach = tuple((k - 1) * d for k, d in zip(kernel, dilation, strict=True))
    size, around = shape[1:-1], None
    if padding == "CAUSAL":
        padding = ((reach[0], 0),)
    elif padding in BEYOND:
        around = tuple((r // 2, r - r // 2) for r in reach)
        size = tuple(n + r for n, r in zip(size, reach, strict=True))
    inner_padding = padding if around is None else "VALID"
    plain = holes == dilation == (1, 1) and module.feature_group_count == 1
    if plain:  # which the fast forms have
        channels = shape[-1], module.features
        op = ops.conv(size, kernel, channels, strides, inner_padding)
    else:
        groups = module.feature_group_count
        op = ops.GeneralConv(strides, inner_padding, holes, dilation, groups)
    return op if around is None else ops.PaddedConv(op, around, BEYOND[padding])


def _check_size(module: nn.Module, op: Any, x_shape: Shape, w_shape: Shape) -> None:
    """Refuses a kernel of which no place within the padded input is left."""
    if not isinstance(getattr(op, "inner", op), ops.GeneralConv | ops.TransposedConv):
        return  # `ops.conv` has checked it
    x, w = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (x_shape, w_shape))
    y = jax.eval_shape(lambda x, w: op.apply(op.lift(x), w), x, w)
    if 0 in y.shape[1:-1]:
        raise ValueError(
            f"{where(module)}: kernel {w_shape[:-2]} is larger than the padded input "
            f"{x_shape[1:-1]}"
        )


def _each(module: nn.Module, name: str, axes: int) -> Pair:
    """An option as a tuple with a number for each axis."""
    value = getattr(module, name)
    value = 1 if value is None else value
    value = (value,) * axes if isinstance(value, int) else tuple(value)
    if len(value) != axes:
        raise ValueError(
            f"{where(module)}: {name} is a number, or one for each of {axes} axes, "
            f"not {value}"
        )
    return value


def _padding(module: Any, axes: int, names: Sequence[str]) -> str | Pads:
    """The name of a padding, or (low, high) for each axis."""
    value = module.padding
    if isinstance(value, str) and value in names:
        return value
    if isinstance(value, int):
        return ((value, value),) * axes
    if isinstance(value, Sequence) and len(value) == axes:
        pairs = tuple((p, p) if isinstance(p, int) else tuple(p) for p in value)
        if all(len(pair) == 2 for pair in pairs):
            return tuple((int(low), int(high)) for low, high in pairs)
    raise ValueError(
        f"{where(module)}: padding must be {', '.join(names)}, a number, or a number "
        f"or (low, high) for each of {axes} axes, not {value!r}"
    )
