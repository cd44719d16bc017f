"""Means and variances of independent quantities, and the maps that they go through.

    linear layers   exact, for weights and biases of any noise family
    maximum         exact for two independent Gaussians (Clark 1961); ReLU is the
                    maximum with zero, pooling takes one maximum of two after another
    activations     exact for ReLU, leaky ReLU and the absolute value of a Gaussian;
                    Gauss-Hermite quadrature for the smooth ones
    softmax         cubature of third degree on the covariance of the logits

Without noise each is the ordinary operation, bit for bit. `vnets.propagation` takes
whole nets through these.

Sources: Wang and Manning 2013 (fast dropout: moments through dropout and ReLU); Clark
1961 (the greatest of two normal variables); Arasaratnam and Haykin 2009 (cubature).
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.stats import norm

from vnets import ops
from vnets import plan as steps
from vnets.nodes import Posterior, Scaled
from vnets.pooling import ACTIVATIONS, window_max_pool
from vnets.pytrees import pytree
from vnets.types import Array, Moment

FARTHEST = 20.0  # standard deviations; the normal density is 0 in float32 beyond 15
SLOPES = {"relu": 0.0, "leaky_relu": 0.01, "abs": -1.0}  # below zero; above it is 1
# Of a covariance that is to have a Cholesky factor; of its largest entry.
JITTER, RELATIVE = 1e-6, 4e-6
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(24)  # for the smooth activations
WEIGHTS = WEIGHTS / WEIGHTS.sum()


@pytree
class Moments:
    """Quantities that are independent of one another.

    Attributes:
      mean: [B, ...].
      var: [B, ...]; None stands for zero.
    """

    mean: Array
    var: Moment = None


def linear(op, q: Posterior, h: Moments) -> Moments:
    """A linear layer without its bias: [B, ..., I] -> [B, ..., O].

    var = (h_mean^2 + h_var) w_var + h_var w_mean^2: exact for independent inputs and
    weights. Noise on units multiplies the moments of the units first, or last.

    Args:
      op: of `vnets.ops`.
      q: a node of independent weights; only its moments count, so its noise may be of
        any family.
      h: the inputs.

    Raises:
      ValueError: weights that vary together.
    """
    require_independent(q)
    if isinstance(q, Scaled):
        if q.axis == "in":
            return linear(op, q.weight, scaled(h, q.scale))
        return scaled(linear(op, q.weight, h), q.scale)

    def apply(x: Array, w: Array) -> Array:
        return op.lower(op.apply(op.lift(x), w))

    return _product(apply, h, q.moments())


def require_independent(q: Posterior) -> None:
    """Refuses weights that vary together: their moments do not say how sums vary.

    Raises:
      ValueError: a `Correlated` or a `MatrixNormal`.
    """
    if q.bare.noise == "correlated":
        raise ValueError(
            f"moments are of weights that vary independently, not of a "
            f"{type(q.bare).__name__}: draw samples (`edits.draw`)"
        )


def scaled(h: Moments, scale: Posterior) -> Moments:
    """Units [B, ..., units] times independent noise of shape [units]."""
    return _product(lambda x, s: x * over_units(s, x), h, scale.moments())


def joint(q: Posterior, h: Moments) -> tuple[Array, Moment]:
    """Mean [B, O] and covariance [B, O, O] (None for zero) of a dense layer.

    Outputs share the noise of their inputs; that of their weights is their own.
    """
    if not isinstance(q, Scaled):
        y = linear(ops.DENSE, q, h)
        w_mean, _ = q.moments()
        cov = None
        if h.var is not None and w_mean is not None:
            pairs = w_mean[:, :, None] * w_mean[:, None, :]  # [I, O, O]
            cov = jnp.tensordot(h.var, pairs, axes=1)
        return y.mean, with_diagonal(cov, y.var)
    if q.axis == "in":
        return joint(q.weight, scaled(h, q.scale))
    mean, cov = joint(q.weight, h)
    y = scaled(Moments(mean, None if cov is None else diagonal(cov)), q.scale)
    s_mean, _ = q.scale.moments()
    if cov is not None:
        cov = None if s_mean is None else cov * jnp.outer(s_mean, s_mean)[None]
    return y.mean, with_diagonal(cov, y.var)


def maximum(a: Moments, b: Moments) -> Moments:
    """Moments of max(a, b), exact for independent Gaussians (Clark 1961).

    With t^2 = a_var + b_var, r = (a_mean - b_mean) / t, P the normal distribution and p
    its density:

        mean = a_mean P(r) + b_mean P(-r) + t p(r)
        var  = a_var P(r) + b_var P(-r) + t^2 (r^2 P(r) P(-r) + r p(r) (P(-r) - P(r))
               - p(r)^2)

    Clark's second moment minus the squared mean, with what cancels taken out.
    """
    if a.var is None and b.var is None:
        return Moments(jnp.maximum(a.mean, b.mean))
    a_var, b_var = (jnp.float32(0) if m.var is None else m.var for m in (a, b))
    t_squared = a_var + b_var
    noisy = t_squared > 0
    t = jnp.sqrt(jnp.where(noisy, t_squared, 1))  # no gradient through sqrt(0)
    r = jnp.clip((a.mean - b.mean) / t, -FARTHEST, FARTHEST)
    above, below, density = norm.cdf(r), norm.cdf(-r), norm.pdf(r)
    mean = a.mean * above + b.mean * below + t * density
    spread = r * r * above * below + r * density * (below - above) - density * density
    var = a_var * above + b_var * below + t_squared * spread
    return Moments(
        jnp.where(noisy, mean, jnp.maximum(a.mean, b.mean)),
        jnp.where(noisy, jnp.maximum(var, 0), 0),
    )


def activation(kind: str, h: Moments) -> Moments:
    """A function of each unit; exact for a Gaussian if it is piecewise linear.

    ReLU is max(h, 0), which for N(0, v) has the mean sqrt(v / (2 pi)). Leaky ReLU and
    the absolute value are s h + (1 - s) max(h, 0), where Cov(h, max(h, 0)) is
    E[max(h, 0)^2] - E[h] E[max(h, 0)]. The others are smooth; their quadrature
    was off by at most 0.00002, 0.007 and 0.01 of the incoming standard deviation, in
    mean and standard deviation, where that is 1, 3 and 10.

    Args:
      kind: one of `pooling.ACTIVATIONS`.
      h: of any shape.
    """
    function = ACTIVATIONS[kind]
    if h.var is None:
        return Moments(function(h.mean))
    if kind in SLOPES:
        slope, rest = SLOPES[kind], 1 - SLOPES[kind]
        y = maximum(h, Moments(jnp.float32(0)))
        if not slope or y.var is None:
            return y
        cov = y.var + y.mean * (y.mean - h.mean)
        var = slope**2 * h.var + rest**2 * y.var + 2 * slope * rest * cov
        return Moments(slope * h.mean + rest * y.mean, jnp.maximum(var, 0))
    noisy = h.var > 0
    std = jnp.sqrt(jnp.where(noisy, h.var, 1))  # no gradient through sqrt(0)
    values = [function(h.mean + float(node) * std) for node in NODES]
    pairs = list(zip(WEIGHTS.tolist(), values, strict=True))
    mean = sum(weight * value for weight, value in pairs)
    var = sum(weight * jnp.square(value - mean) for weight, value in pairs)
    return Moments(jnp.where(noisy, mean, function(h.mean)), jnp.where(noisy, var, 0))


def max_pool(
    h: Moments,
    size: int = steps.POOL,
    stride: int = steps.POOL,
    padding: steps.Padding = "VALID",
) -> Moments:
    """Max pooling, [B, H, W, C] -> [B, H', W', C].

    The maximum of each row of a window, then of the rows, two after another. A maximum
    of two is not Gaussian any more: of four unequal, independent pixels the mean after
    a ReLU is off by 0.03 standard deviations (root mean square; 0.16 at worst of 2000),
    and of nine the standard deviation by at most a third, of 256 windows.
    """
    if h.var is None:
        return Moments(window_max_pool(h.mean, size, stride, padding))
    square = (size, size), (stride, stride)
    margins = steps.pads(h.mean.shape[1:3], *square, padding)
    for axis, (low, high) in ((2, margins[1]), (1, margins[0])):
        beyond = [(low, high) if at == axis else (0, 0) for at in range(4)]
        mean = jnp.pad(h.mean, beyond, constant_values=jnp.finfo(h.mean.dtype).min)
        h = Moments(mean, jnp.pad(jnp.asarray(h.var), beyond))
        end = h.mean.shape[axis] - size + 1
        shifted = (
            jax.tree.map(
                lambda m, i=i, axis=axis, end=end: lax.slice_in_dim(
                    m, i, i + end, stride, axis
                ),
                h,
            )
            for i in range(size)
        )
        h = functools.reduce(maximum, shifted)
    return h


def log_expected_softmax(mean: Array, cov: Moment) -> Array:
    """Log of E[softmax(z)] for z ~ N(mean, cov), by cubature, [B, K].

    The mean over the 2 K points mean +- sqrt(K) c_k, with c_k the columns of the
    covariance's symmetric root (Arasaratnam and Haykin 2009): exact for polynomials up
    to the third degree, so to first order in the covariance. What all logits share
    moves no probability and is taken out first. Without noise it is the softmax.

    Of ten classes, with logits of spread 1 and noise of standard deviation 0.3, 1, 2
    and 3, probabilities were off by 0.0006, 0.006, 0.02 and 0.03 (root mean square);
    MacKay's formula on pairs of classes was worse at each, the plain softmax too.

    Args:
      mean: [B, K].
      cov: [B, K, K]; None stands for zero.
    """
    if cov is None:
        return jax.nn.log_softmax(mean)
    classes = mean.shape[-1]
    for axis in (-1, -2):
        cov = cov - jnp.mean(cov, axis=axis, keepdims=True)
    root = _root(cov)  # its rows are points
    shift = math.sqrt(classes) * jnp.concatenate([root, -root], axis=1)
    log_p = jax.nn.log_softmax(mean[:, None, :] + shift)
    return jax.nn.logsumexp(log_p, axis=1) - math.log(2 * classes)


@jax.custom_jvp
def _root(cov: Array) -> Array:
    """The symmetric root of covariances [B, K, K]."""
    std, vectors = _spectrum(cov)
    return (vectors * std[:, None, :]) @ jnp.swapaxes(vectors, -1, -2)


@_root.defjvp
def _root_slope(primals, tangents):
    """R dR + dR R = dC, solved among the eigenvectors: whichever span an eigenspace,
    and without what R and dC have neither of, such as along what all logits share."""
    (cov,), (change,) = primals, tangents
    std, vectors = _spectrum(cov)
    across = jnp.swapaxes(vectors, -1, -2)
    sums = std[:, :, None] + std[:, None, :]
    most = jnp.max(sums, (-2, -1), keepdims=True)
    there = sums > jnp.finfo(cov.dtype).eps ** 0.5 * most
    slope = jnp.where(there, across @ change @ vectors / jnp.where(there, sums, 1), 0)
    root = (vectors * std[:, None, :]) @ across
    return root, vectors @ slope @ across


def _spectrum(cov: Array) -> tuple[Array, Array]:
    """Roots of the eigenvalues, and the eigenvectors in columns."""
    values, vectors = jnp.linalg.eigh(cov)
    return jnp.sqrt(jnp.maximum(values, 0)), vectors


def points(mean: Array, cov: Moment) -> Array:
    """Equally likely points of a mean and a covariance, [2 K, B, K]; without noise one.

    Those of `log_expected_softmax`, but along the columns of Cholesky's factor, whose
    gradient is finite whatever the covariance: a loss is averaged over them.

    Args:
      mean, cov: as there.
    """
    if cov is None:
        return mean[None]
    classes = mean.shape[-1]
    size = jnp.max(diagonal(lax.stop_gradient(cov)), -1)[:, None, None]
    jitter = jnp.maximum(JITTER, RELATIVE * size)
    held = cov + jitter * jnp.eye(classes, dtype=cov.dtype)[None]
    columns = math.sqrt(classes) * jnp.moveaxis(jnp.linalg.cholesky(held), -1, 0)
    return mean[None] + jnp.concatenate([columns, -columns])


def _product(
    apply: Callable[[Array, Array], Array], h: Moments, factor: tuple[Moment, Moment]
) -> Moments:
    """A map linear in h and in an independent factor, a sum of products of the two."""
    mean, var = factor
    y_var = None
    if var is not None:
        second = jnp.square(h.mean)
        y_var = apply(second if h.var is None else second + h.var, var)
    if mean is None:
        if y_var is None:
            raise ValueError("a weight without mean and without variance")
        return Moments(jnp.zeros_like(y_var), y_var)
    passed = None if h.var is None else apply(h.var, jnp.square(mean))
    return Moments(apply(h.mean, mean), added(passed, y_var))


def added(a: Moment, b: Moment) -> Moment:
    """The sum of two variances; None stands for zero."""
    return b if a is None else a if b is None else a + b


def over_units(vector: Array, x: Array) -> Array:
    """A vector [units] with the rank of x [B, ..., units]."""
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)


def diagonal(cov: Array) -> Array:
    """The variances [B, K] of a covariance [B, K, K]."""
    return jnp.diagonal(cov, axis1=-2, axis2=-1)


def with_diagonal(cov: Moment, var: Moment) -> Moment:
    """cov [B, K, K] (None: zero) with var [B, K] on its diagonal."""
    if var is None:
        return None
    diagonal = jnp.eye(var.shape[-1], dtype=var.dtype)[None]
    filled = var[:, :, None] * diagonal
    return filled if cov is None else cov * (1 - diagonal) + filled
