"""Normal priors of a layer's weights whose scale is not fixed, each in closed form.

    empirical_normal     N(0, s^2) with the best s of each layer: empirical Bayes, that
                         is, type-II maximum likelihood of the scale under the ELBO
    hierarchical_normal  the same with an inverse gamma law over s^2, at the s that it
                         and the weights favour most together

Nothing is learned but the posterior: for given moments of the weights the best scale is
known, so the KL is a function of the posterior alone. `priors.standard_normal` has a
fixed scale, `group_priors.group_ard` one for each unit, `priors.ard` one for each
weight.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp

from vnets.posteriors import (
    Gaussian,
    Multiplicative,
    Posterior,
    ZeroMean,
    second_moment,
)
from vnets.priors import VAR_FLOOR, Prior
from vnets.types import Array


def empirical_normal(node: Posterior) -> Array:
    """KL to N(0, s^2) at its least, with s^2 the mean of mean^2 + var over the layer.

    sum_i 1/2 ln(s^2 / var_i) for the n weights of the layer.
    """
    second, var = _moments(node, "empirical_normal")
    log_square = jnp.log(jnp.mean(second) + VAR_FLOOR)
    return 0.5 * jnp.sum(log_square - jnp.log(var + VAR_FLOOR))


def hierarchical_normal(shape: float = 1.0, rate: float = 1e-2) -> Prior:
    """KL to N(0, s^2) minus ln p(s^2), s^2 ~ InverseGamma(shape, rate), at its least.

    s^2 = (sum_i (mean_i^2 + var_i) + 2 rate) / (n + 2 shape + 2): between the scale of
    `empirical_normal` and the mode of the hyperprior, rate / (shape + 1). A density may
    be above one, so the value may be negative.

    Args:
      shape: a of the density ~ s^-2(a + 1) exp(-rate / s^2), > 0.
      rate: its b, > 0.

    Raises:
      ValueError: a shape or rate that is not positive.
    """
    if not (shape > 0 and rate > 0):
        raise ValueError(
            f"an inverse gamma law needs a positive shape and rate, not {shape}, {rate}"
        )
    constant = math.lgamma(shape) - shape * math.log(rate)

    def hierarchical(node: Posterior) -> Array:
        second, var = _moments(node, "hierarchical_normal")
        total, n = jnp.sum(second), second.size
        square = (total + 2 * rate) / (n + 2 * shape + 2)
        log_square = jnp.log(square)
        divergence = 0.5 * (
            total / square - n + jnp.sum(log_square - jnp.log(var + VAR_FLOOR))
        )
        return divergence + (shape + 1) * log_square + rate / square + constant

    return hierarchical


def _moments(node: Posterior, name: str) -> tuple[Array, Array]:
    """mean^2 + var and var of each weight."""
    if not isinstance(node, Gaussian | Multiplicative | ZeroMean):
        raise TypeError(
            f"prior {name} does not fit a {type(node).__name__} node; it takes "
            "Gaussian, Multiplicative and ZeroMean"
        )
    if node.noise != "normal":
        raise TypeError(f"{name} does not fit {node.noise} noise, which has no such KL")
    mean, var = node.moments()
    return second_moment(mean, var), var


PRIORS: dict[str, Callable[..., Prior]] = {
    "empirical_normal": lambda: empirical_normal,
    "hierarchical_normal": hierarchical_normal,
}
