"""Projections: (params, step) -> params, applied after each update of the optimizer.

`step` counts the updates done, this one included; only those that follow a schedule
need it (`vnets.pruning` has some).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from vnets.edits import is_vector
from vnets.posteriors import (
    AdaptiveDropout,
    Gaussian,
    Multiplicative,
    Scaled,
    is_posterior,
    log_alpha,
)
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

    def project(node):
        if isinstance(node, Scaled):
            return dataclasses.replace(
                node, scale=project(node.scale), weight=project(node.weight)
            )
        if isinstance(node, Gaussian) and additive:
            held = log_alpha(node)
            moved = node.log_var + (jnp.clip(held, low, high) - held)
            # What has no noise has none after: inf - inf.
            silent = jnp.isneginf(node.log_var)
            log_var = jnp.where(silent, node.log_var, moved)
            return dataclasses.replace(node, log_var=log_var)
        if not isinstance(node, Multiplicative | AdaptiveDropout):
            return node
        clipped = jnp.clip(node.log_alpha, low, high)
        # Of what is pruned it is infinite, and stays so.
        log_alpha_ = jnp.where(node.pruned(), jnp.inf, clipped)
        return dataclasses.replace(node, log_alpha=log_alpha_)

    def apply(params: Params, step: Array | None = None) -> Params:
        del step
        return jax.tree.map(project, params, is_leaf=is_posterior)

    return apply


def drop_idle_means(threshold: float = 3.0) -> Projection:
    """Sets the means of additive noise to zero wherever log alpha is above a threshold.

    The variances stay. What the authors of sparse variational dropout call `train_clip`
    (there in the forward pass): a mean that noise drowns learns nothing any more,
    unless a single step lifts it back over the threshold. Biases and scales of
    normalization keep theirs.
    """

    def project(node):
        if isinstance(node, Scaled):
            return dataclasses.replace(node, weight=project(node.weight))
        if not isinstance(node, Gaussian):
            return node
        return dataclasses.replace(
            node, mean=jnp.where(log_alpha(node) > threshold, 0.0, node.mean)
        )

    def apply(params: Params, step: Array | None = None) -> Params:
        del step
        return jax.tree.map_with_path(
            lambda path, node: node if is_vector(path) else project(node),
            params,
            is_leaf=is_posterior,
        )

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


at_most_one = clip_log_alpha(high=0.0)  # alpha <= 1, the domain of Kingma et al. 2015
