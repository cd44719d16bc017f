"""Flax's wrappers that compute the weights of a layer from its parameters.

`nn.WeightNorm` and `nn.SpectralNorm` divide a weight by a norm. Of a posterior node
they divide the mean, by its own norm, and the deviation by the same number: the law of
the wrapped weight is that of `c w` with the `c` of the mean. What else may stand
between parameters and weights is not known here, so it is refused by name.
"""

import functools
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from vnets import tree
from vnets.layers.modules import where
from vnets.nodes import Posterior, is_posterior
from vnets.types import Array

KINDS = nn.WeightNorm | nn.SpectralNorm
MARK = "map_variables("  # in the path of a scope whose variables are mapped


def wrapped(module: Any, args: tuple, kwargs: dict) -> Array:
    """The call of a WeightNorm or SpectralNorm around layers with posterior nodes.

    Raises:
      ValueError: a node whose norm has no clear meaning (one without a mean, a vector).
    """

    def forward(layer):
        return layer(*args, **kwargs)

    spectral = isinstance(module, nn.SpectralNorm)
    if spectral:
        update = kwargs.pop("update_stats")
        divide = functools.partial(module._spectral_normalize, update_stats=update)
        axes = None
    else:
        divide, axes = module._l2_normalize, module.feature_axes

    def each(place: tree.Place, leaf):
        if not is_posterior(leaf):
            return divide(place.path, leaf)
        name = f"{module.layer_instance.name}/{tree.Place(place.path[1:]).leaf}"
        if not _touches(module, name, leaf):
            return leaf
        return _divided(leaf, functools.partial(divide, place.path), axes, module, name)

    def mapped(variables):
        return tree.change(each, variables)

    # As Flax's own call, but that a node is one leaf.
    return nn.map_variables(
        forward, trans_in_fn=mapped, init=module.is_initializing(), mutable=spectral
    )(module.layer_instance)


def _touches(module: Any, name: str, node: Posterior) -> bool:
    """Whether Flax would divide the parameter of this name at all."""
    if isinstance(module, nn.SpectralNorm):
        return len(node.shape) > 1 and module.n_steps > 0
    chosen = module.variable_filter
    return not chosen or any(part in name for part in chosen)


def _divided(node: Any, divide, axes, module: nn.Module, name: str) -> Posterior:
    """c w, where c is what the mean is multiplied by."""
    kind, weight = type(module).__name__, node
    while weight.dropout_of is not None:
        weight = weight.dropout_of
    if not weight.plain or len(node.shape) < 2:
        what = weight.kind + (" vector" if len(node.shape) < 2 else "")
        raise ValueError(
            f"{where(module)}: {kind} of {name!r}, a {what}, has no clear meaning; it "
            "takes gaussian, multiplicative and point weights, and dropout around them"
        )
    before, _ = weight.location_scale()
    mean = divide(before)
    factor = _factor(before, mean, axes)
    return node.change_bare(lambda one: one.rescaled(mean, factor))


def _factor(before: Array, after: Array, axes) -> Array:
    """What was multiplied by, the same along all but the feature axes; 1 for zeros."""
    kept = () if axes is None else (axes,) if isinstance(axes, int) else axes
    kept = {axis % before.ndim for axis in kept}
    over = tuple(axis for axis in range(before.ndim) if axis not in kept)
    square = jnp.sum(jnp.square(before), over, keepdims=True)
    product = jnp.sum(before * after, over, keepdims=True)
    return jnp.where(square > 0, product / jnp.where(square > 0, square, 1), 1)


def check_own(module: Any, known: int) -> None:
    """Refuses a stochastic layer whose parameters are mapped in a way not known here.

    Args:
      module: the layer, inside of its call.
      known: how many mappings around it are those of `wrapped`.

    Raises:
      ValueError: there are others.
    """
    kind = type(module).__name__
    if type(module).param is not nn.Module.param:
        raise ValueError(
            f"{where(module)}: {kind} overrides `param`, which would change the "
            "arrays of a posterior node, or be passed over; name it in no pattern, or "
            "make it a plain layer"
        )
    if "/".join(module.scope.debug_path).count(MARK) > known:
        raise ValueError(
            f"{where(module)} is within nn.map_variables, which would change mean and "
            "noise of a posterior node apart; name it in no pattern (nn.WeightNorm and "
            "nn.SpectralNorm are known)"
        )
