"""Stochastic gradient Langevin dynamics: an optimizer whose walk is a sample.

An optax transformation that adds noise to its updates, so that the nets along its walk
(`train.Task.collect`) are draws from a posterior, a `predictor.Stack`:

    p(w)^(1 / T) with p(w) = exp(-N loss(w)) up to a constant

where the loss is that of `vnets.loss`, per example of N, and T the temperature: at T =
1 the Bayesian posterior (the loss must hold the prior, as `optimizers.decay_means` of
1 / (N scale^2) does), below a colder one, at T = 0 plain stochastic gradient descent.
T is part of what was sampled from, and is to be said beside every result: published
numbers of large nets are of posteriors as cold as 1 / N.

A learning rate r is a step of r / N in the units of the literature, which has sums over
examples where the loss has means. No step is rejected, so the stationary law is right
as r -> 0 alone, and the noise of minibatches, which heats, is not taken off.

Sources: Welling and Teh 2011 (SGLD); Chen, Fox and Guestrin 2014, equation 15 (SGHMC);
Ding et al. 2014, algorithm 2 (the thermostat, SGNHT); Zhang et al. 2020 (cycles).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import random

from vnets.rng import stream
from vnets.types import Array, Key

Rate = optax.ScalarOrSchedule


class Walk(NamedTuple):
    """What a sampler carries: updates so far, its momentum and its friction."""

    count: Array
    momentum: Any = ()
    friction: Any = ()


def sgld(
    learning_rate: Rate, n_train: int, temperature: Rate = 1.0
) -> optax.GradientTransformationExtraArgs:
    """Overdamped Langevin dynamics: -r g + sqrt(2 r T / N) noise.

    Args:
      learning_rate: r, a number or a function of the update.
      n_train: N, the number of training examples.
      temperature: T, likewise.

    Raises:
      ValueError: no example, or a number below 0; by `update`, no key.
    """

    def move(walk: Walk, grads, rate: Array, heat: Array, noise: Callable):
        noisy = noise(grads, jnp.sqrt(2 * rate * heat))
        return jax.tree.map(lambda g, n: n - rate * g, grads, noisy), walk

    return _sampler(move, learning_rate, n_train, temperature, lambda params: {})


def sghmc(
    learning_rate: Rate, n_train: int, temperature: Rate = 1.0, momentum: float = 0.9
) -> optax.GradientTransformationExtraArgs:
    """Langevin dynamics with friction: at T = 0 gradient descent with momentum.

    v becomes m v - r g + sqrt(2 (1 - m) r T / N) noise, and w moves by v.

    Args:
      learning_rate, n_train, temperature: as in `sgld`.
      momentum: m, which the friction takes off 1, in [0, 1).

    Raises:
      ValueError: as in `sgld`, or another momentum.
    """
    _check_momentum(momentum)

    def move(walk: Walk, grads, rate: Array, heat: Array, noise: Callable):
        noisy = noise(grads, jnp.sqrt(2 * (1 - momentum) * rate * heat))
        v = jax.tree.map(
            lambda v, g, n: momentum * v - rate * g + n, walk.momentum, grads, noisy
        )
        return v, walk._replace(momentum=v)

    return _sampler(move, learning_rate, n_train, temperature, _at_rest)


def sgnht(
    learning_rate: Rate, n_train: int, temperature: Rate = 1.0, momentum: float = 0.9
) -> optax.GradientTransformationExtraArgs:
    """`sghmc` with a thermostat: the friction grows where the walk is too hot.

    So the heat of minibatch noise is taken off. All weights share one friction f:
    v becomes (1 - f) v - r g + sqrt(2 (1 - m) r T / N) noise, and f grows by the mean
    of v^2 less r T / N.

    Args:
      learning_rate, n_train, temperature: as in `sgld`.
      momentum: m, 1 less the friction at the start.

    Raises:
      ValueError: as in `sghmc`.
    """
    _check_momentum(momentum)

    def move(walk: Walk, grads, rate: Array, heat: Array, noise: Callable):
        noisy = noise(grads, jnp.sqrt(2 * (1 - momentum) * rate * heat))
        kept = 1 - walk.friction
        v = jax.tree.map(
            lambda v, g, n: kept * v - rate * g + n, walk.momentum, grads, noisy
        )
        size = sum(x.size for x in jax.tree.leaves(v))
        excess = optax.tree.norm(v, squared=True) / size - rate * heat
        return v, walk._replace(momentum=v, friction=walk.friction + excess)

    def start(params):
        friction = jnp.asarray(1 - momentum, jnp.float32)
        return {**_at_rest(params), "friction": friction}

    return _sampler(move, learning_rate, n_train, temperature, start)


def cyclical(peak: float, steps: int, cycles: int) -> optax.Schedule:
    """A cosine from `peak` to 0, again in each cycle.

    Zhang et al. 2020, equation 1; Huang et al. 2017 (snapshot ensembles).

    Args:
      peak: the rate at the start of a cycle.
      steps: updates of the whole run.
      cycles: in these.

    Raises:
      ValueError: a peak below 0, or fewer updates than cycles.
    """
    within = _cycle(steps, cycles)
    if not 0 <= peak < math.inf:
        raise ValueError(f"peak is a number from 0 on, not {peak}")
    return lambda step: peak / 2 * (1 + jnp.cos(math.pi * within(step)))


def triangular(high: float, low: float, steps: int, cycles: int) -> optax.Schedule:
    """Linearly from `low` to `high` and back, in each cycle.

    The ends of its cycles (`train.spaced(steps, 1, cycles=cycles)`) are the nets of a
    fast geometric ensemble (Garipov et al. 2018, equation 4). There a cycle begins half
    of its length later, at the high rate, and a net is kept in its middle.

    Args:
      high, low: the rates in the middle and at both ends of a cycle.
      steps, cycles: as in `cyclical`.

    Raises:
      ValueError: not 0 <= low <= high, or fewer updates than cycles.
    """
    within = _cycle(steps, cycles)
    if not 0 <= low <= high < math.inf:
        raise ValueError(f"rates have 0 <= low <= high, not {low} and {high}")
    return lambda step: low + (high - low) * (1 - abs(2 * within(step) - 1))


def late(
    temperature: float, steps: int, cycles: int = 1, begin: float = 0.8
) -> optax.Schedule:
    """The temperature of a sampler that explores first: 0, then `temperature`.

    Args:
      temperature: T of the last part of each cycle.
      steps, cycles: as in `cyclical`.
      begin: the fraction of a cycle that is gradient descent, without noise.

    Raises:
      ValueError: as in `cyclical`, a fraction outside of [0, 1], or cycles that are too
        short for an update after it.
    """
    within = _cycle(steps, cycles)
    if not (0 <= begin <= 1 and temperature >= 0):
        raise ValueError(
            "begin is in [0, 1] and a temperature at least 0, not "
            f"{begin} and {temperature}"
        )
    last = (steps // cycles - 1) / (steps // cycles)
    if last < begin < 1:
        raise ValueError(
            f"of {steps // cycles} updates of a cycle none is after {begin} of them"
        )
    return lambda step: jnp.where(within(step) < begin, 0.0, temperature)


def _cycle(steps: int, cycles: int) -> Callable[[Any], Array]:
    """Where in its cycle an update is, from 0 to 1."""
    if not 1 <= cycles <= steps:
        raise ValueError(f"{steps} updates are not {cycles} cycles of one or more")
    length = steps // cycles

    def within(step) -> Array:
        count = jnp.asarray(step, jnp.float32)
        # What is left over by whole cycles is the end of the last.
        inside = jnp.mod(count, length) / length
        return jnp.where(count < length * cycles, inside, 1.0)

    return within


def _at_rest(params) -> dict:
    return {"momentum": jax.tree.map(jnp.zeros_like, params)}


def _check_momentum(momentum: float) -> None:
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum is in [0, 1), not {momentum}")


def _sampler(
    move: Callable, learning_rate: Rate, n_train: int, temperature: Rate, start
) -> optax.GradientTransformationExtraArgs:
    """The transformation that `move` makes of gradients, rate, T / N and noise."""
    if n_train < 1:
        raise ValueError(f"n_train must be at least 1, not {n_train}")
    given: dict[str, Any] = {"rate": learning_rate, "temperature": temperature}
    for name, value in given.items():
        if not callable(value) and not 0 <= value < math.inf:
            raise ValueError(f"a {name} is a number from 0 on, not {value}")

    def init(params) -> Walk:
        return Walk(jnp.zeros((), jnp.int32), **start(params))

    def update(updates, state: Any, params=None, *, key: Key = None, **extra):
        del params, extra
        if key is None:
            raise ValueError("a sampler draws: update(grads, state, params, key=key)")
        rate, heat = (
            jnp.asarray(value(state.count) if callable(value) else value, jnp.float32)
            for value in given.values()
        )

        def noise(like, std: Array):
            leaves, structure = jax.tree.flatten(like)
            drawn = [
                std * random.normal(stream(key, "walk", i), leaf.shape, leaf.dtype)
                for i, leaf in enumerate(leaves)
            ]
            return jax.tree.unflatten(structure, drawn)

        moved, state = move(state, updates, rate, heat / n_train, noise)
        return moved, state._replace(count=state.count + 1)

    return optax.GradientTransformationExtraArgs(init, update)


SAMPLERS: dict[str, Callable] = {"sgld": sgld, "sghmc": sghmc, "sgnht": sgnht}
