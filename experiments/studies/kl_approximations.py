"""How near approximations of the KL to the log-uniform prior are, and their cost.

The exact KL per weight needs Dawson's function D: with x = 1 / sqrt(2 alpha),

    KL = 2 integral_0^x D(t) dt,    dKL / d log alpha = -x D(x),

zero at alpha = infinity. (The mean of ln |m + eps| over a standard normal eps has the
derivative E[1 / (m + eps)] = sqrt(2) D(m / sqrt(2)), as a principal value.)
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from scipy import integrate, special

from experiments import spec as parts
from experiments.bench import timing
from experiments.core import Measured, Study, without_nets
from vnets import backend, priors
from vnets.types import Key

FIELDS = ("dataset.name", "approximation", "grid")

PER_WEIGHT = {
    "log_uniform_2015": priors.log_uniform_2015_kl,
    "log_uniform_2016": priors.log_uniform_2016_kl,
    "log_uniform": priors.log_uniform_kl,
    "log_uniform_rational": priors.log_uniform_rational_kl,
    "ard": priors.ard_kl,
}
STANDARD = "log_uniform"  # what the others' cost is compared with
WARM_UP = 3  # rounds of timing that do not count
ROUNDING = 1e-7  # nats; curves on a logarithmic axis do not go below


def build(config) -> Study:
    """The study of a config; see `configs/kl_approximations.py` for its fields."""
    parts.pick("approximation", config.approximation, PER_WEIGHT)
    low, high = config.grid.range
    if not low < 0 < high:
        raise parts.ConfigError(
            f"config.grid.range must have log alpha 0 within it, not {low} to {high}"
        )

    return without_nets(functools.partial(_measure, config))


def exact(log_alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The KL in nats and its derivative by log alpha, float64, elementwise.

    Args:
      log_alpha: [n].
    """
    x = np.sqrt(0.5) * np.exp(-0.5 * np.asarray(log_alpha, np.float64))
    integral = [integrate.quad(special.dawsn, 0, end, limit=500)[0] for end in x]
    return 2 * np.array(integral), -x * special.dawsn(x)


def _measure(config, key: Key) -> Measured:
    grid, function = config.grid, PER_WEIGHT[config.approximation]
    log_alpha = np.linspace(*grid.range, grid.points).astype(np.float32)
    value, slope = jax.vmap(jax.value_and_grad(function))(jnp.asarray(log_alpha))
    true_value, true_slope = exact(log_alpha)
    error, slope_error = value - true_value, slope - true_slope
    small = log_alpha <= 0
    metrics = {
        "error": float(np.abs(error).max()),
        "error_small": float(np.abs(error[small]).max()),
        "mean_error": float(np.abs(error).mean()),
        "slope_error": float(np.abs(slope_error).max()),
        "slope_error_small": float(np.abs(slope_error[small]).max()),
        "cost": _cost(function, grid, key),
    }
    curve = {
        "log_alpha": log_alpha.tolist(),
        "kl": np.asarray(value, np.float64).tolist(),
        "error": np.maximum(np.abs(error), ROUNDING).tolist(),
        "slope_error": np.maximum(np.abs(slope_error), ROUNDING).tolist(),
    }
    return Measured({"kl": metrics}, {"grid": curve})


def _cost(function, grid, key: Key) -> float:
    """Time of value and gradient over many weights, that of `STANDARD` being 1."""
    low, high = grid.range
    log_alpha = random.uniform(key, (grid.weights,), minval=low, maxval=high)

    def thunk(per_weight):
        run = backend.jit(jax.value_and_grad(lambda la: jnp.sum(per_weight(la))))
        return lambda: jax.block_until_ready(run(log_alpha))

    runs = {"this": thunk(function), "standard": thunk(PER_WEIGHT[STANDARD])}
    times = timing.interleave(runs, grid.rounds, WARM_UP)
    ratio = timing.ratios(times, {"cost": ("this", "standard")})["cost"]
    return ratio["of_minima"]
