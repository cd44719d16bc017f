"""Two pictures in numbers: a unit behind a ReLU, and two ways to fit a normal.

A unit of a variance layer has a normal output of mean 0. A ReLU puts half of its mass
at 0 and leaves half of a normal: the same as its absolute value times a fair coin.

A normal q is fitted to p, two normals of deviation 1 at +-`gap`: by the least
KL(q || p), which seeks one of them, or the least KL(p || q), which covers both and has
the moments of p, so a deviation of sqrt(1 + gap^2).

    density    mean and deviation; zero, the mass at 0; distance, the largest one
               between the exact distribution function and that of `draws` draws; of a
               fit kl, in nats, what is least

Curves: the density but for the mass at 0, exact and by a histogram; p and its fit.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from scipy import optimize, stats

from experiments import spec as parts
from experiments.core import Measured, Study, without_nets
from vnets import estimators, nodes, ops
from vnets.rng import stream
from vnets.types import Array, Key

FIELDS = ("dataset.name", "density", "draws", "gap")
INPUTS = 100  # of the unit; all are 1
REACH, POINTS, BINS = 8.0, 4001, 64  # of the grid beyond the modes, and of histograms


@dataclasses.dataclass(frozen=True)
class Unit:
    """What is drawn of a unit, and its distribution.

    Attributes:
      of: (output, key) -> what is drawn, elementwise.
      zero: the mass at 0.
    """

    of: Callable[[Array, Key], Array]
    zero: float = 0.5

    def exact(self, x: np.ndarray) -> np.ndarray:
        """The density but for the mass at 0."""
        return stats.norm.pdf(x) * ((x > 0) if self.zero else 1.0)

    def cumulative(self, x: np.ndarray) -> np.ndarray:
        """The share at x or below."""
        return stats.norm.cdf(x) * ((x >= 0) if self.zero else 1.0)


def _coin(y: Array, key: Key) -> Array:
    return jnp.abs(y) * random.bernoulli(key, 0.5, y.shape)


UNITS = {
    "unit": Unit(lambda y, key: y, zero=0.0),
    "relu": Unit(lambda y, key: jax.nn.relu(y)),
    "coin": Unit(_coin),
}


def build(config) -> Study:
    """The study of a config; see `configs/densities.py` for its fields."""
    name = parts.pick("density", config.density, (*UNITS, *DIVERGENCES))
    if name in UNITS:
        parts.several("draws", config.draws)
        return without_nets(functools.partial(_drawn, config.draws, UNITS[name]))
    if not config.gap >= 0:
        raise parts.ConfigError(f"config.gap must not be below 0, not {config.gap}")
    return without_nets(lambda key: _fitted(config.gap, DIVERGENCES[name]))


def _outputs(draws: int, key: Key) -> Array:
    """Of a unit of a variance layer, whose deviation is 1, [draws]."""
    weights = nodes.ZeroMean(jnp.full((INPUTS, 1), INPUTS**-0.5, jnp.float32))
    x = jnp.ones((draws, INPUTS), jnp.float32)
    return estimators.lrt(ops.DENSE, weights, x, key)[:, 0]


def _drawn(draws: int, unit: Unit, key: Key) -> Measured:
    y = unit.of(_outputs(draws, stream(key, "unit")), stream(key, "coin"))
    found = np.sort(np.asarray(y, np.float64))
    share = np.arange(1, draws + 1) / draws
    last = np.diff(found, append=np.inf) > 0  # of the draws that have the same value
    distance = np.abs(share - unit.cumulative(found))[last].max()
    edges = np.linspace(-4, 4, BINS + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    counts, _ = np.histogram(found[found != 0], edges)
    return Measured(
        {
            "density": {
                "mean": float(found.mean()),
                "deviation": float(found.std()),
                "zero": float(np.mean(found == 0)),
                "distance": float(distance),
            }
        },
        {
            "unit": {
                "x": middle.tolist(),
                "exact": unit.exact(middle).tolist(),
                "drawn": (counts / draws / (edges[1] - edges[0])).tolist(),
            }
        },
    )


def log_p(x: np.ndarray, gap: float) -> np.ndarray:
    """Of the two normals."""
    both = stats.norm.logpdf(x, gap), stats.norm.logpdf(x, -gap)
    return np.logaddexp(*both) - np.log(2)


def _weighed(weight: np.ndarray, ratio: np.ndarray, step: float) -> float:
    return float(np.sum(weight * ratio) * step)


def reverse(x: np.ndarray, log_p: np.ndarray, log_q: np.ndarray) -> float:
    """KL(q || p), nats, by a sum over an even grid."""
    return _weighed(np.exp(log_q), log_q - log_p, x[1] - x[0])


def forward(x: np.ndarray, log_p: np.ndarray, log_q: np.ndarray) -> float:
    """KL(p || q), nats, by a sum over an even grid."""
    return _weighed(np.exp(log_p), log_p - log_q, x[1] - x[0])


DIVERGENCES = {"reverse": reverse, "forward": forward}


def _fitted(gap: float, divergence: Callable) -> Measured:
    x = np.linspace(-gap - REACH, gap + REACH, POINTS)
    target = log_p(x, gap)

    def cost(parameters) -> float:
        mean, log_std = parameters
        return divergence(x, target, stats.norm.logpdf(x, mean, np.exp(log_std)))

    # From the right of the middle, where KL(q || p) has no slope in the mean.
    start, options = [0.5, 0.0], {"xatol": 1e-6, "fatol": 1e-10, "maxiter": 2000}
    found = optimize.minimize(cost, start, method="Nelder-Mead", options=options)
    mean, std = found.x[0], np.exp(found.x[1])
    shown = np.linspace(-gap - 4, gap + 4, 201)
    return Measured(
        {
            "density": {
                "mean": float(mean),
                "deviation": float(std),
                "zero": 0.0,
                "kl": float(found.fun),
            }
        },
        {
            "fit": {
                "x": shown.tolist(),
                "p": np.exp(log_p(shown, gap)).tolist(),
                "q": stats.norm.pdf(shown, mean, std).tolist(),
            }
        },
    )
