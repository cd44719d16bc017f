"""Walks over a parameter tree, and the one language of patterns for what is in it.

A leaf is an array or a posterior node. Its path is its name, "block/conv/kernel"; a
pattern is one of these, or any part of the tree that the leaf is in ("block/conv",
"block"), with the wildcards of a shell ("block_*", "*/bias"), and covers all that is
under it. A node is called by its layer, "block/conv", where it is the layer's kernel,
and by its whole path otherwise: a bias or a scale of normalization, "block/conv/bias",
or a weight of a module with several, "attention/query".

`each` and `change` are the only walks; keys of random draws come from names.
"""

import dataclasses
import fnmatch
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vnets.nodes import Point, Posterior, is_posterior
from vnets.types import Params, choose

KERNEL = "kernel"  # the leaf that is a layer's weight
VECTORS = ("bias", "scale")  # leaves of a layer that are vectors of its units
Patterns = Collection[str] | str | None


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a leaf is.

    Attributes:
      path: as JAX has it.
    """

    path: tuple

    @property
    def leaf(self) -> str:
        """The leaf's path as text, "block/conv/kernel"."""
        return jax.tree_util.keystr(self.path, simple=True, separator="/")

    @property
    def layer(self) -> str:
        """The leaf's layer as text, "block/conv": its path without the leaf."""
        return Place(self.path[:-1]).leaf

    @property
    def is_vector(self) -> bool:
        """True for a bias or a scale of normalization."""
        return Place(self.path[-1:]).leaf in VECTORS

    @property
    def is_kernel(self) -> bool:
        """True for a layer's weight."""
        return Place(self.path[-1:]).leaf == KERNEL

    @property
    def name(self) -> str:
        """What a node is called here: by its layer, or by its whole path."""
        return self.layer if self.is_kernel else self.leaf

    @property
    def key(self) -> str:
        """What the keys of random draws are made of."""
        return jax.tree_util.keystr(self.path)


def each(
    tree: Params, where: Patterns = None, *, option: str = "where", inside: bool = False
) -> Iterator[tuple[Place, Any]]:
    """The leaves of a tree with their places.

    Args:
      tree: with arrays and posterior nodes.
      where: patterns of those that are wanted; all by default.
      option: what the patterns were given as, for the message.
      inside: the arrays within nodes, "dense1/kernel/mean", in place of the nodes.

    Raises:
      ValueError: a pattern that covers nothing, with the names of all there is.
    """
    found = jax.tree_util.tree_leaves_with_path(
        tree, is_leaf=None if inside else is_posterior
    )
    leaves = [(Place(path), leaf) for path, leaf in found]
    if where is not None:
        names = chosen(where, (place.leaf for place, _ in leaves), option)
        leaves = [(place, leaf) for place, leaf in leaves if place.leaf in names]
    yield from leaves


def nodes(tree: Params, where: Patterns = None) -> Iterator[tuple[Place, Posterior]]:
    """The posterior nodes of a tree with their places; see `each`."""
    return ((place, leaf) for place, leaf in each(tree, where) if is_posterior(leaf))


def weights(tree: Params) -> Iterator[tuple[str, Posterior]]:
    """The nodes that are weights, and no vectors, by name."""
    return ((at.name, node) for at, node in nodes(tree) if not at.is_vector)


def weight(params: Params, layer: str) -> Posterior:
    """The weight of a layer, by name; an array is a point.

    Raises:
      ValueError: there is none of this name; the message lists those there are.
    """
    found = {
        place.name: leaf
        for place, leaf in each(params)
        if place.is_kernel or (is_posterior(leaf) and not place.is_vector)
    }
    node = choose("layer", layer, found)
    return node if is_posterior(node) else Point(jnp.asarray(node))


def change(
    function: Callable,
    tree: Params,
    *others: Params,
    where: Patterns = None,
    inside: bool = False,
) -> Params:
    """The tree with `function(place, leaf, *leaves of others)` for each leaf.

    Args:
      function: makes the new leaf.
      tree: as in `each`.
      *others: trees like it, whose subtrees at each leaf are handed over.
      where: as in `each`; the other leaves stay.
      inside: as in `each`.

    Raises:
      ValueError: a pattern that covers nothing, with the names of all there is.
    """
    wanted = where and {place.leaf for place, _ in each(tree, where, inside=inside)}

    def visit(path, leaf, *rest):
        place = Place(path)
        if wanted is not None and place.leaf not in wanted:
            return leaf
        return function(place, leaf, *rest)

    leaf = None if inside else is_posterior
    return jax.tree_util.tree_map_with_path(visit, tree, *others, is_leaf=leaf)


def covers(pattern: str, leaf: str) -> bool:
    """True for a pattern of the leaf's name, or of a part of the tree that it is in."""
    parts = leaf.split("/")
    above = ("/".join(parts[: n + 1]) for n in range(len(parts)))
    return any(fnmatch.fnmatchcase(name, pattern) for name in above)


def first(patterns: Iterable[str], leaf: str) -> str | None:
    """The first pattern that covers a leaf."""
    return next((pattern for pattern in patterns if covers(pattern, leaf)), None)


def fits(pattern: str, name: str, vector: bool) -> bool:
    """Whether a pattern is of the node of this name, a weight's or a vector's.

    One that ends with the name of a vector ("*/bias", "*bias", "norm/scale") is of
    vectors, any other of weights. Unless it is the very name of a layer: one may be
    called "scale".
    """
    last = pattern.rpartition("/")[2]
    of_vectors = any(last.endswith(v) and fnmatch.fnmatchcase(v, last) for v in VECTORS)
    right = of_vectors == vector or (pattern == name and not vector)
    return right and fnmatch.fnmatchcase(name, pattern)


def rule(patterns: Iterable[str], place: Place) -> str | None:
    """The first pattern that is of a node: of a mapping from nodes to what they get."""
    return next((p for p in patterns if fits(p, place.name, place.is_vector)), None)


def assigned(
    values: Mapping[str, Any],
    places: Iterable[Place],
    option: str,
    complete: bool = False,
) -> dict[str, Any]:
    """What a mapping from patterns gives to each node, by name.

    Args:
      values: by pattern; the first that is of a node counts.
      places: of the nodes.
      option: what the values are, for the message.
      complete: whether every node must get one.

    Raises:
      ValueError: a pattern that is of no node, or a node without.
    """
    used = {place.name: rule(values, place) for place in places}
    found = {name: values[pattern] for name, pattern in used.items() if pattern}
    idle = sorted(set(values) - set(used.values()))
    if idle or (complete and len(found) < len(used)):
        raise ValueError(
            f"{option}: given for {sorted(values)}, but the layers are {sorted(used)}"
        )
    return found


def chosen(
    patterns: Collection[str] | str, leaves: Iterable[str], option: str
) -> set[str]:
    """The leaves that are under one of the patterns.

    Args:
      patterns: one, or several.
      leaves: names of leaves.
      option: what the patterns were given as, for the message.

    Raises:
      ValueError: a pattern that covers nothing, or what is no pattern.
    """
    if callable(patterns):
        raise ValueError(f"{option} takes patterns of names, such as ('dense1',)")
    leaves = list(leaves)
    found: set[str] = set()
    for pattern in (patterns,) if isinstance(patterns, str) else patterns:
        own = {leaf for leaf in leaves if covers(pattern, leaf)}
        if not own:
            raise ValueError(f"{option}: nothing is called {pattern!r} in {leaves}")
        found |= own
    return found
