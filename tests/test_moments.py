"""Laws of moments, map by map: Monte Carlo where exact, the plain map where quiet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from claims import every
from jax import lax, random
from moment_cases import DRAWS, POSTERIORS, covariance, draws_of, random_moments

from vnets import moments, ops
from vnets.moments import Moments
from vnets.nodes import (
    gaussian,
)
from vnets.pooling import ACTIVATIONS, window_max_pool


@jax.jit
def linear_and_joint(q, h, key):
    """Both, and draws of the weights."""
    y, both = moments.linear(ops.DENSE, q, h), moments.joint(q, h)
    return y, both, q.sample(key, (DRAWS, 2))


@pytest.mark.parametrize("noisy_input", [False, True])
@pytest.mark.parametrize("name", POSTERIORS)
def test_linear_layers_agree_with_monte_carlo(
    name, noisy_input, assert_moments, assert_mean
):
    """Marginals and, of `joint`, the covariance between the outputs."""
    q = POSTERIORS[name](random.key(5), (4, 3))
    h = random_moments((2, 4))
    if not noisy_input:
        h = Moments(h.mean)

    y, (mean, cov), w = linear_and_joint(q, h, random.key(8))
    np.testing.assert_allclose(mean, y.mean, rtol=1e-6)
    if name == "point" and not noisy_input:
        assert y.var is None
        assert cov is None
        np.testing.assert_array_equal(y.mean, ops.DENSE.apply(h.mean, q.mean))
        return
    np.testing.assert_allclose(np.einsum("bkk->bk", cov), y.var, rtol=1e-5)
    x = draws_of(h, 7) if noisy_input else np.broadcast_to(h.mean, (DRAWS, 2, 4))
    draws = np.einsum("nbi,nbio->nbo", x, w)
    assert_moments(draws, y.mean, y.var)
    assert_mean(covariance(draws), cov)


def test_convolution_agrees_with_monte_carlo(assert_moments):
    """One pixel of output, so that nothing is shared between positions."""
    q = gaussian(-2.0)(random.key(1), (2, 2, 3, 4))
    h = random_moments((2, 2, 2, 3))
    op = ops.conv((2, 2), (2, 2), (3, 4), padding="VALID")

    y = moments.linear(op, q, h)
    assert y.mean.shape == (2, 1, 1, 4)
    w = jax.jit(lambda key: q.sample(key, (DRAWS, 2)))(random.key(2))
    draws = np.einsum("nbhwi,nbhwio->nbo", draws_of(h, 3), w)
    assert_moments(draws, y.mean[:, 0, 0], y.var[:, 0, 0])


def relu(h):
    return moments.activation("relu", h)


def relu_pool(h):
    return relu(moments.max_pool(h))


def test_relu_and_maximum_agree_with_monte_carlo(assert_moments):
    h, other = random_moments((5, 6)), random_moments((5, 6), seed=1)
    draws = draws_of(h, 10)
    y = relu(h)
    assert_moments(np.maximum(draws, 0), y.mean, y.var)
    y = moments.maximum(h, other)
    largest = np.maximum(draws, draws_of(other, 11))
    assert_moments(largest, y.mean, y.var)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations_agree_with_monte_carlo(kind, assert_moments):
    h = random_moments((5, 6))
    y = jax.jit(lambda h: moments.activation(kind, h))(h)
    assert_moments(ACTIVATIONS[kind](draws_of(h, 10)), y.mean, y.var)


def test_relu_of_a_variance_layers_output_is_in_closed_form():
    var = jnp.asarray([[1e-6, 0.5, 2.0, 1e6]], jnp.float32)
    y = relu(Moments(jnp.zeros_like(var), var))
    np.testing.assert_allclose(y.mean, np.sqrt(var / (2 * np.pi)), rtol=1e-6)
    np.testing.assert_allclose(y.var, var * (1 - 1 / np.pi) / 2, rtol=1e-6)


@pytest.mark.parametrize("ratio", [1e3, 50.0, 6.0, -6.0, -50.0, -1e30])
def test_relu_far_from_its_kink_loses_no_digits(ratio):
    """In float32 the textbook second moment minus squared mean would be noise."""
    std = 1e-3
    mean = jnp.asarray([[ratio * std]], jnp.float32)
    y = relu(Moments(mean, jnp.full((1, 1), std**2, jnp.float32)))
    np.testing.assert_allclose(y.mean, np.maximum(mean, 0), atol=1e-9 * 1e3)
    np.testing.assert_allclose(y.var / std**2, float(ratio > 0), atol=1e-6)


def test_no_variance_is_the_plain_operation():
    zero = random_moments((2, 5, 4, 3), quiet=True)
    none = Moments(zero.mean)
    window = (1, 2, 2, 1)
    pooled = lax.reduce_window(zero.mean, -np.inf, lax.max, window, window, "VALID")
    expected = np.maximum(pooled, 0)
    for h in (zero, none):
        y = jax.jit(relu_pool)(h)
        np.testing.assert_array_equal(y.mean, expected)
        np.testing.assert_array_equal(jax.jit(relu)(h).mean, np.maximum(h.mean, 0))
        assert (y.var is None) if h.var is None else not np.any(y.var)


def test_gradients_are_finite_without_variance():
    def total(mean, var):
        h = Moments(mean, var)
        found = [moments.maximum(h, Moments(-mean, var))]
        found += [moments.activation(kind, h) for kind in ACTIVATIONS]
        return sum(jnp.sum(y.mean) + jnp.sum(y.var) for y in found)

    mean = jnp.asarray([0.0, 1.0, -2.0], jnp.float32)
    for gradient in jax.jit(jax.grad(total, (0, 1)))(mean, jnp.zeros_like(mean)):
        assert np.all(np.isfinite(gradient))


def test_pooling_of_independent_pixels_is_near_monte_carlo():
    """What `relu_pool` says of its error, with room for the 5000 draws (0.014)."""
    h = random_moments((64, 2, 2, 1))
    y = jax.jit(relu_pool)(h)
    draws = draws_of(h, 3)
    pooled = np.maximum(draws.max(axis=(2, 3)), 0)[:, :, 0]
    error = (y.mean[:, 0, 0, 0] - pooled.mean(axis=0)) / pooled.std(axis=0)
    assert np.sqrt(np.mean(np.square(error))) < 0.03 + 0.014
    assert np.max(np.abs(error)) < 0.16 + 3 * 0.014


def test_overlapping_padded_windows_are_near_monte_carlo():
    """Nine independent pixels at most; what lies beyond the edge never wins."""
    h = random_moments((64, 4, 4, 1))
    y = jax.jit(lambda h: moments.max_pool(h, 3, 2, "SAME"))(h)
    assert y.mean.shape == (64, 2, 2, 1)
    draws = jnp.asarray(draws_of(h, 3), jnp.float32).reshape(-1, 4, 4, 1)
    pooled = np.asarray(window_max_pool(draws, 3, 2, "SAME")).reshape(DRAWS, 64, 2, 2)
    std = pooled.std(axis=0)
    error = (y.mean[..., 0] - pooled.mean(axis=0)) / std
    assert np.sqrt(np.mean(np.square(error))) < 0.1
    np.testing.assert_allclose(np.sqrt(y.var[..., 0]), std, rtol=1 / 3)


def noisy_logits(scale):
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(50, 10)).astype(np.float32)
    factor = scale * rng.normal(size=(50, 10, 10)).astype(np.float32)
    z = mean + np.einsum("bij,nbj->nbi", factor, rng.normal(size=(DRAWS, 50, 10)))
    expected = scipy.special.softmax(z, axis=-1).mean(axis=0)
    return jnp.asarray(mean), jnp.asarray(factor @ factor.mT), expected


def test_softmax_of_logits_without_noise_is_the_softmax():
    mean, zero = random_moments((5, 4)).mean, jnp.zeros((5, 4, 4), jnp.float32)
    plain = jax.nn.log_softmax(mean)
    expected_softmax = jax.jit(moments.log_expected_softmax)
    np.testing.assert_array_equal(expected_softmax(mean, None), plain)
    np.testing.assert_allclose(expected_softmax(mean, zero), plain, atol=1e-6)
    # Noise that all logits share moves no probability.
    np.testing.assert_allclose(expected_softmax(mean, zero + 7.0), plain, atol=1e-5)


@pytest.mark.parametrize(("scale", "error"), [(0.1, 0.001), (0.3, 0.01), (1.0, 0.04)])
def test_expected_softmax_is_near_monte_carlo(scale, error):
    """Its stated errors (0.0006, 0.006, 0.03), and nearer than the plain softmax."""
    mean, cov, expected = noisy_logits(scale)
    p = np.exp(jax.jit(moments.log_expected_softmax)(mean, cov))
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    gap, plain = (
        np.sqrt(np.mean(np.square(q - expected))) for q in (p, jax.nn.softmax(mean))
    )
    assert gap < min(error, 0.6 * plain)


@pytest.mark.parametrize("rank", [1, 2, 10])
@pytest.mark.parametrize("size", [0.1, 10.0])
def test_expected_softmax_and_points_have_finite_gradients(rank, size):
    """Of any covariance: eigenvalues that are equal, or 0, are no trouble."""
    mean, factor = random.normal(random.key(0), (16, 10)), jnp.eye(10)[:, :rank]
    drawn = random.normal(random.key(1), (16, 10, rank))
    for a in (jnp.broadcast_to(factor, (16, 10, rank)), drawn):
        cov = jnp.square(size) * a @ jnp.swapaxes(a, 1, 2)
        for function in (moments.log_expected_softmax, moments.points):
            slopes = jax.grad(
                lambda m, c, f=function: jnp.sum(jnp.square(jnp.tanh(f(m, c)))), (0, 1)
            )(mean, cov)
            assert every(np.all(np.isfinite(slope)) for slope in slopes)


def test_the_gradient_of_the_expected_softmax_is_its_slope():
    mean, cov, _ = noisy_logits(1.0)
    mean, cov = mean[:5], cov[:5] + jnp.eye(10)[None]  # far from where a root is steep
    step = random.normal(random.key(2), cov.shape)
    step = 1e-2 * (step + jnp.swapaxes(step, 1, 2))

    def shifted(t):
        found = moments.log_expected_softmax(mean, cov + t * step)
        return jnp.sum(found[:, 0] - found[:, 1])

    slope = (shifted(1.0) - shifted(-1.0)) / 2
    assert float(jax.grad(shifted)(0.0)) == pytest.approx(float(slope), rel=2e-2)


def test_expected_softmax_is_right_to_first_order_in_the_covariance():
    """E f(z) = f(m) + 1/2 sum_ij cov_ij d_ij f + O(cov^2)."""
    mean, cov, _ = noisy_logits(0.3)
    small = 1e-2 * cov[:5]
    hessians = jax.jit(jax.vmap(jax.hessian(jax.nn.softmax)))(mean[:5])
    step = 0.5 * np.einsum("bij,bkij->bk", small, hessians)
    p = np.exp(jax.jit(moments.log_expected_softmax)(mean[:5], small))
    moved = p - jax.nn.softmax(mean[:5])
    assert np.abs(step).max() > 1e-4
    # The next order is cov times smaller: 1e-2 of `step`, and rounding of p itself.
    np.testing.assert_allclose(moved, step, atol=3e-2 * np.abs(step).max())
