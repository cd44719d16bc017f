"""Laws of the posterior nodes: what moments() says is what sample() does."""

import math
from dataclasses import is_dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, random
from node_table import CONV, node

from vnets.nodes import (
    Additive,
    Dropout,
    Point,
    Posterior,
    Scaled,
    ZeroMean,
    adaptive_dropout,
    additive,
    dropout,
    fan_in_uniform,
    gaussian,
    is_noisy,
    is_posterior,
    log_alpha,
    multiplicative,
    node_type,
    point,
    variance,
)
from vnets.nodes.base import second_moment

DRAWS = 20_000
DENSE = (3, 4)
SHARINGS = ("layer", "output", "input", "weight")
ALPHA_SHAPES = {  # of a convolution
    "layer": (1, 1, 1, 1),
    "output": (1, 1, 1, 4),
    "input": (1, 1, 3, 1),
    "weight": CONV,
}


@pytest.mark.parametrize("name", ["type-a-in", "type-a-out", "nested"])
def test_moments_of_scaled_convolutions(name, assert_moments):
    one = node(name, CONV)
    draws = jax.jit(lambda q, k: q.sample(k, (DRAWS // 4,)))(one, random.key(3))
    assert_moments(draws, *one.moments())


@pytest.mark.parametrize("name", ["alpha-output", "gaussian-normal"])
def test_log_alpha_is_the_log_of_the_variance_ratio(name):
    one = node(name)
    mean, var = one.moments()
    np.testing.assert_allclose(
        log_alpha(one), np.log(var / np.square(mean)), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_array_equal(
        log_alpha(Scaled(Dropout(0.5, 6), one)), log_alpha(one)
    )


@pytest.mark.parametrize("axis", ["in", "out"])
@pytest.mark.parametrize("shape", [DENSE, CONV])
def test_scaled_multiplies_the_named_units(axis, shape):
    units = shape[-2] if axis == "in" else shape[-1]
    scale = Point(jnp.arange(1, units + 1, dtype=jnp.float32))
    weight = Point(jnp.ones(shape, jnp.float32))
    node = Scaled(scale, weight, axis)
    column = scale.mean.reshape((-1, 1) if axis == "in" else (1, -1))
    expected = np.broadcast_to(column, shape)
    mean, _ = node.moments()
    np.testing.assert_array_equal(mean, expected)
    np.testing.assert_array_equal(node.sample(None), expected)
    np.testing.assert_array_equal(node.sample(None, (2,)), np.stack([expected] * 2))


def test_scaled_drops_whole_units():
    """All weights of a unit share one draw of the scale."""
    node = Scaled(Dropout(0.5, 3), Point(jnp.ones(CONV, jnp.float32)), "in")
    draws = np.asarray(node.sample(random.key(0), (200,)))
    np.testing.assert_array_equal(draws, draws[:, :1, :1, :, :1] + np.zeros(CONV))
    assert set(np.unique(draws)) == {0.0, 2.0}
    assert len(np.unique(draws[:, 0, 0, :, 0], axis=0)) == 8  # units are independent


def test_the_variance_of_a_scaled_weight_does_not_cancel():
    """Noise of 1e-5 on units of scale 1 is below the rounding of E[w^2]."""
    log_var, mean = jnp.full((4,), -23.0, jnp.float32), jnp.ones((4,), jnp.float32)
    weight = Additive(
        jnp.full((4, 2), 0.5, jnp.float32), jnp.full((4, 2), -25.0, jnp.float32)
    )
    scale = Additive(mean, log_var)
    _, var = Scaled(scale, weight).moments()
    expected = 0.25 * np.exp(-23.0) + np.exp(-25.0) + np.exp(-48.0)
    np.testing.assert_allclose(var, np.full((4, 2), expected), rtol=1e-5)
    _, var = Scaled(scale, Point(weight.mean)).moments()
    np.testing.assert_allclose(var, np.full((4, 2), 0.25 * np.exp(-23.0)), rtol=1e-5)


@pytest.mark.parametrize("per", SHARINGS)
def test_sharing_of_alpha(per):
    node = multiplicative(-2.0, per)(random.key(0), CONV)
    assert node.log_alpha.shape == ALPHA_SHAPES[per]
    assert node.log_alpha.dtype == jnp.float32
    assert not node.log_alpha.weak_type  # a weak type makes each step compile again
    np.testing.assert_allclose(
        node.moments()[1], math.exp(-2.0) * np.square(node.mean), rtol=1e-6
    )


def test_another_noise_is_another_type():
    a, b = (
        jax.tree.structure(variance(noise)(random.key(0), DENSE))
        for noise in ("normal", "sign")
    )
    assert a != b


def test_arrays_are_no_posteriors():
    assert not is_posterior(jnp.ones(DENSE, jnp.float32))
    assert not is_noisy(jnp.ones(DENSE, jnp.float32))


def test_log_alpha_at_the_ends():
    ones = jnp.ones(DENSE, jnp.float32)
    assert np.all(log_alpha(Point(ones)) == -np.inf)
    assert np.all(log_alpha(ZeroMean(ones)) == np.inf)
    assert log_alpha(ZeroMean(ones)).shape == DENSE
    dead = Additive(jnp.zeros(DENSE, jnp.float32), jnp.zeros(DENSE, jnp.float32))
    assert np.all(np.isfinite(log_alpha(dead)))
    with pytest.raises(TypeError, match="Dropout"):
        log_alpha(Dropout(0.5, 3))


def test_dropout_moments():
    """Mean one; the variance of keeping with 1 - p and dividing by it is p/(1-p)."""
    mean, var = Dropout(0.25, 7).moments()
    np.testing.assert_array_equal(mean, np.ones(7))
    np.testing.assert_allclose(var, np.full(7, 1 / 3), rtol=1e-6)


def test_fan_in_uniform_starts_as_the_authors_do():
    """U(-1/sqrt(I), 1/sqrt(I)) with I counted over the kernel's area."""
    weights = np.asarray(fan_in_uniform(random.key(0), (5, 5, 20, 50)))
    bound = 1 / np.sqrt(5 * 5 * 20)
    assert np.abs(weights).max() <= bound * (1 + 1e-6)
    assert np.abs(weights).max() > 0.99 * bound
    assert weights.var() == pytest.approx(bound**2 / 3, rel=5 / np.sqrt(weights.size))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: additive(noise="gauss"), "gauss.*normal.*sign.*uniform"),
        (lambda: variance("binary"), "binary.*normal.*sign.*uniform"),
        (lambda: multiplicative(noise="x"), "'x'.*normal"),
        (lambda: multiplicative(per="row"), "row.*input.*layer.*output.*weight"),
        (lambda: dropout(1.0), r"\[0, 1\), not 1.0"),
        (lambda: dropout(-0.1), r"\[0, 1\), not -0.1"),
        (lambda: dropout(float("nan")), "nan"),
        (lambda: dropout(0.5, noise="x"), "'x'.*binary.*normal"),
        (lambda: dropout(0.5, axis="both"), "both.*in.*out"),
        (lambda: dropout(0.5, per="pixel"), "pixel.*batch.*example.*position"),
        (lambda: adaptive_dropout(1.0), r"\[0, 1\), not 1.0"),
        (lambda: adaptive_dropout(0.0), "above 0"),
        (lambda: adaptive_dropout(0.5, "weight"), "weight.*layer.*unit"),
        (lambda: adaptive_dropout(0.5, axis="both"), "both.*in.*out"),
    ],
)
def test_wrong_choices_are_refused_with_the_right_ones(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_gain_multiplies_the_standard_deviation(assert_moments):
    key = random.key(0)
    plain = variance("sign")(key, (3, 2))
    half = variance("sign", gain=0.5)(key, (3, 2))
    np.testing.assert_array_equal(half.scale, plain.scale)
    np.testing.assert_allclose(half.moments()[1], plain.moments()[1] / 4, rtol=1e-6)
    draws = half.sample(random.key(1), (4000,))
    # The authors' symmetric Bernoulli noise: w = scale * {-1/2, 1/2}.
    np.testing.assert_allclose(abs(draws), abs(half.scale[None]) / 2 + 0 * draws)
    assert_moments(draws, 0.0, half.moments()[1])


def test_starts_are_those_that_are_said():
    """What a factory without arguments gives: published numbers depend on it."""
    key, shape = random.key(0), (3, 4)
    weights = fan_in_uniform(key, shape)
    for make, mean, field, start in (
        (gaussian(), "mean", "log_var", np.full(shape, -10.0)),
        (multiplicative(), "mean", "log_alpha", np.full((1, 1), -5.0)),
    ):
        node = make(key, shape)
        np.testing.assert_array_equal(getattr(node, mean), weights)
        np.testing.assert_array_equal(getattr(node, field), start)
    assert variance()(key, shape).gain == 1.0
    np.testing.assert_array_equal(variance()(key, shape).scale, weights)
    np.testing.assert_array_equal(point()(key, shape).mean, weights)


def test_every_node_is_registered():
    kinds = [Posterior]
    for kind in kinds:
        kinds += kind.__subclasses__()
    found = (kind for kind in kinds[1:] if is_dataclass(kind))
    ours = [kind for kind in found if kind.__module__.startswith("vnets.")]
    assert len(ours) >= 10
    for kind in ours:
        with pytest.raises(ValueError, match="Duplicate serialization"):
            export.register_pytree_node_serialization(
                kind,
                serialized_name="another",
                serialize_auxdata=bytes,
                deserialize_auxdata=tuple,
            )


def test_a_class_may_be_defined_again():
    """As by a notebook's cell that runs twice."""
    for _ in range(2):

        @node_type
        class Own(Posterior):
            mean: jax.Array

            def location_scale(self):
                return self.mean, None

        node = Own(jnp.ones(2, jnp.float32))
        np.testing.assert_array_equal(jax.jit(lambda q: q.sample(None))(node), 1.0)


def test_a_second_moment_takes_what_is_there():
    for mean, var, expected in ((None, 2.0, 2.0), (3.0, None, 9.0), (3.0, 2.0, 11.0)):
        assert second_moment(mean, var) == expected
