"""Projections: (params, step) -> params, applied after each update of the optimizer.

`step` counts the updates done, this one included; only those that follow a schedule
need it (`vnets.pruning` has some).
"""

from collections.abc import Callable

import jax.numpy as jnp

from vnets import tree
from vnets.nodes import is_posterior
from vnets.types import Array, Params

Projection = Callable[[Params, Array | None], Params]


def clip_log_alpha(
    low: float = -jnp.inf, high: float = jnp.inf, additive: bool = False
) -> Projection:
    """Keeps every trained log alpha in [low, high], also inside Scaled nodes.

    The authors clip at +-20 in variance-network runs and at +-8 in sparse VD runs; the
    lower value stops the transition to a variance network, so keep them apart.

    Args:
      low: least log alpha.
      high: largest.
      additive: that of additive noise, too, by moving its variance after the mean.

    Raises:
      ValueError: low is not below high.
    """
    if not low < high:
        raise ValueError(f"clip_log_alpha: low {low} must be below high {high}")

    return _on_nodes(lambda place, node: node.clipped(low, high, additive))


def drop_idle_means(threshold: float = 3.0) -> Projection:
    """Sets the means of additive noise to zero wherever log alpha is above a threshold.

    The variances stay. A mean that noise drowns is gone then, unless a single step
    lifts it back over the threshold; `nodes.Thresholded` masks it as the authors of
    sparse variational dropout do, and keeps its value. Biases and scales of
    normalization keep theirs.
    """

    return _on_nodes(
        lambda place, node: (
            node if place.is_vector else node.without_idle_mean(threshold)
        )
    )


def _on_nodes(change: Callable) -> Projection:
    """Lifts a change (place, node) -> node to a tree."""

    def visit(place, leaf):
        return change(place, leaf) if is_posterior(leaf) else leaf

    def apply(params: Params, step: Array | None = None) -> Params:
        del step
        return tree.change(visit, params)

    return apply


def nothing(params: Params, step: Array | None = None) -> Params:
    """The projection that changes nothing."""
    del step
    return params


def chain(*projections: Projection) -> Projection:
    """Applies projections from left to right."""

    def apply(params: Params, step: Array | None = None) -> Params:
        for project in projections:
            params = project(params, step)
        return params

    return apply


# Projections by name, as a config's `projection` has them.
PROJECTIONS: dict[str, Callable[..., Projection]] = {
    "clip_log_alpha": clip_log_alpha,
    "drop_idle_means": drop_idle_means,
}
at_most_one = clip_log_alpha(high=0.0)  # alpha <= 1, the domain of Kingma et al. 2015
