"""Laws of the noise on units: moments, draws and gradients of every scale node."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from claims import every
from jax import random
from scipy import special

from vnets import edits, nodes
from vnets.layers import Dense, Mode
from vnets.nodes import (
    Horseshoe,
    LogNormal,
    TruncatedLogNormal,
    gaussian,
)
from vnets.priors import kl, log_uniform

LOW, HIGH = -20.0, 0.0
# mu and log sigma of every kind of unit: kept (far above the interval), dropped (wide),
# and narrow ones in between.
GRID = list(itertools.product((-20.0, -12.0, -5.0, -1.0, 0.0, 0.5, 5.0), range(-7, 6)))
DRAWS = 20_000


def f32(values):
    return jnp.asarray(values, jnp.float32)


def truncated(pairs=GRID):
    mean, log_std = np.asarray(pairs, np.float64).T
    return TruncatedLogNormal(f32(mean), f32(log_std))


# One program for each: a scale is some fifty operations.
moments = jax.jit(lambda q: q.moments())
log_alpha = jax.jit(lambda q: q.shared_log_alpha())
kl_of = jax.jit(lambda q: q.kl())
sample = jax.jit(lambda q, key, shape: q.sample(key, shape), static_argnums=2)


def log_mass(low, high):
    """log(Phi(high) - Phi(low)) in double precision, both on one side of zero."""
    flip = low + high > 0
    low, high = np.where(flip, -high, low), np.where(flip, -low, high)
    top = special.log_ndtr(high)
    return top + np.log1p(-np.exp(special.log_ndtr(low) - top))


def closed_form(pairs=GRID):
    """log E z, log E z^2 and the KL by the formulas of Neklyudov et al. 2017."""
    mean, log_std = np.asarray(pairs, np.float64).T
    std = np.exp(log_std)
    low, high = (LOW - mean) / std, (HIGH - mean) / std
    log_z = log_mass(low, high)
    logs = [
        k * mean + k**2 * std**2 / 2 + log_mass(low - k * std, high - k * std) - log_z
        for k in (1, 2)
    ]
    edges = [
        end * np.exp(-0.5 * end**2 - 0.5 * np.log(2 * np.pi) - log_z)
        for end in (low, high)
    ]
    kl = -log_std - log_z - (edges[0] - edges[1]) / 2
    kl += np.log(HIGH - LOW) - 0.5 * np.log(2 * np.pi * np.e)
    return *logs, kl


def test_truncated_moments_are_the_closed_forms():
    """Relative 1e-4: float32 exponents up to 20 are rounded by 1e-6 each, and the
    closed form itself loses digits where z^2's mean is all but the mean's square."""
    first, second, _ = closed_form()
    mean, var = map(np.asarray, moments(truncated()))
    np.testing.assert_allclose(mean, np.exp(first), rtol=1e-4)
    np.testing.assert_allclose(mean**2 + var, np.exp(second), rtol=1e-4)
    ratio = np.expm1(second - 2 * first)
    clear = ratio > 1e-8  # 1e-11 is the closed form's own error far out
    found = np.asarray(log_alpha(truncated()))
    np.testing.assert_allclose(found[clear], np.log(ratio[clear]), atol=2e-3)
    assert np.all(found[~clear] < np.log(1e-7))


def test_truncated_kl_is_the_closed_form():
    """Doubles lose t^4 eps of it, t standard deviations above the interval; there it
    is that of an exponential of rate mu / sigma^2, within 1 / t^2."""
    value, expected = np.asarray(kl_of(truncated())), closed_form()[2]
    mean, log_std = np.asarray(GRID).T
    t = np.maximum(mean, 0) / np.exp(log_std)
    assert np.all(np.abs(value - expected) < 1e-4 + 1e-16 * t**4)
    far = t > 300
    exponential = np.log(HIGH - LOW) - 1 + np.log(t[far]) - log_std[far]
    np.testing.assert_allclose(value[far], exponential, atol=5e-5)
    assert np.all(value > -1e-5)


def test_truncated_kl_by_monte_carlo(assert_mean):
    """E ln q(x) + ln 20 over draws of the posterior, from its density in doubles."""
    pairs = [(-3.0, 1.0), (0.0, -1.0), (0.5, -2.0)]
    q = truncated(pairs)
    mean, log_std = np.asarray(pairs).T
    x = np.log(np.asarray(sample(q, random.key(0), (DRAWS,)), np.float64))
    std = np.exp(log_std)
    mass = log_mass((LOW - mean) / std, (HIGH - mean) / std)
    log_q = -0.5 * ((x - mean) / std) ** 2 - log_std - 0.5 * np.log(2 * np.pi) - mass
    assert_mean(log_q + np.log(HIGH - LOW), np.asarray(kl_of(q), np.float64))


def test_truncated_draws_have_the_moments(assert_mean):
    q = truncated()
    z = np.asarray(sample(q, random.key(1), (DRAWS,)), np.float64)
    assert np.all((z > 0) & (z <= 1))
    mean, var = map(np.asarray, moments(q))
    # Of a scale next to 0 or 1 the distance to 1 is what varies.
    assert_mean(z, np.asarray(mean))
    narrow = [i for i, (_, log_std) in enumerate(GRID) if log_std <= 0]
    spread = (z - np.asarray(mean, np.float64)) ** 2
    wide_enough = [i for i in narrow if var[i] > 1e-9 * mean[i] ** 2]
    relative = (spread / np.asarray(mean, np.float64) ** 2)[:, wide_enough]
    assert_mean(relative, np.exp(np.asarray(log_alpha(q)))[wide_enough])


@pytest.mark.slow
def test_truncated_gradients_are_finite_and_right():
    """Of moments and KL, and of draws: E[dz] = d E[z]."""
    extreme = [*GRID, (-25.0, -25.0), (9.0, 9.0), (9.0, -25.0), (-25.0, 9.0)]
    q = truncated(extreme)

    def total(q):
        mean, var = q.moments()
        return jnp.sum(mean + var + q.shared_log_alpha() + q.kl())

    def drawn(q):
        return jnp.sum(q.sample(random.key(2), (100,)))

    for function in (total, drawn):
        value, grad = jax.value_and_grad(function)(q)
        assert np.isfinite(value)
        assert every(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grad))


@pytest.mark.slow
def test_truncated_draws_are_reparameterized(assert_mean):
    pairs = [(-2.0, 0.0), (0.0, -1.0), (2.0, -1.5)]

    def of_key(key):
        return jax.grad(lambda q: jnp.sum(q.sample(key)))(truncated(pairs))

    each = jax.vmap(of_key)(random.split(random.key(3), DRAWS))
    expected = jax.grad(lambda q: jnp.sum(q.moments()[0]))(truncated(pairs))
    jax.tree.map(assert_mean, each, expected)


def make_scales():
    units = f32([-2.0, 0.0, 1.0])
    return {
        "log_normal": LogNormal(units, f32([-4.0, -1.0, 0.0])),
        "truncated": TruncatedLogNormal(units, f32([-1.0, -5.0, 1.0])),
        "horseshoe": Horseshoe(
            LogNormal(f32([-1.0, 0.5]), f32([-3.0, -2.0])),
            LogNormal(jnp.stack([units, -units / 2]), jnp.full((2, 3), -1.0)),
        ),
    }


def test_horseshoe_units_share_the_scale_of_the_layer():
    scale = make_scales()["horseshoe"]
    logs = np.log(np.asarray(sample(scale, random.key(0), (DRAWS,))))
    shared = 0.25 * np.exp(np.asarray(scale.shared.log_var)).sum()
    covariance = np.cov(logs.T)
    # A covariance of normals has the variance (v v + c^2) / n.
    error = np.sqrt((covariance[0, 0] * covariance[1, 1] + shared**2) / DRAWS)
    assert abs(covariance[0, 1] - shared) < 5 * error


FACTORIES = {
    "structured": nodes.structured,
    "group_normal_jeffreys": nodes.group_normal_jeffreys,
    "group_horseshoe": nodes.group_horseshoe,
}


def test_scales_start_where_it_is_said():
    """Without arguments: mu at the upper end, scales of mean one, nearly no noise."""
    key, shape = random.key(0), (30, 4)
    scale = nodes.structured()(key, shape).scale
    assert (scale.low, scale.high) == (LOW, HIGH)
    np.testing.assert_array_equal(scale.location, np.zeros(30))
    np.testing.assert_array_equal(scale.log_std, np.full(30, -5.0))
    node = nodes.group_normal_jeffreys()(key, shape)
    np.testing.assert_array_equal(node.scale.log_var, np.full(30, -9.0))
    np.testing.assert_array_equal(node.weight.log_var, np.full(shape, -9.0))
    around = np.asarray(node.scale.mean) - 1
    assert np.abs(around.mean()) < 5 * 0.01 / np.sqrt(30)
    assert 0.005 < around.std() < 0.02
    node = nodes.group_horseshoe()(key, shape)
    for part, units in ((node.scale.shared, (2,)), (node.scale.unit, (2, 30))):
        np.testing.assert_array_equal(part.log_mean, np.zeros(units))
        np.testing.assert_array_equal(part.log_var, np.full(units, -9.0))
    np.testing.assert_array_equal(node.weight.log_var, np.full(shape, -9.0))


@pytest.mark.parametrize("name", FACTORIES)
def test_factories(name):
    make = jax.jit(FACTORIES[name](), static_argnums=1)
    dense, conv = make(random.key(0), (6, 4)), make(random.key(0), (5, 5, 3, 4))
    assert (dense.axis, dense.scale.shape, dense.shape) == ("in", (6,), (6, 4))
    assert (conv.axis, conv.scale.shape, conv.shape) == ("out", (4,), (5, 5, 3, 4))
    assert dense.per == ("batch" if name == "structured" else "example")
    assert FACTORIES[name](axis="out")(random.key(0), (6, 4)).scale.shape == (4,)
    for wrong in ({"axis": "rows"}, {"per": "epoch"}):
        with pytest.raises(ValueError, match="choose from"):
            FACTORIES[name](**wrong)
    # Next to no noise at the start: the net is the one without.
    mean, weight = (jax.jit(edits.mean_of)(q).mean for q in (dense, dense.weight))
    np.testing.assert_allclose(mean, weight, rtol=0.05)


@pytest.mark.parametrize("name", FACTORIES)
def test_gradients_reach_scale_and_weight(name):
    layer = Dense(4, FACTORIES[name]())
    x = random.normal(random.key(0), (8, 6))
    rngs = {"params": random.key(1), "noise": random.key(2)}
    params = jax.jit(layer.init)(rngs, x, Mode())["params"]

    def loss(params):
        y = layer.apply({"params": params}, x, Mode(), rngs={"noise": random.key(3)})
        return jnp.sum(jnp.square(y - 1))

    for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(params)["kernel"]):
        assert np.all(np.isfinite(leaf))
        assert np.any(leaf != 0)


def test_least_log_alpha():
    node = gaussian(-3.0)(random.key(0), (2, 3, 4))
    second = np.asarray(node.mean) ** 2
    for axis, other in (("in", (0, 2)), ("out", (0, 1))):
        expected = -3.0 - np.log(second.max(other))
        found = node.uselessness(axis)
        assert found.shape == ((1, 3, 1) if axis == "in" else (1, 1, 4))
        np.testing.assert_allclose(np.ravel(found), expected, rtol=1e-4)


def test_kl_needs_a_prior_for_the_scale():
    q = nodes.structured()(random.key(0), (3, 4))
    with pytest.raises(TypeError, match="TruncatedLogNormal"):
        kl({"dense": {"kernel": q}}, log_uniform)


@pytest.mark.parametrize("name", make_scales())
def test_an_axis_of_layers_is_that_of_their_moments(name):
    """As under nn.scan: each layer has the moments it has alone."""
    one = make_scales()[name]
    layers = [one, jax.tree.map(lambda leaf: leaf - 0.1, one)]
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    assert together.shape == (2, 3)
    alone = zip(*(layer.moments() for layer in layers), strict=True)
    for found, parts in zip(together.moments(), alone, strict=True):
        np.testing.assert_allclose(found, np.stack(parts), rtol=1e-5)
