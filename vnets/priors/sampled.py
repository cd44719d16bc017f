"""Priors that are densities: the KL is E[log q(w) - log p(w)], by draws.

Any object with `log_prob(value)`, elementwise, is such a prior: `Sampled` of a function
of yours, the mixture below, or a posterior node, so that what one task has left is
the prior of the next (`of_tree`); of one normal node from another the KL is exact, and
nothing is drawn. The estimate is unbiased, and so is its gradient. It
is made at the draws that the net runs with where each is one for the whole batch
(`estimators.weight_sampling`), and at a draw of its own otherwise: under local
reparameterization no weight is ever drawn. Closed forms have no such noise.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.scipy.special import logsumexp

from vnets import tree
from vnets.edits import draw
from vnets.estimators import weight_sampling
from vnets.priors.base import (
    Density,
    Maker,
    ScaledPrior,
    WeightedPrior,
    along,
    made,
)
from vnets.rng import stream
from vnets.types import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class Sampled:
    """The prior of a function's density.

    Attributes:
      log_prob: values -> log density of each, in nats.
    """

    log_prob: Callable[[Array], Array]


def has_density(prior: Any) -> bool:
    """True if a prior, as `priors.kl` takes it, is a density or has one."""
    if isinstance(prior, Mapping):
        return any(map(has_density, prior.values()))
    if isinstance(prior, WeightedPrior):
        return has_density(prior.prior)
    if isinstance(prior, ScaledPrior):
        return has_density(prior.scale) or has_density(prior.weight)
    return isinstance(made(prior), Density)


def shared_draws(
    params: Params, prior: Any, estimator: Callable, samples: int, key: Key
) -> Params | None:
    """Draws of all weights [S, ...], where prior and net are to share them; or None."""
    if estimator is not weight_sampling or not has_density(prior):
        return None
    key = stream(key, "weights")
    if samples == 1:
        return jax.tree.map(lambda x: x[None], draw(params, key))
    return jax.vmap(lambda own: draw(params, own))(random.split(key, samples))


def of_tree(params: Params) -> dict[str, Density]:
    """What was learned before as the prior of what is learned next, by name.

    `vnets.continual` makes such trees of nets without noise, too.
    """
    return {place.name: node for place, node in tree.nodes(params) if not node.fixed}


@Maker
def scale_mixture(
    share: float = 0.5, wide: float = 1.0, narrow: float = math.exp(-6)
) -> Sampled:
    """share N(0, wide^2) + (1 - share) N(0, narrow^2) (Blundell et al. 2015)."""

    def log_prob(w: Array) -> Array:
        parts = (share, wide), (1 - share, narrow)
        logs = (math.log(p / s) - 0.5 * jnp.square(w / s) for p, s in parts)
        return jnp.logaddexp(*logs) - 0.5 * math.log(2 * math.pi)

    return Sampled(log_prob)


@Maker
def laplace(scale: float = 1.0) -> Sampled:
    """exp(-|w| / scale) / (2 scale): N(0, l^2) with l^2 exponential, mean 2 scale^2."""
    _check_scale(scale)
    constant = -math.log(2 * scale)
    return Sampled(lambda w: constant - jnp.abs(w) / scale)


@Maker
def log_normal_scale(location: float = 0.0, spread: float = 1.0) -> Sampled:
    """N(0, l^2) with ln l ~ N(location, spread^2), by 64 nodes of Gauss-Hermite.

    The density has no closed form. At |w| from a hundredth to ten times the median of
    l its logarithm is right to 1e-3 for a spread of 1.
    """
    _check_scale(spread)
    nodes, weights = np.polynomial.hermite_e.hermegauss(64)
    log_scale = location + spread * nodes
    logs = np.log(weights / weights.sum()) - log_scale - 0.5 * math.log(2 * math.pi)

    def log_prob(w: Array) -> Array:
        logs_, precision = jnp.float32(logs), jnp.float32(np.exp(-2 * log_scale))
        half_square = 0.5 * jnp.square(w)[..., None]
        return logsumexp(along(logs_, w) - half_square * along(precision, w), axis=-1)

    return Sampled(log_prob)


@Maker
def horseshoe(scale: float = 1.0) -> Sampled:
    """N(0, l^2) with l half-Cauchy of that scale (Carvalho, Polson and Scott 2010).

    With x = w^2 / (2 scale^2) the density is exp(x) E1(x) / (sqrt(2 pi^3) scale), E1
    being the exponential integral. It has a pole at 0, where it is that of NEAR scales,
    and tails like 1 / w^2.
    """
    _check_scale(scale)
    constant = -math.log(scale) - 0.5 * math.log(2 * math.pi**3)

    def log_prob(w: Array) -> Array:
        half_square = 0.5 * jnp.square(jnp.maximum(jnp.abs(w / scale), NEAR))
        return constant + _log_scaled_exp1(half_square)

    return Sampled(log_prob)


NEAR = 1e-9  # scales; within them the pole of the horseshoe is level
# Terms of a series below x = 1 and of a fraction above: float32 has no more digits.
TERMS, FRACTIONS = 12, 30


def _log_scaled_exp1(x: Array) -> Array:
    """ln(exp(x) E1(x)): a series below 1, Legendre's continued fraction above."""
    small, large = jnp.minimum(x, 1.0), jnp.maximum(x, 1.0)
    series = 0.0
    for k in range(TERMS, 0, -1):
        series = small * ((-1.0) ** (k + 1) / (k * math.factorial(k)) + series)
    fraction = large + 2 * FRACTIONS + 1
    for k in range(FRACTIONS, 0, -1):
        fraction = large + 2 * k - 1 - k**2 / fraction
    below = small + jnp.log(series - jnp.log(small) - np.float32(np.euler_gamma))
    return jnp.where(x < 1, below, -jnp.log(fraction))


def _check_scale(scale: float) -> None:
    if not scale > 0:
        raise ValueError(f"the scale of a prior must be positive, not {scale}")


PRIORS = {
    "scale_mixture": scale_mixture,
    "laplace": laplace,
    "log_normal_scale": log_normal_scale,
    "horseshoe": horseshoe,
}
