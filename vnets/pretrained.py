"""Parameters from elsewhere: a checkpoint's means in the nodes of a net.

`carry_means` puts them into nodes that there are, `from_weights` makes nodes of them.
"""

import math
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from vnets import noise as noises
from vnets import tree
from vnets.nodes import LOG_FLOOR, Gaussian, is_noisy, is_posterior
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
    be able to; `nodes.masked` ones are off wherever the mean is exactly zero, so that
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
    fresh = tree.chosen(new, wanted, "new")
    out = tree.chosen(unused, given, "unused")
    patterns = (new,) if isinstance(new, str) else new
    out |= {name for name in given if tree.first(patterns, name)}
    _check_same(
        {name: leaf for name, leaf in given.items() if name not in out},
        {name: leaf for name, leaf in wanted.items() if name not in fresh},
    )

    def carry(place: tree.Place, node):
        name = place.leaf
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
            raise ValueError(f"carry_means: {place.name} {error}") from error
        return moved

    return tree.change(carry, into)


def _by_name(params: Params) -> dict[str, Any]:
    return {place.leaf: leaf for place, leaf in tree.each(params)}


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


def from_weights(
    params: Params,
    fraction: float = 0.1,
    layers: Collection[str] = ("*",),
    noise: str = "normal",
) -> Params:
    """Makes Gaussians of a net's trained weights, with deviations a fraction of them.

    w becomes N(w, fraction^2 w^2): log alpha is 2 ln(fraction) everywhere (Krishnan,
    Subedar and Tickoo 2020). `layers.stochastic(model, {})` runs the result, and
    `train.fit` starts from it by `warm_start`.

    Args:
      params: "params" of a Flax model, as arrays of any floating type or as nodes.
      fraction: standard deviation over |w|, > 0.
      layers: which kernels, by patterns of their layers ("dense1", "block_*"); whatever
        else there is stays what it is, in float32.
      noise: a family of `vnets.noise`.

    Returns:
      The tree, with a `Gaussian` in the place of each of these kernels.

    Raises:
      ValueError: a fraction that is not positive, a pattern of no kernel, or a kernel
        of no real numbers.
    """
    if not fraction > 0:
        raise ValueError(f"a fraction of the weights must be positive, not {fraction}")
    noises.sampler(noise)
    kernels = [place.leaf for place, _ in tree.each(params) if place.is_kernel]
    chosen = tree.chosen(layers, kernels, "layers")

    def make(place: tree.Place, leaf):
        if place.leaf not in chosen:
            real = not is_posterior(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)
            return jnp.asarray(leaf, jnp.float32) if real else leaf
        mean = leaf.moments()[0] if is_posterior(leaf) else leaf
        mean = as_real(mean, place.leaf)
        log_square = jnp.log(jnp.square(mean) + LOG_FLOOR)
        return Gaussian(mean, 2 * math.log(fraction) + log_square, noise)

    return tree.change(make, params)


def as_real(value: Any, name: str, dtype: Any = jnp.float32) -> Array:
    """Numbers of any floating type as those of a parameter.

    Raises:
      ValueError: integers, complex numbers, or what are none.
    """
    array = value if isinstance(value, jax.Array) else np.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name!r} is of {array.dtype}, and a weight is a real number")
    return jnp.asarray(array).astype(dtype)
