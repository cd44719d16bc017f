"""Vectors of units as posterior nodes: biases, and the scales of batch normalization.

By default they are arrays: point estimates with a flat prior, whose KL is zero. Where a
net's `posteriors` name one ("dense1/bias", "norm1/scale") it is a node like a weight,
and every walk over nodes sees it by that name.

A bias [O] is the weight [1, O] of an input that is always 1, and so is a scale, whose
product multiplies the unit. The net's estimator samples them as such. Under `lrt` and
`per_example_sampling` an example has a draw of its own, which its pixels share: exact,
also for a convolution, and of a dense layer the same law as a variance added to that of
the pre-activation. Under `weight_sampling` the minibatch has one draw; `flipout` and
`antithetic` turn its sign. The mean is `edits.mean_only`, as for weights. `magnitude`
and its kin are of variance layers alone and refuse a vector with a mean.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import FrozenDict
from flax.errors import InvalidRngError

from vnets import estimators, ops
from vnets.nodes import Factory, Point, Posterior, check_factory, is_noisy, is_posterior
from vnets.types import Array, Key, Shape


def parameter(
    module: nn.Module, name: str, factory: Factory | None, start: Callable, size: int
) -> Posterior | Array:
    """A vector of the module that calls this, as it is found or made.

    Args:
      module: a layer, inside of its call.
      name: "bias" or "scale".
      factory: makes the node [size]; its mean is added to the start, so that a bias
        starts at 0 and a scale at 1 as if they were arrays. None: an array.
      start: of the array: (key, shape, dtype) -> array, an initializer of Flax.
      size: number of units.

    Raises:
      ValueError: a factory whose node no vector can be; a vector of another size.
    """
    node: Any = None
    if module.has_variable("params", name):
        node = module.get_variable("params", name)
    where = "/".join((*module.path, name))
    if factory is not None:
        check_factory(factory, where)
    if factory is None and not is_posterior(node):
        return module.param(name, start, (size,), jnp.float32)
    if node is None and factory is not None:
        node = module.param(name, _started(factory, start, where), (size,))
    node = as_node(node, where)
    if node.shape != (size,):
        raise ValueError(f"{where!r} is {node.shape}, the layer has {size} units")
    return node


def _started(factory: Factory, start: Callable, where: str) -> Factory:
    """The factory with its mean at the start of the array."""

    def make(key: Key, shape: Shape) -> Posterior:
        takes = (
            f"{where!r} is a vector {list(shape)}; it takes a point, a gaussian or a "
            "multiplicative posterior"
        )
        try:
            node: Any = factory(key, shape)
        except (IndexError, ValueError) as error:
            raise ValueError(
                f"{takes}, with alpha per layer, output or weight and an init of "
                f"vectors: {error}"
            ) from error
        if not (is_posterior(node) and node.plain):
            raise ValueError(f"{takes}, not {type(node).__name__}")
        own = start(key, shape, jnp.float32)
        return node.with_mean(own + node.mean)

    return make


def as_node(value: Any, where: str) -> Posterior:
    """A parameter as a node: itself, or the point that an array is.

    Raises:
      ValueError: neither, such as the dict that a checkpoint gives if it is restored
        without the types of what was saved.
    """
    if is_posterior(value):
        return value
    if not hasattr(value, "dtype"):
        raise ValueError(
            f"{where!r} is a {type(value).__name__}, neither an array nor a posterior "
            "node: a factory is what nodes.gaussian() returns, and a checkpoint "
            "is restored into a tree with nodes, such as the model's init makes"
        )
    return Point(jnp.asarray(value))


def noise_key(module: nn.Module) -> Key:
    """A key for what the layer draws.

    Raises:
      ValueError: there is none.
    """
    try:
        return module.make_rng("noise")
    except InvalidRngError as error:
        raise ValueError(
            f"layer {'/'.join(module.path)!r} is noisy and has no key: give "
            'rngs={"noise": key}, and under nn.scan, nn.vmap or nn.RNN also '
            'split_rngs={"params": ..., "noise": True}'
        ) from error


def drawn(module: nn.Module, value: Any, estimator: Callable, x: Array) -> Array:
    """A vector as it is to be combined with x [B, ..., units], of the rank of x.

    Args:
      module: the layer, whose "noise" is drawn from.
      value: of `parameter`, a node or an array.
      estimator: of the net.
      x: the units; only its shape counts.
    """
    middle = (1,) * (x.ndim - 2)
    if not is_noisy(value):
        array = value.sample(None) if is_posterior(value) else value
        return array.reshape(1, *middle, -1)
    weight = jax.tree.map(lambda leaf: leaf[None], value)
    ones = jnp.ones((x.shape[0], 1), jnp.float32)
    y = estimator(ops.DENSE, weight, ones, noise_key(module))
    return y.reshape(x.shape[0], *middle, y.shape[-1])


class BatchNorm(nn.BatchNorm):
    """Flax's batch normalization with nodes as scale and bias, [B, ..., C] -> same.

    Attributes:
      posteriors: "scale" and "bias" to factory; an array where one is not named.
      estimator: of the net.
    """

    posteriors: Mapping[str, Factory] = FrozenDict()
    estimator: Callable = estimators.lrt

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return normalized(self, self.posteriors, self.estimator, x)


def normalized(
    module: nn.BatchNorm,
    posteriors: Mapping[str, Factory],
    estimator: Callable,
    x: Array,
    *args,
    **kwargs,
) -> Array:
    """What a batch normalization computes, with nodes as scale and bias.

    Args:
      module: says what is learned, and holds parameters and statistics.
      posteriors: as in `BatchNorm`.
      estimator: of the net.
      x: [B, ..., C].
      *args, **kwargs: of the module's own call.

    Raises:
      ValueError: a module that does not normalize the last axis.
    """
    if module.axis != -1:
        raise ValueError(
            f"{'/'.join(module.path)!r} normalizes axis {module.axis}; a stochastic "
            "scale or bias is of the last one"
        )
    own = {"parent", "name", "use_scale", "use_bias"}
    fields = (f.name for f in dataclasses.fields(nn.BatchNorm) if f.name not in own)
    # On the module's own scope, so that its statistics keep their place.
    scope: Any = module.scope
    plain = nn.BatchNorm(
        **{name: getattr(module, name) for name in fields},
        use_scale=False,
        use_bias=False,
        parent=scope,
    )
    y = plain(x, *args, **kwargs)
    precision = y.dtype
    if module.use_scale:
        start, factory = module.scale_init, posteriors.get("scale")
        scale = parameter(module, "scale", factory, start, x.shape[-1])
        y = y * drawn(module, scale, estimator, y)
    if module.use_bias:
        start, factory = module.bias_init, posteriors.get("bias")
        bias = parameter(module, "bias", factory, start, x.shape[-1])
        y = y + drawn(module, bias, estimator, y)
    return y.astype(precision)


def learned(module: nn.Module) -> tuple[str, ...]:
    """The vectors that a linear layer or a BatchNorm of Flax learns.

    The bias of a DenseGeneral with several axes of units is an array, not a vector.
    """
    if not isinstance(getattr(module, "features", 1), int):
        return ()
    has_scale = getattr(module, "use_scale", False)
    return (*(("scale",) if has_scale else ()), *(("bias",) if module.use_bias else ()))
