"""Priors that are densities: the KL is E[log q(w) - log p(w)], by draws.

Any object with `log_prob(value)`, elementwise, is such a prior: `Sampled` of a function
of yours, the mixture below, or a posterior node, so that what one task has left is
the prior of the next (`of_tree`); of one normal node from another the KL is exact, and
nothing is drawn. The estimate is unbiased, and so is its gradient. It
is made at the draw that the net runs with where that is one for the whole batch
(`estimators.weight_sampling`), and at a draw of its own otherwise: under local
reparameterization no weight is ever drawn. Closed forms have no such noise.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from vnets import tree
from vnets.edits import draw
from vnets.estimators import weight_sampling
from vnets.priors.base import Density, Maker, ScaledPrior, WeightedPrior, made
from vnets.rng import stream
from vnets.types import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class Sampled:
    """The prior of a function's density.

    Attributes:
      log_prob: values -> log density of each, in nats.
    """

    log_prob: Callable[[Array], Array]


def has_density(prior: Any) -> bool:
    """True if a prior, as `priors.kl` takes it, is a density or has one."""
    if isinstance(prior, Mapping):
        return any(map(has_density, prior.values()))
    if isinstance(prior, WeightedPrior):
        return has_density(prior.prior)
    if isinstance(prior, ScaledPrior):
        return has_density(prior.scale) or has_density(prior.weight)
    return isinstance(made(prior), Density)


def one_draw(
    params: Params, prior: Any, estimator: Callable | None, key: Key
) -> Params | None:
    """One draw of all weights, where prior and net are to share it; None elsewhere."""
    if estimator is not weight_sampling or not has_density(prior):
        return None
    return draw(params, stream(key, "weights"))


def of_tree(params: Params) -> dict[str, Density]:
    """What was learned before as the prior of what is learned next, by name.

    `vnets.continual` makes such trees of nets without noise, too.
    """
    return {place.name: node for place, node in tree.nodes(params) if not node.fixed}


@Maker
def scale_mixture(
    share: float = 0.5, wide: float = 1.0, narrow: float = math.exp(-6)
) -> Sampled:
    """share N(0, wide^2) + (1 - share) N(0, narrow^2) (Blundell et al. 2015)."""

    def log_prob(w: Array) -> Array:
        parts = (share, wide), (1 - share, narrow)
        logs = (math.log(p / s) - 0.5 * jnp.square(w / s) for p, s in parts)
        return jnp.logaddexp(*logs) - 0.5 * math.log(2 * math.pi)

    return Sampled(log_prob)


PRIORS = {"scale_mixture": scale_mixture}
