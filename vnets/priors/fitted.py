"""Priors of a layer's weights whose scale is not fixed, each in closed form.

    empirical_normal     N(0, s^2) with the best s of each layer: empirical Bayes, that
                         is, type-II maximum likelihood of the scale under the ELBO
    empirical_laplace    the same of a Laplace prior (Graves 2011 has both, for a net)
    empirical_each       N(m, s^2) with the best m and s of each weight, which leaves no
                         KL: what goes wrong with empirical Bayes
    hierarchical_normal  normal, with an inverse gamma law over s^2, at the s that it
                         and the weights favour most together

Nothing is learned but the posterior: for given moments of the weights the best scale is
known, so the KL is a function of the posterior alone; `learned_scales` says what it is.
A stochastic bias has a scale of its own, apart from its layer's weights.
`priors.standard_normal` has a fixed scale, `priors.group_ard` one for each unit,
`priors.ard` one for each weight, around 0.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vnets import tree
from vnets.nodes import Posterior, second_moment
from vnets.priors.base import (
    VAR_FLOOR,
    Maker,
    Prior,
    check_normal,
    count_pruned,
    parts,
    per_kept,
    sum_kept,
)
from vnets.types import Array, Moment, Params


@dataclasses.dataclass(frozen=True)
class EmpiricalNormal:
    """KL to N(0, s^2) at its least, with s^2 the mean of mean^2 + var over the layer.

    sum_i 1/2 ln(s^2 / var_i) for the n weights of the layer. Without a node it is
    itself, as `priors.Maker` says of others.
    """

    def __call__(self, node: Posterior | None = None) -> Any:
        if node is None:
            return self
        second, var = _moments(node, "empirical_normal")
        log_square = jnp.log(jnp.mean(second) * per_kept(node) + VAR_FLOOR)
        return 0.5 * _sum_log_ratio(node, log_square, var)

    def scale(self, node: Posterior) -> Array:
        """The best s of the node's layer."""
        second, _ = _moments(node, "empirical_normal")
        return jnp.sqrt(jnp.mean(second) * per_kept(node))


empirical_normal = EmpiricalNormal()


@dataclasses.dataclass(frozen=True)
class EmpiricalLaplace:
    """KL to exp(-|w| / b) / (2 b) at its least, with b the mean of E|w| over the layer.

    For the n weights of the layer n (ln 2b + 1) - sum_i 1/2 ln(2 pi e var_i); E|w| is
    that of a folded normal. Without a node it is itself, as `empirical_normal` is.
    """

    def __call__(self, node: Posterior | None = None) -> Any:
        if node is None:
            return self
        _, var = _moments(node, "empirical_laplace")
        each = jnp.log(2 * self.scale(node) + SIZE_FLOOR) + 0.5
        log_var = math.log(2 * math.pi) + jnp.log(var + VAR_FLOOR)
        return sum_kept(node, each - 0.5 * log_var)

    def scale(self, node: Posterior) -> Array:
        """The best b of the node's layer."""
        _, var = _moments(node, "empirical_laplace")
        mean, _ = node.moments()
        return jnp.mean(_expected_size(mean, var)) * per_kept(node)


empirical_laplace = EmpiricalLaplace()
SIZE_FLOOR = 1e-30  # of a Laplace prior's scale, where no weight is left


@dataclasses.dataclass(frozen=True)
class EmpiricalEach:
    """KL to N(m_i, s_i^2) at its least, a mean and a deviation for each weight: 0.

    The best prior is the posterior itself, whatever that is. So nothing is paid for
    what the weights know, the bound is the expected log likelihood, and the best
    posterior has no noise: type-II maximum likelihood with as many numbers as weights
    is maximum likelihood. Without a node it is itself, as `empirical_normal` is.
    """

    def __call__(self, node: Posterior | None = None) -> Any:
        if node is None:
            return self
        check_normal(node, "empirical_each")
        return jnp.zeros((), jnp.float32)

    def scale(self, node: Posterior) -> Array:
        """The root mean square of the best s of all weights."""
        _, var = _moments(node, "empirical_each")
        return jnp.sqrt(jnp.mean(var) * per_kept(node))


empirical_each = EmpiricalEach()


@dataclasses.dataclass(frozen=True)
class HierarchicalNormal:
    """See `hierarchical_normal`, which makes it.

    Attributes:
      shape: of the inverse gamma law.
      rate: of it.
    """

    shape: float
    rate: float

    def __call__(self, node: Posterior) -> Array:
        second, var = _moments(node, "hierarchical_normal")
        total, n = jnp.sum(second), second.size
        square = self._square(node, total)
        log_square = jnp.log(square)
        each = _sum_log_ratio(node, log_square, var)
        divergence = 0.5 * (total / square - n + each + count_pruned(node))
        constant = math.lgamma(self.shape) - self.shape * math.log(self.rate)
        hyper = (self.shape + 1) * log_square + self.rate / square + constant
        return divergence + hyper

    def scale(self, node: Posterior) -> Array:
        """The s that the hyperprior and the weights of the node's layer favour most."""
        second, _ = _moments(node, "hierarchical_normal")
        return jnp.sqrt(self._square(node, jnp.sum(second)))

    def _square(self, node: Posterior, total: Array) -> Array:
        count = math.prod(node.shape) + 2 * self.shape + 2
        return (total + 2 * self.rate) / count * (count / (count - count_pruned(node)))


@Maker
def hierarchical_normal(shape: float = 1.0, rate: float = 1e-2) -> HierarchicalNormal:
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
    return HierarchicalNormal(shape, rate)


LEARNED = (EmpiricalNormal, EmpiricalLaplace, EmpiricalEach, HierarchicalNormal)


def learned_scales(params: Params, prior) -> dict[str, Array]:
    """The scale s of each node that has one of its own, by the node's name.

    Args:
      params: a tree with posterior nodes.
      prior: as in `priors.kl`; only those of this module learn a scale, of others
        there is none. That of the noise on units is "NAME/units".
    """
    found = {}
    for place, node in tree.nodes(params):
        name = place.name
        for role, part, own, _ in parts(place, node, prior):
            if isinstance(own, LEARNED):
                found[name if role == "weight" else f"{name}/units"] = own.scale(part)
    return found


def _sum_log_ratio(node: Posterior, log_square: Array, var: Array) -> Array:
    """The sum of ln(s^2 / var) over the weights that are not pruned."""
    # Where none is, nothing is subtracted, and the numbers are those of the plain sum.
    pruned = log_square - math.log(VAR_FLOOR)
    each = log_square - jnp.log(var + VAR_FLOOR)
    return jnp.sum(each) - count_pruned(node) * pruned


def _expected_size(mean: Moment, var: Array) -> Array:
    """E|w| of normal weights: s sqrt(2 / pi) exp(-z^2 / 2) + mean (1 - 2 P(-z))."""
    std = jnp.sqrt(var + VAR_FLOOR)
    if mean is None:
        return math.sqrt(2 / math.pi) * std
    z = jnp.clip(mean / std, -FARTHEST, FARTHEST)
    centre = math.sqrt(2 / math.pi) * std * jnp.exp(-0.5 * jnp.square(z))
    return centre + mean * jax.scipy.special.erf(z / math.sqrt(2))


FARTHEST = 20.0  # standard deviations; beyond them |w| is |mean| to all digits


def _moments(node: Posterior, name: str) -> tuple[Array, Array]:
    """mean^2 + var and var of each weight."""
    check_normal(node, name)
    mean, var = node.moments()
    return second_moment(mean, var), var


PRIORS: dict[str, Callable[..., Prior]] = {
    "empirical_normal": lambda: empirical_normal,
    "empirical_laplace": lambda: empirical_laplace,
    "empirical_each": lambda: empirical_each,
    "hierarchical_normal": hierarchical_normal,
}
