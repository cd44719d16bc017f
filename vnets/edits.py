"""Edits: functions (params, key) -> params that change posterior nodes before a test.

A test-time mode is an edit and a number of samples (`evaluate.EvalSpec`); `draw` also
serves inside a training step (one weight sample for a sequence, a sampled KL). `where`
limits an edit to what patterns of `vnets.tree` cover, as in
`edit(mean_of, where="dense1/kernel")`.

An edit changes biases and scales of normalization like weights, but pruning never does:
it is weights that it removes. What is pruned has neither mean nor noise
(`Posterior.pruned`): its KL is 0, and `train.fit` leaves it so.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import random

from vnets import renamed, tree
from vnets.nodes import Point, Posterior, around, is_noisy, log_alpha, resolve
from vnets.pretrained import carry_means as carry_means
from vnets.rng import stream
from vnets.types import Array, Key, Params

Edit = Callable[[Params, Key], Params]
Change = Callable[[Posterior, Key], Posterior]


def edit(change: Change, where: tree.Patterns = None, vectors: bool = True) -> Edit:
    """Lifts a change of one node to the noisy nodes of a tree.

    Args:
      change: (node, key) -> node. The key is the node's own, derived from its path, or
        None where the caller gave none.
      where: patterns of what is changed, everything by default ("dense1", its weight
        and its bias; "dense1/kernel"; "*/bias").
      vectors: False leaves all biases and scales of normalization alone.
    """

    def apply(params: Params, key: Key = None) -> Params:
        def visit(place: tree.Place, node):
            if not is_noisy(node) or (place.is_vector and not vectors):
                return node
            return change(node, None if key is None else stream(key, place.key))

        return tree.change(visit, params, where=where)

    return apply


def chain(*edits: Edit) -> Edit:
    """Applies edits from left to right."""

    def apply(params: Params, key: Key = None) -> Params:
        for number, one in enumerate(edits):
            params = one(params, None if key is None else stream(key, number))
        return params

    return apply


def _on_weight(change: Change) -> Change:
    """Applies a change of weights inside of noise on units too, which stays."""

    def apply(node: Posterior, key: Key = None) -> Posterior:
        return node.change_bare(lambda one: change(one, key) if one.noisy else one)

    return apply


def mean_of(node: Posterior, key: Key = None) -> Point:
    """The node's mean without noise (zero for a variance layer); ignores the key."""
    del key
    return Point(_mean(node))


@jax.jit  # without it each shape has a program for each operation, of variances, too
def _mean(node: Posterior) -> Array:
    mean, _ = node.moments()
    return jnp.zeros(node.shape, jnp.float32) if mean is None else mean


@_on_weight
def without_mean(node: Posterior, key: Key = None) -> Posterior:
    """N(mean, var) -> N(0, var); ignores the key."""
    del key
    _, std = node.location_scale()
    return around(None, std, node.noise)


@_on_weight
def with_permuted_variance(node: Posterior, key: Key) -> Posterior:
    """Shuffles the variances over the whole weight and leaves the means."""
    mean, std = node.location_scale()
    std = random.permutation(key, jnp.abs(std).ravel()).reshape(std.shape)
    return around(mean, std, node.noise)


def pruned_at(threshold: float) -> Change:
    """Sets mean and variance to zero where log alpha > threshold."""

    @_on_weight
    def change(node: Posterior, key: Key = None) -> Posterior:
        del key
        return node.kept(node.shared_log_alpha() <= threshold)

    return change


def balanced(node: Posterior, key: Key = None) -> Posterior:
    """Moves the size of each unit's weights into the scale of the unit.

    w = z v becomes (c z) (v / c), with c^2 the mean of v^2 over a unit's weights and
    their posterior, which leaves w as it was. Where v ~ N(0, 1) a priori and p(z) ~
    1 / |z|, no other c has a KL as small: that of the m weights of a unit falls by
    m / 2 (c^2 - 1 - ln c^2), some three nats for each weight of an ordinary net.
    Ignores the key. Weights whose units have no scale, a fixed one (dropout) or one
    with bounds (`TruncatedLogNormal`) stay.
    """
    del key
    return node.balanced()


mean_only = edit(mean_of)
zero_mean = edit(without_mean)
permute_variance = edit(with_permuted_variance)
balance = edit(balanced)


def draw(params: Params, key: Key) -> Params:
    """One draw of all weights, as points."""

    def visit(place: tree.Place, node):
        if not is_noisy(node):
            return node
        return Point(node.drawn(stream(key, place.key), stream(key, "shared")))

    return tree.change(visit, params)


def by_layer(
    make: Callable[[float], Change], threshold: float | Mapping[str, float]
) -> Edit:
    """Lifts a change of weights with a threshold, which may be another for each layer.

    Args:
      make: threshold -> change of one node.
      threshold: of all noisy layers, or of each one by its name.

    Raises:
      ValueError: a threshold that is NaN; when applied, a mapping whose layers are not
        the noisy ones.
    """
    each = threshold.values() if isinstance(threshold, Mapping) else [threshold]
    if any(isinstance(one, float) and math.isnan(one) for one in each):
        raise ValueError(f"a threshold is a number, not {threshold}")
    if not isinstance(threshold, Mapping):
        return edit(make(threshold), vectors=False)

    def apply(params: Params, key: Key = None) -> Params:
        weights = [at for at, node in tree.nodes(params) if is_prunable(at, node)]
        own = tree.assigned(threshold, weights, "thresholds", complete=True)

        def visit(place: tree.Place, node):
            if not is_prunable(place, node):
                return node
            draw = None if key is None else stream(key, place.key)
            return make(float(own[place.name]))(node, draw)

        return tree.change(visit, params)

    return apply


def is_prunable(place: tree.Place, node) -> bool:
    """True for a weight with noise."""
    return is_noisy(node) and not place.is_vector


def noisy_layers(params: Params) -> dict[str, Posterior]:
    """The noisy weights of a tree by name; vectors are none."""
    return {name: node for name, node in tree.weights(params) if node.noisy}


def prune(threshold: float | Mapping[str, float] = 3.0) -> Edit:
    """Removes weights of log alpha above a threshold; 3 is the authors' (ICML 2017).

    A variance layer has log alpha +inf, so any finite threshold removes it whole, as
    `mean_only` does. At threshold +inf nothing changes.

    Args:
      threshold: of all layers, or by layer, which then must name each noisy one.
    """
    return by_layer(pruned_at, threshold)


def prune_share(share: float) -> Edit:
    """Removes this share of all noisy weights: those of the least |mean| / deviation.

    Weights of all layers are ranked together (Blundell et al. 2015). Where several are
    alike at the limit none of them goes.

    Raises:
      ValueError: a share outside of [0, 1); when applied, a net without noisy weights,
        or with too few to leave one.
    """
    if not 0 <= share < 1:
        raise ValueError(f"the share of weights to remove is in [0, 1), not {share}")

    def apply(params: Params, key: Key = None) -> Params:
        found = [node.bare for node in noisy_layers(params).values()]
        ranks = [jnp.ravel(log_alpha(node)) for node in found if node.noisy]
        if not ranks:
            raise ValueError("no weight of this net has noise of its own to rank it by")
        ranked = jnp.sort(jnp.concatenate(ranks))
        kept = len(ranked) - round(share * len(ranked))
        if not kept:
            raise ValueError(f"{share} of {len(ranked)} weights are all of them")
        limit: Any = ranked[kept - 1]
        return prune(limit)(params, key)

    return apply


def prune_units(
    threshold: float | Mapping[str, float] = 0.0, axis: str = "unit"
) -> Edit:
    """Removes units that are mostly noise: their weights become zero, with no variance.

    Of a Scaled node its scale decides, by log alpha > threshold (0: signal-to-noise
    ratio below 1, as in structured Bayesian pruning), or by the negative log mode of a
    horseshoe scale; fixed dropout decides nothing. Of other weights all those of the
    unit do: it goes if the least log alpha among them is above the threshold, which is
    for group ARD. Biases stay: a map that is cut is constant. At threshold +inf nothing
    changes.

    Args:
      threshold: see above; horseshoes need one of their own. A number, or one for each
        noisy layer.
      axis: the units of weights that are not Scaled: "in", "out", or "unit", inputs of
        dense layers and maps of convolutions.

    Raises:
      ValueError: an axis that does not exist.
    """
    resolve(axis, (1, 1))
    return by_layer(
        lambda one: lambda node, key: node.without_units(one, axis), threshold
    )


def scale_noise(factor: float) -> Edit:
    """Multiplies the standard deviation of all noise: 0 silences it, 1 changes nothing.

    Means stay as they are; noise on units and that of the weights are both multiplied.

    Raises:
      ValueError: a factor that is negative or not finite.
    """
    if not 0 <= factor < math.inf:
        raise ValueError(f"a factor of noise must be at least 0 and finite: {factor}")
    return edit(lambda node, key: node.quieter(factor))


EDITS: dict[str, Edit] = {
    "nothing": chain(),
    "mean_only": mean_only,
    "zero_mean": zero_mean,
    "permute_variance": permute_variance,
}
# Edits that are done anew for each draw of a prediction, by name.
DRAWS: dict[str, Edit] = {"weights": draw}


__getattr__ = renamed.getter("vnets.edits")
