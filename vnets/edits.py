"""Edits: functions (params, key) -> params that change posterior nodes before a test.

A test-time mode is an edit and a number of samples (`evaluate.EvalSpec`); `draw` also
serves inside a training step (one weight sample for a sequence, a sampled KL). `where`
limits an edit to layers by path, as in `edit(mean_of, where=("dense1",).__contains__)`.

What a node is called, "dense1" or "dense1/bias", says `vnets.names`. An edit changes
biases and scales of normalization like weights, but pruning never does: it is weights
that it removes. What is pruned has neither mean nor noise (`Posterior.pruned`): its KL
is 0, and `train.fit` leaves it so.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import random

from vnets import scales
from vnets.names import KERNEL as KERNEL
from vnets.names import VECTORS as VECTORS
from vnets.names import is_vector, path_name
from vnets.names import layer_name as layer_name
from vnets.posteriors import (
    AdaptiveDropout,
    Dropout,
    Gaussian,
    Multiplicative,
    Point,
    Posterior,
    Scaled,
    ZeroMean,
    is_noisy,
    is_posterior,
    second_moment,
    shared_log_alpha,
)
from vnets.pretrained import carry_means as carry_means
from vnets.rng import stream
from vnets.types import Array, Key, Params

Edit = Callable[[Params, Key], Params]
Change = Callable[[Posterior, Key], Posterior]


def everywhere(layer: str) -> bool:
    """The default `where`: every layer."""
    del layer
    return True


def edit(
    change: Change, where: Callable[[str], bool] = everywhere, vectors: bool = True
) -> Edit:
    """Lifts a change of one node to the noisy nodes of a tree.

    Args:
      change: (node, key) -> node. The key is the node's own, derived from its path, or
        None where the caller gave none.
      where: takes a node's name ("dense1", "block/conv", "dense1/bias"); False leaves
        it alone.
      vectors: False leaves all biases and scales of normalization alone.
    """

    def apply(params: Params, key: Key = None) -> Params:
        def visit(path, node):
            if not (is_posterior(node) and is_noisy(node) and where(path_name(path))):
                return node
            if not vectors and is_vector(path):
                return node
            own = None if key is None else stream(key, jax.tree_util.keystr(path))
            return change(node, own)

        return jax.tree.map_with_path(visit, params, is_leaf=is_posterior)

    return apply


def chain(*edits: Edit) -> Edit:
    """Applies edits from left to right."""

    def apply(params: Params, key: Key = None) -> Params:
        for number, one in enumerate(edits):
            params = one(params, None if key is None else stream(key, number))
        return params

    return apply


def _on_weight(change: Change) -> Change:
    """Applies a change of weights inside Scaled nodes too, and leaves their scale."""

    def apply(node: Posterior, key: Key) -> Posterior:
        if not isinstance(node, Scaled):
            return change(node, key)
        if not is_noisy(node.weight):
            return node
        return dataclasses.replace(node, weight=apply(node.weight, key))

    return apply


def mean_of(node: Posterior, key: Key = None) -> Point:
    """The node's mean without noise (zero for a variance layer); ignores the key."""
    del key
    mean, _ = node.moments()
    return Point(jnp.zeros(node.shape, jnp.float32) if mean is None else mean)


@_on_weight
def without_mean(node: Posterior, key: Key = None) -> ZeroMean:
    """N(mean, var) -> N(0, var); ignores the key."""
    del key
    _, std = node.location_scale()
    return ZeroMean(std, node.noise)


@_on_weight
def with_permuted_variance(node: Posterior, key: Key) -> Posterior:
    """Shuffles the variances over the whole weight and leaves the means."""
    mean, std = node.location_scale()
    std = random.permutation(key, jnp.abs(std).ravel()).reshape(std.shape)
    if mean is None:
        return ZeroMean(std, node.noise)
    # log 0 only where the variance is 0: a gradient never passes through here.
    return Gaussian(mean, 2 * jnp.log(std), node.noise)


def pruned_at(threshold: float) -> Change:
    """Sets mean and variance to zero where log alpha > threshold."""

    @_on_weight
    def change(node: Posterior, key: Key = None) -> Posterior:
        del key
        return node.kept(shared_log_alpha(node) <= threshold)

    return change


def unit_uselessness(node: Posterior, axis: str = "unit") -> Array:
    """How little each unit of a weight is worth: what `prune_units` compares.

    Returns:
      `scales.uselessness` of a Scaled node's scale, `scales.least_log_alpha` of other
      weights; in the rank of the weight [..., I, O], with length 1 but on the axis of
      the units.

    Raises:
      TypeError: a node without units to compare (points, variance layers, dropout).
    """
    if isinstance(node, Scaled):
        useless = scales.uselessness(node.scale)
        useless = jnp.expand_dims(useless, -1 if node.axis == "in" else -2)
        return useless.reshape((1,) * (len(node.shape) - useless.ndim) + useless.shape)
    if isinstance(node, Gaussian | Multiplicative):
        return scales.least_log_alpha(node, axis)
    raise TypeError(f"prune_units: no rule for {type(node).__name__}")


def units_pruned_at(threshold: float, axis: str = "unit") -> Change:
    """Sets the weights of units to zero whose `unit_uselessness` > threshold."""

    def change(node: Posterior, key: Key = None) -> Posterior:
        del key
        if isinstance(node, Scaled) and isinstance(node.scale, Dropout):
            weight = node.weight if not is_noisy(node.weight) else change(node.weight)
            return dataclasses.replace(node, weight=weight)
        useless = unit_uselessness(node, axis)
        if isinstance(node, Multiplicative):  # units with one alpha are alike
            one = (i for i, size in enumerate(node.log_alpha.shape) if size == 1)
            useless = jnp.min(useless, tuple(one), keepdims=True)
        return node.kept(useless <= threshold)

    return change


def noise_times(factor: float) -> Change:
    """Multiplies the standard deviation of the noise; means stay as they are.

    Of a Scaled node both noises are multiplied, that of the units and that of the
    weights. Binary dropout stays binary: its rate changes.
    """
    log_square = 2 * math.log(factor) if factor else -math.inf

    def change(node: Posterior, key: Key = None) -> Posterior:
        del key
        if isinstance(node, Scaled):
            return dataclasses.replace(
                node, scale=change(node.scale), weight=change(node.weight)
            )
        if isinstance(node, Gaussian):
            return dataclasses.replace(node, log_var=node.log_var + log_square)
        if isinstance(node, Multiplicative | AdaptiveDropout):
            # A pruned weight has no noise: inf - inf.
            moved = jnp.where(node.pruned(), jnp.inf, node.log_alpha + log_square)
            return dataclasses.replace(node, log_alpha=moved)
        if isinstance(node, ZeroMean):
            return dataclasses.replace(node, scale=node.scale * factor)
        if isinstance(node, Dropout):
            variance = factor**2 * node.rate / (1 - node.rate)
            return dataclasses.replace(node, rate=variance / (1 + variance))
        if isinstance(node, Point):
            return node
        if isinstance(node, scales.LogNormal):
            return _log_normal_noise_times(node, factor)
        raise TypeError(f"scale_noise: no rule for {type(node).__name__}")

    return change


def _log_normal_noise_times(node: scales.LogNormal, factor: float):
    """The log-normal of the same mean and of factor^2 times the variance."""
    var = jnp.exp(node.log_var)
    new = jnp.log1p(factor**2 * jnp.expm1(var))
    mean = node.log_mean + 0.5 * (var - new)
    return dataclasses.replace(node, log_mean=mean, log_var=jnp.log(new))


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
    scalable = scales.LogNormal | scales.Horseshoe | Gaussian | Multiplicative
    if not (isinstance(node, Scaled) and isinstance(node.scale, scalable)):
        return node
    square = second_moment(*node.weight.moments())
    size = jnp.sqrt(jnp.mean(square, scales.other_axes(node.axis, node.shape)))
    size = jnp.where(size > 0, size, 1)
    column = jnp.expand_dims(size, -1 if node.axis == "in" else -2)
    column = column.reshape((1,) * (len(node.shape) - 2) + column.shape)
    return dataclasses.replace(
        node,
        scale=scales.multiplied(node.scale, size),
        weight=scales.multiplied(node.weight, 1 / column),
    )


mean_only = edit(mean_of)
zero_mean = edit(without_mean)
permute_variance = edit(with_permuted_variance)
draw = edit(lambda node, key: Point(node.sample(key)))
balance = edit(balanced)


def by_layer(
    make: Callable[[float], Change], threshold: float | Mapping[str, float]
) -> Edit:
    """Lifts a change of weights with a threshold, which may be another for each layer.

    Args:
      make: threshold -> change of one node.
      threshold: of all noisy layers, or of each one by its path.

    Raises:
      ValueError: when applied, a mapping whose layers are not the noisy ones.
    """
    if not isinstance(threshold, Mapping):
        return edit(make(threshold), vectors=False)
    changes = {layer: make(float(value)) for layer, value in threshold.items()}

    def apply(params: Params, key: Key = None) -> Params:
        layers = noisy_layers(params)
        if set(layers) != set(changes):
            raise ValueError(
                f"there are thresholds for the layers {sorted(changes)}, but the noisy "
                f"ones are {sorted(layers)}"
            )
        for layer, change in changes.items():
            params = edit(change, layer.__eq__, vectors=False)(params, key)
        return params

    return apply


def noisy_layers(params: Params) -> dict[str, Posterior]:
    """The noisy weights of a tree by the path of their layer; vectors are none."""
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=is_posterior)
    return {
        path_name(path): node
        for path, node in leaves
        if is_posterior(node) and is_noisy(node) and not is_vector(path)
    }


def prune(threshold: float | Mapping[str, float] = 3.0) -> Edit:
    """Removes weights of log alpha above a threshold; 3 is the authors' (ICML 2017).

    A variance layer has log alpha +inf, so any finite threshold removes it whole, as
    `mean_only` does. At threshold +inf nothing changes.

    Args:
      threshold: of all layers, or by layer, which then must name each noisy one.
    """
    return by_layer(pruned_at, threshold)


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
    scales.resolve(axis, (1, 1))
    return by_layer(lambda one: units_pruned_at(one, axis), threshold)


def scale_noise(factor: float) -> Edit:
    """Multiplies the standard deviation of all noise: 0 silences it, 1 changes nothing.

    Raises:
      ValueError: a factor that is negative or not finite.
    """
    if not 0 <= factor < math.inf:
        raise ValueError(f"a factor of noise must be at least 0 and finite: {factor}")
    return edit(noise_times(factor))


EDITS: dict[str, Edit] = {
    "nothing": chain(),
    "mean_only": mean_only,
    "zero_mean": zero_mean,
    "permute_variance": permute_variance,
}
