"""The expected log of a Student-t density under a normal weight, from a table."""

import functools

import jax.numpy as jnp
import numpy as np

from vnets.types import Array

# The grid on which the log of a Student-t is averaged: log alpha and log(nu / sigma^2).
_LOG_ALPHA_GRID = (-12.0, 12.0, 193)
_LOG_RATIO_GRID = (-28.0, 12.0, 161)
_NODES = 400  # of the trapezoidal rule
_TAIL = 9.0  # standard deviations to either side that it covers


@functools.cache
def _jensen_gaps() -> np.ndarray:
    """log E[z] - E[log z] for z = t + (m + eps)^2, by quadrature on the grid.

    eps is standard normal, m^2 = 1 / alpha and t = nu / sigma^2. The gap lies between 0
    and 1.27. The integrand is all but singular at w = m + eps = 0 when t is small:
    w = sqrt(t) sinh(u) makes it smooth in u, and the rule exact to 1e-9. Means beyond
    the tail never come near the singularity and are integrated over w itself.

    Returns:
      float32 [log alpha, log ratio, 4]: the gap, its two derivatives along the grid and
      the mixed one, each per step of the grid.
    """
    (a_low, a_high, a_count), (t_low, t_high, t_count) = (
        _LOG_ALPHA_GRID,
        _LOG_RATIO_GRID,
    )
    t = np.exp(np.linspace(t_low, t_high, t_count))[:, None]
    unit = np.linspace(0.0, 1.0, _NODES)
    gaps = []
    for log_alpha in np.linspace(a_low, a_high, a_count):
        mean = np.exp(-0.5 * log_alpha)
        if mean > _TAIL:
            w = np.broadcast_to(mean + _TAIL * (2 * unit - 1), (t_count, _NODES))
            density = 1.0
        else:
            low, high = np.arcsinh((mean + np.array([[[-1]], [[1]]]) * _TAIL) / t**0.5)
            u = low + (high - low) * unit
            w, density = t**0.5 * np.sinh(u), np.cosh(u)
        weight = np.exp(-0.5 * (w - mean) ** 2) * density
        weight /= weight.sum(1, keepdims=True)

        def average(value, weight=weight):
            return np.sum(weight * value, 1)

        # d mean / d log alpha is -mean / 2.
        z, total = t + w**2, t[:, 0] + 1 + mean**2
        along_alpha = -(mean**2) / total + mean * average(w / z)
        along_ratio = t[:, 0] / total - average(t / z)
        mixed = t[:, 0] * mean**2 / total**2 - mean * average(t * w / z**2)
        gap = np.log(total) - average(np.log(z))
        gaps.append(np.stack([gap, along_alpha, along_ratio, mixed], -1))
    a_step = (a_high - a_low) / (a_count - 1)
    t_step = (t_high - t_low) / (t_count - 1)
    steps = np.array([1.0, a_step, t_step, a_step * t_step])
    return (np.asarray(gaps) * steps).astype(np.float32)


def jensen_gap(log_alpha: Array, log_ratio: Array) -> Array:
    """log E[z] - E[log z] for z = nu + w^2 and a normal weight w, any shape.

    By bicubic Hermite interpolation of the table, constant outside its grid.

    Smooth, since training follows the gradient: between the slopes of the log's and of
    the entropy's terms, which all but cancel for a large alpha, a piecewise linear gap
    would have minima at points of the grid.

    Args:
      log_alpha: log of variance / mean^2 of w.
      log_ratio: log of nu / variance.
    """

    def place(value, grid):
        low, high, count = grid
        position = (jnp.clip(value, low, high) - low) * ((count - 1) / (high - low))
        index = jnp.minimum(position.astype(jnp.int32), count - 2)
        u = position - index
        # Of the values at 0 and 1, then of the slopes there.
        rise = u * u * (3 - 2 * u)
        return index, ((1 - rise, rise), (u * (1 - u) ** 2, u * u * (u - 1)))

    (i, (a_value, a_slope)), (j, (t_value, t_slope)) = (
        place(log_alpha, _LOG_ALPHA_GRID),
        place(log_ratio, _LOG_RATIO_GRID),
    )
    gaps = jnp.asarray(_jensen_gaps())
    total = jnp.zeros(())
    for di in (0, 1):
        for dj in (0, 1):
            at = gaps[i + di, j + dj]
            total += a_value[di] * (
                t_value[dj] * at[..., 0] + t_slope[dj] * at[..., 2]
            ) + a_slope[di] * (t_value[dj] * at[..., 1] + t_slope[dj] * at[..., 3])
    return total
