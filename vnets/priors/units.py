"""KLs of posteriors that let whole units go: of their scales, or of groups of weights.

    group_ard              N(0, lambda_j^2) for the weights of unit j, best lambda_j
    structured             truncated log-uniform scales (Neklyudov et al. 2017)
    group_normal_jeffreys  p(z) ~ 1 / |z|, weights N(0, 1) before scaling, and
    group_horseshoe        half-Cauchy scales (both Louizos, Ullrich and Welling 2017)
    ghosh_horseshoe        the same by inverse gammas (Ghosh and Doshi-Velez 2017)

The last four are pairs for `Scaled` nodes: one prior for the scale, one for the weight
as it is before scaling (the non-centred form), for which the KLs are exact sums. A
layer that is not Scaled has the prior of the weight. `bernoulli` is of binary dropout.
"""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from vnets.nodes import (
    AdaptiveBinaryDropout,
    Horseshoe,
    LogNormal,
    Posterior,
    TruncatedLogNormal,
    other_axes,
)
from vnets.priors.base import (
    VAR_FLOOR,
    Maker,
    Prior,
    ScaledPrior,
    check_kind,
    check_normal,
    per_kept,
    sum_kept,
)
from vnets.priors.closed import log_uniform, standard_normal
from vnets.types import Array


@Maker
def group_ard(axis: str = "unit") -> Prior:
    """KL to N(0, lambda_j^2), one lambda for all weights of a unit, at its optimum.

    lambda_j^2 = mean over the unit's weights of mean^2 + var, which leaves
    sum_j [m / 2 ln lambda_j^2 - sum_i ln std_ij]; nothing is learned but the posterior.

    Args:
      axis: the units: "in"puts, "out"puts, or "unit", inputs of a dense layer and maps
        of a convolution.

    Raises:
      ValueError: an axis that does not exist.
    """
    other_axes(axis, (1, 1))

    def ard(node: Posterior) -> Array:
        check_normal(node, "group_ard", mean=True)
        mean, var = node.moments()
        axes = other_axes(axis, node.shape)
        second = jnp.mean(jnp.square(mean) + var, axes, keepdims=True)
        second = second * per_kept(node, axes)
        each = jnp.log(second + VAR_FLOOR) - jnp.log(var + VAR_FLOOR)
        return 0.5 * sum_kept(node, each)

    return ard


def truncated_log_uniform(node: Any) -> Array:
    """KL of truncated log-normal scales to the log-uniform law on the same interval.

    As Neklyudov et al. 2017 have it in closed form; here by quadrature in float32.
    """
    check_kind(node, "truncated_log_uniform", TruncatedLogNormal)
    return jnp.sum(node.kl())


def gamma_kl(node: LogNormal, scale: float = 1.0) -> Array:
    """KL of log-normals to Gamma(1/2, scale), density ~ x^(-1/2) exp(-x / scale).

    exp(m + v / 2) / scale - (m + ln(2 v / scale) + 1) / 2, elementwise, for ln x of
    mean m and variance v; m and -1 in place of 1 for the inverse gamma, since 1 / x is
    log-normal too.
    """
    var = jnp.exp(node.log_var)
    log_scale = math.log(scale)
    mean = node.log_mean - log_scale
    return jnp.exp(mean + 0.5 * var) - 0.5 * (mean + node.log_var + math.log(2) + 1)


def inverse_gamma_kl(node: LogNormal) -> Array:
    """KL of log-normals to the inverse gamma law (1/2, 1): 1 / x is Gamma(1/2, 1)."""
    return gamma_kl(LogNormal(-node.log_mean, node.log_var))


@Maker
def half_cauchy(scale: float = 1.0) -> Prior:
    """KL of horseshoe scales: the layer's to C+(0, scale), each unit's to C+(0, 1).

    If a ~ Gamma(1/2, scale^2) and b ~ InverseGamma(1/2, 1), sqrt(a b) ~ C+(0, scale).

    Args:
      scale: of the layer's half-Cauchy (tau_0 of Louizos et al.), > 0.

    Raises:
      ValueError: a scale that is not positive.
    """
    if not scale > 0:
        raise ValueError(f"the scale of a half-Cauchy must be positive, not {scale}")

    def horseshoe(node: Any) -> Array:
        check_kind(node, "half_cauchy", Horseshoe)
        shared_a, shared_b = _pair(node.shared, -1)
        unit_a, unit_b = _pair(node.unit, -2)
        shared = gamma_kl(shared_a, scale**2) + inverse_gamma_kl(shared_b)
        unit = gamma_kl(unit_a) + inverse_gamma_kl(unit_b)
        return jnp.sum(shared) + jnp.sum(unit)

    return horseshoe


def half_cauchy_bound(node: LogNormal, scale: float = 1.0) -> Array:
    """KL of log-normals to C+(0, scale) with an auxiliary variable, elementwise.

    If t^2 ~ InverseGamma(1/2, 1 / l) and l ~ InverseGamma(1/2, 1 / scale^2), then t is
    half-Cauchy. The best q(l) for a q(t) is InverseGamma(1, 1 / scale^2 + E[1 / t^2]),
    which Ghosh and Doshi-Velez take after each update; at it the KL of both is

        ln pi + ln(e^m + e^(2 v - m)) - (ln v + ln(8 pi e)) / 2

    for ln(t / scale) of mean m and variance v. It is above the KL of t alone, by less
    the smaller v is.
    """
    mean = node.log_mean - math.log(scale)
    both = jnp.logaddexp(mean, 2 * jnp.exp(node.log_var) - mean)
    entropy = 0.5 * (node.log_var + math.log(8 * math.pi) + 1)
    return math.log(math.pi) + both - entropy


@Maker
def ghosh_half_cauchy(b0: float = 1.0, bg: float = 1.0) -> Prior:
    """`half_cauchy_bound` of horseshoe scales: each unit's C+(0, b0), the layer's
    C+(0, bg).

    The node's roots sqrt(a_i b_i) and sqrt(s_a s_b) are what has the priors; how each
    is parted into its factors costs nothing.

    Args:
      b0: scale of the units' half-Cauchy, > 0.
      bg: scale of the layer's, > 0.

    Raises:
      ValueError: a scale that is not positive.
    """
    if not (b0 > 0 and bg > 0):
        raise ValueError(f"scales of half-Cauchys must be positive, not {b0}, {bg}")

    def horseshoe(node: Any) -> Array:
        check_kind(node, "ghosh_half_cauchy", Horseshoe)
        units = jnp.sum(half_cauchy_bound(node.own, b0))
        return units + jnp.sum(half_cauchy_bound(node.layer, bg))

    return horseshoe


def _pair(node: LogNormal, axis: int) -> tuple[LogNormal, LogNormal]:
    """The two factors, which lie along an axis."""
    first, second = (
        LogNormal(jnp.take(node.log_mean, i, axis), jnp.take(node.log_var, i, axis))
        for i in (0, 1)
    )
    return first, second


@Maker
def structured(weight_scale: float = 1.0) -> ScaledPrior:
    """Truncated log-uniform scales; weights N(0, weight_scale^2), points as flat.

    Args:
      weight_scale: standard deviation of the prior of the weights, where they have
        noise of their own; the authors' are points.
    """
    return ScaledPrior(truncated_log_uniform, standard_normal(weight_scale))


@Maker
def group_normal_jeffreys(weight_scale: float = 1.0) -> ScaledPrior:
    """p(z) ~ 1 / |z| for Gaussian scales by the fit of ICML 2017; weights N(0, 1).

    Args:
      weight_scale: standard deviation of the prior of the weights before scaling.
    """
    return ScaledPrior(log_uniform, standard_normal(weight_scale))


@Maker
def group_horseshoe(scale: float = 1.0, weight_scale: float = 1.0) -> ScaledPrior:
    """Half-Cauchy scales of units and of the layer; weights N(0, 1).

    Args:
      scale: of the layer's half-Cauchy.
      weight_scale: standard deviation of the prior of the weights before scaling.
    """
    return ScaledPrior(half_cauchy(scale), standard_normal(weight_scale))


@Maker
def ghosh_horseshoe(
    b0: float = 1.0, bg: float = 1.0, weight_scale: float = 1.0
) -> ScaledPrior:
    """Half-Cauchy scales of units and of the layer, by inverse gammas; weights N(0, 1).

    Args:
      b0, bg: see `ghosh_half_cauchy`.
      weight_scale: standard deviation of the prior of the weights before scaling.
    """
    return ScaledPrior(ghosh_half_cauchy(b0, bg), standard_normal(weight_scale))


@Maker
def bernoulli(rate: float = 0.5) -> Prior:
    """KL of learned masks from independent coins, summed over units (not weights).

    p ln(p / rate) + (1 - p) ln((1 - p) / (1 - rate)); ln 2 - H(p) for a fair coin.

    Args:
      rate: probability of dropping a unit a priori, 0 < rate < 1.

    Raises:
      ValueError: another rate.
    """
    if not 0.0 < rate < 1.0:
        raise ValueError(f"a prior's dropout rate must be in (0, 1), not {rate}")

    def prior(node: Any) -> Array:
        check_kind(node, "bernoulli", AdaptiveBinaryDropout)
        log_drop, log_keep = node.log_probabilities()
        each = jnp.exp(log_drop) * (log_drop - math.log(rate))
        each += jnp.exp(log_keep) * (log_keep - math.log1p(-rate))
        return node.units / node.log_alpha.shape[-1] * jnp.sum(each)

    return prior


PRIORS: dict[str, Callable[..., Prior | ScaledPrior]] = {
    "group_ard": group_ard,
    "structured": structured,
    "group_normal_jeffreys": group_normal_jeffreys,
    "group_horseshoe": group_horseshoe,
    "ghosh_horseshoe": ghosh_horseshoe,
    "bernoulli": bernoulli,
}
