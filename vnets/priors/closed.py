"""Priors of single weights with a formula or a fit: normal, log-uniform, ARD, t.

The log-uniform prior is improper: its KL is defined up to a constant, here chosen so
that it tends to 0 for alpha -> infinity. Under it a variance layer (ZeroMean, whatever
its noise) costs nothing, since the prior does not know the scale.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from vnets.nodes import Posterior, ZeroMean, log_alpha
from vnets.nodes.base import zeroed
from vnets.priors.base import (
    VAR_FLOOR,
    AnyPrior,
    Maker,
    Prior,
    check_normal,
    misfit,
    sum_kept,
)
from vnets.priors.jensen import jensen_gap
from vnets.types import Array


@Maker
def standard_normal(scale: float = 1.0) -> Prior:
    """KL from N(0, scale^2): (mean^2 + var) / (2 scale^2) - ln(std / scale) - 1/2.

    Args:
      scale: standard deviation of the prior (not its variance), > 0.
    """
    if not scale > 0:
        raise ValueError(f"a prior's standard deviation must be positive, not {scale}")

    def normal(node: Posterior) -> Array:
        if not node.is_normal:
            own = node.kl_from(ZeroMean(jnp.full(node.shape, scale, jnp.float32)))
            if own is not None:
                return own
        check_normal(node, "standard_normal")
        mean, var = node.moments()
        second = var if mean is None else var + jnp.square(mean)
        log_std = 0.5 * jnp.log(var + VAR_FLOOR)
        each = second / (2 * scale**2) - log_std + math.log(scale) - 0.5
        return sum_kept(node, each)

    return normal


# -KL = k1 sigmoid(k2 + k3 log alpha) - 1/2 log(1 + 1/alpha) - k1
ICML17 = (0.63576, 1.87320, 1.48695)
# -KL = k1 sigmoid(k3 (log alpha + k2)) - 1/2 log(1 + 1/alpha) - k1
NIPS16 = (0.64, 1.3, 1.5)
# KL = 1/2 log(1 + 1/a) + k (1 + p1 a + p2 a^2) / (1 + q1 a + ... + q4 a^4), a = alpha
LIMIT = 0.5 * (np.euler_gamma + math.log(2))  # of KL + 1/2 log alpha, for alpha -> 0
# Fitted by least squares, reweighted until the largest error was least, on a grid of
# log alpha in [-14, 14]; q1 and q4 follow from the limits.
RATIONAL = ((1.7765782, 22.863601), (27.437841, 83.638212))  # p1, p2 and q2, q3
# -KL = 1/2 log alpha + c1 alpha + c2 alpha^2 + c3 alpha^3 + const, alpha <= 1
NIPS15 = (1.161451241083230, -1.502041176441722, 0.586299206427007)
# Makes the polynomial meet the exact -KL at alpha = 1, where its domain ends.
NIPS15_CONSTANT = -0.4267 - sum(NIPS15)


@jax.custom_jvp
def ard_kl(log_alpha: Array) -> Array:
    """KL to N(0, lambda^2) at its best lambda per weight: 1/2 log(1 + 1/alpha)."""
    # Not jax.nn.softplus: its care for infinities doubles the time of a dense net's KL.
    # Nor abs and maximum, which have no derivative at 0.
    negative = log_alpha < 0
    small = jnp.exp(jnp.where(negative, log_alpha, -log_alpha))
    return 0.5 * (jnp.where(negative, -log_alpha, 0) + jnp.log1p(small))


@ard_kl.defjvp
def _ard_kl_jvp(primals, tangents):
    (log_alpha,), (log_alpha_dot,) = primals, tangents
    return ard_kl(log_alpha), -0.5 * jax.nn.sigmoid(-log_alpha) * log_alpha_dot


def log_uniform_kl(log_alpha: Array) -> Array:
    """KL to the log-uniform prior per weight, elementwise, as fitted at ICML 2017.

    Within 0.01 nats of the exact value for log alpha in [-10, 10] (Molchanov, Ashukha
    and Vetrov 2017, equation 14).
    """
    k1, k2, k3 = ICML17
    return k1 * jax.nn.sigmoid(-(k2 + k3 * log_alpha)) + ard_kl(log_alpha)


def log_uniform_2015_kl(log_alpha: Array) -> Array:
    """KL to the log-uniform prior per weight by the polynomial of Kingma et al. 2015.

    The fit holds for alpha <= 1 only and diverges beyond. There log alpha is held at 0,
    so that the term has no gradient; train with `projections.at_most_one` as well. It
    is 0 at alpha = infinity, where a weight is pruned.
    """
    pruned = log_alpha == jnp.inf
    log_alpha = jnp.minimum(log_alpha, 0.0)
    alpha = jnp.exp(log_alpha)
    c1, c2, c3 = NIPS15
    minus = 0.5 * log_alpha + alpha * (c1 + alpha * (c2 + alpha * c3)) + NIPS15_CONSTANT
    return zeroed(-minus, pruned)


def log_uniform_2016_kl(log_alpha: Array) -> Array:
    """KL to the log-uniform prior per weight, elementwise, as fitted at NIPS 2016.

    Of the form of `log_uniform_kl`, which replaced it, and 0 at alpha = infinity;
    within 0.02 nats of the exact value for log alpha in [-10, 10] (Molchanov, Ashukha
    and Vetrov 2016, workshop on Bayesian deep learning).
    """
    k1, k2, k3 = NIPS16
    return k1 * jax.nn.sigmoid(-k3 * (log_alpha + k2)) + ard_kl(log_alpha)


def log_uniform_rational_kl(log_alpha: Array) -> Array:
    """KL to the log-uniform prior per weight, elementwise, by a rational function.

    Our fit: within 4e-4 nats of the exact value at every alpha, its slope in log alpha
    within 2e-3, at the cost of `log_uniform_kl`. With k = (gamma + ln 2) / 2 the exact
    KL is -log(alpha) / 2 + k - alpha / 2 + ... for small and 1 / (2 alpha) -
    1 / (12 alpha^2) + ... for large alpha; q1 and q4 give the fit the same terms.
    """
    return _rational(log_alpha) + ard_kl(log_alpha)


def _ratio(log_alpha: Array) -> tuple[Array, Array]:
    """What the log-uniform KL has beyond that of ARD, and its slope in log alpha."""
    (p1, p2), (q2, q3) = RATIONAL
    q1, q4 = p1 + 1 / LIMIT, 6 * LIMIT * p2
    # Beyond e^20 the ratio is 0 to all digits, and a^4 would overflow soon.
    a = jnp.exp(jnp.minimum(log_alpha, 20.0))
    above = 1 + a * (p1 + a * p2)
    below = 1 + a * (q1 + a * (q2 + a * (q3 + a * q4)))
    value = LIMIT * above / below
    above_slope = a * (p1 + a * (2 * p2))
    below_slope = a * (q1 + a * (2 * q2 + a * (3 * q3 + a * (4 * q4))))
    return value, (LIMIT * above_slope - value * below_slope) / below


@jax.custom_jvp
def _rational(log_alpha: Array) -> Array:
    return _ratio(log_alpha)[0]


@_rational.defjvp
def _rational_jvp(primals, tangents):
    (log_alpha,), (log_alpha_dot,) = primals, tangents
    value, slope = _ratio(log_alpha)
    return value, slope * log_alpha_dot


def _of_log_alpha(
    name: str, per_weight: Callable[[Array], Array], any_alpha: bool = True
) -> Maker:
    def prior(node: Posterior) -> Array:
        wrong = node.noise != "normal" if node.has_mean else not any_alpha
        if node.fixed or wrong:
            misfit(node, name, "normal noise around a mean" + ", or none" * any_alpha)
        return node.sum_over(per_weight)

    prior.__name__ = name
    prior.__doc__ = per_weight.__doc__
    return Maker(functools.wraps(prior)(lambda: prior))


log_uniform = _of_log_alpha("log_uniform", log_uniform_kl)
log_uniform_2016 = _of_log_alpha("log_uniform_2016", log_uniform_2016_kl)
log_uniform_rational = _of_log_alpha("log_uniform_rational", log_uniform_rational_kl)
log_uniform_2015 = _of_log_alpha("log_uniform_2015", log_uniform_2015_kl, False)
ard = _of_log_alpha("ard", ard_kl)


@Maker
def student_t(nu: float = 1e-8) -> Prior:
    """KL from Student's t of nu degrees of freedom and unit scale.

    E[log(nu + w^2)] is log(nu + E[w^2]) less a Jensen gap that is tabulated by
    quadrature: within 1e-3 (nu + 1) / 2 nats per weight, and smooth, so that the
    gradient is right, too. For nu towards 0 it is the log-uniform KL plus a constant
    (which grows as log(2 / nu), since the prior is proper): the limit of Neklyudov et
    al. 2019.

    Args:
      nu: degrees of freedom, > 0.
    """
    if not nu > 0:
        raise ValueError(f"degrees of freedom must be positive, not {nu}")
    log_normalizer = (
        math.lgamma((nu + 1) / 2)
        - math.lgamma(nu / 2)
        - 0.5 * math.log(nu * math.pi)
        + (nu + 1) / 2 * math.log(nu)
    )

    def student(node: Posterior) -> Array:
        check_normal(node, "student_t")
        mean, var = node.moments()
        second = var if mean is None else var + jnp.square(mean)
        log_var = jnp.log(var + VAR_FLOOR)
        gap = jensen_gap(log_alpha(node), math.log(nu) - log_var)
        expected_log = jnp.log(nu + second) - gap
        entropy = 0.5 * (log_var + math.log(2 * math.pi * math.e))
        each = (nu + 1) / 2 * expected_log - log_normalizer - entropy
        return sum_kept(node, each)

    return student


# Each weight has a KL of its own.
PRIORS: dict[str, Callable[..., AnyPrior]] = {
    "student_t": student_t,
    "standard_normal": standard_normal,
    "log_uniform": lambda: log_uniform,
    "log_uniform_2015": lambda: log_uniform_2015,
    "log_uniform_2016": lambda: log_uniform_2016,
    "log_uniform_rational": lambda: log_uniform_rational,
    "ard": lambda: ard,
}
