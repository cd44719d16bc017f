"""Convolution by XLA:CPU's library, in the one form that it has a fast routine for.

Outside of loops the compiler brings a convolution into that form, images [B, H, W, C]
and kernels [kh, kw, I, O]; inside of one, where a training step is, it does not, and
the gradients of an ordinary convolution are many times slower. So both gradients are
written here as convolutions of that form:

    of the input    the gradient of the output, padded, with the kernel turned around
    of the kernel   the input with channels for examples, and the gradient of the output
                    as a kernel of its whole height and width

In both the gradient of the output has holes, as many as a stride leaves out.

Under `vmap` weights of several nets would make grouped convolutions, for which there is
no routine: they become products of patches.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from vnets.derivatives import CustomVJP
from vnets.ops.linear import DIMENSIONS, Pads, Pair
from vnets.ops.strided import tiled
from vnets.types import Array

UNIT = (1, 1)


@dataclasses.dataclass(frozen=True)
class DirectConv:
    """x [B, H, W, I] convolved with w [kh, kw, I, O], without patches.

    Attributes:
      padding: (low, high) for each of H, W.
      strides: along H and W.
    """

    padding: Pads
    strides: Pair = UNIT

    def lift(self, x: Array) -> Array:
        return x

    def apply(self, h: Array, w: Array) -> Array:
        return _convolve(self, h, w)

    def lower(self, y: Array) -> Array:
        return y

    def product(self, size: Pair, kernel: Pair):
        """The same function of (x, w) as a product of patches."""
        op = tiled(size, kernel, self.strides, self.padding)
        return lambda x, w: op.lower(op.apply(op.lift(x), w))

    def dilated(self, outputs: Pair) -> Pair:
        """Outputs along each axis with the holes that strides leave between them."""
        pairs = zip(outputs, self.strides, strict=True)
        return tuple((n - 1) * stride + 1 for n, stride in pairs)


@functools.partial(CustomVJP, nondiff_argnums=(0,))
def _convolve(op: DirectConv, x: Array, w: Array) -> Array:
    return _outputs(op)(x, w)


def _convolve_forward(op, x, w):
    return _convolve.plain(op, x, w), (x, w)


def _convolve_backward(op, saved, g):
    x, w = saved
    # Barriers here and below: what a layout is copied from is not computed in the copy.
    g = lax.optimization_barrier(g)
    size, kernel = x.shape[1:3], w.shape[:2]
    return _input_gradient(op, size)(g, w), _kernel_gradient(op, kernel)(x, g)


_convolve.defvjp(_convolve_forward, _convolve_backward)


def _routine(x, w, padding: Pads, strides: Pair = UNIT, x_holes=UNIT, w_holes=UNIT):
    """The library's convolution, which has no half precision.

    Args:
      x: [B, H, W, I].
      w: [kh, kw, I, O].
      padding: (low, high) for each of H, W; low or high may be negative.
      strides: along H and W.
      x_holes: distance of neighbours of x along H and W, with zeros between them.
      w_holes: the same of w.
    """
    kind = jnp.promote_types(jnp.promote_types(x.dtype, w.dtype), jnp.float32)
    y = lax.conv_general_dilated(
        x.astype(kind),
        w.astype(kind),
        strides,
        padding,
        lhs_dilation=x_holes,
        rhs_dilation=w_holes,
        dimension_numbers=DIMENSIONS,
    )
    return y.astype(x.dtype)


@functools.cache
def _outputs(op: DirectConv):
    def direct(x, w):
        return _routine(x, w, op.padding, op.strides)

    def product(x, w):
        return op.product(x.shape[1:3], w.shape[:2])(x, w)

    return _batched(direct, product, folded=True)


@functools.cache
def _input_gradient(op: DirectConv, size: Pair):
    def direct(g, w):
        axes = zip(size, w.shape[:2], op.dilated(g.shape[1:3]), op.padding, strict=True)
        around = tuple((k - 1 - low, n - o + low) for n, k, o, (low, _) in axes)
        turned = jnp.flip(w, (0, 1)).transpose(0, 1, 3, 2)
        turned = lax.optimization_barrier(turned)
        return _routine(g, turned, around, x_holes=op.strides)

    def product(g, w):
        x = jnp.zeros((g.shape[0], *size, w.shape[2]), g.dtype)
        one = functools.partial(op.product(size, w.shape[:2]), w=w)
        (x_bar,) = jax.vjp(one, x)[1](g)
        return x_bar

    return _batched(direct, product, folded=True)


@functools.cache
def _kernel_gradient(op: DirectConv, kernel: Pair):
    def direct(x, g):
        size, out = x.shape[1:3], op.dilated(g.shape[1:3])
        axes = zip(size, kernel, out, op.padding, strict=True)
        around = [(low, k - 1 + o - n - low) for n, k, o, (low, _) in axes]
        # What a stride leaves out at the end has no part in any output.
        h, w = (n + min(pad[1], 0) for n, pad in zip(size, around, strict=True))
        around = tuple((low, max(high, 0)) for low, high in around)
        images, outputs = lax.optimization_barrier(
            (x[:, :h, :w].transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3))
        )
        w_bar = _routine(images, outputs, around, w_holes=op.strides)
        return lax.optimization_barrier(w_bar).transpose(1, 2, 0, 3)

    def product(x, g):
        w = jnp.zeros((*kernel, x.shape[-1], g.shape[-1]), x.dtype)
        one = functools.partial(op.product(x.shape[1:3], kernel), x)
        (w_bar,) = jax.vjp(one, w)[1](g)
        return w_bar

    return _batched(direct, product, folded=False)


def _batched(direct, product, folded: bool):
    """`direct`, which `vmap` makes `product`, or folds into the axis of examples.

    Args:
      direct: of two arrays.
      product: the same function, in a form that any axis can be added to.
      folded: the first argument and the result have an axis of examples in front; an
        axis that only the first argument has can join it.

    Its derivatives are those of `direct`, as JAX finds them: they are second ones, of a
    gradient that was asked for again.
    """
    made = custom_vmap(direct)

    @made.def_vmap
    def rule(axis_size, in_batched, first, second):
        if folded and in_batched == [True, False]:
            y = made(first.reshape(-1, *first.shape[2:]), second)
            return y.reshape(axis_size, -1, *y.shape[1:]), True
        axes = tuple(0 if batched else None for batched in in_batched)
        return jax.vmap(product, in_axes=axes)(first, second), True

    @jax.custom_jvp
    def differentiable(first, second):
        return made(first, second)

    @differentiable.defjvp
    def _tangent(primals, tangents):
        return differentiable(*primals), jax.jvp(direct, primals, tangents)[1]

    return differentiable
