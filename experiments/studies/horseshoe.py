"""The horseshoe, centred and not: which of two posteriors is nearer to the exact one.

y_i = w_i + N(0, noise^2), w_i ~ N(0, s_i^2), s_i half-Cauchy; `sizes.large` of the
`sizes.all` w_i are N(0, sizes.scale^2), the others 0. Given s_i all is normal, so that
evidence and posterior means are one integral each. Of q, s_i is log-normal, and

    centred       w and s are independent: q(s) N(w; m, v)
    non_centred   z = w / s and s are: q(s) N(z; m, v)
    structured    q(s) and the exact p(w | s, y), which is the best that q(s) can have

`form` says which. The best q is found, not trained: its normal part has a closed form
given q(s), and the two numbers of each q(s) are found on grids that narrow. At each
noise of `noises`:

    elbo, evidence   of all y, in nats; gap is evidence - elbo
    error            mean squared difference of posterior means from the exact ones
"""

import functools
import math
from collections.abc import Callable

import numpy as np
from jax import random

from experiments import spec as parts
from experiments.core import Measured, Study, without_nets
from experiments.studies.prior_shapes import HORSESHOE, LOG_ROOT
from vnets.rng import stream
from vnets.types import Key

FIELDS = ("dataset.name", "form", "sizes", "noises", "curve")
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(40)
WEIGHTS = WEIGHTS / WEIGHTS.sum()
# Of the mean of ln s and of ln of its variance: where the search begins, and how.
MEANS, LOG_VARS = np.linspace(-9.0, 5.0, 29), np.linspace(-8.0, 3.0, 23)
NARROWER, ROUNDS = np.linspace(-1.0, 1.0, 7), 7  # each round is three times as narrow


def build(config) -> Study:
    """The study of a config; see `configs/horseshoe.py` for its fields."""
    bound = parts.pick("form", config.form, FORMS)
    parts.positive("sizes.all", config.sizes.all)
    if not 0 <= config.sizes.large <= config.sizes.all:
        raise parts.ConfigError(
            f"config.sizes.large must be from 0 to config.sizes.all, "
            f"{config.sizes.all}, not {config.sizes.large}"
        )

    return without_nets(functools.partial(_measure, config, bound))


def scale_kl(mean: np.ndarray, var: np.ndarray) -> np.ndarray:
    """KL of ln s ~ N(mean, var) from a half-Cauchy s of scale 1, in nats."""
    size = np.abs(_nodes(mean, var))
    log_cosh = size + np.log1p(np.exp(-2 * size)) - math.log(2)
    return log_cosh @ WEIGHTS + math.log(math.pi) - 0.5 - LOG_ROOT - 0.5 * np.log(var)


def centred(y, noise, mean, var) -> tuple[np.ndarray, np.ndarray]:
    """The bound of each y at its best N(w; m, v), and E[w]; all broadcast."""
    inverse = np.exp(2 * var - 2 * mean)  # E[1 / s^2]
    v = 1 / (noise**-2 + inverse)
    m = y * v / noise**2
    fit = -0.5 * (np.square(y - m) + v) / noise**2 - LOG_ROOT - math.log(noise)
    kl = 0.5 * ((np.square(m) + v) * inverse - np.log(v) - 1) + mean
    return fit - kl - scale_kl(mean, var), m


def non_centred(y, noise, mean, var) -> tuple[np.ndarray, np.ndarray]:
    """The same at its best N(z; m, v), w = s z."""
    first, second = np.exp(mean + var / 2), np.exp(2 * mean + 2 * var)
    v = 1 / (1 + second / noise**2)
    m = y * first * v / noise**2
    square = np.square(y) - 2 * y * m * first + (np.square(m) + v) * second
    fit = -0.5 * square / noise**2 - LOG_ROOT - math.log(noise)
    kl = 0.5 * (np.square(m) + v - np.log(v) - 1)
    return fit - kl - scale_kl(mean, var), m * first


def structured(y, noise, mean, var) -> tuple[np.ndarray, np.ndarray]:
    """The same at p(w | s, y): E_q(s) ln p(y | s), less the KL of q(s)."""
    square = np.exp(2 * _nodes(mean, var))
    total, y = noise**2 + square, np.asarray(y)[..., None]
    fit = -0.5 * (np.square(y) / total + np.log(total)) - LOG_ROOT
    kept = (y * square / total) @ WEIGHTS
    return fit @ WEIGHTS - scale_kl(mean, var), kept


FORMS = {"centred": centred, "non_centred": non_centred, "structured": structured}


def best(bound: Callable, y: np.ndarray, noise: float) -> tuple[np.ndarray, ...]:
    """The largest bound of each y and E[w] there, both [N]."""
    mean, log_var = (np.full((1, 1), axis.mean()) for axis in (MEANS, LOG_VARS))
    grid = [axis - axis.mean() for axis in (MEANS, LOG_VARS)]
    steps = [axis[1] - axis[0] for axis in (MEANS, LOG_VARS)]
    for number in range(ROUNDS + 1):
        of_mean, of_log_var = (part.ravel() for part in np.meshgrid(*grid))
        means, log_vars = mean + of_mean, log_var + of_log_var  # [1 or N, places]
        values, kept = bound(y[:, None], noise, means, np.exp(log_vars))
        at = values.argmax(1)[:, None]
        mean, log_var = (
            np.take_along_axis(np.broadcast_to(part, values.shape), at, 1)
            for part in (means, log_vars)
        )
        grid = [step * NARROWER / 3**number for step in steps]
    return tuple(np.take_along_axis(part, at, 1)[:, 0] for part in (values, kept))


def data(sizes, key: Key) -> tuple[np.ndarray, np.ndarray]:
    """The weights and standard noise to add to them, both [N]."""
    rng = np.random.default_rng(np.asarray(random.key_data(stream(key, "data"))))
    w = np.zeros(sizes.all)
    w[: sizes.large] = sizes.scale * rng.standard_normal(sizes.large)
    return w, rng.standard_normal(sizes.all)


def _measure(config, bound: Callable, key: Key) -> Measured:
    w, unit = data(config.sizes, key)
    at = functools.partial(_at, bound, w, unit)
    evals = {name: at(noise) for name, noise in config.noises.items()}
    noises = np.geomspace(*config.curve.range, config.curve.points)
    found = [at(float(noise)) for noise in noises]
    curve = {metric: [one[metric] for one in found] for metric in ("gap", "error")}
    return Measured(evals, {"noise": {"noise": noises.tolist(), **curve}})


def _at(bound: Callable, w: np.ndarray, unit: np.ndarray, noise: float) -> dict:
    y = w + noise * unit
    values, means = best(bound, y, noise)
    evidence, exact = HORSESHOE.log_prob(y, noise).sum(), HORSESHOE.kept(y, noise) * y
    return {
        "elbo": float(values.sum()),
        "evidence": float(evidence),
        "gap": float(evidence - values.sum()),
        "error": float(np.mean(np.square(means - exact))),
    }


def _nodes(mean: np.ndarray, var: np.ndarray) -> np.ndarray:
    """Values of ln s whose sum by WEIGHTS is its expectation, [..., 40]."""
    return np.asarray(mean)[..., None] + np.sqrt(var)[..., None] * NODES
