"""Convolution on a CPU by a library's routine: oneDNN's, or what XLA:CPU has.

oneDNN (`onednn.py`) has routines for a convolution and both of its gradients. XLA:CPU
has a fast one for one form alone. Outside of loops the compiler brings a convolution
into that form, images [B, H, W, C] and kernels [kh, kw, I, O]; inside of one, where a
training step is, it does not, and the gradients of an ordinary convolution are many
times slower. So both gradients are written here:

    of the input    a convolution of that form: of the output's gradient, padded and
                    with the holes that a stride leaves, by the kernel turned around
    of the kernel   a matrix product for each tap, or one for all where channels are few

Under `vmap` weights of several nets would make grouped convolutions, for which there is
no routine. oneDNN is called for one net after another; XLA's form becomes a product of
patches. Second derivatives are those of XLA's form.
"""

import dataclasses
import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from vnets import backend
from vnets.derivatives import CustomVJP
from vnets.ops import onednn
from vnets.ops.linear import (
    DIMENSIONS,
    Pads,
    Pair,
    Plain,
    contract,
    padded,
    wide,
)
from vnets.ops.strided import tiled
from vnets.types import Array, choose

UNIT = (1, 1)
# From single trials on one processor; results/bench measures whole steps.
NARROW = 64 * 128  # inputs times outputs, up to which the taps share one product
BLOCK = 2**24  # bytes of the images and gradients that a product reads at a time


@dataclasses.dataclass(frozen=True)
class DirectConv(Plain):
    """x [B, H, W, I] convolved with w [kh, kw, I, O], without patches.

    Attributes:
      padding: (low, high) for each of H, W.
      strides: along H and W.
      library: whose routine is called, "xla" or "onednn". oneDNN's are of float32 and
        of bfloat16; XLA's computes what has another type or is empty.
    """

    padding: Pads
    strides: Pair = UNIT
    library: Literal["xla", "onednn"] = "xla"

    def __post_init__(self):
        choose("library", self.library, ("xla", "onednn"))
        if any(n < 0 for pair in self.padding for n in pair):
            raise ValueError(f"padding must be 0 or more, not {self.padding}")

    def apply(self, h: Array, w: Array) -> Array:
        return _convolve(self, h, w)

    def calls_onednn(self, *arrays: Array) -> bool:
        """Whether it has a routine for these."""
        return self.library == "onednn" and all(
            a.dtype in onednn.DTYPES and a.size for a in arrays
        )

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
    return _outputs(op)(x, w.astype(x.dtype))


def _convolve_forward(op, x, w):
    return _convolve.plain(op, x, w), (x, w)


def _convolve_backward(op, saved, g):
    x, w = saved
    # Barriers here and below: what a layout is copied from is not computed in the copy.
    g = lax.optimization_barrier(g.astype(x.dtype))
    size, kernel = x.shape[1:3], w.shape[:2]
    x_bar = _input_gradient(op, size)(g, w.astype(x.dtype))
    w_bar = _kernel_gradient(op, kernel)(x, g)
    return x_bar, w_bar.astype(w.dtype)


_convolve.defvjp(_convolve_forward, _convolve_backward)


def _routine(x, w, padding: Pads, strides: Pair = UNIT, holes=UNIT):
    """The library's convolution, float32: it has no half precision.

    Args:
      x: [B, H, W, I].
      w: [kh, kw, I, O].
      padding: (low, high) for each of H, W; low or high may be negative.
      strides: along H and W.
      holes: distance of neighbours of x along H and W, with zeros between them.
    """
    if any(low < 0 < high for low, high in padding):
        x, padding, holes = padded(x, padding, holes), ((0, 0), (0, 0)), UNIT
    return lax.conv_general_dilated(
        wide(x),
        wide(w),
        strides,
        padding,
        lhs_dilation=holes,
        dimension_numbers=DIMENSIONS,
    )


@functools.cache
def _outputs(op: DirectConv):
    def direct(x, w):
        return _routine(x, w, op.padding, op.strides)

    def called(x, w):
        if op.calls_onednn(x, w):
            return onednn.convolve(*_operands(x, w), op.padding, op.strides)
        return direct(x, w)

    def product(x, w):
        return op.product(x.shape[1:3], w.shape[:2])(x, w)

    return _batched(op, called, direct, product)


@functools.cache
def _input_gradient(op: DirectConv, size: Pair):
    def direct(g, w):
        axes = zip(size, w.shape[:2], op.dilated(g.shape[1:3]), op.padding, strict=True)
        around = tuple((k - 1 - low, n - o + low) for n, k, o, (low, _) in axes)
        turned = jnp.flip(w, (0, 1)).transpose(0, 1, 3, 2)
        turned = lax.optimization_barrier(turned)
        return _routine(g, turned, around, holes=op.strides).astype(g.dtype)

    def called(g, w):
        if op.calls_onednn(g, w):
            found = onednn.input_gradient(
                *_operands(g, w), size, op.padding, op.strides
            )
            return found.astype(g.dtype)
        return direct(g, w)

    def product(g, w):
        x = jnp.zeros((g.shape[0], *size, w.shape[2]), g.dtype)
        one = functools.partial(op.product(size, w.shape[:2]), w=w)
        (x_bar,) = jax.vjp(one, x)[1](wide(g))
        return x_bar.astype(g.dtype)

    return _batched(op, called, direct, product)


@functools.cache
def _kernel_gradient(op: DirectConv, kernel: Pair):
    products = functools.partial(_products, op, kernel)

    def called(x, g):
        return onednn.kernel_gradient(*_operands(x, g), kernel, op.padding, op.strides)

    fast = _batched(op, called, products, products, folds=False)
    return lambda x, g: fast(x, g) if op.calls_onednn(x, g) else products(x, g)


def _operands(a: Array, b: Array) -> tuple[Array, Array]:
    """In the type that this processor multiplies them fastest in; see `contract`."""
    return (a, b) if backend.forms().half == "bfloat16" else (wide(a), wide(b))


def _products(op: DirectConv, kernel: Pair, x: Array, g: Array) -> Array:
    """Products of the images and the output's gradient, summed over blocks of images.

    As a convolution of the library its "kernel" would be as large as the images, for
    which that is slow. A block is small enough to stay in the processor's cache.
    """
    narrow = op.strides == UNIT and x.shape[-1] * g.shape[-1] <= NARROW
    form = _rows_by_columns if narrow else _taps
    part = functools.partial(form, op, kernel)
    numbers = kernel[1] * math.prod(x.shape[1:]) + kernel[0] * math.prod(g.shape[1:])
    blocks = _blocks(len(x), 4 * numbers)
    if blocks == 1:
        return part(x, g)

    def add(total, block):
        return total + part(*block), None

    cut = jax.tree.map(lambda a: a.reshape(blocks, -1, *a.shape[1:]), (x, g))
    like = jax.eval_shape(part, x, g)
    return lax.scan(add, jnp.zeros(like.shape, like.dtype), cut)[0]


def _blocks(images: int, size: int) -> int:
    """How many blocks of equal length images of so many bytes are cut into."""
    wanted = max(1, -(-images * size // BLOCK))
    fits = (n for n in range(wanted, min(4 * wanted, images) + 1) if images % n == 0)
    return next(fits, 1)


def _rows_by_columns(op: DirectConv, kernel: Pair, x: Array, g: Array) -> Array:
    """One product for all taps, at stride 1.

    The images, shifted along W, are stacked into channels; so is the output's gradient,
    shifted along H. A product of one tap alone would be too small for its copies.
    """
    (rows, columns), (height, width) = kernel, g.shape[1:3]
    around = ((0, 0, 0), *((*pair, 0) for pair in op.padding), (0, 0, 0))
    x = lax.pad(x, jnp.zeros((), x.dtype), around)
    rest = x.shape[1] - height
    seen = jnp.concatenate([x[:, :, j : j + width] for j in range(columns)], -1)
    given = [jnp.pad(g, ((0, 0), (i, rest - i), (0, 0), (0, 0))) for i in range(rows)]
    pair = lax.optimization_barrier((seen, jnp.concatenate(given, -1)))
    seen, given = (a.reshape(-1, a.shape[-1]) for a in pair)
    both = contract(seen, given, ((0,), (0,)))
    both = both.reshape(columns, x.shape[-1], rows, g.shape[-1])
    return both.transpose(2, 0, 1, 3)


def _taps(op: DirectConv, kernel: Pair, x: Array, g: Array) -> Array:
    """For each tap a product of the images that it sees and the output's gradient."""
    inputs, outputs = x.shape[-1], g.shape[1:3]
    sizes = [
        max(n + low, (o - 1) * stride + k)
        for n, k, o, stride, (low, _) in zip(
            x.shape[1:3], kernel, outputs, op.strides, op.padding, strict=True
        )
    ]
    around = [
        (low, size - n - low)
        for n, size, (low, _) in zip(x.shape[1:3], sizes, op.padding, strict=True)
    ]
    padded = jnp.pad(x, ((0, 0), *around, (0, 0)))
    g = g.reshape(-1, g.shape[-1])

    def tap(*at: int) -> Array:
        rows, columns = (
            slice(i, i + (o - 1) * stride + 1, stride)
            for i, o, stride in zip(at, outputs, op.strides, strict=True)
        )
        return contract(padded[:, rows, columns].reshape(-1, inputs), g, ((0,), (0,)))

    taps = [tap(i, j) for i in range(kernel[0]) for j in range(kernel[1])]
    return jnp.stack(taps).reshape(*kernel, *taps[0].shape)


def _batched(op: DirectConv, called, direct, product, folds: bool = True):
    """`called` with a rule for `vmap`.

    An axis of the first array alone is folded into its examples. Any other one makes
    calls in turn of oneDNN's routine, and of XLA's a `product`.

    Args:
      op: the convolution.
      called: it or a gradient of it, of two arrays.
      direct: the same function, of operations that JAX can differentiate. The result's
        derivatives are those of it: they are second ones, of a gradient that was asked
        for again.
      product: the same function, in a form that any axis can be added to.
      folds: the first array and the result have an axis of examples in front, which an
        axis that only the first has can join.
    """
    made = custom_vmap(called)

    @made.def_vmap
    def rule(axis_size, in_batched, first, second):
        if folds and in_batched == [True, False]:
            y = made(first.reshape(-1, *first.shape[2:]), second)
            return y.reshape(axis_size, -1, *y.shape[1:]), True
        if op.calls_onednn(first, second):
            pairs = list(zip((first, second), in_batched, strict=True))

            def call(i):
                return made(*(a[i] if batched else a for a, batched in pairs))

            return lax.map(call, jnp.arange(axis_size)), True
        axes = tuple(0 if batched else None for batched in in_batched)
        return jax.vmap(product, in_axes=axes)(first, second), True

    @jax.custom_jvp
    def differentiable(first, second):
        return made(first, second)

    @differentiable.defjvp
    def _tangent(primals, tangents):
        return differentiable(*primals), jax.jvp(direct, primals, tangents)[1]

    return differentiable
