"""Cases of moments: nodes, random moments, and draws of them."""

import jax.numpy as jnp
import numpy as np

from vnets.moments import Moments
from vnets.nodes import (
    additive,
    dropout,
    gaussian,
    multiplicative,
    point,
    variance,
)

DRAWS = 5_000


POSTERIORS = {
    "point": point(),
    "gaussian": gaussian(-2.0),
    "sign": additive(-2.0, noise="sign"),
    "multiplicative": multiplicative(0.5),
    "variance": variance(),
    "binary": dropout(0.3),
    "units_out": dropout(0.4, gaussian(-1.0), "normal", axis="out"),
    "both": dropout(0.3, dropout(0.2, variance(), axis="out", per="example")),
}


def random_moments(shape, seed=0, quiet=False):
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=shape).astype(np.float32)
    var = np.zeros(shape) if quiet else rng.gamma(1.0, size=shape)
    return Moments(jnp.asarray(mean), jnp.asarray(var, jnp.float32))


def draws_of(h, seed):
    noise = np.random.default_rng(seed).normal(size=(DRAWS, *h.mean.shape))
    return np.asarray(h.mean) + np.sqrt(h.var) * noise


def covariance(draws):
    centred = draws - draws.mean(axis=0)
    return centred[:, :, :, None] * centred[:, :, None, :]
