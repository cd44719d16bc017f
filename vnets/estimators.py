"""How a layer with a posterior weight is sampled: (op, node, x, key) -> pre-activation.

Dense layers and convolutions differ only in `op` (`vnets.ops`). An estimator is chosen
by `layers.Mode`, so each is a module-level function: a fresh closure would recompile.

x is [B, ..., I], the result [B, ..., O] without the bias, which the layer adds.

The type of x is that of the activations: with bfloat16 inputs the factors of products,
squares and variances among them, are rounded to bfloat16, and the sums are float32. A
variance is a sum of what is not negative, so its relative error is at most that of its
terms, 2^-7. Roots and noise are float32 always.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax, random

from vnets import noise as noises
from vnets.derivatives import CustomVJP
from vnets.nodes import Posterior, Scaled, is_noisy
from vnets.types import Array, Key, Moment, Shape

VAR_FLOOR = 1e-16  # inside the root: sqrt has no gradient at 0 (authors' value)
# Of |eps| for a standard normal eps; (0.603 / 0.798)^2 = pi / 2 - 1 = 0.571.
MAGNITUDE_MEAN = math.sqrt(2 / math.pi)
MAGNITUDE_STD = math.sqrt(1 - 2 / math.pi)
# Of per_example_sampling; a block that fits the processor's cache is also the fastest.
WEIGHTS_AT_ONCE = 2**18


def _with_scaled(estimate_weight):
    """Extends an estimator of plain nodes to Scaled ones: noise on the units."""

    @functools.wraps(estimate_weight)
    def estimate(op, q: Posterior, x: Array, key: Key) -> Array:
        if not is_noisy(q):
            return _product(op, x, q.sample(None))
        if not isinstance(q, Scaled):
            return estimate_weight(op, q, x, key)
        key_scale, key_weight = random.split(key)
        if q.axis == "in":
            return estimate(op, q.weight, x * _unit_noise(q, x, key_scale), key_weight)
        y = estimate(op, q.weight, x, key_weight)
        return y * _unit_noise(q, y, key_scale)

    return estimate


def _product(op, x: Array, w: Array) -> Array:
    """x w, of the type of x."""
    return op.lower(op.apply(op.lift(x), w).astype(x.dtype))


def _squared(h: Array) -> Array:
    """The squares that a variance is multiplied with, of the type of h."""
    return lax.optimization_barrier(jnp.square(h))


def _unit_noise(q: Scaled, x: Array, key: Key) -> Array:
    """Draws of the scale, to be broadcast over x [B, ..., units]."""
    drawn = {"batch": 0, "example": 1, "position": x.ndim - 1}[q.per]
    if not is_noisy(q.scale):
        key = None
    s = q.scale.sample(key, x.shape[:drawn])
    if s.shape[-1] != x.shape[-1]:  # a single unit would be broadcast
        raise ValueError(
            f"noise on {s.shape[-1]} units does not fit inputs of {x.shape[-1]}: a "
            'grouped convolution takes noise on its outputs alone, axis="out"'
        )
    s = s.reshape((*s.shape[:-1], *(1,) * (x.ndim - 1 - drawn), s.shape[-1]))
    return s.astype(x.dtype)


@_with_scaled
def lrt(op, q: Posterior, x: Array, key: Key) -> Array:
    """Local reparameterization: samples the pre-activation instead of the weight.

    y = m + sqrt(v) eps with m = x mean, v = x^2 var and one eps for each pre-activation
    (Kingma, Salimans and Welling 2015, section 2.2). Exact for dense layers; of a
    convolution it has the right marginals and neglects the correlation between pixels.

    Raises:
      ValueError: the node's noise is not normal, so neither is the sum.
    """
    mean, var = _normal_moments(q)
    h = op.lift(x)
    y_var = op.apply(_squared(h), var)
    draws = noises.normal(key, y_var.shape, y_var.dtype)
    y_mean = jnp.zeros_like(y_var) if mean is None else op.apply(h, mean)
    return op.lower(_perturb(y_mean, y_var, draws).astype(x.dtype))


@_with_scaled
def sequence_lrt(op, q: Posterior, x: Array, key: Key) -> Array:
    """`lrt` with one eps for each example and output unit, which its positions share.

    The steps of a sequence [B, T, I] share it, as they would share a weight: each has
    the right marginal law, and the noise lasts as long as the sequence.

    Raises:
      ValueError: as `lrt` does.
    """
    mean, var = _normal_moments(q)
    h = op.lift(x)
    y_var = op.lower(op.apply(_squared(h), var))
    y_mean = jnp.zeros_like(y_var) if mean is None else op.lower(op.apply(h, mean))
    shared = (y_var.shape[0], *(1,) * (y_var.ndim - 2), y_var.shape[-1])
    draws = jnp.broadcast_to(noises.normal(key, shared, y_var.dtype), y_var.shape)
    return _perturb(y_mean, y_var, draws).astype(x.dtype)


def _normal_moments(q: Posterior) -> tuple[Moment, Moment]:
    if not noises.lrt_is_exact(q.noise):
        raise ValueError(
            f"lrt needs normal noise, not {q.noise!r}: a sum of such weights is not of "
            "their family. Use Mode(estimator=weight_sampling) or per_example_sampling"
        )
    return q.moments()


@_with_scaled
def weight_sampling(op, q: Posterior, x: Array, key: Key) -> Array:
    """One weight sample for the whole batch; right for every noise family."""
    return _product(op, x, q.sample(key))


@_with_scaled
def per_example_sampling(op, q: Posterior, x: Array, key: Key) -> Array:
    """A weight sample for each example, drawn in blocks, and again for the gradient.

    An example's weights depend on the key and its place in the batch only.
    """
    return each_its_own(op, q.shape, q.sample, x, key)


def each_its_own(
    op, shape: Shape, sample: Callable[[Key], Array], x: Array, key: Key
) -> Array:
    """`per_example_sampling` of weights of a shape by any sampler, key -> weights."""

    def one(example):
        x, key = example
        return _product(op, x[None], sample(key))[0]

    examples = x, random.split(key, x.shape[0])
    block = max(1, WEIGHTS_AT_ONCE // math.prod(shape))
    if block >= x.shape[0]:
        return jax.vmap(one)(examples)
    one = jax.checkpoint(one, prevent_cse=False)  # the scan already prevents it
    return lax.map(one, examples, batch_size=block if block > 1 else None)


@_with_scaled
def flipout(op, q: Posterior, x: Array, key: Key) -> Array:
    """One draw of the noise for the batch, with random signs of its own per example.

    Example n has the weight mean + r_n s_n^T * noise, with a sign s for each input unit
    and r for each output unit (Wen et al. 2018, equation 3): its law is that of any
    weight sample, since the noise is symmetric, and the noises of two examples are
    uncorrelated, though not independent. An input unit of a convolution is a channel.
    """
    mean, noise, (key_in, key_out) = _noise_of_batch(q, key)
    ones = (1,) * (x.ndim - 2)
    s = random.rademacher(key_in, (x.shape[0], *ones, x.shape[-1]), x.dtype)
    r = random.rademacher(key_out, (x.shape[0], *ones, q.shape[-1]), x.dtype)
    y = r * _product(op, s * x, noise)
    return y if mean is None else y + _product(op, x, mean)


@_with_scaled
def antithetic(op, q: Posterior, x: Array, key: Key) -> Array:
    """One draw of the noise for the batch, with its sign turned in every other example.

    Examples 0, 2, 4, ... have the weight mean + noise, the others mean - noise: what is
    linear in the noise cancels between the two halves of the batch. The law of each is
    that of any weight sample, since the noise is symmetric.
    """
    mean, noise, _ = _noise_of_batch(q, key)
    even = jnp.arange(x.shape[0], dtype=jnp.int32) % 2 == 0
    sign = jnp.where(even, 1, -1).astype(x.dtype)
    h = op.lift(x)
    y = op.lower(op.apply(h, noise).astype(x.dtype))
    y = sign.reshape((-1,) + (1,) * (y.ndim - 1)) * y
    return y if mean is None else y + op.lower(op.apply(h, mean).astype(x.dtype))


def _noise_of_batch(q: Posterior, key: Key) -> tuple[Moment, Array, Key]:
    """The mean, one draw of what is added to it, and two keys for signs."""
    mean, std = q.location_scale()
    key_noise, *others = random.split(key, 3)
    draws = noises.sampler(q.noise)(key_noise, q.shape, std.dtype)
    return mean, std * draws, others


@_with_scaled
def magnitude(op, q: Posterior, x: Array, key: Key) -> Array:
    """A variance layer followed by |.|: y = sqrt(v) |eps|, v = x^2 var, one eps each.

    The sign of a variance layer's output carries nothing; without it the mean is left:
    sqrt(2 v / pi) (Neklyudov et al. 2019, in their slides).

    Raises:
      ValueError: the node is not a variance layer of normal noise.
    """
    return _root_times(op, q, x, lambda shape: jnp.abs(noises.normal(key, shape)))


@_with_scaled
def magnitude_gaussian(op, q: Posterior, x: Array, key: Key) -> Array:
    """`magnitude` with the Gaussian of the mean and variance of |eps| in its place.

    That is Gaussian dropout of sqrt(v), of multiplicative variance pi / 2 - 1 = 0.571.

    Raises:
      ValueError: the node is not a variance layer of normal noise.
    """

    def factor(shape):
        return MAGNITUDE_MEAN + MAGNITUDE_STD * noises.normal(key, shape)

    return _root_times(op, q, x, factor)


@_with_scaled
def magnitude_mean(op, q: Posterior, x: Array, key: Key) -> Array:
    """The mean of `magnitude` and `magnitude_gaussian`: their pass without noise.

    Raises:
      ValueError: the node is not a variance layer of normal noise.
    """
    del key
    return _root_times(op, q, x, lambda shape: jnp.full(shape, MAGNITUDE_MEAN, x.dtype))


def _root_times(op, q: Posterior, x: Array, factor) -> Array:
    """sqrt(v) times `factor(shape)`, for a variance layer."""
    mean, var = q.moments()
    if mean is not None or q.noise != "normal":
        raise ValueError(
            "magnitude, magnitude_gaussian and magnitude_mean are of variance layers "
            f"with normal noise, not of {type(q).__name__} with {q.noise!r} noise"
        )
    y_var = op.apply(_squared(op.lift(x)), var)
    draws = factor(y_var.shape).astype(y_var.dtype)
    y = _perturb(jnp.zeros_like(y_var), y_var, draws)
    return op.lower(y.astype(x.dtype))


ESTIMATORS = {
    f.__name__: f
    for f in (
        lrt,
        sequence_lrt,
        weight_sampling,
        per_example_sampling,
        flipout,
        antithetic,
        magnitude,
        magnitude_gaussian,
        magnitude_mean,
    )
}


@CustomVJP
def _perturb(mean: Array, var: Array, draws: Array) -> Array:
    """mean + sqrt(var) draws; keeps one array for its gradient, draws / (2 sqrt)."""
    return mean + jnp.sqrt(_floored(var)) * draws


@jax.custom_jvp
def _floored(var: Array) -> Array:
    return jnp.maximum(var, 0) + VAR_FLOOR


@_floored.defjvp
def _floored_tangent(primals, tangents):
    return _floored(*primals), tangents[0]  # jnp.maximum has half of it at 0


def _perturb_forward(mean, var, draws):
    var = _floored(var)
    slope = lax.optimization_barrier(0.5 * draws * lax.rsqrt(var))
    return mean + 2 * slope * var, slope


def _perturb_backward(slope, g):
    return g, g * slope, None


_perturb.defvjp(_perturb_forward, _perturb_backward)
