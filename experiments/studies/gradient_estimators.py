"""Gradient estimators where the truth is known: one bit, or one number.

A bit b ~ Bernoulli(theta) with f(b) = (b - t)^2: the gradient of E[f] by the logit is
(1 - 2 t) theta (1 - theta), above 0 for t < 1/2, so that the best theta is 0. A number
z ~ N(mean, std^2) with f(z) = z^2: by the mean it is 2 mean, by the deviation 2 std.

    gradient   mean and variance of the estimate, the exact gradient, and by how many
               standard errors of `gradient.draws` estimates the mean differs: bias
    descent    theta where gradient descent by the estimator ends, of a bit: the mean
               over the second half of its steps, for some keep wandering
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random

from experiments import spec as parts
from experiments.core import Measured, Study, without_nets
from vnets import gradients
from vnets.rng import stream
from vnets.types import Array, Key

FIELDS = (
    *("dataset.name", "estimator", "temperature", "theta", "aim", "mean", "std"),
    *("gradient.draws", "descent.steps", "descent.learning_rate", "descent.draws"),
)
START = 0.5  # theta, where descent starts


@dataclasses.dataclass(frozen=True)
class Way:
    """An estimator of the gradient of E[f].

    Attributes:
      surrogate: (f, parameter, key) -> a number whose derivative is the estimate.
      of: the parameter: the "logit" of a bit, the "mean" or the "std" of a number.
    """

    surrogate: Callable[[Callable, Array, Key], Array]
    of: Literal["logit", "mean", "std"] = "logit"


def build(config) -> Study:
    """The study of a config; see `configs/gradient_estimators.py` for its fields."""
    way = parts.pick("estimator", config.estimator, _ways(config))
    parts.several("gradient.draws", config.gradient.draws)

    return without_nets(functools.partial(_measure, config, way))


def _ways(config) -> dict[str, Way]:
    def by_score(draws: int, baseline) -> Callable:
        def of_bit(f, logit, key):
            p = jax.nn.sigmoid(logit)
            bits = random.bernoulli(key, p, (draws,)).astype(jnp.float32)
            log_p = gradients.log_bernoulli(jnp.broadcast_to(logit, (draws,)), bits)
            return jnp.mean(gradients.score(f(bits), log_p, baseline))

        return of_bit

    def score(f, mean, std, key):
        z = lax.stop_gradient(gradients.pathwise(mean, std, key))
        log_p = -0.5 * jnp.square((z - mean) / std) - jnp.log(std)
        return gradients.score(f(z)[None], log_p[None], "none")[0]

    def pathwise(f, *x):
        return f(gradients.pathwise(*x))

    def of_mean(surrogate) -> Way:
        return Way(lambda f, mean, key: surrogate(f, mean, config.std, key), "mean")

    def of_std(surrogate) -> Way:
        return Way(lambda f, std, key: surrogate(f, config.mean, std, key), "std")

    def concrete(f, logit, key):
        return f(gradients.concrete(logit, key, config.temperature))

    return {
        "score": Way(by_score(1, "none")),
        "score_baseline": Way(by_score(2, "others")),
        "straight_through": Way(lambda f, *x: f(gradients.straight_through(*x))),
        "concrete": Way(concrete),
        "pathwise": of_mean(pathwise),
        "score_number": of_mean(score),
        "pathwise_std": of_std(pathwise),
        "score_std": of_std(score),
        "price_std": of_std(gradients.price),
    }


def _measure(config, way: Way, key: Key) -> Measured:
    if way.of == "logit":
        at, aim = float(np.log(config.theta / (1 - config.theta))), config.aim
        exact = (1 - 2 * aim) * config.theta * (1 - config.theta)
    else:
        at, aim, exact = config[way.of], 0.0, 2 * config[way.of]

    def f(x):
        return jnp.square(x - aim)

    def estimate(parameter, key):
        return jax.grad(lambda p: way.surrogate(f, p, key))(parameter)

    keys = random.split(stream(key, "gradient"), config.gradient.draws)
    found = jax.jit(jax.vmap(estimate, (None, 0)))(jnp.float32(at), keys)
    found = np.asarray(found, np.float64)
    error = found.std(ddof=1) / len(found) ** 0.5
    # Of a constant estimate the rounding of float32 is what there is.
    error = max(error, np.finfo(np.float32).eps * abs(exact))
    evals = {
        "gradient": {
            "mean": found.mean(),
            "exact": exact,
            "variance": found.var(ddof=1),
            "bias": abs(found.mean() - exact) / error,
        }
    }
    curves = {}
    if way.of == "logit":
        thetas = _descended(config.descent, estimate, stream(key, "descent"))
        evals["descent"] = {"theta": thetas[len(thetas) // 2 :].mean()}
        shown = slice(None, None, max(1, len(thetas) // 100))
        steps = np.arange(1, len(thetas) + 1, dtype=float)
        curves["descent"] = {
            "step": steps[shown].tolist(),
            "theta": thetas[shown].tolist(),
        }
    numbers = {
        name: {metric: float(value) for metric, value in one.items()}
        for name, one in evals.items()
    }
    return Measured(numbers, curves)


def _descended(settings, estimate: Callable, key: Key) -> np.ndarray:
    """theta after each step of gradient descent, by a mean of several draws."""

    def step(logit, key):
        each = jax.vmap(estimate, (None, 0))(logit, random.split(key, settings.draws))
        logit -= settings.learning_rate * jnp.mean(each)
        return logit, jax.nn.sigmoid(logit)

    start = jnp.float32(np.log(START / (1 - START)))
    keys = random.split(key, settings.steps)
    _, thetas = jax.jit(lambda start, keys: lax.scan(step, start, keys))(start, keys)
    return np.asarray(thetas, np.float64)
