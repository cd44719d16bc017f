"""Convolution by XLA:CPU's library, in the one form that it has a fast routine for.

Outside of loops the compiler brings a convolution into that form, images [B, H, W, C]
and kernels [kh, kw, I, O]; inside of one, where a training step is, it does not, and
the gradients of an ordinary convolution are many times slower. So both gradients are
written here as convolutions of that form:

    of the input    the gradient of the output, padded, with the kernel turned around
    of the kernel   the input with channels for examples, and the gradient of the output
                    as a kernel of its whole height and width

Under `vmap` weights of several nets would make grouped convolutions, for which there is
no routine: they become products of patches.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from vnets.ops.linear import DIMENSIONS, Pads
from vnets.ops.tiled import TiledConv
from vnets.types import Array


@dataclasses.dataclass(frozen=True)
class DirectConv:
    """x [B, H, W, I] convolved with w [kh, kw, I, O] at stride 1, without patches.

    Attributes:
      padding: (low, high) for each of H, W.
    """

    padding: Pads

    def lift(self, x: Array) -> Array:
        return x

    def apply(self, h: Array, w: Array) -> Array:
        return _convolve(self.padding, h, w)

    def lower(self, y: Array) -> Array:
        return y


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve(padding: Pads, x: Array, w: Array) -> Array:
    return _outputs(padding)(x, w)


def _convolve_forward(padding, x, w):
    return _convolve(padding, x, w), (x, w)


def _convolve_backward(padding, saved, g):
    x, w = saved
    # Barriers here and below: what a layout is copied from is not computed in the copy.
    g = lax.optimization_barrier(g)
    return _input_gradient(padding)(g, w), _kernel_gradient(padding)(x, g)


_convolve.defvjp(_convolve_forward, _convolve_backward)


def _routine(x: Array, w: Array, padding: Pads) -> Array:
    """The library's convolution, which has no half precision."""
    kind = jnp.promote_types(jnp.promote_types(x.dtype, w.dtype), jnp.float32)
    y = lax.conv_general_dilated(
        x.astype(kind),
        w.astype(kind),
        (1, 1),
        padding,
        dimension_numbers=DIMENSIONS,
    )
    return y.astype(x.dtype)


@functools.cache
def _outputs(padding: Pads):
    def direct(x, w):
        return _routine(x, w, padding)

    def product(x, w):
        return _product(padding, x.shape, w)(x, w)

    return _batched(direct, product, folded=True)


@functools.cache
def _input_gradient(padding: Pads):
    def direct(g, w):
        around = tuple(
            (k - 1 - low, k - 1 - high)
            for k, (low, high) in zip(w.shape[:2], padding, strict=True)
        )
        turned = jnp.flip(w, (0, 1)).transpose(0, 1, 3, 2)
        return _routine(g, lax.optimization_barrier(turned), around)

    def product(g, w):
        shape = (g.shape[0], *_input_size(g.shape, w.shape, padding), w.shape[2])
        one = functools.partial(_product(padding, shape, w), w=w)
        (x_bar,) = jax.vjp(one, jnp.zeros(shape, g.dtype))[1](g)
        return x_bar

    return _batched(direct, product, folded=True)


@functools.cache
def _kernel_gradient(padding: Pads):
    def direct(x, g):
        images, kernel = lax.optimization_barrier(
            (x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3))
        )
        w_bar = lax.optimization_barrier(_routine(images, kernel, padding))
        return w_bar.transpose(1, 2, 0, 3)

    def product(x, g):
        size = tuple(
            n + sum(pad) - out + 1
            for n, pad, out in zip(x.shape[1:3], padding, g.shape[1:3], strict=True)
        )
        w = jnp.zeros((*size, x.shape[-1], g.shape[-1]), x.dtype)
        one = functools.partial(_product(padding, x.shape, w), x)
        (w_bar,) = jax.vjp(one, w)[1](g)
        return w_bar

    return _batched(direct, product, folded=False)


def _input_size(g_shape, w_shape, padding: Pads) -> tuple[int, ...]:
    return tuple(
        out + k - 1 - sum(pad)
        for out, k, pad in zip(g_shape[1:3], w_shape[:2], padding, strict=True)
    )


def _product(padding: Pads, shape, w: Array):
    """The same convolution as a product of patches."""
    op = TiledConv(tuple(shape[1:3]), tuple(w.shape[:2]), padding, tile=1)
    return lambda x, w: op.lower(op.apply(op.lift(x), w))


def _batched(direct, product, folded: bool):
    """`direct`, which `vmap` makes `product`, or folds into the axis of examples.

    Args:
      direct: of two arrays.
      product: the same function, in a form that any axis can be added to.
      folded: the first argument and the result have an axis of examples in front; an
        axis that only the first argument has can join it.
    """
    made = custom_vmap(direct)

    @made.def_vmap
    def rule(axis_size, in_batched, first, second):
        if folded and in_batched == [True, False]:
            y = made(first.reshape(-1, *first.shape[2:]), second)
            return y.reshape(axis_size, -1, *y.shape[1:]), True
        axes = tuple(0 if batched else None for batched in in_batched)
        return jax.vmap(product, in_axes=axes)(first, second), True

    return made
