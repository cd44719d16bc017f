"""Gradients of an expectation E[f(x)] with respect to the parameters of x.

Each is a way to draw x, or to correct f(x), such that ordinary differentiation gives
the estimate. Biased or not, by its bias and variance: `configs/tables/
gradient_estimators.toml` measures them.

    score             f(x) d log p(x), less a baseline: unbiased, for any x; it varies
                      much (Williams 1992)
    pathwise          x = mean + std eps: unbiased, where f is smooth in x (Kingma and
                      Welling 2014)
    price             the same draw, but by the curvature of f for std: unbiased, and
                      without variance where f is a parabola (Price 1958; Graves 2011)
    straight_through  a bit, whose gradient is that of its probability: biased (Bengio
                      et al. 2013)
    concrete          a number between 0 and 1 in place of a bit: biased, the less the
                      lower its temperature, and the more it varies (Maddison et al.
                      2017; Jang et al. 2017)
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax, random

from vnets.types import Array, Key, choose

BASELINES = ("others", "none")


def score(
    values: Array, log_p: Array, baseline: Literal["others", "none"] = "others"
) -> Array:
    """The values [S], with (value - baseline) d log p of each as their gradient, too.

    Args:
      values: f(x) of S independent draws; the gradient of f itself is kept.
      log_p: log p(x) of the same draws, [S], by the parameters that learn; x has no
        gradient.
      baseline: "others", the mean value of the other draws, which leaves the gradient
        unbiased, for their draws are independent; or "none".

    Raises:
      ValueError: another baseline, a single draw with "others", or other shapes.
    """
    choose("baseline", baseline, BASELINES)
    if jnp.ndim(values) != 1 or jnp.shape(values) != jnp.shape(log_p):
        raise ValueError(
            f"values and log_p are [S] each, not {jnp.shape(values)} and "
            f"{jnp.shape(log_p)}"
        )
    gain = values
    if baseline == "others":
        if len(values) < 2:
            raise ValueError('baseline "others" needs 2 draws')
        gain = values - (jnp.sum(values) - values) / (len(values) - 1)
    return values + lax.stop_gradient(gain) * (log_p - lax.stop_gradient(log_p))


def log_bernoulli(logits: Array, bits: Array) -> Array:
    """log p of bits, elementwise."""
    return -jax.nn.softplus(jnp.where(bits > 0, -logits, logits))


def pathwise(mean: Array, std: Array, key: Key) -> Array:
    """mean + std eps, of the shape of both."""
    return mean + std * random.normal(key, jnp.shape(mean))


def price(f: Callable[[Array], Array], mean: Array, std: Array, key: Key) -> Array:
    """f(mean + std eps), elementwise, whose gradient by std is std f''.

    By the mean it is f', as that of `pathwise`; f's own parameters keep theirs.

    Args:
      f: of each number by itself, twice differentiable, [...] -> [...].
      mean: [...].
      std: a number, or of the mean's shape.
      key: of the draw.
    """

    def slope(x):
        return jax.jvp(f, (x,), (jnp.ones_like(x),))[1]

    z = lax.stop_gradient(pathwise(mean, std, key))
    first, second = jax.jvp(slope, (z,), (jnp.ones_like(z),))
    by_mean = lax.stop_gradient(first) * (mean - lax.stop_gradient(mean))
    by_std = lax.stop_gradient(std * second) * (std - lax.stop_gradient(std))
    return f(z) + by_mean + by_std


def straight_through(logits: Array, key: Key) -> Array:
    """Bits, whose gradient is taken to be that of their probabilities."""
    p = jax.nn.sigmoid(logits)
    bits = random.bernoulli(key, p).astype(p.dtype)
    return bits + p - lax.stop_gradient(p)


def concrete(logits: Array, key: Key, temperature: float) -> Array:
    """sigmoid((logits + logistic noise) / temperature), between 0 and 1.

    Raises:
      ValueError: a temperature that is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"the temperature must be positive, not {temperature}")
    noise = random.logistic(key, jnp.shape(logits))
    return jax.nn.sigmoid((logits + noise) / temperature)
