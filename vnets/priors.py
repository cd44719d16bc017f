"""KL divergences of posterior nodes from their priors, summed over weights.

A prior is a function node -> scalar; `kl(params, prior)` sums it over a tree. Where one
alpha is shared by m weights, its term counts m times. Point weights and fixed dropout
have nothing to regularize and count as zero (a flat prior). A node that a prior does
not fit is a TypeError while tracing.

The log-uniform prior is improper: its KL is defined up to a constant, here chosen so
that it tends to 0 for alpha -> infinity. Under it a variance layer (ZeroMean, whatever
its noise) costs nothing, since the prior does not know the scale.
"""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from vnets.edits import path_name
from vnets.posteriors import (
    Dropout,
    Gaussian,
    Multiplicative,
    Point,
    Posterior,
    Scaled,
    ZeroMean,
    is_posterior,
)
from vnets.posteriors import log_alpha as node_log_alpha
from vnets.types import Array, Params

Prior = Callable[[Posterior], Array]


def kl(params: Params, prior: Prior | Mapping[str, Prior]) -> Array:
    """Sum of the KL over all posterior nodes of a tree, in nats; a float32 scalar.

    Args:
      params: a tree with posterior nodes.
      prior: one prior for all nodes, or a mapping from layer paths ("dense1",
        "block/conv") to priors, in which the noisy nodes must all be named.

    Raises:
      TypeError: a prior does not fit a node.
      ValueError: a mapping without a noisy node's layer.
    """
    total = jnp.zeros((), jnp.float32)
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=is_posterior)
    for path, node in leaves:
        for part in _parts(node):
            total += _for_layer(prior, path_name(path))(part)
    return total


def _parts(node) -> list[Posterior]:
    """The nodes whose KLs add up to this leaf's."""
    if isinstance(node, Scaled):
        return _parts(node.scale) + _parts(node.weight)
    if not is_posterior(node) or isinstance(node, Point | Dropout):
        return []
    return [node]


def _for_layer(prior, layer: str) -> Prior:
    if not isinstance(prior, Mapping):
        return prior
    if layer not in prior:
        raise ValueError(f"no prior for layer {layer!r}; there are {sorted(prior)}")
    return prior[layer]


# The logarithm of a zero variance stays finite; below 1.2e-38 floats are flushed to 0.
VAR_FLOOR = 1e-37


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
        return jnp.sum(each)

    return normal


# -KL = k1 sigmoid(k2 + k3 log alpha) - 1/2 log(1 + 1/alpha) - k1
ICML17 = (0.63576, 1.87320, 1.48695)
# -KL = 1/2 log alpha + c1 alpha + c2 alpha^2 + c3 alpha^3 + const, alpha <= 1
NIPS15 = (1.161451241083230, -1.502041176441722, 0.586299206427007)
# Makes the polynomial meet the exact -KL at alpha = 1, where its domain ends.
NIPS15_CONSTANT = -0.4267 - sum(NIPS15)


def log_uniform_kl(log_alpha: Array) -> Array:
    """KL to the log-uniform prior per weight, elementwise, as fitted at ICML 2017.

    Within 0.01 nats of the exact value for log alpha in [-10, 10] (Molchanov, Ashukha
    and Vetrov 2017, equation 14).
    """
    k1, k2, k3 = ICML17
    return k1 * jax.nn.sigmoid(-(k2 + k3 * log_alpha)) + 0.5 * jax.nn.softplus(
        -log_alpha
    )


def log_uniform_2015_kl(log_alpha: Array) -> Array:
    """KL to the log-uniform prior per weight by the polynomial of Kingma et al. 2015.

    The fit holds for alpha <= 1 only and diverges beyond. There log alpha is held at 0,
    so that the term has no gradient; train with `projections.at_most_one` as well.
    """
    log_alpha = jnp.minimum(log_alpha, 0.0)
    alpha = jnp.exp(log_alpha)
    c1, c2, c3 = NIPS15
    return -(
        0.5 * log_alpha + alpha * (c1 + alpha * (c2 + alpha * c3)) + NIPS15_CONSTANT
    )


def ard_kl(log_alpha: Array) -> Array:
    """KL to N(0, lambda^2) at its best lambda per weight: 1/2 log(1 + 1/alpha)."""
    return 0.5 * jax.nn.softplus(-log_alpha)


def _of_log_alpha(name: str, per_weight: Callable[[Array], Array], *also) -> Prior:
    def prior(node: Posterior) -> Array:
        _require(node, name, Gaussian, Multiplicative, *also)
        if isinstance(node, ZeroMean):
            return jnp.zeros((), jnp.float32)
        if node.noise != "normal":
            raise TypeError(f"{name} does not fit {node.noise} noise around a mean")
        if isinstance(node, Multiplicative):
            shared = node.mean.size / node.log_alpha.size
            return shared * jnp.sum(per_weight(node.log_alpha))
        return jnp.sum(per_weight(node_log_alpha(node)))

    prior.__name__ = name
    prior.__doc__ = per_weight.__doc__
    return prior


def _require(node: Posterior, name: str, *kinds) -> None:
    if not isinstance(node, kinds):
        raise TypeError(
            f"prior {name} does not fit a {type(node).__name__} node; it takes "
            + ", ".join(kind.__name__ for kind in kinds)
        )


log_uniform = _of_log_alpha("log_uniform", log_uniform_kl, ZeroMean)
log_uniform_2015 = _of_log_alpha("log_uniform_2015", log_uniform_2015_kl)
ard = _of_log_alpha("ard", ard_kl, ZeroMean)

PRIORS: dict[str, Callable[[], Prior]] = {
    "standard_normal": standard_normal,
    "log_uniform": lambda: log_uniform,
    "log_uniform_2015": lambda: log_uniform_2015,
    "ard": lambda: ard,
}
