"""Weights of modules that no estimator knows: drawn once a call, before the model runs.

Any array of parameters can have a posterior so: of `nn.Embed`, of a recurrent cell that
fuses its kernels, of a module of someone else's. A call has one draw of it, for the
whole batch and for every step of a sequence, as `weight_sampling` has.
"""

import fnmatch
from collections.abc import Mapping
from typing import Any

from vnets import tree
from vnets.nodes import Factory, Posterior, is_posterior
from vnets.rng import stream
from vnets.tree import VECTORS, Place
from vnets.types import Key, Params


def with_nodes(patterns: Mapping[str, Factory], params: Params, rngs: Any) -> Params:
    """The parameters with nodes in place of the arrays that patterns match.

    Args:
      patterns: names of arrays ("embed/embedding"), or of modules whose weights are
        meant ("embed"), to the factory of each.
      params: of a model's `init`, with arrays.
      rngs: has the key "params".

    Raises:
      ValueError: a pattern that matches nothing, what is a node already, or a node
        whose noise on units is not per batch.
    """
    used: set[str] = set()

    def make(place: Place, leaf):
        pattern = _pattern(patterns, place, leaf)
        if pattern is None:
            return leaf
        used.add(pattern)
        if is_posterior(leaf):
            raise ValueError(f"sampled: {place.leaf!r} has a posterior already")
        key = stream(rngs["params"], "sampled", place.leaf)
        node = patterns[pattern](key, leaf.shape)
        per = getattr(node, "per", "batch")
        if per != "batch":
            raise ValueError(
                f"sampled: {place.leaf!r} has one draw a call, so noise on its units "
                f'is per="batch", not {per!r}'
            )
        return node

    made = tree.change(make, params)
    unused = sorted(set(patterns) - used)
    if unused:
        there = [at.leaf for at, leaf in tree.each(params) if not is_posterior(leaf)]
        raise ValueError(f"sampled: no array matches {unused}; there are {there}")
    return made


def names(patterns: Mapping[str, Factory], params: Params) -> set[str]:
    """The arrays and nodes that a pattern matches, as walks over nodes name them."""
    return {at.name for at, leaf in tree.each(params) if _pattern(patterns, at, leaf)}


def drawn(patterns: Mapping[str, Factory], params: Params, rngs: Any) -> Params:
    """The parameters with a draw in place of each node that a pattern matches.

    Raises:
      ValueError: a noisy node, and no key "noise".
    """
    key = rngs.get("noise") if isinstance(rngs, Mapping) else rngs

    def draw(place: Place, leaf):
        if not is_posterior(leaf) or _pattern(patterns, place, leaf) is None:
            return leaf
        return leaf.sample(_key(leaf, key, place.name))

    return tree.change(draw, params)


def _key(node: Posterior, key: Key | None, name: str) -> Key | None:
    if not node.noisy:
        return None
    if key is None:
        raise ValueError(
            f"{name!r} is noisy and has no key: give rngs={{'noise': key}}"
        )
    return stream(key, "sampled", name)


def _pattern(patterns: Mapping[str, Factory], place: Place, leaf) -> str | None:
    """The first pattern of an array's name, or of the module that it is a weight of."""
    weight = len(leaf.shape) >= 2 and not place.is_vector
    for pattern in patterns:
        if fnmatch.fnmatchcase(place.leaf, pattern):
            if weight or "*" not in pattern or pattern.endswith(VECTORS):
                return pattern
        elif weight and fnmatch.fnmatchcase(place.layer, pattern):
            return pattern
    return None
