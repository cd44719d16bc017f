"""Weights: points, a mean with noise, a variance without a mean, means with a mask.

The functions at the end make nodes: each returns `(key, shape) -> node`, what a layer's
`posterior` argument takes.

Sources: Kingma, Salimans and Welling 2015 (Gaussian and multiplicative noise);
Molchanov, Ashukha and Vetrov 2017 (additive parameterization: Gaussian with a free
log_var); Neklyudov et al. 2019 (ZeroMean: a variance layer).
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vnets import noise as noises
from vnets.nodes.base import (
    LOG_FLOOR,
    Factory,
    Posterior,
    log_alpha,
    log_square,
    node_type,
    other_axes,
    static,
    zeroed,
)
from vnets.types import Array, Initializer, Key, Moment, Shape, choose


@node_type
class Point(Posterior):
    """A weight without noise; its prior is flat, so its KL counts as zero.

    Attributes:
      mean: the weight, [..., I, O].
    """

    mean: Array
    noisy, plain, fixed = False, True, True

    def location_scale(self):
        return self.mean, None

    def shared_log_alpha(self) -> Array:
        return jnp.full(self.shape, -jnp.inf, jnp.float32)

    def kept(self, keep: Array) -> "Point":
        return self._with(mean=jnp.where(keep, self.mean, 0))

    def with_mean(self, mean: Array) -> "Point":
        return self._with(mean=mean)

    def quieter(self, factor: float) -> "Point":
        del factor
        return self

    def times(self, factor: Array) -> "Point":
        return self._with(mean=self.mean * factor)

    def rescaled(self, mean: Array, factor: Array) -> "Point":
        """See `Gaussian.rescaled`."""
        del factor
        return self._with(mean=mean)


class Noisy(Posterior):
    """A weight with noise of its own."""

    @property
    def is_normal(self) -> bool:
        return self.noise == "normal"

    def log_variance(self) -> Array:
        """Of each weight, [..., I, O]; -inf where there is no noise."""
        return 2 * jnp.log(jnp.abs(self.location_scale()[1]))


class _AroundMean(Noisy):
    """A weight with noise around a mean."""

    mean: Array
    plain = has_units = True

    def with_mean(self, mean: Array):
        return self._with(mean=mean)

    def uselessness(self, axis: str = "unit") -> Array:
        """The smallest log(variance / mean^2) among the weights of each unit.

        A unit is of no use if none of its weights is. The ratio of sums over the unit
        would not say so: weights onto units that are dead themselves grow as wide as
        the prior and drown the few in use.
        """
        return jnp.min(log_alpha(self), other_axes(axis, self.shape), keepdims=True)


@node_type
class Additive(_AroundMean):
    """mean + exp(log_var / 2) * noise: a Gaussian, if the noise is normal.

    Attributes:
      mean: [..., I, O].
      log_var: log sigma^2, [..., I, O].
      noise: a family of `vnets.noise`.
    """

    mean: Array
    log_var: Array
    noise: str = static(default="normal")

    @property
    def kind(self) -> str:
        return "Gaussian" if self.noise == "normal" else "Additive"

    def location_scale(self):
        return self.mean, jnp.exp(0.5 * self.log_var)

    def log_variance(self) -> Array:
        return self.log_var

    def _log_ratio(self) -> Array:
        """Log alpha, but -inf where it is pruned."""
        return self.log_var - jnp.log(jnp.square(self.mean) + LOG_FLOOR)

    def shared_log_alpha(self) -> Array:
        return jnp.where(self.pruned(), jnp.inf, self._log_ratio())

    def sum_over(self, of_log_alpha: Callable[[Array], Array]) -> Array:
        return jnp.sum(zeroed(of_log_alpha(self._log_ratio()), self.pruned()))

    def pruned(self):
        return (self.log_var == -jnp.inf) & (self.mean == 0)

    def kept(self, keep: Array) -> "Additive":
        return self._with(
            mean=jnp.where(keep, self.mean, 0),
            log_var=jnp.where(keep, self.log_var, -jnp.inf),
        )

    def quieter(self, factor: float) -> "Additive":
        return self._with(log_var=self.log_var + log_square(factor))

    def times(self, factor: Array) -> "Additive":
        log_var = self.log_var + 2 * jnp.log(factor)
        return self._with(mean=self.mean * factor, log_var=log_var)

    def rescaled(self, mean: Array, factor: Array) -> "Additive":
        """The node around `mean`, its own mean times `factor` up to rounding, with the
        deviation times the same."""
        log_var = self.log_var + jnp.log(jnp.square(factor) + 1e-37)
        return self._with(mean=mean, log_var=log_var)

    def change_noise(self, change: Callable[[Array], Array]) -> "Additive":
        return self._with(log_var=change(self.log_var))

    def clipped(self, low: float, high: float, additive: bool) -> "Additive":
        if not additive:
            return self
        held = log_alpha(self)
        moved = self.log_var + (jnp.clip(held, low, high) - held)
        # What has no noise has none after: inf - inf.
        silent = jnp.isneginf(self.log_var)
        return self._with(log_var=jnp.where(silent, self.log_var, moved))

    def without_idle_mean(self, threshold: float) -> "Additive":
        return self._with(mean=jnp.where(log_alpha(self) > threshold, 0.0, self.mean))

    def subset(self, mask: np.ndarray) -> "Additive":
        return self._with(mean=self.mean[mask], log_var=self.log_var[mask])


@node_type
class Thresholded(Additive):
    """An `Additive` whose mean is used only where log alpha is at most a threshold.

    A weight that its noise drowns has mean 0, in training and after, and its own noise.
    The value behind it lives on: KL, log alpha and pruning are of that value, and once
    its log alpha is below the threshold again it is back. Molchanov, Ashukha and Vetrov
    2017, `train_clip` in their code, which takes the noise from convolutions, too.

    Attributes:
      mean: the value, [..., I, O].
      log_var: log sigma^2, [..., I, O].
      noise: a family of `vnets.noise`.
      threshold: of log alpha.
    """

    threshold: float = static(default=3.0)

    def location_scale(self):
        mean, std = super().location_scale()
        return jnp.where(self.shared_log_alpha() > self.threshold, 0.0, mean), std

    def quieter(self, factor: float) -> Additive:
        """With less noise, and the means that are used now."""
        mean, _ = self.location_scale()
        return Additive(mean, self.log_var, self.noise).quieter(factor)


@node_type
class Multiplicative(_AroundMean):
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

    def log_variance(self) -> Array:
        return self.log_alpha + 2 * jnp.log(jnp.abs(self.mean))

    def shared_log_alpha(self) -> Array:
        return self.log_alpha

    def sum_over(self, of_log_alpha: Callable[[Array], Array]) -> Array:
        shared = self.mean.size / self.log_alpha.size
        return shared * jnp.sum(of_log_alpha(self.log_alpha))

    def pruned(self):
        return self.log_alpha == jnp.inf

    def kept(self, keep: Array) -> "Multiplicative":
        """See `Posterior.kept`; where `keep` tells apart weights that share an alpha,
        each of them has its own from then on, of the same value."""
        shape = jnp.broadcast_shapes(self.log_alpha.shape, keep.shape)
        log_alpha = jnp.broadcast_to(self.log_alpha, shape)
        return self._with(
            mean=jnp.where(keep, self.mean, 0),
            log_alpha=jnp.where(keep, log_alpha, jnp.inf),
        )

    def without_units(self, threshold: float, axis: str) -> "Multiplicative":
        # Units with one alpha are alike.
        one = (i for i, size in enumerate(self.log_alpha.shape) if size == 1)
        useless = jnp.min(self.uselessness(axis), tuple(one), keepdims=True)
        return self.kept(useless <= threshold)

    def quieter(self, factor: float) -> "Multiplicative":
        return self._with(log_alpha=_moved(self, log_square(factor)))

    def times(self, factor: Array) -> "Multiplicative":
        return self._with(mean=self.mean * factor)

    def rescaled(self, mean: Array, factor: Array) -> "Multiplicative":
        """See `Gaussian.rescaled`: the deviation is a multiple of the mean."""
        del factor
        return self._with(mean=mean)

    def change_noise(self, change: Callable[[Array], Array]) -> "Multiplicative":
        return self._with(log_alpha=change(self.log_alpha))

    def clipped(self, low: float, high: float, additive: bool) -> "Multiplicative":
        del additive
        return self._with(log_alpha=clipped_log_alpha(self, low, high))

    def subset(self, mask: np.ndarray) -> "Multiplicative":
        log_alpha = jnp.broadcast_to(self.log_alpha, self.mean.shape)
        return self._with(mean=self.mean[mask], log_alpha=log_alpha[mask])


def _moved(node: Any, by: float) -> Array:
    """The log alpha of a node plus a number; what is pruned has no noise: inf - inf."""
    return jnp.where(node.pruned(), jnp.inf, node.log_alpha + by)


def clipped_log_alpha(node: Any, low: float, high: float) -> Array:
    """The log alpha of a node in [low, high]; of what is pruned it stays infinite."""
    return jnp.where(node.pruned(), jnp.inf, jnp.clip(node.log_alpha, low, high))


@node_type
class ZeroMean(Noisy):
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
    has_mean = False

    def location_scale(self):
        return None, self.gain * self.scale

    def shared_log_alpha(self) -> Array:
        return jnp.full(self.shape, jnp.inf, jnp.float32)

    def sum_over(self, of_log_alpha: Callable[[Array], Array]) -> Array:
        del of_log_alpha  # is 0 at infinity
        return jnp.zeros((), jnp.float32)

    def pruned(self):
        return self.scale == 0

    def kept(self, keep: Array) -> "ZeroMean":
        return self._with(scale=jnp.where(keep, self.scale, 0))

    def quieter(self, factor: float) -> "ZeroMean":
        return self._with(scale=self.scale * factor)

    def times(self, factor: Array) -> "ZeroMean":
        return self._with(scale=self.scale * factor)


@node_type
class Masked(Point):
    """mean * mask: a weight without noise, some of whose entries are off.

    Attributes:
      mean: [..., I, O]; entries that are off are kept, but not used.
      mask: 1 or 0, float32 in the shape of `mean`; it is not trained. Whatever is above
        0 is on, so that an optimizer that decays all weights changes nothing.
      revivable: entries that are off still receive the gradient of the weight that
        they would be, so that they can come back (dynamic network surgery).
    """

    mask: Array
    revivable: bool = static(default=False)
    plain = False

    def location_scale(self):
        mask = (self.mask > 0).astype(self.mean.dtype)
        if not self.revivable:
            return self.mean * mask, None
        return self.mean + lax.stop_gradient(self.mean * mask - self.mean), None

    def kept(self, keep: Array) -> "Masked":
        mask = jnp.where(keep, self.mask, 0)
        return self._with(mean=jnp.where(keep, self.mean, 0), mask=mask)

    def with_mean(self, mean: Array) -> "Masked":
        """Entries of mean zero are off."""
        return self._with(mean=mean, mask=(mean != 0).astype(self.mask.dtype))

    def change_mask(self, change: Callable[[Any], Array]) -> "Masked":
        return self._with(mask=change(self))


def around(mean: Moment, std: Array, noise: str = "normal") -> Noisy:
    """mean + |std| * noise as a node: a variance layer where the mean is None."""
    if mean is None:
        return ZeroMean(std, noise)
    # log 0 only where the variance is 0: a gradient never passes through here.
    return Additive(mean, 2 * jnp.log(jnp.abs(std)), noise)


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
    log_var: float = -10.0,
    init: Initializer = fan_in_uniform,
    drop_above: float | None = None,
) -> Factory:
    """Makes a fully factorized Gaussian (with log-uniform prior: sparse VD).

    Means of weights with log alpha above `drop_above` are not used (`Thresholded`).

    Raises:
      ValueError: a `drop_above` that is not a number.
    """
    kind: Callable[..., Additive] = Additive
    if drop_above is not None:
        if not isinstance(drop_above, int | float) or math.isnan(drop_above):
            raise ValueError(f"drop_above is a number or None, not {drop_above!r}")
        kind = functools.partial(Thresholded, threshold=float(drop_above))
    return lambda key, shape: kind(
        init(key, shape), jnp.full(shape, log_var, jnp.float32)
    )


def additive(
    log_var: float = -10.0, init: Initializer = fan_in_uniform, noise: str = "normal"
) -> Factory:
    """Makes a mean with noise of a family of `vnets.noise`."""
    noises.sampler(noise)
    return lambda key, shape: Additive(
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
        init(key, shape), jnp.full(alpha_shape(shape), log_alpha, jnp.float32), noise
    )


def variance(
    noise: str = "normal", init: Initializer = fan_in_uniform, gain: float = 1.0
) -> Factory:
    """Makes a variance layer; `init` draws its signed scale, `gain` multiplies it."""
    noises.sampler(noise)
    return lambda key, shape: ZeroMean(init(key, shape), noise, gain)


def masked(revivable: bool = False, init: Initializer = fan_in_uniform) -> Factory:
    """Makes a weight that can be pruned; nothing is off at the start."""

    def make(key, shape):
        return Masked(init(key, shape), jnp.ones(shape, jnp.float32), revivable)

    return make
