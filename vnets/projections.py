"""Projections: params -> params, applied after each update of the optimizer."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from vnets.posteriors import Multiplicative, Scaled, is_posterior
from vnets.types import Params

Projection = Callable[[Params], Params]


def clip_log_alpha(low: float = -jnp.inf, high: float = jnp.inf) -> Projection:
    """Keeps every trained log alpha in [low, high], also inside Scaled nodes.

    The authors clip at +-20 in variance-network runs and at +-8 in sparse VD runs; the
    lower value stops the transition to a variance network, so keep them apart.
    """
    if not low < high:
        raise ValueError(f"clip_log_alpha: low {low} must be below high {high}")

    def project(node):
        if isinstance(node, Scaled):
            return dataclasses.replace(
                node, scale=project(node.scale), weight=project(node.weight)
            )
        if not isinstance(node, Multiplicative):
            return node
        return dataclasses.replace(node, log_alpha=jnp.clip(node.log_alpha, low, high))

    return lambda params: jax.tree.map(project, params, is_leaf=is_posterior)


at_most_one = clip_log_alpha(high=0.0)  # alpha <= 1, the domain of Kingma et al. 2015
