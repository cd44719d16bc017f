"""Noise on units that is never negative: nodes for the scale of a `Scaled` weight.

A unit whose scale is mostly noise, or next to zero, can be cut out of the net:

    structured             truncated log-normal scale, point weight: structured Bayesian
                           pruning (Neklyudov, Molchanov, Ashukha and Vetrov 2017)
    group_normal_jeffreys  Gaussian scale, Gaussian weight, and
    group_horseshoe        a product of log-normals, Gaussian weight: Bayesian
                           compression (Louizos, Ullrich and Welling 2017)

Their KLs stand in `vnets.priors`, `edits.prune_units` cuts. The axis "unit" is that of
both papers' LeNet-5: input units of a dense layer, output maps of a convolution.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jax import random
from jax.scipy.special import ndtr, ndtri

from vnets import noise as noises
from vnets.nodes.base import Factory, Posterior, node_type, resolve, static
from vnets.nodes.units import Axis, Per, Scaled
from vnets.nodes.weights import Additive, fan_in_uniform, gaussian, point
from vnets.types import Array, Initializer, Key, Shape, choose


@node_type
class LogNormal(Posterior):
    """exp(N(log_mean, exp(log_var))).

    Attributes:
      log_mean: mean of the logarithm, [units].
      log_var: log of the variance of the logarithm, [units].
    """

    log_mean: Array
    log_var: Array
    noise = "log-normal"

    def moments(self):
        var = jnp.exp(self.log_var)
        mean = jnp.exp(self.log_mean + 0.5 * var)
        return mean, jnp.square(mean) * jnp.expm1(var)

    def sample_log(self, key: Key, batch: Shape = ()) -> Array:
        """Draws of the logarithm, [*batch, units]."""
        mean, std = self.log_mean, jnp.exp(0.5 * self.log_var)
        draws = noises.normal(key, (*batch, *self.shape), mean.dtype)
        added = (1,) * len(batch)
        return mean.reshape(added + mean.shape) + draws * std.reshape(added + std.shape)

    def sample(self, key: Key, batch: Shape = ()) -> Array:
        return jnp.exp(self.sample_log(key, batch))

    @property
    def shape(self) -> Shape:
        return self.log_mean.shape

    def log_prob(self, value: Array) -> Array:
        mean, std = self.log_mean, jnp.exp(0.5 * self.log_var)
        log = jnp.log(value)
        return noises.log_density("normal")((log - mean) / std) - jnp.log(std) - log

    def shared_log_alpha(self) -> Array:
        var = jnp.exp(self.log_var)
        return var + jnp.log(-jnp.expm1(-var))  # log(exp(var) - 1)

    def quieter(self, factor: float) -> "LogNormal":
        """The log-normal of the same mean and of factor^2 times the variance."""
        var = jnp.exp(self.log_var)
        new = jnp.log1p(factor**2 * jnp.expm1(var))
        mean = self.log_mean + 0.5 * (var - new)
        return self._with(log_mean=mean, log_var=jnp.log(new))

    def times(self, factor: Array) -> "LogNormal":
        return self._with(log_mean=self.log_mean + jnp.log(factor))


# The authors' bounds: log sigma in [-20, 5], mu in [low, high + 5].
LOG_STD_BOUNDS = (-20.0, 5.0)
MARGIN = 5.0
# Where the integrals end: densities below exp(-25) of the largest count as zero.
_REACH, _DROP = 8.0, 25.0
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)
_TAIL = 10.0  # standard deviations beyond which quantiles are taken in closed form
_SMALLEST = 2.0**-24


@node_type
class TruncatedLogNormal(Posterior):
    """exp(x) for a normal x on [low, high]; by default the scale lies in [2e-9, 1].

    Moments and KL are Gauss-Legendre sums of positive terms over where the density
    lives: closed forms by `erf` cancel in single precision once `location` is some
    standard deviations above `high`, which is where useful units go.

    Attributes:
      location: mu of the normal before truncation, [units]; counts as clipped to
        [low, high + 5], without a gradient outside, as does
      log_std: log sigma, [units], to [-20, 5] (both as the authors' code).
      low: least log scale.
      high: largest log scale.
    """

    location: Array
    log_std: Array
    low: float = static(default=-20.0)
    high: float = static(default=0.0)
    noise = "truncated log-normal"

    @property
    def shape(self) -> Shape:
        return self.location.shape

    def moments(self):
        centre, average, spread = self._around_centre()
        mean = jnp.exp(centre) * (1 + average)
        return mean, jnp.square(jnp.exp(centre)) * spread

    def shared_log_alpha(self) -> Array:
        """log(var / mean^2); above 0 the signal-to-noise ratio is below 1."""
        _, average, spread = self._around_centre()
        return jnp.log(spread) - 2 * jnp.log1p(average)

    def _around_centre(self) -> tuple[Array, Array, Array]:
        """c = E x, and the mean and variance of exp(x - c) - 1."""
        top, offsets, weights, _, _ = self._integral()
        centre = jnp.sum(weights * offsets, -1)
        deviation = jnp.expm1(offsets - centre[..., None])
        average = jnp.sum(weights * deviation, -1)
        spread = jnp.square(deviation - average[..., None])
        return top + centre, average, jnp.sum(weights * spread, -1)

    def kl(self) -> Array:
        """KL to the uniform law of x on [low, high], elementwise, in nats."""
        _, _, weights, exponent, log_norm = self._integral()
        entropy = log_norm - jnp.sum(weights * exponent, -1)
        return math.log(self.high - self.low) - entropy

    def log_prob(self, value: Array) -> Array:
        """Of values within the bounds."""
        mean, std = self._bounded()
        log = jnp.log(value)
        end = jnp.minimum((self.high - mean) / std, 0.0)
        *_, log_norm = self._integral()
        exponent = 0.5 * (jnp.square(end) - jnp.square((log - mean) / std))
        return exponent - log_norm - log

    def sample(self, key: Key, batch: Shape = ()) -> Array:
        """Reparameterized draws: quantiles at uniform draws."""
        mean, std = self._bounded()
        added = (1,) * len(batch)
        mean, std = mean.reshape(added + mean.shape), std.reshape(added + std.shape)
        shape = (*batch, *self.shape)
        level = random.uniform(key, shape, mean.dtype, _SMALLEST, 1.0)
        below, above = (self.low - mean) / std, (self.high - mean) / std
        # Within reach of single precision by the normal quantile ...
        near = jnp.maximum(above, -_TAIL)
        start = ndtr(below)
        probability = start + level * (ndtr(near) - start)
        x = mean + std * ndtri(jnp.minimum(probability, 1 - _SMALLEST))
        # ... beyond, where x is all but exponential, from Mills' ratio ~ 1 / t.
        t, exponent = jnp.maximum(-above, _TAIL), -jnp.log(level)
        u = _root(t, exponent)
        u = _root(t, exponent - jnp.log1p(u / t))
        x = jnp.where(above < -_TAIL, self.high - std * u, x)
        return jnp.exp(jnp.minimum(x, self.high))

    def _bounded(self) -> tuple[Array, Array]:
        mean = jnp.clip(self.location, self.low, self.high + MARGIN)
        return mean, jnp.exp(jnp.clip(self.log_std, *LOG_STD_BOUNDS))

    def _integral(self):
        """The upper end, the nodes' offsets from it, their weights, summing to 1, and
        the log density there up to the constant `log_norm`."""
        mean, std = self._bounded()
        # In standard deviations from the mean: the upper end, and how far down from it.
        end = jnp.minimum((self.high - mean) / std, _REACH + 2 * std)
        root = jnp.sqrt(jnp.square(end) + 2 * _DROP)
        above = jnp.maximum(end, 0.0)
        # end + root, without cancellation where end is very negative
        down = jnp.where(
            end > 0, above + root, 2 * _DROP / (root - jnp.minimum(end, 0))
        )
        down = jnp.minimum(down, end + (mean - self.low) / std)
        nodes = jnp.asarray(0.5 * (_NODES + 1), mean.dtype)
        weights = jnp.asarray(0.5 * _WEIGHTS, mean.dtype)
        one = (1,) * mean.ndim
        u = down[..., None] * nodes.reshape(*one, -1)
        exponent = end[..., None] * u - 0.5 * jnp.square(u)
        exponent = exponent - 0.5 * jnp.square(above)[..., None]
        mass = weights.reshape(*one, -1) * jnp.exp(exponent)
        total = jnp.sum(mass, -1)
        log_norm = jnp.log(total * down) + jnp.log(std)
        share = mass / total[..., None]
        return mean + end * std, -std[..., None] * u, share, exponent, log_norm


def _root(t: Array, exponent: Array) -> Array:
    """u of t u + u^2 / 2 = exponent."""
    exponent = jnp.maximum(exponent, 0.0)
    return 2 * exponent / (t + jnp.sqrt(jnp.square(t) + 2 * exponent))


@node_type
class Horseshoe(Posterior):
    """sqrt(s_a s_b a_i b_i): scales of units that share a scale of the layer.

    A half-Cauchy is the root of a gamma times an inverse gamma variable, so that a
    log-normal posterior of each of the four has a closed KL.

    Attributes:
      shared: s_a and s_b, [2].
      unit: a_i and b_i, [2, units].
    """

    shared: LogNormal
    unit: LogNormal
    noise = "log-normal"

    @property
    def marginal(self) -> LogNormal:
        """The law of each unit's scale by itself, [units]."""
        # From behind: under nn.scan there is an axis of layers before these.
        unit, shared = _root_of(self.unit, -2), _root_of(self.shared, -1)
        mean, var = (a + b[..., None] for a, b in zip(unit, shared, strict=True))
        return LogNormal(mean, jnp.log(var))

    @property
    def own(self) -> LogNormal:
        """The law of sqrt(a_i b_i), [units]: each unit's scale but for the layer's."""
        mean, var = _root_of(self.unit, -2)
        return LogNormal(mean, jnp.log(var))

    @property
    def layer(self) -> LogNormal:
        """The law of sqrt(s_a s_b), the layer's scale, []."""
        mean, var = _root_of(self.shared, -1)
        return LogNormal(mean, jnp.log(var))

    def moments(self):
        return self.marginal.moments()

    def sample(self, key: Key, batch: Shape = ()) -> Array:
        key_shared, key_unit = random.split(key)
        shared = jnp.sum(self.shared.sample_log(key_shared, batch), -1, keepdims=True)
        unit = jnp.sum(self.unit.sample_log(key_unit, batch), -2)
        return jnp.exp(0.5 * (shared + unit))

    @property
    def shape(self) -> Shape:
        *layers, _, units = self.unit.shape
        return (*layers, units)

    def shared_log_alpha(self) -> Array:
        return self.marginal.shared_log_alpha()

    def unit_uselessness(self) -> Array:
        """The negative log mode of the scale, as Louizos et al.: alpha is small for
        small scales too."""
        scale = self.marginal
        return jnp.exp(scale.log_var) - scale.log_mean

    def times(self, factor: Array) -> "Horseshoe":
        """The layer's scale takes the mean logarithm of the factors, each unit what is
        left. What makes either smaller goes into the gamma factor, what makes it larger
        into the inverse gamma one: the other way round their KLs grow exponentially."""
        logs = jnp.log(jnp.broadcast_to(factor, self.shape))
        mean = jnp.mean(logs)
        shared, unit = (
            _shifted(self.shared, mean, 0),
            _shifted(self.unit, logs - mean, -2),
        )
        return self._with(shared=shared, unit=unit)


def _root_of(pair: LogNormal, axis: int) -> tuple[Array, Array]:
    """Mean and variance of the logarithm of the root of two factors' product."""
    mean = 0.5 * jnp.sum(pair.log_mean, axis)
    return mean, 0.25 * jnp.sum(jnp.exp(pair.log_var), axis)


def _shifted(pair: LogNormal, log_factor: Array, axis: int) -> LogNormal:
    """A gamma and an inverse gamma factor, along an axis, their root multiplied."""
    both = jnp.stack([jnp.minimum(log_factor, 0), jnp.maximum(log_factor, 0)], axis)
    return dataclasses.replace(pair, log_mean=pair.log_mean + 2 * both)


def _scaled(make_scale, weight: Factory, axis: Axis, per: Per) -> Factory:
    choose("axis of units", axis, ("unit", "in", "out"))
    choose("sharing of noise", per, ("example", "position", "batch"))

    def make(key: Key, shape: Shape) -> Scaled:
        side = resolve(axis, shape)
        key_scale, key_weight = random.split(key)
        scale = make_scale(key_scale, shape[-2] if side == "in" else shape[-1])
        return Scaled(scale, weight(key_weight, shape), side, per)

    return make


def structured(
    log_std: float = -5.0,
    weight: Factory | None = None,
    axis: Axis = "unit",
    per: Per = "batch",
) -> Factory:
    """Makes a weight with truncated log-normal noise on its units.

    Args:
      log_std: log sigma at the start; mu starts at 0, the upper end.
      weight: factory of the weight itself; a point by default.
      axis: "in"put or "out"put units; "unit" for those of the module's docstring.
      per: see `Scaled`; one draw for a batch is the authors'.

    Raises:
      ValueError: an axis or sharing that does not exist.
    """

    def make_scale(key: Key, units: int) -> TruncatedLogNormal:
        del key
        return TruncatedLogNormal(
            jnp.zeros((units,), jnp.float32), jnp.full((units,), log_std, jnp.float32)
        )

    return _scaled(make_scale, weight or point(), axis, per)


def group_normal_jeffreys(
    scale_log_var: float = -9.0,
    log_var: float = -9.0,
    axis: Axis = "unit",
    per: Per = "example",
    init: Initializer = fan_in_uniform,
    weight: Factory | None = None,
) -> Factory:
    """Makes a Gaussian weight with Gaussian noise of mean 1 on its units.

    The authors' starts, but that theirs of the log variances are drawn, N(-9, 0.01^2).

    Args:
      scale_log_var: log variance of the units' scales at the start.
      log_var: log variance of the weights at the start.
      axis: see `structured`.
      per: see `Scaled`; one draw for each example is the authors'.
      init: of the means of the weights.
      weight: factory of the weight itself, in place of `log_var` and `init`; it may
        have noise on other units already.

    Raises:
      ValueError: an axis or sharing that does not exist.
    """

    def make_scale(key: Key, units: int) -> Additive:
        mean = 1.0 + 0.01 * random.normal(key, (units,), jnp.float32)
        return Additive(mean, jnp.full((units,), scale_log_var, jnp.float32))

    return _scaled(make_scale, weight or gaussian(log_var, init), axis, per)


def group_horseshoe(
    scale_log_var: float = -9.0,
    log_var: float = -9.0,
    axis: Axis = "unit",
    per: Per = "example",
    init: Initializer = fan_in_uniform,
) -> Factory:
    """Makes a Gaussian weight with horseshoe scales on its units, all 1 at the start.

    Args:
      scale_log_var: log variance of the logarithm of each of the four factors.
      log_var: log variance of the weights at the start.
      axis: see `structured`.
      per: see `Scaled`.
      init: of the means of the weights.

    Raises:
      ValueError: an axis or sharing that does not exist.
    """

    def make_scale(key: Key, units: int) -> Horseshoe:
        del key

        def start(*shape: int) -> LogNormal:
            log_vars = jnp.full(shape, scale_log_var, jnp.float32)
            return LogNormal(jnp.zeros(shape, jnp.float32), log_vars)

        return Horseshoe(start(2), start(2, units))

    return _scaled(make_scale, gaussian(log_var, init), axis, per)
