"""The linear maps that an estimator applies to both moments of a weight.

An op is `lower(apply(lift(x), w))`:

    lift   what is shared by all weights: x itself, or the patches of a convolution
    apply  the linear map on lifted inputs; linear in both arguments
    lower  from the layout that is fastest to the ordinary one; moves values only

Since lift only copies values, lift(x)^2 = lift(x^2): the variance of a pre-activation
is `apply(lift(x)^2, var)`, with the patches made once for both moments.

The tiled convolution computes a block of t x t neighbouring outputs in one row of a
matrix product: its patches are (k + t - 1)^2 wide instead of t^2 times k^2, so there
is less to copy (2.8 times less for 5 x 5 kernels and t = 2) at 1.4 times the
multiplications, which the wider product does at a higher rate. Blocks are stacked into
channels first, so that a patch is a concatenation of a few long slices.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from vnets import backend
from vnets.types import Array

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
Pair = tuple[int, ...]  # one for H, one for W
Pads = tuple[tuple[int, int], ...]  # (low, high) for H and for W


@jax.custom_vjp
def matmul(a: Array, b: Array) -> Array:
    """a @ b for matrices, [n, I] and [I, O], with gradients in layouts that XLA keeps.

    The automatic gradient asks for g^T, and XLA:CPU then computes whatever made g
    again, transposed and column by column: many times slower.
    """
    return lax.dot_general(a, b, (((1,), (0,)), ((), ())))


def _matmul_forward(a, b):
    return matmul(a, b), (a, b)


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


@dataclasses.dataclass(frozen=True)
class TiledConv:
    """x [B, H, W, I] convolved with w [kh, kw, I, O] at stride 1, as a matrix product.

    Attributes:
      size: H, W of the input.
      kernel: kh, kw.
      padding: (low, high) for each of H, W.
      tile: outputs computed together along each of H, W.
    """

    size: Pair
    kernel: Pair
    padding: Pads
    tile: int

    @property
    def outputs(self) -> tuple[int, int]:
        """Height and width of the output."""
        h, w = (
            n + sum(pad) - k + 1
            for n, pad, k in zip(self.size, self.padding, self.kernel, strict=True)
        )
        return h, w

    @property
    def tiles(self) -> tuple[int, int]:
        """Blocks of outputs along each axis; the last may be partly outside."""
        h, w = (-(-n // self.tile) for n in self.outputs)
        return h, w

    @property
    def blocks(self) -> tuple[int, int]:
        """Blocks of inputs that one block of outputs sees along each axis."""
        h, w = (-(-(k + self.tile - 1) // self.tile) for k in self.kernel)
        return h, w

    def lift(self, x: Array) -> Array:
        """Patches, [B, tiles_h, tiles_w, blocks_h blocks_w t t I]."""
        return _lift(self, x)

    def apply(self, h: Array, w: Array) -> Array:
        """Blocks of outputs, [B, tiles_h, tiles_w, t t O]."""
        w = lax.optimization_barrier(self._block_kernel(w))
        y = matmul(h.reshape(-1, h.shape[-1]), w)
        return y.reshape(*h.shape[:-1], w.shape[-1])

    def lower(self, y: Array) -> Array:
        """From blocks to [B, H, W, O]."""
        t, (th, tw), (oh, ow) = self.tile, self.tiles, self.outputs
        y = y.reshape(-1, th, tw, t, t, y.shape[-1] // (t * t))
        y = y.transpose(0, 1, 3, 2, 4, 5).reshape(-1, th * t, tw * t, y.shape[-1])
        return y[:, :oh, :ow]

    def _patches(self, x: Array) -> Array:
        t, (th, tw), (bh, bw) = self.tile, self.tiles, self.blocks
        need = ((th + bh - 1) * t, (tw + bw - 1) * t)
        pads = [
            (low, want - n - low)
            for n, (low, _), want in zip(self.size, self.padding, need, strict=True)
        ]
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
        x = x.reshape(-1, need[0] // t, t, need[1] // t, t, x.shape[-1])
        x = x.transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(*x.shape[:3], -1)
        slices = [x[:, i : i + th, j : j + tw] for i in range(bh) for j in range(bw)]
        return jnp.concatenate(slices, axis=-1)

    def _block_kernel(self, w: Array) -> Array:
        """The kernel shifted to each output of a block, [patch width, t t O]."""
        t, (bh, bw), (kh, kw) = self.tile, self.blocks, self.kernel
        shifted = [
            jnp.pad(w, ((a, bh * t - kh - a), (b, bw * t - kw - b), (0, 0), (0, 0)))
            for a in range(t)
            for b in range(t)
        ]
        i, o = w.shape[-2:]
        w = jnp.stack(shifted, axis=3).reshape(bh, t, bw, t, i, t * t * o)
        return w.transpose(0, 2, 1, 3, 4, 5).reshape(-1, t * t * o)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _lift(op: TiledConv, x: Array) -> Array:
    return lax.optimization_barrier(op._patches(x))


def _lift_forward(op, x):
    return _lift(op, x), jax.ShapeDtypeStruct(x.shape, x.dtype)


def _lift_backward(op, like, g):
    (x_bar,) = jax.linear_transpose(op._patches, like)(lax.optimization_barrier(g))
    return (lax.optimization_barrier(x_bar),)


_lift.defvjp(_lift_forward, _lift_backward)

DENSE = Dense()
WIDE = 64  # from this many output channels on, tiles only add multiplications


def conv(
    size: Pair,
    kernel: Pair,
    features: int,
    strides: Pair = (1, 1),
    padding: str | Sequence[tuple[int, int]] = "SAME",
) -> NativeConv | TiledConv:
    """The form of a convolution that the backend runs fastest.

    Args:
      size: H, W of the input.
      kernel: kh, kw.
      features: O, on which the tile depends.
      strides: along H, W.
      padding: "SAME", "VALID" or (low, high) along H and W.

    Raises:
      ValueError: a padding that is none of these, or a kernel larger than the input.
    """
    pads = _padding(size, kernel, strides, padding)
    if any(n + sum(p) < k for n, p, k in zip(size, pads, kernel, strict=True)):
        raise ValueError(f"kernel {kernel} is larger than the padded input {size}")
    if backend.forms().convolution == "native" or tuple(strides) != (1, 1):
        return NativeConv(tuple(strides), pads)
    tile = 2 if features < WIDE and math.prod(kernel) > 1 else 1
    return TiledConv(tuple(size), tuple(kernel), pads, tile)


def _padding(size, kernel, strides, padding):
    if isinstance(padding, str):
        if padding not in ("SAME", "VALID"):
            raise ValueError(f"padding must be SAME, VALID or pairs, not {padding!r}")
        return tuple(lax.padtype_to_pads(size, kernel, strides, padding))
    if len(padding) != 2 or any(len(pair) != 2 for pair in padding):
        raise ValueError(
            f"padding must be a (low, high) pair for H and W, not {padding}"
        )
    return tuple((int(low), int(high)) for low, high in padding)
