"""Laws of the posterior nodes: what moments() says is what sample() does."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from claims import every
from jax import random

from vnets import noise as noises
from vnets.nodes import (
    Dropout,
    Gaussian,
    Multiplicative,
    Point,
    Scaled,
    ZeroMean,
    adaptive_binary_dropout,
    adaptive_dropout,
    dropout,
    fan_in_uniform,
    gaussian,
    is_noisy,
    is_posterior,
    log_alpha,
    multiplicative,
    point,
    variance,
)

DRAWS = 20_000
DENSE, CONV = (3, 4), (2, 2, 3, 4)
SHARINGS = ("layer", "output", "input", "weight")
ALPHA_SHAPES = {  # of a convolution
    "layer": (1, 1, 1, 1),
    "output": (1, 1, 1, 4),
    "input": (1, 1, 3, 1),
    "weight": CONV,
}


def spread(key, node):
    """The node with a different value in each entry of its variances."""

    def change(path, leaf):
        name = path[-1].name
        if name in ("log_var", "log_alpha"):
            return leaf + random.uniform(key, leaf.shape, jnp.float32, -1, 1)
        return leaf

    return jax.tree_util.tree_map_with_path(change, node)


def nodes():
    """Every node type x noise family x sharing of alpha, dense and convolution."""
    made = {}
    for noise in noises.FAMILIES:
        made[f"gaussian-{noise}"] = gaussian(-1.0, noise=noise)
        made[f"variance-{noise}"] = variance(noise)
        for per in SHARINGS:
            made[f"multiplicative-{per}-{noise}"] = multiplicative(
                -0.5, per, noise=noise
            )
    made["point"] = point()
    for noise in ("binary", *noises.FAMILIES):
        made[f"dropout-in-{noise}"] = dropout(0.3, noise=noise)
    made["dropout-out"] = dropout(0.3, axis="out")
    made["adaptive-dropout-unit"] = adaptive_dropout(0.3)
    made["adaptive-dropout-layer"] = adaptive_dropout(0.3, "layer", axis="out")
    made["adaptive-dropout-gaussian"] = adaptive_dropout(0.3, weight=gaussian(-1.0))
    made["adaptive-binary"] = adaptive_binary_dropout(0.3)
    made["dropout-0"] = dropout(0.0)
    made["dropout-0-normal"] = dropout(0.0, noise="normal")
    made["dropout-gaussian"] = dropout(0.3, gaussian(-1.0))
    made["dropout-multiplicative"] = dropout(0.3, multiplicative(0.0, "output"))
    made["dropout-variance"] = dropout(0.3, variance(), axis="out")

    def type_a(axis):  # correlated weight noise: Gaussian noise on units
        def make(key, shape):
            units = shape[-2] if axis == "in" else shape[-1]
            scale = Multiplicative(
                jnp.linspace(0.5, 1.5, units, dtype=jnp.float32),
                jnp.full((1,), -1.0, jnp.float32),
            )
            return Scaled(scale, gaussian(-1.0)(key, shape), axis)

        return make

    made["type-a-in"], made["type-a-out"] = type_a("in"), type_a("out")
    made["nested"] = lambda key, shape: Scaled(
        Dropout(0.2, shape[-1]), dropout(0.3, gaussian(-1.0))(key, shape), "out"
    )
    return made


NODES = nodes()


@functools.cache
def build(name, shape=DENSE):
    node = NODES[name](random.key(0), shape)
    return spread(random.key(1), node)


@pytest.mark.parametrize("name", sorted(NODES))
def test_moments_are_those_of_the_samples(name, assert_moments):
    node = build(name)
    key = random.key(3) if is_noisy(node) else None
    # Scaled draws its scale per batch entry too.
    draws = jax.jit(lambda q, k: q.sample(k, (DRAWS,)))(node, key)
    mean, var = (0.0 if m is None else m for m in node.moments())
    assert draws.shape == (DRAWS, *DENSE)
    assert_moments(draws, mean, var)


@pytest.mark.parametrize("name", ["type-a-in", "type-a-out", "nested"])
def test_moments_of_scaled_convolutions(name, assert_moments):
    node = build(name, CONV)
    draws = jax.jit(lambda q, k: q.sample(k, (DRAWS // 4,)))(node, random.key(3))
    assert_moments(draws, *node.moments())


@pytest.mark.parametrize("name", sorted(NODES))
@pytest.mark.parametrize("shape", [DENSE, CONV])
def test_shapes_of_moments_and_samples(name, shape):
    node = build(name, shape)
    assert node.shape == shape
    for moment in node.moments():
        assert moment is None or moment.shape == shape
    for batch in ((), (6,), (2, 5)):
        drawn = jax.eval_shape(
            lambda q, k, b=batch: q.sample(k, b), node, random.key(0)
        )
        assert (drawn.shape, drawn.dtype) == ((*batch, *shape), jnp.float32)


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
    weight = Gaussian(
        jnp.full((4, 2), 0.5, jnp.float32), jnp.full((4, 2), -25.0, jnp.float32)
    )
    scale = Gaussian(mean, log_var)
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


@pytest.mark.parametrize("name", sorted(NODES))
def test_leaves_are_float32_and_noise_is_static(name):
    leaves, treedef = jax.tree.flatten(build(name))
    assert every(leaf.dtype == jnp.float32 for leaf in leaves)
    rebuilt = jax.tree.unflatten(treedef, leaves)
    assert jax.tree.structure(rebuilt) == treedef
    hash(treedef)


def test_another_noise_is_another_type():
    a, b = (
        jax.tree.structure(variance(noise)(random.key(0), DENSE))
        for noise in ("normal", "sign")
    )
    assert a != b


@pytest.mark.parametrize(
    ("name", "noisy"),
    [
        ("point", False),
        ("gaussian-normal", True),
        ("multiplicative-layer-sign", True),
        ("variance-uniform", True),
        ("dropout-in-binary", True),
        ("dropout-0", False),
        ("dropout-gaussian", True),
        ("type-a-in", True),
    ],
)
def test_is_noisy(name, noisy):
    assert is_noisy(build(name)) is noisy
    assert is_posterior(build(name))


def test_arrays_are_no_posteriors():
    assert not is_posterior(jnp.ones(DENSE, jnp.float32))
    assert not is_noisy(jnp.ones(DENSE, jnp.float32))


@pytest.mark.parametrize("name", ["point", "dropout-0", "dropout-0-normal"])
def test_noiseless_nodes_need_no_key(name):
    node = build(name)
    mean, var = node.moments()
    assert var is None or not np.any(var)
    np.testing.assert_array_equal(node.sample(None, (2,)), np.stack([mean] * 2))


@pytest.mark.parametrize("name", ["multiplicative-output-normal", "gaussian-normal"])
def test_log_alpha_is_the_log_of_the_variance_ratio(name):
    node = build(name)
    mean, var = node.moments()
    np.testing.assert_allclose(
        log_alpha(node), np.log(var / np.square(mean)), rtol=1e-4, atol=1e-5
    )
    scaled = Scaled(Dropout(0.5, 3), node)
    np.testing.assert_array_equal(log_alpha(scaled), log_alpha(node))


def test_log_alpha_at_the_ends():
    ones = jnp.ones(DENSE, jnp.float32)
    assert np.all(log_alpha(Point(ones)) == -np.inf)
    assert np.all(log_alpha(ZeroMean(ones)) == np.inf)
    assert log_alpha(ZeroMean(ones)).shape == DENSE
    dead = Gaussian(jnp.zeros(DENSE, jnp.float32), jnp.zeros(DENSE, jnp.float32))
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
        (lambda: gaussian(noise="gauss"), "gauss.*normal.*sign.*uniform"),
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
