"""Posterior nodes: what a weight is. They stand in the parameter tree in its place.

A node is a small pytree with `moments()` and `sample(key, batch)`; whatever it does not
train is a static field. KL, sparsity, pruning and every test-time mode are walks over
these nodes. The functions at the end make nodes: each returns `(key, shape) -> node`,
what a layer's `posterior` argument takes.

Shapes: a weight is [..., I, O] (dense [I, O], convolution [kh, kw, I, O]); a bias or a
scale of normalization is a vector, [O] (`vnets.vectors`).

Sources: Kingma, Salimans and Welling 2015 (Gaussian and multiplicative noise);
Molchanov, Ashukha and Vetrov 2017 (additive parameterization: Gaussian with a free
log_var); Neklyudov et al. 2019 (ZeroMean: a variance layer).
"""

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import export, random

from vnets import names
from vnets import noise as noises
from vnets.types import Array, Initializer, Key, Moment, Params, Shape, brief, choose

LOG_FLOOR = 1e-16  # inside logarithms of squared weights
Factory = Callable[[Key, Shape], "Posterior"]
Kind = TypeVar("Kind", bound=type)


def static(**kwargs):
    """A field that is part of the node's type: not traced and not trained."""
    return struct.field(pytree_node=False, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(static,))
def node_type(kind: Kind) -> Kind:
    """Makes a class of nodes: a frozen dataclass that JAX and `jax.export` know.

    Its static fields are written as JSON where an exported function is stored.
    """
    made = struct.dataclass(kind)
    # A class that is defined again, as in a notebook, cannot be registered again.
    with contextlib.suppress(ValueError):
        export.register_pytree_node_serialization(
            made,
            serialized_name=f"{kind.__module__}.{kind.__qualname__}",
            serialize_auxdata=lambda statics: json.dumps(statics).encode(),
            deserialize_auxdata=lambda stored: tuple(json.loads(stored)),
        )
    return made


class Posterior:
    """Base of all nodes: `mean + std * noise` unless a node says otherwise."""

    noise: str = "normal"

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.__repr__ = Posterior.__repr__  # or a dataclass prints all its numbers

    def __repr__(self) -> str:
        """One line, with arrays by their shapes."""
        fields = dataclasses.fields(self)  # pyright: ignore[reportArgumentType]
        held = (f"{f.name}={brief(getattr(self, f.name))}" for f in fields)
        return f"{type(self).__name__}({', '.join(held)})"

    def location_scale(self) -> tuple[Moment, Moment]:
        """Mean and standard deviation (of either sign); None stands for zero."""
        raise TypeError(f"{type(self).__name__} is not a location-scale family")

    def moments(self) -> tuple[Moment, Moment]:
        """Mean and variance of each weight, [..., I, O]; None stands for zero."""
        mean, std = self.location_scale()
        return mean, None if std is None else jnp.square(std)

    def sample(self, key: Key, batch: Shape = ()) -> Array:
        """Independent draws, [*batch, *shape]; a noiseless node needs no key."""
        mean, std = self.location_scale()
        if std is None:
            return jnp.broadcast_to(mean, (*batch, *self.shape))
        draws = noises.sampler(self.noise)(key, (*batch, *self.shape), std.dtype)
        # Added axes are spelled out: no silent rank promotion.
        draws = draws * std.reshape((1,) * len(batch) + std.shape)
        if mean is None:
            return draws
        return mean.reshape((1,) * len(batch) + mean.shape) + draws

    @property
    def shape(self) -> Shape:
        """Shape of the weight."""
        return next(leaf for leaf in self.location_scale() if leaf is not None).shape

    def pruned(self) -> Array:
        """True for what was pruned, with neither mean nor noise; broadcasts to `shape`.

        A node without noise says False: there zero is a value like others.
        """
        return jnp.zeros((), jnp.bool_)

    def kept(self, keep: Array) -> "Posterior":
        """The node with all weights pruned where `keep`, broadcast, is False.

        Raises:
          TypeError: a node whose weights cannot be pruned.
        """
        raise TypeError(f"is a {type(self).__name__}, which cannot be pruned")

    def with_mean(self, mean: Array) -> "Posterior":
        """The node around another mean, with the noise that it has.

        Raises:
          TypeError: a node that has no mean.
        """
        raise TypeError(f"is a {type(self).__name__}, which has no mean")


@node_type
class Point(Posterior):
    """A weight without noise; its prior is flat, so its KL counts as zero.

    Attributes:
      mean: the weight, [..., I, O].
    """

    mean: Array

    def location_scale(self):
        return self.mean, None

    def kept(self, keep: Array) -> "Point":
        return dataclasses.replace(self, mean=jnp.where(keep, self.mean, 0))

    def with_mean(self, mean: Array) -> "Point":
        return dataclasses.replace(self, mean=mean)


@node_type
class Gaussian(Posterior):
    """mean + exp(log_var / 2) * noise: a fully factorized posterior, additive noise.

    Attributes:
      mean: [..., I, O].
      log_var: log sigma^2, [..., I, O].
      noise: a family of `vnets.noise`.
    """

    mean: Array
    log_var: Array
    noise: str = static(default="normal")

    def location_scale(self):
        return self.mean, jnp.exp(0.5 * self.log_var)

    def pruned(self):
        return (self.log_var == -jnp.inf) & (self.mean == 0)

    def kept(self, keep: Array) -> "Gaussian":
        return dataclasses.replace(
            self,
            mean=jnp.where(keep, self.mean, 0),
            log_var=jnp.where(keep, self.log_var, -jnp.inf),
        )

    def with_mean(self, mean: Array) -> "Gaussian":
        return dataclasses.replace(self, mean=mean)


@node_type
class Multiplicative(Posterior):
    """mean * (1 + sqrt(alpha) * noise): variational dropout.

    Attributes:
      mean: [..., I, O].
      log_alpha: log of the variance ratio alpha = sigma^2 / mean^2, of the rank of
        `mean` with length-1 axes where alpha is shared; +inf of a pruned weight, whose
        mean is 0.
      noise: a family of `vnets.noise`.
    """

    mean: Array
    log_alpha: Array
    noise: str = static(default="normal")

    def location_scale(self):
        # Of a pruned weight inf * 0 would be no number.
        log_alpha = jnp.where(self.pruned(), -jnp.inf, self.log_alpha)
        return self.mean, jnp.exp(0.5 * log_alpha) * self.mean

    def pruned(self):
        return self.log_alpha == jnp.inf

    def kept(self, keep: Array) -> "Multiplicative":
        """See `Posterior.kept`; where `keep` tells apart weights that share an alpha,
        each of them has its own from then on, of the same value."""
        shape = jnp.broadcast_shapes(self.log_alpha.shape, keep.shape)
        log_alpha = jnp.broadcast_to(self.log_alpha, shape)
        return dataclasses.replace(
            self,
            mean=jnp.where(keep, self.mean, 0),
            log_alpha=jnp.where(keep, log_alpha, jnp.inf),
        )

    def with_mean(self, mean: Array) -> "Multiplicative":
        return dataclasses.replace(self, mean=mean)


@node_type
class ZeroMean(Posterior):
    """gain * scale * noise: a variance layer. There is no mean to store or to train.

    Attributes:
      scale: [..., I, O], of either sign.
      noise: a family of `vnets.noise`.
      gain: the standard deviation is gain |scale|. The authors' code has sign noise
        in {-1/2, 1/2}, a gain of 1/2, and uniform noise U(-1/2, 1/2), one of 12^(-1/2).
    """

    scale: Array
    noise: str = static(default="normal")
    gain: float = static(default=1.0)

    def location_scale(self):
        return None, self.scale if self.gain == 1.0 else self.gain * self.scale

    def pruned(self):
        return self.scale == 0

    def kept(self, keep: Array) -> "ZeroMean":
        return dataclasses.replace(self, scale=jnp.where(keep, self.scale, 0))


@node_type
class Dropout(Posterior):
    """A scale node with mean one and nothing to train: fixed dropout of units.

    Attributes:
      rate: probability p that a unit is dropped; the variance is p / (1 - p).
      units: number of units.
      noise: "binary" (0 or 1 / (1 - p); Srivastava et al. 2014), or a symmetric family
        of `vnets.noise` of the same variance ("normal": Gaussian dropout).
    """

    rate: float = static()
    units: int = static()
    noise: str = static(default="binary")

    def location_scale(self):
        std = math.sqrt(self.rate / (1.0 - self.rate))
        mean = jnp.ones((self.units,), jnp.float32)
        return mean, jnp.full((self.units,), std, jnp.float32) if std else None

    def sample(self, key: Key, batch: Shape = ()) -> Array:
        if self.noise != "binary" or not self.rate:
            return super().sample(key, batch)
        keep = random.bernoulli(key, 1.0 - self.rate, (*batch, self.units))
        return keep.astype(jnp.float32) / (1.0 - self.rate)


@node_type
class AdaptiveDropout(Posterior):
    """A scale node of mean one with a trained variance: Gaussian dropout that learns
    its rate, variational dropout with correlated weight noise ("type A" of Kingma et
    al. 2015).

    Attributes:
      log_alpha: log of the variance, [units], or [1] where all units share it.
      units: number of units.
      weights: how many weights a unit multiplies; its KL counts as often.
    """

    log_alpha: Array
    units: int = static()
    weights: int = static()

    def location_scale(self):
        mean = jnp.ones((self.units,), jnp.float32)
        return mean, jnp.broadcast_to(jnp.exp(0.5 * self.log_alpha), mean.shape)


@node_type
class Scaled(Posterior):
    """diag(s) V or V diag(s): noise on units as a part of the weight's posterior.

    Binary and Gaussian dropout, correlated weight noise ("type A" of Kingma et al.)
    and the group-sparse posteriors are all of this form. As a node, and not a side
    layer, it is seen by every edit and by the KL.

    Attributes:
      scale: node of shape [I] (axis "in") or [O] (axis "out").
      weight: node of shape [..., I, O].
      axis: which units the scale multiplies.
      per: the noise of the scale is drawn once per "example", per "position" (each
        pixel of each example) or per "batch".
    """

    scale: Posterior
    weight: Posterior
    axis: Literal["in", "out"] = static(default="in")
    per: Literal["example", "position", "batch"] = static(default="example")

    def _column(self, s: Array) -> Array:
        """A vector over units, [*batch, units], with an axis for the other units."""
        return jnp.expand_dims(s, -1 if self.axis == "in" else -2)

    def _aligned(self, s: Array) -> Array:
        column = self._column(s)
        rank = len(self.weight.shape)
        return column.reshape((1,) * (rank - column.ndim) + column.shape)

    def moments(self):
        s_mean, s_var = (
            None if m is None else self._aligned(m) for m in self.scale.moments()
        )
        w_mean, w_var = self.weight.moments()
        mean = None if w_mean is None or s_mean is None else s_mean * w_mean
        # Var(s w) = E[s^2] Var(w) + Var(s) E[w]^2: E[s^2 w^2] less a square cancels.
        var = None if w_var is None else second_moment(s_mean, s_var) * w_var
        if s_var is not None and w_mean is not None:
            own = s_var * jnp.square(w_mean)
            var = own if var is None else var + own
        return mean, var

    def sample(self, key: Key, batch: Shape = ()) -> Array:
        key_scale, key_weight = (None, None) if key is None else random.split(key)
        s = self._column(self.scale.sample(key_scale, batch))
        middle = (1,) * (len(self.weight.shape) - 2)  # a convolution's kernel axes
        s = s.reshape((*batch, *middle, *s.shape[len(batch) :]))
        return s * self.weight.sample(key_weight, batch)

    @property
    def shape(self) -> Shape:
        return self.weight.shape

    def pruned(self):
        """That of the weight; of points, the units that have no weight but zeros.

        Fixed dropout prunes no units, so that zeros under it are values like others.
        """
        if type(self.weight) is not Point or isinstance(self.scale, Dropout):
            return self.weight.pruned()
        rank = len(self.shape)
        units = rank - (2 if self.axis == "in" else 1)
        others = tuple(axis for axis in range(rank) if axis != units)
        return (self.weight.mean == 0).all(others, keepdims=True)

    def kept(self, keep: Array) -> "Scaled":
        return dataclasses.replace(self, weight=self.weight.kept(keep))

    def with_mean(self, mean: Array) -> "Scaled":
        """Of the weight, before scaling."""
        return dataclasses.replace(self, weight=self.weight.with_mean(mean))


def second_moment(mean: Moment, var: Moment) -> Array:
    """mean^2 + var of moments of which one may be None, for zero."""
    if mean is None:
        return var
    return jnp.square(mean) if var is None else jnp.square(mean) + var


def is_posterior(node) -> bool:
    """True for a node of this module; the `is_leaf` of every walk over parameters."""
    return isinstance(node, Posterior)


def check_factory(make, where: str) -> None:
    """Refuses what is given in place of a factory of nodes.

    Raises:
      ValueError: a class of nodes, a node, or what cannot be called.
    """
    what = None
    if isinstance(make, type) and issubclass(make, Posterior):
        what = f"the class {make.__name__}"
    elif is_posterior(make):
        what = f"a node, {type(make).__name__}"
    elif not callable(make):
        what = repr(make)
    if what is not None:
        raise ValueError(
            f"{where!r} needs a factory, (key, shape) -> node, such as what "
            f"posteriors.gaussian() returns, not {what}"
        )


def listed(factories: Mapping[str, Factory]) -> str:
    """Factories on a line, by the functions that made them: {'dense1': gaussian}."""
    made_by = (
        f"{name!r}: {getattr(make, '__qualname__', type(make).__name__)}"
        for name, make in factories.items()
    )
    return f"{{{', '.join(one.partition('.<locals>')[0] for one in made_by)}}}"


def is_noisy(node) -> bool:
    """True if sampling the node needs a key."""
    if isinstance(node, Scaled):
        return is_noisy(node.scale) or is_noisy(node.weight)
    if isinstance(node, Dropout):
        return node.rate > 0.0
    return is_posterior(node) and not isinstance(node, Point)


def log_alpha(node: Posterior) -> Array:
    """log(sigma^2 / mean^2) in the node's shape; of Scaled, its weight's.

    A point has alpha 0 (log alpha -inf), a variance layer and a pruned weight +inf.
    """
    return jnp.broadcast_to(shared_log_alpha(node), node.shape)


def shared_log_alpha(node: Posterior) -> Array:
    """`log_alpha` with axes of length 1 where weights share it."""
    if isinstance(node, Scaled):
        return shared_log_alpha(node.weight)
    if isinstance(node, Multiplicative | AdaptiveDropout):
        return node.log_alpha
    if isinstance(node, Gaussian):
        return jnp.where(node.pruned(), jnp.inf, log_ratio(node))
    if isinstance(node, Point | ZeroMean):
        value = -jnp.inf if isinstance(node, Point) else jnp.inf
        return jnp.full(node.shape, value, jnp.float32)
    raise TypeError(f"log_alpha: {type(node).__name__} has no weights")


def log_ratio(node: Any) -> Array:
    """`log_alpha` of a Gaussian, but -inf where it is pruned."""
    return node.log_var - jnp.log(jnp.square(node.mean) + LOG_FLOOR)


def fan_in_uniform(key: Key, shape: Shape) -> Array:
    """U(-1/sqrt(fan in), 1/sqrt(fan in)), as the authors' PyTorch code starts.

    A vector, which has no fan in, is zero.
    """
    if len(shape) < 2:
        return jnp.zeros(shape, jnp.float32)
    return jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")(
        key, shape, jnp.float32
    )


def point(init: Initializer = fan_in_uniform) -> Factory:
    """Makes an ordinary, deterministic weight."""
    return lambda key, shape: Point(init(key, shape))


def gaussian(
    log_var: float = -10.0, init: Initializer = fan_in_uniform, noise: str = "normal"
) -> Factory:
    """Makes a fully factorized Gaussian (with log-uniform prior: sparse VD)."""
    noises.sampler(noise)
    return lambda key, shape: Gaussian(
        init(key, shape), jnp.full(shape, log_var, jnp.float32), noise
    )


ALPHA_SHAPES = {
    "layer": lambda shape: (1,) * len(shape),
    "output": lambda shape: (1,) * (len(shape) - 1) + shape[-1:],
    "input": lambda shape: (1,) * (len(shape) - 2) + (shape[-2], 1),
    "weight": lambda shape: shape,
}


def multiplicative(
    log_alpha: float = -5.0,
    per: str = "layer",
    init: Initializer = fan_in_uniform,
    noise: str = "normal",
) -> Factory:
    """Makes variational dropout; alpha per "layer", "output", "input" or "weight"."""
    noises.sampler(noise)
    alpha_shape = choose("sharing of alpha", per, ALPHA_SHAPES)
    return lambda key, shape: Multiplicative(
        init(key, shape),
        jnp.full(alpha_shape(shape), log_alpha, jnp.float32),
        noise,
    )


def variance(
    noise: str = "normal", init: Initializer = fan_in_uniform, gain: float = 1.0
) -> Factory:
    """Makes a variance layer; `init` draws its signed scale, `gain` multiplies it."""
    noises.sampler(noise)
    return lambda key, shape: ZeroMean(init(key, shape), noise, gain)


DROPOUT_NOISES = {"binary": None, **noises.FAMILIES}


def dropout(
    rate: float,
    weight: Factory | None = None,
    noise: str = "binary",
    axis: Literal["in", "out"] = "in",
    per: Literal["example", "position", "batch"] = "position",
) -> Factory:
    """Makes a weight with dropout of its input (or output) units.

    Args:
      rate: probability of dropping, 0 <= rate < 1.
      weight: factory of the weight itself; a point by default.
      noise: "binary", or "normal" for Gaussian dropout of the same variance.
      axis: drop "in"put or "out"put units.
      per: see `Scaled`.

    Raises:
      ValueError: a rate, noise, axis or sharing that does not exist.
    """
    _check_dropout(rate, axis, per)
    choose("dropout noise", noise, DROPOUT_NOISES)
    inner = weight or point()

    def make(key: Key, shape: Shape) -> Scaled:
        units = shape[-2] if axis == "in" else shape[-1]
        return Scaled(Dropout(rate, units, noise), inner(key, shape), axis, per)

    return make


def adaptive_dropout(
    rate: float,
    alpha: Literal["unit", "layer"] = "unit",
    weight: Factory | None = None,
    axis: Literal["in", "out"] = "in",
    per: Literal["example", "position", "batch"] = "position",
) -> Callable[[Key, Shape], Scaled]:
    """Makes a weight with Gaussian dropout of its units whose rate is learned.

    Args:
      rate: the dropout rate that the variance rate / (1 - rate) of the start is of,
        0 < rate < 1.
      alpha: a variance for each "unit", or one for the "layer".
      weight: factory of the weight itself; a point by default.
      axis: noise on "in"put or "out"put units.
      per: see `Scaled`.

    Raises:
      ValueError: a rate, sharing or axis that does not exist.
    """
    _check_dropout(rate, axis, per)
    if not rate:
        raise ValueError("adaptive dropout starts from a rate above 0")
    choose("sharing of alpha", alpha, ("unit", "layer"))
    inner = weight or point()
    start = math.log(rate / (1 - rate))

    def make(key: Key, shape: Shape) -> Scaled:
        units = shape[-2] if axis == "in" else shape[-1]
        log_alpha = jnp.full((units if alpha == "unit" else 1,), start, jnp.float32)
        scale = AdaptiveDropout(log_alpha, units, math.prod(shape) // units)
        return Scaled(scale, inner(key, shape), axis, per)

    return make


def _check_dropout(rate: float, axis: str, per: str) -> None:
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"dropout rate must be in [0, 1), not {rate}")
    choose("dropout axis", axis, ("in", "out"))
    choose("dropout sharing", per, ("example", "position", "batch"))


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
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=is_posterior)
    kernels = [names.leaf_name(path) for path, _ in leaves if names.is_kernel(path)]
    chosen = names.covered(layers, kernels, "layers")

    def make(path, leaf):
        name = names.leaf_name(path)
        if name not in chosen:
            real = not is_posterior(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)
            return jnp.asarray(leaf, jnp.float32) if real else leaf
        mean = as_real(leaf.moments()[0] if is_posterior(leaf) else leaf, name)
        log_square = jnp.log(jnp.square(mean) + LOG_FLOOR)
        return Gaussian(mean, 2 * math.log(fraction) + log_square, noise)

    return jax.tree.map_with_path(make, params, is_leaf=is_posterior)


def as_real(value: Any, name: str, dtype: Any = jnp.float32) -> Array:
    """Numbers of any floating type as those of a parameter.

    Raises:
      ValueError: integers, complex numbers, or what are none.
    """
    array = value if isinstance(value, jax.Array) else np.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name!r} is of {array.dtype}, and a weight is a real number")
    return jnp.asarray(array).astype(dtype)
