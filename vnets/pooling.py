"""Activations, pooling and what makes maps larger; the fastest for each backend."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from vnets import backend
from vnets.derivatives import CustomVJP
from vnets.plan import DepthToSpace, Padding
from vnets.types import Array

ACTIVATIONS = {
    "relu": nn.relu,
    "leaky_relu": nn.leaky_relu,  # slope 0.01 below zero, PyTorch's default too
    "tanh": nn.tanh,
    "abs": jnp.abs,
    "softplus": nn.softplus,
    "gelu": nn.gelu,  # by tanh, which Flax has as its default
    "sigmoid": nn.sigmoid,
    "silu": nn.silu,
    "gelu_erf": functools.partial(nn.gelu, approximate=False),  # PyTorch's default
}


def activate_max_pool(x: Array, activation: str = "relu") -> Array:
    """An activation and 2 x 2 max pooling, [B, H, W, C] -> [B, H // 2, W // 2, C].

    Args:
      x: an odd last row or column is left out.
      activation: a name in `ACTIVATIONS`.
    """
    if activation == "relu":
        return relu_max_pool(x)
    return max_pool(ACTIVATIONS[activation](x))


def max_pool(x: Array) -> Array:
    """2 x 2 max pooling, [B, H, W, C] -> [B, H // 2, W // 2, C].

    An odd last row or column is left out. Of equal maxima the first gets the gradient.
    """
    if backend.forms().convolution == "native":
        return nn.max_pool(x, (2, 2), (2, 2))
    return _max_pool(False, x)


def window_mean_pool(x: Array, size: int, stride: int, padding: Padding) -> Array:
    """The mean of any windows, padding zeros too, [B, H, W, C] -> [B, H', W', C]."""
    around: Any = padding  # Flax's annotation knows names alone
    return nn.avg_pool(x, (size, size), (stride, stride), around)


def window_max_pool(x: Array, size: int, stride: int, padding: Padding) -> Array:
    """Max pooling of any windows, [B, H, W, C] -> [B, H', W', C].

    Where windows neither overlap nor reach beyond the edge it is the maximum of strided
    slices, which has a faster gradient on a CPU.
    """
    if size == stride and padding == "VALID":
        h, w = (n // size * size for n in x.shape[1:3])
        places = itertools.product(range(size), repeat=2)
        slices = (x[:, i:h:size, j:w:size] for i, j in places)
        return functools.reduce(jnp.maximum, slices)
    around: Any = padding  # Flax's annotation knows names alone
    return nn.max_pool(x, (size, size), (stride, stride), around)


def depth_to_space(x: Array, step: DepthToSpace) -> Array:
    """Channels laid out as positions, [B, H, W, C] or [B, C] -> [B, H h, W w, C']."""
    (batch, *places, channels), (height, width) = x.shape, step.block
    down, across = places or (1, 1)
    left = step.channels(channels)
    x = x.reshape(batch, down, across, height, width, left)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(
        batch, down * height, across * width, left
    )


def relu_max_pool(x: Array) -> Array:
    """ReLU and 2 x 2 max pooling, [B, H, W, C] -> [B, H // 2, W // 2, C].

    An odd last row or column is left out. Of equal maxima the first gets the gradient,
    and none where the maximum is not positive.
    """
    if backend.forms().convolution == "native":
        return nn.relu(nn.max_pool(x, (2, 2), (2, 2)))
    return _max_pool(True, x)


@functools.partial(CustomVJP, nondiff_argnums=(0,))
def _max_pool(relu: bool, x: Array) -> Array:
    """By strided slices: XLA:CPU's window reduction is slow, its gradient slower."""
    return _pool(relu, x)[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _pool(relu: bool, x: Array) -> tuple[Array, Array]:
    """The maxima, and which corner won each: 0 to 3, or 4 where ReLU is 0."""
    corners = _corners(x)
    a, b = jnp.maximum(*corners[:2]), jnp.maximum(*corners[2:])
    pooled = jnp.maximum(a, b)
    # Which corner won, as one byte per output: less to keep than x itself.
    first = jnp.where(corners[0] >= corners[1], 0, 1)
    second = jnp.where(corners[2] >= corners[3], 2, 3)
    winner = jnp.where(a >= b, first, second)
    if relu:
        winner, pooled = jnp.where(pooled > 0, winner, 4), nn.relu(pooled)
    pooled, winner = lax.optimization_barrier((pooled, winner.astype(jnp.int8)))
    return pooled, winner


@_pool.defjvp
def _pool_tangent(relu, primals, tangents):
    pooled, winner = _pool(relu, *primals)
    corners = _corners(*tangents)
    moved = lax.select_n(winner.astype(jnp.int32), *corners, jnp.zeros_like(corners[0]))
    still: Any = np.zeros(winner.shape, jax.dtypes.float0)  # of integers
    return (pooled, winner), (moved, still)


def _pool_forward(relu, x):
    pooled, winner = _pool(relu, x)
    return pooled, (winner, jnp.zeros((0, *x.shape[1:]), x.dtype))


def _pool_backward(relu, saved, g):
    winner, like = saved
    batch, height, width, channels = winner.shape
    corner = jnp.arange(4, dtype=jnp.int8).reshape(1, 1, 2, 1, 2, 1)
    blocks = (batch, height, 1, width, 1, channels)
    spread = jnp.where(winner.reshape(blocks) == corner, g.reshape(blocks), 0)
    spread = spread.reshape(batch, 2 * height, 2 * width, channels)
    sizes = zip(like.shape[1:], spread.shape[1:], strict=True)
    odd = ((0, 0), *((0, full - n) for full, n in sizes))
    return (lax.optimization_barrier(jnp.pad(spread, odd).astype(like.dtype)),)


def _corners(x: Array) -> list[Array]:
    """The four values of each 2 x 2 block, each [B, H // 2, W // 2, C]."""
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    return [x[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)]


_max_pool.defvjp(_pool_forward, _pool_backward)
