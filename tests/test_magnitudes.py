"""Laws of the magnitudes, the estimators of variance layers with one sign."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from estimator_cases import CASES, DRAWS, compiled, linear, problem
from jax import random

from vnets.estimators import (
    MAGNITUDE_MEAN,
    MAGNITUDE_STD,
    lrt,
    magnitude,
    magnitude_gaussian,
    magnitude_mean,
)
from vnets.nodes import Scaled, dropout, gaussian, multiplicative, variance

MAGNITUDES = (magnitude, magnitude_gaussian, magnitude_mean)


@pytest.mark.parametrize("case", CASES)
def test_magnitudes_have_the_moments_of_a_half_normal(case, assert_moments):
    """The mean is sqrt(2 v / pi), the variance (1 - 2 / pi) v; `magnitude_mean` has the
    mean alone."""
    op, q, x = problem(case, variance())
    std = np.sqrt(linear(op, jnp.square(x), q.moments()[1]))
    keys = random.split(random.key(7), DRAWS)
    for estimator in (magnitude, magnitude_gaussian):
        draws = compiled(estimator, op)(q, x, keys)
        assert_moments(draws, MAGNITUDE_MEAN * std, (MAGNITUDE_STD * std) ** 2)
        # Different laws of the same moments: only |eps| is never negative.
        assert (np.min(draws) >= 0) == (estimator is magnitude)
    quiet = magnitude_mean(op, q, x, None)
    np.testing.assert_allclose(quiet, MAGNITUDE_MEAN * std, rtol=1e-5, atol=1e-7)


def test_the_magnitude_is_that_of_lrt_and_its_noise_that_of_dropout():
    op, q, x = problem("conv", variance())
    key = random.key(8)
    np.testing.assert_allclose(
        magnitude(op, q, x, key), jnp.abs(lrt(op, q, x, key)), rtol=1e-6
    )
    ratio = (MAGNITUDE_STD / MAGNITUDE_MEAN) ** 2
    assert ratio == pytest.approx(np.pi / 2 - 1, rel=1e-12)


@pytest.mark.parametrize("estimator", MAGNITUDES)
def test_magnitudes_are_of_variance_layers_only(estimator):
    for make in (gaussian(), multiplicative(), variance("sign"), dropout(0.5)):
        op, q, x = problem("dense", make)
        if isinstance(q, Scaled):  # noise on the units of a point: nothing to refuse
            assert estimator(op, q, x, random.key(0)).shape == (2, 4)
            continue
        with pytest.raises(ValueError, match="variance layers with normal noise, not"):
            estimator(op, q, x, random.key(0))


@pytest.mark.parametrize("estimator", MAGNITUDES)
def test_magnitudes_have_finite_gradients_and_those_of_the_formula(estimator):
    op, q, x = problem("dense", variance())
    key = random.key(9)

    def loss(scale, x):
        return jnp.sum(jnp.sin(estimator(op, q.replace(scale=scale), x, key)))

    std = jnp.sqrt(jnp.square(x) @ jnp.square(q.scale))
    factor = estimator(op, q, x, key) / std  # does not depend on the scale

    def plain(scale, x):
        return jnp.sum(jnp.sin(factor * jnp.sqrt(jnp.square(x) @ jnp.square(scale))))

    slopes, plain_slopes = (
        jax.jit(jax.grad(function, argnums=(0, 1))) for function in (loss, plain)
    )
    ours, expected = slopes(q.scale, x), plain_slopes(q.scale, x)
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    for leaf in slopes(q.scale, x.at[0].set(0)):
        assert np.all(np.isfinite(leaf))
