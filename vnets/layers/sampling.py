"""Weights of modules that no estimator knows: drawn once a call, before the model runs.

Any array of parameters can have a posterior so: of `nn.Embed`, of a recurrent cell that
fuses its kernels, of a module of someone else's. A call has one draw of it, for the
whole batch and for every step of a sequence, as `weight_sampling` has.
"""

import fnmatch
from collections.abc import Mapping
from typing import Any

import jax

from vnets.names import VECTORS, layer_name, leaf_name, path_name
from vnets.posteriors import Factory, Posterior, is_noisy, is_posterior
from vnets.rng import stream
from vnets.types import Key, Params


def made(patterns: Mapping[str, Factory], params: Params, rngs: Any) -> Params:
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

    def make(path, leaf):
        pattern = _pattern(patterns, path, leaf)
        if pattern is None:
            return leaf
        used.add(pattern)
        name = leaf_name(path)
        if is_posterior(leaf):
            raise ValueError(f"sampled: {name!r} has a posterior already")
        node = patterns[pattern](stream(rngs["params"], "sampled", name), leaf.shape)
        if getattr(node, "per", "batch") != "batch":
            raise ValueError(
                f"sampled: {name!r} has one draw a call, so noise on its units is "
                f'per="batch", not {node.per!r}'
            )
        return node

    nodes = jax.tree_util.tree_map_with_path(make, params, is_leaf=is_posterior)
    unused = sorted(set(patterns) - used)
    if unused:
        leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=is_posterior)
        there = [leaf_name(path) for path, leaf in leaves if not is_posterior(leaf)]
        raise ValueError(f"sampled: no array matches {unused}; there are {there}")
    return nodes


def names(patterns: Mapping[str, Factory], params: Params) -> set[str]:
    """The arrays and nodes that a pattern matches, as walks over nodes name them."""
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=is_posterior)
    return {path_name(path) for path, leaf in leaves if _pattern(patterns, path, leaf)}


def drawn(patterns: Mapping[str, Factory], params: Params, rngs: Any) -> Params:
    """The parameters with a draw in place of each node that a pattern matches.

    Raises:
      ValueError: a noisy node, and no key "noise".
    """
    key = rngs.get("noise") if isinstance(rngs, Mapping) else rngs

    def draw(path, leaf):
        if not is_posterior(leaf) or _pattern(patterns, path, leaf) is None:
            return leaf
        return leaf.sample(_key(leaf, key, path_name(path)))

    return jax.tree_util.tree_map_with_path(draw, params, is_leaf=is_posterior)


def _key(node: Posterior, key: Key | None, name: str) -> Key | None:
    if not is_noisy(node):
        return None
    if key is None:
        raise ValueError(
            f"{name!r} is noisy and has no key: give rngs={{'noise': key}}"
        )
    return stream(key, "sampled", name)


def _pattern(patterns: Mapping[str, Factory], path, leaf) -> str | None:
    """The first pattern of an array's name, or of the module that it is a weight of."""
    name, module = leaf_name(path), layer_name(path)
    weight = len(leaf.shape) >= 2 and name.rpartition("/")[2] not in VECTORS
    for pattern in patterns:
        if fnmatch.fnmatchcase(name, pattern):
            if weight or "*" not in pattern or pattern.endswith(VECTORS):
                return pattern
        elif weight and fnmatch.fnmatchcase(module, pattern):
            return pattern
    return None
