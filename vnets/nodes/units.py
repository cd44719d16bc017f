"""Noise on units, around any weight: dropout of fixed and of learned rates.

`Scaled` is the weight with noise on its units; nodes of mean one are that noise here,
`vnets.nodes.positive` has those of group-sparse posteriors.

Sources: Srivastava et al. 2014 (dropout); Kingma, Salimans and Welling 2015 (Gaussian
noise on units, "type A"); Gal, Hron and Kendall 2017 (binary dropout of learned rates,
whose gradients are in `vnets.learned_dropout`).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import random

from vnets import noise as noises
from vnets.nodes.base import (
    Factory,
    Posterior,
    log_square,
    node_type,
    other_axes,
    second_moment,
    static,
)
from vnets.nodes.weights import clipped_log_alpha, point
from vnets.types import Array, Key, Shape, choose

Axis = Literal["unit", "in", "out"]
Per = Literal["example", "position", "batch"]


class UnitNoise(Posterior):
    """Noise on units whose mean is one."""

    @property
    def drop_rate(self) -> Any:
        """The probability that a unit is dropped; None of noise that drops none."""
        return None


@node_type
class Dropout(UnitNoise):
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
    fixed = True

    @property
    def noisy(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.rate > 0.0

    @property
    def drop_rate(self) -> Any:
        return self.rate

    def quieter(self, factor: float) -> "Dropout":
        """Binary dropout stays binary."""
        variance = factor**2 * self.rate / (1 - self.rate)
        return self._with(rate=variance / (1 + variance))

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
class AdaptiveDropout(UnitNoise):
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

    def shared_log_alpha(self) -> Array:
        return self.log_alpha

    def log_prob(self, value: Array) -> Array:
        self._no_rule("log_prob")  # of its units, while its KL is of weights

    def sum_over(self, of_log_alpha: Callable[[Array], Array]) -> Array:
        # Of one layer: under nn.scan log alpha has an axis of layers before.
        shared = self.weights * self.units / self.log_alpha.shape[-1]
        return shared * jnp.sum(of_log_alpha(self.log_alpha))

    def quieter(self, factor: float) -> "AdaptiveDropout":
        return self._with(log_alpha=self.log_alpha + log_square(factor))

    def change_noise(self, change: Callable[[Array], Array]) -> "AdaptiveDropout":
        return self._with(log_alpha=change(self.log_alpha))

    def clipped(self, low: float, high: float, additive: bool) -> "AdaptiveDropout":
        del additive
        return self._with(log_alpha=clipped_log_alpha(self, low, high))


@node_type
class AdaptiveBinaryDropout(AdaptiveDropout):
    """A scale node of mean one: 0, or 1 / (1 - p), with a trained rate p of zeros.

    Its variance is alpha = p / (1 - p), whose log is what is trained: the logit of p.
    Moments are those of binary masks at every temperature.

    Attributes:
      temperature: 0 for binary masks, which give log alpha no right gradient by
        themselves; above 0 for concrete ones.
    """

    temperature: float = static(default=0.0)
    noise = "binary"

    @property
    def drop_rate(self) -> Any:
        return jax.nn.sigmoid(self.log_alpha)

    def log_probabilities(self) -> tuple[Array, Array]:
        """log p and log(1 - p), in the shape of log alpha."""
        return jax.nn.log_sigmoid(self.log_alpha), jax.nn.log_sigmoid(-self.log_alpha)

    def sample(self, key: Key, batch: Shape = ()) -> Array:
        log_alpha = jnp.broadcast_to(self.log_alpha, (self.units,))
        log_alpha = log_alpha.reshape((1,) * len(batch) + (self.units,))
        # P(logistic > log alpha) = 1 - p
        margin = random.logistic(key, (*batch, self.units), jnp.float32) - log_alpha
        if self.temperature:
            keep = jax.nn.sigmoid(margin / self.temperature)
        else:
            keep = (margin > 0).astype(jnp.float32)
        return keep * (1.0 + jnp.exp(log_alpha))  # 1 / (1 - p)


@node_type
class Drawn(Posterior):
    """A scale that was drawn before; it takes the place of the node that it is of.

    Attributes:
      values: one draw for each example, [B, units].
    """

    values: Array
    noise = "binary"

    def sample(self, key: Key, batch: Shape = ()) -> Array:
        """The values; raises ValueError where other than B draws are wanted."""
        del key
        if batch != self.values.shape[:-1]:
            raise ValueError(
                f"masks were drawn for {self.values.shape[:-1]}, one for each example, "
                f'not for {batch}: a convolution needs per="example"'
            )
        return self.values

    @property
    def shape(self) -> Shape:
        return self.values.shape[-1:]


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
    weight: Any  # a Posterior
    axis: Literal["in", "out"] = static(default="in")
    per: Literal["example", "position", "batch"] = static(default="example")

    @property
    def noisy(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.scale.noisy or self.weight.noisy

    @property
    def has_units(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return not self.scale.fixed

    @property
    def kind(self) -> str:
        return f"{self.scale.kind} x {self.weight.kind}"

    @property
    def bare(self) -> Posterior:
        return self.weight.bare

    @property
    def dropout_of(self) -> Posterior | None:
        return self.weight if isinstance(self.scale, UnitNoise) else None

    def change_bare(self, change: Callable[[Any], Posterior]) -> "Scaled":
        return self._with(weight=self.weight.change_bare(change))

    def parts(self, role: str = "weight") -> list[tuple[str, Posterior]]:
        return self.scale.parts("scale") + self.weight.parts(role)

    def shared_log_alpha(self) -> Array:
        return self.weight.shared_log_alpha()

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
        if self.scale.fixed or self.weight.noisy or not self.weight.plain:
            return self.weight.pruned()
        rank = len(self.shape)
        units = rank - (2 if self.axis == "in" else 1)
        others = tuple(axis for axis in range(rank) if axis != units)
        return (self.weight.mean == 0).all(others, keepdims=True)

    def kept(self, keep: Array) -> "Scaled":
        return self._with(weight=self.weight.kept(keep))

    def with_mean(self, mean: Array) -> "Scaled":
        """Of the weight, before scaling."""
        return dataclasses.replace(self, weight=self.weight.with_mean(mean))

    def uselessness(self, axis: str = "unit") -> Array:
        """That of the noise on units, whichever axis is asked for."""
        del axis
        return self._aligned(self.scale.unit_uselessness())

    def without_units(self, threshold: float, axis: str) -> "Scaled":
        """Fixed dropout decides nothing: what is in it does, if it has noise; and noise
        on other units within that of these decides, too."""
        node = self
        if self.weight.noisy and (self.scale.fixed or isinstance(self.weight, Scaled)):
            node = self._with(weight=self.weight.without_units(threshold, axis))
        if self.scale.fixed:
            return node
        return node.kept(self.uselessness(axis) <= threshold)

    def quieter(self, factor: float) -> "Scaled":
        """Both noises, that of the units and that of the weights."""
        scale, weight = self.scale.quieter(factor), self.weight.quieter(factor)
        return self._with(scale=scale, weight=weight)

    def change_noise(self, change: Callable[[Array], Array]) -> "Scaled":
        scale, weight = (
            part.change_noise(change) for part in (self.scale, self.weight)
        )
        return self._with(scale=scale, weight=weight)

    def clipped(self, low: float, high: float, additive: bool) -> "Scaled":
        scale = self.scale.clipped(low, high, additive)
        return self._with(scale=scale, weight=self.weight.clipped(low, high, additive))

    def without_idle_mean(self, threshold: float) -> "Scaled":
        return self._with(weight=self.weight.without_idle_mean(threshold))

    def balanced(self) -> "Scaled":
        """Units without noise and those whose noise cannot be multiplied stay."""
        if not self.scale.noisy:
            return self
        square = second_moment(*self.weight.moments())
        size = jnp.sqrt(jnp.mean(square, other_axes(self.axis, self.shape)))
        size = jnp.where(size > 0, size, 1)
        try:
            scale = self.scale.times(size)
        except TypeError:
            return self
        weight = self.weight.times(1 / self._aligned(size))
        return self._with(scale=scale, weight=weight)


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


def adaptive_binary_dropout(
    rate: float,
    alpha: Literal["unit", "layer"] = "unit",
    weight: Factory | None = None,
    axis: Literal["in", "out"] = "in",
    per: Literal["example", "position", "batch"] = "example",
) -> Factory:
    """Makes a weight with binary dropout of its units whose rate is learned.

    Args:
      rate: where the rate starts, 0 < rate < 1.
      alpha: a rate for each "unit", or one for the "layer".
      weight: factory of the weight itself; a point by default.
      axis: drop "in"put or "out"put units.
      per: see `Scaled`; score_function needs masks of each example's own.

    Raises:
      ValueError: a rate, sharing or axis that does not exist.
    """
    gaussian = adaptive_dropout(rate, alpha, weight, axis, per)

    def make(key: Key, shape: Shape) -> Scaled:
        node = gaussian(key, shape)
        scale = AdaptiveBinaryDropout(**vars(node.scale))
        return dataclasses.replace(node, scale=scale)

    return make
