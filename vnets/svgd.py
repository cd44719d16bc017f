"""Stein variational gradient descent: nets that sample together and repel each other.

    phi(w_i) = 1/S sum_j k(w_j, w_i) grad log p(w_j) + grad_{w_j} k(w_j, w_i)

of S particles (Liu and Wang 2016, equation 8), k = exp(-|w - w'|^2 / (2 h^2)), h^2 =
median of all |w - w'|^2 / (2 ln(S + 1)), as the authors' code has it. They are a tree
with a first axis of S, a `predictor.Stack`:

    task = train.Task(particles(init, 10), per_particle(loss), svgd(1e-3, n), source)

In thousands of dimensions all pairs are about as far apart as the median, so k between
two particles is nearly the same number, 1 / (S + 1), whatever they say: mostly a deep
ensemble with a prior. `mean_kernel` shows it.
"""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import random

from vnets.loss import ModelState
from vnets.types import Array, Key, Params


def svgd(
    learning_rate: optax.ScalarOrSchedule, n_train: int
) -> optax.GradientTransformation:
    """Adam along phi; see `stein`."""
    return optax.chain(stein(n_train), optax.adam(learning_rate))


def stein(n_train: int) -> optax.GradientTransformation:
    """-phi / N in the place of the gradients of S particles' losses.

    Args:
      n_train: N; N times the loss of a particle is -log p(w), the prior included.

    Raises:
      ValueError: no example; by `update`, no parameters, or fewer than two particles.
    """
    if n_train < 1:
        raise ValueError(f"n_train must be at least 1, not {n_train}")

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("stein needs the parameters: update(grads, state, params)")
        w = _rows(params)
        weights, squared_width = _kernel(w)
        row = jnp.sum(weights, 1, keepdims=True)
        pushed = (row * w - weights @ w) / (squared_width * n_train)
        moved = (weights @ _rows(updates) - pushed) / len(w)
        return _like(moved, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def mean_kernel(params: Params) -> Array:
    """The mean of k over pairs of different particles; scalar."""
    weights, _ = _kernel(_rows(params))
    count = len(weights)
    return (jnp.sum(weights) - count) / (count * (count - 1))


def particles(init: Callable, count: int) -> Callable:
    """`Task.init` of so many nets, each from a key of its own."""
    if count < 2:
        raise ValueError(f"particles repel each other: take 2 at least, not {count}")
    return lambda key: jax.vmap(init)(random.split(key, count))


def per_particle(loss: Callable) -> Callable:
    """A loss of `train.Task` over particles: the sum of theirs.

    So each has the gradient of its own. Metrics are means.
    """

    def total(params, state: ModelState, batch, key: Key):
        def one(params, collections, key):
            return loss(params, ModelState(state.step, collections), batch, key)

        keys = random.split(key, len(jax.tree.leaves(params)[0]))
        values, (states, metrics) = jax.vmap(one)(params, state.collections, keys)
        metrics = jax.tree.map(lambda x: jnp.mean(x, 0), metrics)
        return jnp.sum(values), (
            ModelState(state.step, states.collections),
            metrics,
        )

    return total


def _rows(tree: Params) -> Array:
    """The weights of each particle on a row, [S, P]."""
    leaves = jax.tree.leaves(tree)
    return jnp.concatenate([x.reshape(len(x), -1) for x in leaves], 1)


def _like(rows: Array, tree: Params) -> Params:
    """The inverse of `_rows`."""
    leaves, structure = jax.tree.flatten(tree)
    ends = list(itertools.accumulate(x[0].size for x in leaves))
    parts = jnp.split(rows, ends[:-1], 1)
    shaped = [p.reshape(x.shape) for p, x in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(structure, shaped)


def _kernel(w: Array) -> tuple[Array, Array]:
    """k of all pairs of particles [S, P], [S, S], and h^2."""
    if len(w) < 2:
        raise ValueError(f"particles repel each other: take 2 at least, not {len(w)}")
    centred = w - jnp.mean(w, 0, keepdims=True)
    squares = jnp.sum(jnp.square(centred), 1)
    gaps = squares[:, None] + squares[None] - 2 * centred @ centred.T
    gaps = jnp.maximum(gaps, 0) * (1 - jnp.eye(len(w), dtype=w.dtype))
    squared_width = jnp.median(gaps) / (2 * jnp.log(len(w) + 1.0))
    squared_width = jnp.maximum(squared_width, jnp.finfo(w.dtype).tiny)
    return jnp.exp(-gaps / (2 * squared_width)), squared_width
