"""Names of what a parameter tree holds, and patterns of them.

A weight is named by its layer, "dense1"; any other leaf by its own path: a weight that
is not called "kernel", and a bias or a scale of normalization, "dense1/bias" or
"norm1/scale" (`vnets.vectors`).
"""

import fnmatch
from collections.abc import Collection, Iterable

import jax

KERNEL = "kernel"  # the leaf that is a layer's weight
VECTORS = ("bias", "scale")  # leaves of a layer that are vectors of its units


def leaf_name(path) -> str:
    """A leaf's path as text, "block/conv/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def layer_name(path) -> str:
    """A leaf's layer as text, "block/conv": its path in the tree without the leaf."""
    return leaf_name(path[:-1])


def is_vector(path) -> bool:
    """True for the path of a bias or of a scale of normalization."""
    return leaf_name(path[-1:]) in VECTORS


def is_kernel(path) -> bool:
    """True for the path of a layer's weight."""
    return leaf_name(path[-1:]) == KERNEL


def path_name(path) -> str:
    """A node's name: that of its layer, "block/conv", where it is the layer's kernel.

    Else its whole path: a vector is "block/conv/bias", and of a module with several
    weights each has a name of its own, "attention/query".
    """
    return layer_name(path) if is_kernel(path) else leaf_name(path)


def covered(patterns: Collection[str], leaves: Iterable[str], option: str) -> set[str]:
    """The leaves that are under one of the patterns.

    Args:
      patterns: of a leaf ("head/bias"), a layer ("head") or any part of a tree
        ("encoder", "block_*"), which covers all that is under it.
      leaves: names of leaves, as `leaf_name` has them.
      option: what the patterns were given as, for the message.

    Raises:
      ValueError: a pattern that covers nothing, or patterns that are one string.
    """
    if isinstance(patterns, str):
        raise ValueError(f"{option} is a list of names, such as ({patterns!r},)")
    leaves = list(leaves)
    found: set[str] = set()
    for pattern in patterns:
        own = {leaf for leaf in leaves if is_under(pattern, leaf)}
        if not own:
            raise ValueError(f"{option}: nothing is called {pattern!r} in {leaves}")
        found |= own
    return found


def is_under(pattern: str, leaf: str) -> bool:
    """True for a pattern of the leaf's name, or of a part of the tree that it is in."""
    parts = leaf.split("/")
    above = ("/".join(parts[: n + 1]) for n in range(len(parts)))
    return any(fnmatch.fnmatchcase(name, pattern) for name in above)
