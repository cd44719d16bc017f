"""KL divergences of posterior nodes from their priors, summed over weights.

A prior is a function node -> scalar; `kl(params, prior)` sums it over a tree. Where one
alpha is shared by m weights, its term counts m times. Point weights and fixed dropout
have nothing to regularize and count as zero (a flat prior), and what is pruned
(`Posterior.pruned`) is no weight any more and counts as zero, too. A node that a prior
does not fit is a TypeError while tracing.

A prior that has no arguments, or needs none, may be given called or not: `ard` is
`ard()`, and `standard_normal` is `standard_normal(1.0)` (`Maker`).

The log-uniform prior is improper: its KL is defined up to a constant, here chosen so
that it tends to 0 for alpha -> infinity. Under it a variance layer (ZeroMean, whatever
its noise) costs nothing, since the prior does not know the scale.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vnets.names import path_name
from vnets.posteriors import (
    AdaptiveDropout,
    Dropout,
    Gaussian,
    Multiplicative,
    Point,
    Posterior,
    Scaled,
    ZeroMean,
    is_posterior,
    log_alpha,
    log_ratio,
)
from vnets.student_t import jensen_gap
from vnets.types import Array, Params

Prior = Callable[[Posterior], Array]


class Maker:
    """What makes a prior, and stands for the one that it makes without arguments.

    Called with a node it is the KL of that node, as any prior is; else it passes its
    arguments on and returns what they make.
    """

    def __init__(self, make: Callable):
        self._make = make
        functools.update_wrapper(self, make)

    def __call__(self, *args, **kwargs):
        if args and is_posterior(args[0]):
            return self._make()(*args, **kwargs)
        return self._make(*args, **kwargs)


def _made(prior) -> Any:
    return prior() if isinstance(prior, Maker) else prior


@dataclasses.dataclass(frozen=True)
class ScaledPrior:
    """The prior of `Scaled` nodes, whose parts have different ones.

    Attributes:
      scale: of the noise on units.
      weight: of the weight as it is before scaling, and of nodes that are not Scaled.
    """

    scale: Prior
    weight: Prior


@dataclasses.dataclass(frozen=True)
class WeightedPrior:
    """A prior whose KL counts more, or less, in some layers: no longer a bound.

    Attributes:
      prior: of all layers.
      factors: of the KL by layer path; 1 where none is named. Structured Bayesian
        pruning's faster variant has 10 and 5 in the first convolutions of VGG.
    """

    prior: Prior | ScaledPrior
    factors: Mapping[str, float]


AnyPrior = Prior | ScaledPrior | WeightedPrior


def kl(params: Params, prior: AnyPrior | Mapping[str, AnyPrior]) -> Array:
    """Sum of the KL over all posterior nodes of a tree, in nats; a float32 scalar.

    Args:
      params: a tree with posterior nodes.
      prior: one prior for all nodes, or a mapping from names ("dense1", "block/conv",
        "dense1/bias") to priors, in which the noisy nodes must all be named.

    Raises:
      TypeError: a prior does not fit a node.
      ValueError: a mapping without a noisy node's layer, or factors of unknown layers.
    """
    total = jnp.zeros((), jnp.float32)
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=is_posterior)
    layers = {path_name(path) for path, node in leaves if is_posterior(node)}
    for own in prior.values() if isinstance(prior, Mapping) else (prior,):
        unknown = set(own.factors if isinstance(own, WeightedPrior) else ()) - layers
        if unknown:
            raise ValueError(f"no layers {sorted(unknown)}; there are {sorted(layers)}")
    for path, node in leaves:
        for _, part, own, factor in parts(path_name(path), node, prior):
            value = own(part)
            if callable(value) or jnp.shape(value):
                raise TypeError(
                    f"the prior of {path_name(path)!r} is a function of a node that "
                    f"gives one number, its KL in nats, not {value!r}"
                )
            total += factor * value
    return total


def parts(name: str, node, prior) -> Iterator[tuple[str, Posterior, Prior, float]]:
    """The nodes whose KLs add up to a leaf's: role, node, its prior and a factor.

    The role is "weight", or "scale" for the noise on the units of a Scaled node.

    Args:
      name: of the leaf.
      node: the leaf; points, dropout and arrays have no KL and give nothing.
      prior: as in `kl`.
    """
    for part, role in _parts(node):
        own, factor = _for_layer(prior, name)
        own = _made(getattr(own, role) if isinstance(own, ScaledPrior) else own)
        yield role, part, own, factor


def _parts(node, role: str = "weight") -> list[tuple[Posterior, str]]:
    """The nodes whose KLs add up to this leaf's, each a "weight" or a "scale"."""
    if isinstance(node, Scaled):
        return _parts(node.scale, "scale") + _parts(node.weight, role)
    if not is_posterior(node) or isinstance(node, Point | Dropout):
        return []
    return [(node, role)]


def _for_layer(prior: Any, layer: str) -> tuple[Any, float]:
    """The layer's prior, one or a `ScaledPrior`, and the factor of its KL."""
    if isinstance(prior, Mapping):
        if layer not in prior:
            raise ValueError(f"no prior for layer {layer!r}; there are {sorted(prior)}")
        prior = prior[layer]
    factor = 1.0
    if isinstance(prior, WeightedPrior):
        prior, factor = prior.prior, prior.factors.get(layer, 1.0)
    prior = _made(prior)
    if not (callable(prior) or isinstance(prior, ScaledPrior)):
        raise ValueError(f"a prior is a function of vnets.priors, not {prior!r}")
    return prior, factor


def sum_kept(node: Posterior, each: Array) -> Array:
    """The sum over the weights of a node that are not pruned; scalar."""
    return jnp.sum(jnp.where(node.pruned(), 0, each))


@jax.custom_jvp
def _zeroed(each: Array, where: Array) -> Array:
    """0 in the place of some entries, whose gradients are 0 or of no use anyway.

    So the gradients of all others stay as they are, to the bit.
    """
    return jnp.where(where, 0, each)


@_zeroed.defjvp
def _zeroed_jvp(primals, tangents):
    return _zeroed(*primals), tangents[0]


def count_pruned(node: Posterior, axes: tuple[int, ...] | None = None) -> Array:
    """How many of the weights along these axes, or of all, are pruned."""
    gone = jnp.broadcast_to(node.pruned(), node.shape)
    return jnp.sum(gone, axes, jnp.float32, keepdims=axes is not None)


def per_kept(node: Posterior, axes: tuple[int, ...] | None = None) -> Array:
    """What a mean over weights is multiplied by to be one over those not pruned."""
    along = range(len(node.shape)) if axes is None else axes
    size = math.prod(node.shape[axis] for axis in along)
    return size / jnp.maximum(size - count_pruned(node, axes), 1)


# The logarithm of a zero variance stays finite; below 1.2e-38 floats are flushed to 0.
VAR_FLOOR = 1e-37


@Maker
def standard_normal(scale: float = 1.0) -> Prior:
    """KL from N(0, scale^2): (mean^2 + var) / (2 scale^2) - ln(std / scale) - 1/2.

    Args:
      scale: standard deviation of the prior (not its variance), > 0.
    """
    if not scale > 0:
        raise ValueError(f"a prior's standard deviation must be positive, not {scale}")

    def normal(node: Posterior) -> Array:
        _require(node, "standard_normal", Gaussian, Multiplicative, ZeroMean)
        if node.noise != "normal":
            raise TypeError(
                f"standard_normal does not fit {node.noise} noise, which has no such KL"
            )
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
    return _zeroed(-minus, pruned)


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


def _of_log_alpha(name: str, per_weight: Callable[[Array], Array], *also) -> Prior:
    def prior(node: Posterior) -> Array:
        _require(node, name, Gaussian, Multiplicative, AdaptiveDropout, *also)
        if isinstance(node, ZeroMean):
            return jnp.zeros((), jnp.float32)
        if node.noise != "normal":
            raise TypeError(f"{name} does not fit {node.noise} noise around a mean")
        if isinstance(node, Multiplicative):
            shared = node.mean.size / node.log_alpha.size
            return shared * jnp.sum(per_weight(node.log_alpha))
        if isinstance(node, AdaptiveDropout):
            # Of one layer: under nn.scan log alpha has an axis of layers before.
            shared = node.weights * node.units / node.log_alpha.shape[-1]
            return shared * jnp.sum(per_weight(node.log_alpha))
        return jnp.sum(_zeroed(per_weight(log_ratio(node)), node.pruned()))

    prior.__name__ = name
    prior.__doc__ = per_weight.__doc__
    return Maker(functools.wraps(prior)(lambda: prior))


def _require(node: Posterior, name: str, *kinds) -> None:
    if not isinstance(node, kinds):
        raise TypeError(
            f"prior {name} does not fit a {type(node).__name__} node; it takes "
            + ", ".join(kind.__name__ for kind in kinds)
        )


log_uniform = _of_log_alpha("log_uniform", log_uniform_kl, ZeroMean)
log_uniform_2016 = _of_log_alpha("log_uniform_2016", log_uniform_2016_kl, ZeroMean)
log_uniform_rational = _of_log_alpha(
    "log_uniform_rational", log_uniform_rational_kl, ZeroMean
)
log_uniform_2015 = _of_log_alpha("log_uniform_2015", log_uniform_2015_kl)
ard = _of_log_alpha("ard", ard_kl, ZeroMean)


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
        _require(node, "student_t", Gaussian, Multiplicative, ZeroMean)
        if node.noise != "normal":
            raise TypeError(
                f"student_t does not fit {node.noise} noise, which has no such KL"
            )
        mean, var = node.moments()
        second = var if mean is None else var + jnp.square(mean)
        log_var = jnp.log(var + VAR_FLOOR)
        ratio = log_ratio(node) if isinstance(node, Gaussian) else log_alpha(node)
        gap = jensen_gap(ratio, math.log(nu) - log_var)
        expected_log = jnp.log(nu + second) - gap
        entropy = 0.5 * (log_var + math.log(2 * math.pi * math.e))
        each = (nu + 1) / 2 * expected_log - log_normalizer - entropy
        return sum_kept(node, each)

    return student


PRIORS: dict[str, Callable[..., AnyPrior]] = {
    "student_t": student_t,
    "standard_normal": standard_normal,
    "log_uniform": lambda: log_uniform,
    "log_uniform_2015": lambda: log_uniform_2015,
    "log_uniform_2016": lambda: log_uniform_2016,
    "log_uniform_rational": lambda: log_uniform_rational,
    "ard": lambda: ard,
}
