"""KL divergences of posterior nodes from their priors, summed over weights.

A prior is a function node -> KL in nats, in closed form, or a density: whatever has a
`log_prob(value)`, as `vnets.priors.sampled` says. `kl(params, prior)` sums over a tree.
Where one alpha is shared by m weights, its term counts m times. Point weights and fixed
dropout have nothing to regularize and count as zero (a flat prior), and what is pruned
(`Posterior.pruned`) is no weight any more and counts as zero, too. A node that a prior
does not fit is a TypeError while tracing.

A prior that has no arguments, or needs none, may be given called or not: `ard` is
`ard()`, and `standard_normal` is `standard_normal(1.0)` (`Maker`).
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, Protocol, runtime_checkable

import jax.numpy as jnp

from vnets import tree
from vnets.nodes import Posterior, is_posterior
from vnets.rng import stream
from vnets.types import Array, Key, Moment, Params


@runtime_checkable
class Density(Protocol):
    """A prior that says how likely a weight is; a posterior node is one, too."""

    def log_prob(self, value: Array, /) -> Array:
        """Log density of each weight, of the shape of `value`, in nats."""
        ...


Prior = Callable[[Posterior], Array] | Density


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


def made(prior) -> Any:
    """The prior that a `Maker` stands for; any other as it is."""
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
      factors: of the KL by layer (patterns); 1 where none is named. Structured Bayesian
        pruning's faster variant has 10 and 5 in the first convolutions of VGG.
    """

    prior: Prior | ScaledPrior
    factors: Mapping[str, float]


AnyPrior = Prior | ScaledPrior | WeightedPrior


def kl(
    params: Params,
    prior: AnyPrior | Mapping[str, AnyPrior],
    key: Key = None,
    drawn: Params = None,
) -> Array:
    """Sum of the KL over all posterior nodes of a tree, in nats; a float32 scalar.

    Args:
      params: a tree with posterior nodes.
      prior: one prior for all nodes, or a mapping from patterns of names ("dense1",
        "block/conv", "*/bias") to priors, in which the noisy nodes must all be named.
      key: of the draws that a density needs; closed forms need none.
      drawn: the tree with points in the place of nodes, where the net runs with one
        draw of its weights: a density is evaluated there.

    Raises:
      TypeError: a prior does not fit a node.
      ValueError: a mapping without a noisy node's layer, or factors of unknown layers;
        a density without a key.
    """
    total = jnp.zeros((), jnp.float32)
    found = list(tree.nodes(params))
    for own in prior.values() if isinstance(prior, Mapping) else (prior,):
        if isinstance(own, WeightedPrior):
            tree.assigned(
                own.factors, [place for place, _ in found], "factors of the KL"
            )
    values = {} if drawn is None else {at.leaf: leaf for at, leaf in tree.each(drawn)}
    for place, node in found:
        total += kl_of(place, node, prior, key, values.get(place.leaf))
    return total


def kl_of(
    place: tree.Place, node: Posterior, prior: Any, key: Key = None, drawn: Any = None
) -> Array | float:
    """The KL of one node, in nats; see `kl`."""
    total = 0.0
    for role, part, own, factor in parts(place, node, prior):
        closed = part.kl_from(own) if is_posterior(own) else None
        if closed is not None:
            value = closed
        elif _both_normal(part, own):
            value = between_normals(part, own)
        elif isinstance(own, Density):
            draw = None if key is None else stream(key, place.key, role)
            at = drawn.mean if drawn is not None and part is node else None
            value = log_ratio(part, own, draw, at)
        else:
            value = own(part)
        if callable(value) or jnp.shape(value):
            raise TypeError(
                f"the prior of {place.name!r} is a function of a node that gives one "
                f"number, its KL in nats, not {value!r}"
            )
        total += factor * value
    return total


def _both_normal(node: Posterior, prior: Any) -> bool:
    return is_posterior(prior) and prior.is_normal and node.is_normal


def between_normals(node: Posterior, prior: Posterior) -> Array:
    """KL of a node from another, both of independent normal weights, in nats; scalar.

    Args:
      node: q; what is pruned of it counts as zero.
      prior: p, of the same shape, each weight with noise.
    """
    (mean, var), (center, wide) = node.moments(), prior.moments()
    gap = (0.0 if mean is None else mean) - (0.0 if center is None else center)
    log_ratio = jnp.log(wide + VAR_FLOOR) - jnp.log(var + VAR_FLOOR)
    each = 0.5 * (log_ratio + (var + jnp.square(gap)) / (wide + VAR_FLOOR) - 1)
    return sum_kept(node, each)


def log_ratio(node: Posterior, prior: Density, key: Key, value: Moment = None) -> Array:
    """log q(w) - log p(w) at a draw of the node, summed over its weights, in nats.

    Args:
      node: with a `log_prob` of its own.
      prior: likewise.
      key: of the draw.
      value: the draw, if there is one already.

    Raises:
      ValueError: neither a key nor a draw.
    """
    if value is None and key is None:
        raise ValueError("a density as a prior needs a key: kl(params, prior, key)")
    w = node.sample(key) if value is None else value
    return sum_kept(node, node.log_prob(w) - prior.log_prob(w))


def parts(
    place: tree.Place, node: Posterior, prior: Any
) -> Iterator[tuple[str, Posterior, Any, float]]:
    """The nodes whose KLs add up to a leaf's: role, node, its prior and a factor.

    The role is "weight", or "scale" for the noise on the units of a Scaled node. Points
    and fixed dropout have no KL and give nothing.

    Args:
      place: of the node.
      node: at that place.
      prior: as in `kl`.
    """
    for role, part in node.parts():
        own, factor = _for_node(prior, place)
        own = made(getattr(own, role) if isinstance(own, ScaledPrior) else own)
        yield role, part, own, factor


def _for_node(prior: Any, place: tree.Place) -> tuple[Any, float]:
    """The node's prior, one or a `ScaledPrior`, and the factor of its KL."""
    if isinstance(prior, Mapping):
        pattern = tree.rule(prior, place)
        if pattern is None:
            raise ValueError(
                f"no prior for layer {place.name!r}; there are {sorted(prior)}"
            )
        prior = prior[pattern]
    factor = 1.0
    if isinstance(prior, WeightedPrior):
        pattern = tree.rule(prior.factors, place)
        factor = 1.0 if pattern is None else prior.factors[pattern]
        prior = prior.prior
    prior = made(prior)
    if not (callable(prior) or isinstance(prior, ScaledPrior | Density)):
        raise ValueError(f"a prior is a function of vnets.priors, not {prior!r}")
    return prior, factor


def misfit(node: Posterior, name: str, takes: str) -> NoReturn:
    """Refuses a node that a prior has no KL of."""
    raise TypeError(
        f"prior {name} does not fit a {type(node).__name__} node with {node.noise} "
        f"noise; it takes {takes}"
    )


def check_kind(node: Posterior, name: str, kind: type) -> None:
    """Raises TypeError for any other kind of node than the one that a prior is of."""
    if not isinstance(node, kind):
        misfit(node, name, kind.__name__)


def check_normal(node: Posterior, name: str, mean: bool = False) -> None:
    """Raises TypeError for a node whose weights are no independent normal variables.

    Args:
      node: of any kind.
      name: of the prior.
      mean: whether it must have one, too.
    """
    if not node.is_normal or (mean and not node.has_mean):
        misfit(node, name, "weights with normal noise" + " around a mean" * mean)


def sum_kept(node: Posterior, each: Array) -> Array:
    """The sum over the weights of a node that are not pruned; scalar."""
    return jnp.sum(jnp.where(node.pruned(), 0, each))


def count_pruned(node: Posterior, axes: tuple[int, ...] | None = None) -> Array:
    """How many of the weights along these axes, or of all, are pruned."""
    gone = jnp.broadcast_to(node.pruned(), node.shape)
    return jnp.sum(gone, axes, jnp.float32, keepdims=axes is not None)


def per_kept(node: Posterior, axes: tuple[int, ...] | None = None) -> Array:
    """What a mean over weights is multiplied by to be one over those not pruned."""
    along = range(len(node.shape)) if axes is None else axes
    size = math.prod(node.shape[axis] for axis in along)
    return size / jnp.maximum(size - count_pruned(node, axes), 1)


def along(values: Array, w: Array) -> Array:
    """Values [K] as the last axis of an array of one more than w."""
    return values.reshape((1,) * jnp.ndim(w) + (-1,))


# The logarithm of a zero variance stays finite; below 1.2e-38 floats are flushed to 0.
VAR_FLOOR = 1e-37
