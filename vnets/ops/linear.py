"""Matrix products, and convolution by the compiler's own form."""

import dataclasses

from jax import lax

from vnets.derivatives import CustomVJP
from vnets.types import Array

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
Pair = tuple[int, ...]  # one for H, one for W
Pads = tuple[tuple[int, int], ...]  # (low, high) for H and for W


@CustomVJP
def matmul(a: Array, b: Array) -> Array:
    """a @ b for matrices, [n, I] and [I, O], with gradients in layouts that XLA keeps.

    The automatic gradient asks for g^T, and XLA:CPU then computes whatever made g
    again, transposed and column by column: many times slower.
    """
    return lax.dot_general(a, b, (((1,), (0,)), ((), ())))


def _matmul_forward(a, b):
    return matmul.plain(a, b), (a, b)


def _matmul_backward(saved, g):
    a, b = saved
    g = lax.optimization_barrier(g)
    return (
        lax.dot_general(g, b, (((1,), (1,)), ((), ()))),
        lax.dot_general(a, g, (((0,), (0,)), ((), ()))),
    )


matmul.defvjp(_matmul_forward, _matmul_backward)


@dataclasses.dataclass(frozen=True)
class Dense:
    """x [B, ..., I] times w [I, O]."""

    def lift(self, x: Array) -> Array:
        return x

    def apply(self, h: Array, w: Array) -> Array:
        y = matmul(h.reshape(-1, h.shape[-1]), w)
        return y.reshape(*h.shape[:-1], w.shape[-1])

    def lower(self, y: Array) -> Array:
        return y


@dataclasses.dataclass(frozen=True)
class NativeConv:
    """x [B, H, W, I] convolved with w [kh, kw, I, O] by XLA's own convolution."""

    strides: Pair
    padding: Pads

    def lift(self, x: Array) -> Array:
        return x

    def apply(self, h: Array, w: Array) -> Array:
        return lax.conv_general_dilated(
            h, w, self.strides, self.padding, dimension_numbers=DIMENSIONS
        )

    def lower(self, y: Array) -> Array:
        return y


DENSE = Dense()
