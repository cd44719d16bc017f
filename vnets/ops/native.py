"""Convolutions by XLA's own, over any number of axes.

Plain ones, and those that the fast forms do not have: grouped, dilated, 1-D, 3-D and
transposed ones. Each weight meets an output at most
once, so that the variance of a pre-activation is `apply(lift(x)^2, var)` here, too.
"""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp
from jax import lax

from vnets.ops.linear import Pads, Pair, Plain, padded, wide
from vnets.types import Array


def _dimensions(x: Array) -> lax.ConvDimensionNumbers:
    """Of [B, *size, C] and [*kernel, I, O]."""
    last, axes = x.ndim - 1, tuple(range(1, x.ndim - 1))
    kernel = (last, last - 1, *range(last - 1))
    return lax.ConvDimensionNumbers((0, last, *axes), kernel, (0, last, *axes))


def _fitted(x, w, padding, holes: Pair, dilation: Pair | None):
    """x, pads and holes, with the pads made already where `padded` says they must be.

    That is where one is below 0, or one in front is wider than the kernel: the gradient
    has a pad below 0 then.
    """
    if isinstance(padding, str):
        return x, padding, holes
    sizes = zip(w.shape[:-2], dilation or (1,) * len(holes), strict=True)
    reaches = [(k - 1) * d for k, d in sizes]
    pairs = zip(padding, reaches, strict=True)
    if all(0 <= low <= reach and high >= 0 for (low, high), reach in pairs):
        return x, padding, holes
    none, unit = ((0, 0),) * len(holes), (1,) * len(holes)
    return padded(x, padding, holes), none, unit


@dataclasses.dataclass(frozen=True)
class GeneralConv(Plain):
    """x [B, *size, I] convolved with w [*kernel, I / groups, O].

    The convolution itself gives the type of x: its gradient takes no other.

    Attributes:
      strides: along each axis.
      padding: "SAME", "VALID" or (low, high) for each axis.
      input_dilation: distance of neighbours of x along each axis, with zeros between
        them.
      kernel_dilation: the same of w.
      groups: of channels; as many as I for a depthwise convolution.
    """

    strides: Pair
    padding: str | Pads
    input_dilation: Pair | None = None
    kernel_dilation: Pair | None = None
    groups: int = 1

    def apply(self, h: Array, w: Array) -> Array:
        holes = self.input_dilation or (1,) * (h.ndim - 2)
        h, padding, holes = _fitted(h, w, self.padding, holes, self.kernel_dilation)
        y = lax.conv_general_dilated(
            h,
            w.astype(h.dtype),
            self.strides,
            padding,
            lhs_dilation=holes,
            rhs_dilation=self.kernel_dilation,
            dimension_numbers=_dimensions(h),
            feature_group_count=self.groups,
        )
        return wide(y)


@dataclasses.dataclass(frozen=True)
class TransposedConv(Plain):
    """x [B, *size, I] and w [*kernel, I, O] to [B, *size * strides, O], or so.

    As `flax.linen.ConvTranspose` computes it, which does not turn the kernel around.

    Attributes:
      strides: outputs from one input to the next, along each axis.
      padding: "SAME", "VALID", "CIRCULAR" or (low, high) for each axis.
      kernel_dilation: distance of neighbours of w along each axis.
    """

    strides: Pair
    padding: str | Pads
    kernel_dilation: Pair

    def apply(self, h: Array, w: Array) -> Array:
        circular = self.padding == "CIRCULAR"
        padding = "VALID" if circular else self.padding
        size = h.shape[1:-1]
        h, padding, holes = _fitted(h, w, padding, self.strides, self.kernel_dilation)
        y = lax.conv_transpose(
            h,
            w.astype(h.dtype),
            holes,
            padding,
            rhs_dilation=self.kernel_dilation,
            dimension_numbers=_dimensions(h),
        )
        return wide(self._around(y, size) if circular else y)

    def _around(self, y: Array, size: Pair) -> Array:
        """Adds what lies beyond the ends where it comes around again."""
        for axis, (n, stride) in enumerate(zip(size, self.strides, strict=True), 1):
            period = n * stride
            more = -(y.shape[axis] - period) % (2 * period)
            pads = [(0, 0)] * y.ndim
            pads[axis] = (more - more // 2, more // 2)
            y = jnp.pad(y, pads)
            turns = y.shape[axis] // period
            shape = (*y.shape[:axis], turns, period, *y.shape[axis + 1 :])
            y = y.reshape(shape).sum(axis)
        return y


@dataclasses.dataclass(frozen=True)
class PaddedConv:
    """A convolution of an input that goes on beyond its edges.

    Attributes:
      inner: the convolution [B, *padded size, I] -> [B, ..., O].
      padding: (low, high) for each axis of x [B, *size, I].
      mode: "wrap" goes on at the other edge, "reflect" turns back.
    """

    inner: Any
    padding: Pads
    mode: Literal["wrap", "reflect"]

    def lift(self, x: Array) -> Array:
        return self.inner.lift(
            jnp.pad(x, ((0, 0), *self.padding, (0, 0)), mode=self.mode)
        )

    def apply(self, h: Array, w: Array) -> Array:
        return self.inner.apply(h, w)

    def lower(self, y: Array) -> Array:
        return self.inner.lower(y)
