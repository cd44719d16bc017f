"""Pruning by magnitude while training: weights with a mask, and when the mask changes.

`nodes.Masked` is a point weight of which some entries are switched off. The projections
decide after an update which ones: `by_magnitude` those that are smallest (Han, Pool,
Tran and Dally 2015; gradually as Zhu and Gupta 2017), `at_random` any, `surgery` those
under a threshold, and back again above another (dynamic network surgery; Guo, Yao and
Chen 2016).

`keep_zeros` is for nets that were pruned by an edit and are trained on: what is gone
stays so. `train.fit` uses it by itself.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax, random

from vnets import renamed, tree
from vnets.nodes import (
    Masked,
    is_noisy,
    is_posterior,
)
from vnets.projections import Projection, drop_idle_means
from vnets.rng import stream
from vnets.types import Array, Params

# Masks change below and above these multiples of the threshold: Guo et al. 2016.
LOW, HIGH = 0.9, 1.1


def by_magnitude(
    sparsity: Mapping[str, float], ramp: Callable[[Array], Array], every: int = 100
) -> Projection:
    """Switches off the smallest weights of each layer, for good.

    Args:
      sparsity: fraction of each layer's weights that is off at the end, by layer.
      ramp: step -> the part of these fractions that is due, from 0 to 1.
      every: updates between changes.

    Raises:
      ValueError: a fraction outside [0, 1), or `every` below 1.
    """

    def size(layer: str, node: Masked) -> Array:
        del layer
        return jnp.abs(node.mean * node.mask)

    return _gradual(size, sparsity, ramp, every)


def at_random(
    sparsity: Mapping[str, float], ramp: Callable[[Array], Array], every: int = 100
) -> Projection:
    """Switches off any weights of each layer, for good: what `by_magnitude` must beat.

    Which ones they are depends on the layer's name alone, and not on a run's seed.

    Args:
      sparsity: as in `by_magnitude`.
      ramp: likewise.
      every: likewise.

    Raises:
      ValueError: a fraction outside [0, 1), or `every` below 1.
    """

    def size(layer: str, node: Masked) -> Array:
        key = stream(random.key(0), "pruned at random", layer)
        return random.uniform(key, node.shape) * node.mask

    return _gradual(size, sparsity, ramp, every)


def _gradual(
    size: Callable[[str, Masked], Array],
    sparsity: Mapping[str, float],
    ramp: Callable[[Array], Array],
    every: int,
) -> Projection:
    """Switches off what is smallest by (layer, node) -> size, the ramp's part of it."""
    for layer, fraction in sparsity.items():
        if not 0 <= fraction < 1:
            raise ValueError(f"sparsity of {layer!r} must be in [0, 1): {fraction}")

    def change(layer: str, node: Masked, step: Array) -> Array:
        sizes = size(layer, node)
        due = jnp.clip(ramp(step), 0, 1) * (_of(sparsity, layer) * sizes.size)
        count = due.astype(jnp.int32)
        smallest = jnp.sort(sizes.ravel())
        limit = jnp.where(count > 0, smallest[jnp.maximum(count - 1, 0)], -1.0)
        return (sizes > limit).astype(jnp.float32)

    return _changing_masks(change, every, lambda step: True)


def surgery(
    rate: float | Mapping[str, float],
    begin: int,
    end: int,
    every: int = 10,
) -> Projection:
    """Switches weights off below 0.9 t and on above 1.1 t, t = mean + rate std of |w|.

    The authors fix t at the start and change the mask at random, ever rarer times; here
    t follows the weights and the times are regular. Needs `Masked(revivable=True)`.

    Args:
      rate: standard deviations above the mean, for all layers or by layer.
      begin: first and
      end: last update at which masks change.
      every: updates between changes.

    Raises:
      ValueError: begin after end, or `every` below 1.
    """
    if begin > end:
        raise ValueError(f"surgery begins at {begin}, after its end at {end}")

    def change(layer: str, node: Masked, step: Array) -> Array:
        del step
        size = jnp.abs(node.mean)
        own = rate if isinstance(rate, int | float) else _of(rate, layer)
        limit = jnp.mean(size) + own * jnp.std(size)
        off, on = size < LOW * limit, size > HIGH * limit
        return jnp.where(off, 0.0, jnp.where(on, 1.0, node.mask))

    return _changing_masks(change, every, lambda step: (step >= begin) & (step <= end))


def _of(values: Mapping[str, float], layer: str) -> float:
    if layer not in values:
        raise ValueError(f"nothing is said of layer {layer!r}, only of {list(values)}")
    return float(values[layer])


def _changing_masks(change, every: int, within: Callable) -> Projection:
    """Lifts a rule (layer, node, step) -> mask to a tree, at every so many updates."""
    if every < 1:
        raise ValueError(f"masks change every 1 or more updates, not {every}")

    def project(params: Params, step: Array | None = None) -> Params:
        if step is None:
            raise ValueError("masks change by the step, which was not given")

        def visit(place: tree.Place, node):
            if not is_posterior(node):
                return node
            return node.change_mask(lambda one: change(place.name, one, step))

        def changed(params):
            return tree.change(visit, params)

        due = (step % every == 0) & within(step)
        return lax.cond(due, changed, lambda params: params, params)

    return project


def keep_zeros(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Makes an optimizer that leaves pruned weights at zero, without noise.

    Pruned are those of `Posterior.pruned`, as `edits.prune` and `prune_units` leave
    them. The optimizer sees zeros for their gradients and values, and its updates of
    them, such as weight decay, are dropped.

    Args:
      optimizer: of any kind; its `update` needs the parameters from now on.
    """
    inner = optax.with_extra_args_support(optimizer)

    def init(params: Params):
        return inner.init(_without_pruned(params, params))

    def update(updates, state, params: Params = None, **extra):
        if params is None:
            raise ValueError("keep_zeros needs the parameters: update(grads, state, p)")
        grads = _without_pruned(params, updates)
        shown = _without_pruned(params, params)
        updates, state = inner.update(grads, state, shown, **extra)
        return _without_pruned(params, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def has_pruned(params: Params) -> bool:
    """True if any weight is pruned in the sense of `keep_zeros`; not under jit."""
    # NumPy does not compile.
    own = tree.nodes(jax.tree.map(np.asarray, params))
    return any(np.any(node.pruned()) for _, node in own)


def _without_pruned(params: Params, other: Params) -> Params:
    """`other`, a tree like `params`, zero where those have a pruned weight."""

    def visit(place, own, theirs):
        del place
        if not is_noisy(own):
            return theirs
        gone = own.pruned()

        def zero(weight):
            return jax.tree.map(lambda leaf: jnp.where(gone, 0, leaf), weight)

        return theirs.change_bare(zero)

    return tree.change(visit, params, other)


# What prunes while training, by name.
PRUNING: dict[str, Callable[..., Projection]] = {
    "log_alpha": drop_idle_means,
    "magnitude": by_magnitude,
    "random": at_random,
    "surgery": surgery,
}

__getattr__ = renamed.getter("vnets.pruning")
