"""Dense layers and convolutions that the laws of estimators are tried on."""

import functools

import jax
from jax import random

from vnets import ops

DRAWS = 2000
DENSE_X, DENSE_W = (2, 3), (3, 4)
# Height and width of the kernel and its outputs differ: none passes for another.
CONV_X, CONV_W = (2, 4, 5, 2), (2, 3, 2, 5)
CONV = ops.TiledConv((4, 5), (2, 3), ((1, 1), (0, 0)), 2)
CASES = {"dense": (ops.DENSE, DENSE_X, DENSE_W), "conv": (CONV, CONV_X, CONV_W)}


def run(estimator, op, q, x, key):
    return estimator(op, q, x, key)


@functools.cache
def compiled(estimator, op):
    """Many draws [n, B, ..., O] of a pre-activation."""
    draw = functools.partial(run, estimator, op)
    return jax.jit(jax.vmap(draw, in_axes=(None, None, 0)))


@functools.cache
def problem(case, make):
    op, x_shape, w_shape = CASES[case]
    key = random.key(0)
    return op, make(key, w_shape), random.normal(random.fold_in(key, 1), x_shape)


def linear(op, x, w):
    return op.lower(op.apply(op.lift(x), w))
