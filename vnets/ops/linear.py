"""Matrix products, over one axis or several."""

import dataclasses
import math

import jax.numpy as jnp
from jax import lax

from vnets import backend
from vnets.derivatives import CustomVJP
from vnets.types import Array

DIMENSIONS = ("NHWC", "HWIO", "NHWC")  # of a convolution
Pair = tuple[int, ...]  # one for H, one for W
Pads = tuple[tuple[int, int], ...]  # (low, high) for H and for W


@CustomVJP
def matmul(a: Array, b: Array) -> Array:
    """a @ b for matrices, [n, I] and [I, O], in the precision of a, summed in float32.

    Its gradients are in layouts that XLA keeps. The automatic gradient asks for g^T,
    and XLA:CPU then computes whatever made g again, transposed and column by column:
    many times slower.

    Args:
      a: [n, I], float32 or bfloat16.
      b: [I, O]; it is rounded to the precision of a, its gradient is not.
    """
    return contract(a, b.astype(a.dtype), ((1,), (0,)))


def _matmul_forward(a, b):
    return matmul.plain(a, b), (a, b)


def _matmul_backward(saved, g):
    a, b = saved
    g = lax.optimization_barrier(g.astype(a.dtype))
    return (
        contract(g, b.astype(a.dtype), ((1,), (1,))).astype(a.dtype),
        contract(a, g, ((0,), (0,))).astype(b.dtype),
    )


def contract(a: Array, b: Array, axes) -> Array:
    """The product over these axes of a and b, which are of one type; at least float32.

    The product of two bfloat16 numbers is exact in float32, so the two ways of
    `backend.Forms.half` differ in the order of their sums at most.
    """
    if a.dtype == jnp.bfloat16 and backend.forms().half == "float32":
        a, b = wide(a), wide(b)
    kind = jnp.promote_types(a.dtype, jnp.float32)
    return lax.dot_general(a, b, (axes, ((), ())), preferred_element_type=kind)


def wide(x: Array) -> Array:
    """x in float32, or in what is wider already."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


matmul.defvjp(_matmul_forward, _matmul_backward)


def padded(x: Array, padding: Pads, holes: Pair) -> Array:
    """x [B, *size, C] with these pads, and zeros in the holes between its pixels.

    For a convolution without pads in place of one with them. Where axes start with a
    pad below 0 and end with one above, XLA:CPU reads beyond the images (jaxlib 0.10).

    Args:
      x: images.
      padding: (low, high) for each axis; may be negative.
      holes: distance of neighbours of x along each axis.
    """
    axes = zip(padding, holes, strict=True)
    around = tuple((low, high, hole - 1) for (low, high), hole in axes)
    none = (0, 0, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), (none, *around, none))


class Plain:
    """A linear map of inputs as they are to outputs as they are."""

    def lift(self, x: Array) -> Array:
        return x

    def lower(self, y: Array) -> Array:
        return y


@dataclasses.dataclass(frozen=True)
class Dense(Plain):
    """x [B, ..., I] times w [I, O]."""

    def apply(self, h: Array, w: Array) -> Array:
        y = matmul(h.reshape(-1, h.shape[-1]), w)
        return y.reshape(*h.shape[:-1], w.shape[-1])


@dataclasses.dataclass(frozen=True)
class General:
    """x [B, ..., *inputs] times w [*inputs, *outputs]: a product over several axes.

    Attributes:
      inputs: sizes of the axes that are summed over.
      outputs: sizes of the axes that come in their place.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def lift(self, x: Array) -> Array:
        rank = x.ndim - len(self.inputs)
        return x.reshape(*x.shape[:rank], math.prod(self.inputs))

    def apply(self, h: Array, w: Array) -> Array:
        return DENSE.apply(h, w.reshape(h.shape[-1], math.prod(self.outputs)))

    def lower(self, y: Array) -> Array:
        return y.reshape(*y.shape[:-1], *self.outputs)


DENSE = Dense()
