"""Parameters from elsewhere: a checkpoint's means in the nodes of a net."""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from vnets.names import covered, is_under, leaf_name, path_name
from vnets.posteriors import as_real, is_noisy, is_posterior
from vnets.types import Array, Params


def carry_means(
    params: Params,
    into: Params,
    *,
    new: Collection[str] = (),
    unused: Collection[str] = (),
) -> Params:
    """Puts the means of one tree into the nodes of another, which keep their noise.

    A net trained without noise becomes the start of a noisy one; arrays (biases,
    normalization) are taken over, and by their mean where one of the trees has a node
    and the other an array. Numbers of other floating types become those of `into`,
    which are float32.

    What is pruned in `params` (`edits.prune`) is pruned in the result, whose nodes must
    be able to; `pruning.masked` ones are off wherever the mean is exactly zero, so that
    pruned points and arrays stay so, too.

    Args:
      params: of the trained net: dicts or FrozenDicts of nodes or of arrays of NumPy or
        JAX.
      into: of the same net with other posteriors, freshly initialized. Of a Scaled node
        the weight receives the mean and the scale stays.
      new: parts of `into` that stay as they are, such as a head for other classes:
        layers ("head"), leaves ("head/bias") or patterns ("block_*"). What `params` may
        have under these names is left out.
      unused: parts of `params` that `into` has no place for, named likewise.

    Returns:
      A tree like `into`.

    Raises:
      ValueError: leaves that only one of the trees has, or that differ in shape, and
        are not named; a name of nothing; a node that has no mean to set; what are no
        real numbers.
    """
    given = _by_name(params)
    wanted = _by_name(into)
    fresh = covered(new, wanted, "new")
    out = covered(unused, given, "unused")
    out |= {name for name in given for pattern in new if is_under(pattern, name)}
    _check_same(
        {name: leaf for name, leaf in given.items() if name not in out},
        {name: leaf for name, leaf in wanted.items() if name not in fresh},
    )

    def carry(path, node):
        name = leaf_name(path)
        if name in fresh:
            return node
        trained = given[name]
        mean = trained.moments()[0] if is_posterior(trained) else trained
        if mean is None:  # of a variance layer
            mean = jnp.zeros(trained.shape, jnp.float32)
        if not is_posterior(node):
            return _like(mean, node, name)
        try:
            moved = node.with_mean(as_real(mean, name))
            if is_posterior(trained) and is_noisy(trained):
                gone = trained.pruned()
                if isinstance(gone, Tracer) or gone.any():
                    moved = moved.kept(~gone)
        except TypeError as error:
            raise ValueError(f"carry_means: {path_name(path)} {error}") from error
        return moved

    return jax.tree.map_with_path(carry, into, is_leaf=is_posterior)


def _by_name(params: Params) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=is_posterior)
    return {leaf_name(path): leaf for path, leaf in leaves}


def _like(value: Any, leaf: Array, name: str) -> Array:
    """An array in the type of another."""
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        return as_real(value, name, leaf.dtype)
    return jnp.asarray(value, leaf.dtype)


def _check_same(given: dict[str, Any], wanted: dict[str, Any]) -> None:
    lacking = [name for name in wanted if name not in given]
    beside = [name for name in given if name not in wanted]
    said = []
    if lacking:
        said.append(f"params lack {lacking}; name what is new, such as new=('head',)")
    if beside:
        said.append(f"into has no {beside}; name what is unused, unused=('head',)")
    for name, leaf in wanted.items():
        if name in given and tuple(given[name].shape) != tuple(leaf.shape):
            shapes = tuple(given[name].shape), tuple(leaf.shape)
            said.append(f"{name!r} is {shapes[0]} in params and {shapes[1]} in into")
    if said:
        raise ValueError("carry_means: " + "; ".join(said))
