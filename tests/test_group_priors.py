"""Laws of the KLs of units: quadrature, Monte Carlo, optima, and how they combine."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from scipy import integrate, stats

from vnets import edits, nodes, priors
from vnets.nodes import (
    Additive,
    LogNormal,
    Multiplicative,
    Scaled,
    adaptive_binary_dropout,
    adaptive_dropout,
    dropout,
    gaussian,
)
from vnets.priors import (
    ScaledPrior,
    WeightedPrior,
    ard,
    bernoulli,
    gamma_kl,
    group_ard,
    half_cauchy,
    half_cauchy_bound,
    inverse_gamma_kl,
    kl,
    log_uniform,
    standard_normal,
)

GRID = [(m, v) for m in (-6.0, -1.0, 0.0, 2.0) for v in (1e-4, 0.1, 1.0, 4.0)]


def f32(values):
    return jnp.asarray(values, jnp.float32)


def log_normals():
    mean, var = np.asarray(GRID).T
    return LogNormal(f32(mean), f32(np.log(var)))


def by_quadrature(log_prior):
    """KL of each log-normal of the grid, over y = ln x; prior of y: p(x) x."""
    found = []
    for mean, var in GRID:
        q = stats.norm(mean, np.sqrt(var))

        def integrand(y, q=q):
            return q.pdf(y) * (q.logpdf(y) - log_prior(np.exp(y)) - y)

        ends = q.mean() - 10 * q.std(), q.mean() + 10 * q.std()
        found.append(integrate.quad(integrand, *ends, epsabs=1e-9, limit=200)[0])
    return found


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_gamma_kl_by_quadrature(scale):
    expected = by_quadrature(stats.gamma(0.5, scale=scale).logpdf)
    np.testing.assert_allclose(gamma_kl(log_normals(), scale), expected, rtol=1e-5)


def test_inverse_gamma_kl_by_quadrature():
    expected = by_quadrature(stats.invgamma(0.5).logpdf)
    np.testing.assert_allclose(inverse_gamma_kl(log_normals()), expected, rtol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 0.2])
def test_a_gamma_times_an_inverse_gamma_is_a_squared_half_cauchy(scale):
    rng = np.random.default_rng(0)
    a = stats.gamma(0.5, scale=scale**2).rvs(20_000, random_state=rng)
    b = stats.invgamma(0.5).rvs(20_000, random_state=rng)
    test = stats.kstest(np.sqrt(a * b), stats.halfcauchy(scale=scale).cdf)
    assert test.pvalue > 1e-3


def test_horseshoe_kl_is_that_of_its_factors():
    q = nodes.group_horseshoe(-1.0)(random.key(0), (3, 4)).scale
    expected = gamma_kl(LogNormal(f32(0.0), f32(-1.0)), 0.04)
    expected += inverse_gamma_kl(LogNormal(f32(0.0), f32(-1.0)))
    expected += 3 * 2 * gamma_kl(LogNormal(f32(0.0), f32(-1.0)))
    assert half_cauchy(0.2)(q) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_the_bound_of_a_half_cauchy_is_the_kl_with_its_best_auxiliary(scale):
    """By the two inverse gamma laws, and q(l) of other rates, which cost more."""

    def cost(mean, var, rate):
        q_l, of_inverse = stats.invgamma(1.0, scale=rate), stats.expon(scale=1 / rate)
        inverse, log_l = of_inverse.mean(), -of_inverse.expect(np.log)
        log_square = 2 * mean
        entropy = stats.norm(log_square, 2 * var**0.5).entropy() + log_square
        log_t = -0.5 * log_l - 1.5 * log_square - inverse * np.exp(2 * var - 2 * mean)
        log_p_l = -np.log(scale) - 1.5 * log_l - inverse / scale**2
        return np.log(np.pi) - log_t - log_p_l - entropy - q_l.entropy()

    own = [(m, v) for m, v in GRID[1::3] if v - m < 3]  # where SciPy's quadratures hold
    mean, var = np.asarray(own).T
    found = half_cauchy_bound(LogNormal(f32(mean), f32(np.log(var))), scale)
    best = scale**-2 + np.exp(2 * var - 2 * mean)
    rates = best[:, None] * np.array([1.0, 0.8, 1.25])
    costs = np.array(
        [[cost(m, v, r) for r in row] for (m, v), row in zip(own, rates, strict=True)]
    )
    np.testing.assert_allclose(found, costs[:, 0], rtol=1e-4, atol=1e-4)
    assert np.all(costs[:, 1:] > costs[:, :1])


def test_the_bound_of_a_half_cauchy_is_above_its_kl():
    """And all but it where the scale is known."""
    gap = np.array(half_cauchy_bound(log_normals()))
    gap -= by_quadrature(stats.halfcauchy.logpdf)
    assert np.all(gap > -1e-4)
    known = np.asarray(GRID)[:, 1] == 1e-4
    np.testing.assert_allclose(gap[known], 0, atol=1e-3)
    assert gap[~known].max() > 0.1


def test_ghosh_horseshoe_is_of_the_roots_of_its_factors():
    q = nodes.group_horseshoe(-1.0)(random.key(0), (3, 4)).scale
    root = LogNormal(f32(0.0), f32(-1.0 - np.log(2)))
    expected = 3 * half_cauchy_bound(root, 0.5) + half_cauchy_bound(root, 2.0)
    prior = priors.ghosh_half_cauchy(0.5, 2.0)
    assert prior(q) == pytest.approx(float(expected), rel=1e-5)
    tilt = q.unit.log_mean.at[0].add(1.3).at[1].add(-1.3)
    tilted = q.replace(unit=q.unit.replace(log_mean=tilt))
    assert prior(tilted) == pytest.approx(float(expected), rel=1e-5)
    assert abs(float(half_cauchy()(tilted) - half_cauchy()(q))) > 1


def groups():
    """A Gaussian weight [2, 3, 4] whose units differ."""
    key = random.key(0)
    mean = random.normal(key, (2, 3, 4)) * jnp.exp(f32([[[0, -1, -2, 1]]]))
    return Additive(mean, random.uniform(random.key(1), (2, 3, 4), minval=-4.0))


@pytest.mark.parametrize("axis", ["unit", "in", "out"])
def test_group_ard_is_the_best_gaussian_prior_of_each_unit(axis):
    node = groups()
    where = {"unit": -1, "out": -1, "in": -2}[axis]
    best = 0.0
    for unit in range(node.shape[where]):
        part = jax.tree.map(lambda x, u=unit: jnp.take(x, u, where), node)
        grid = np.exp(np.linspace(-4, 4, 2001))
        second = np.asarray(part.mean) ** 2 + np.exp(np.asarray(part.log_var))
        log_std = 0.5 * np.sum(np.asarray(part.log_var))
        values = second.sum() / (2 * grid**2) + second.size * (np.log(grid) - 0.5)
        best += values.min() - log_std
        lambdas = np.sqrt(second.mean())
        assert grid[values.argmin()] == pytest.approx(lambdas, rel=0.005)
    assert group_ard(axis)(node) == pytest.approx(best, rel=1e-4)


def test_group_ard_of_single_weights_is_ard():
    node = gaussian(-3.0)(random.key(0), (7, 1))
    assert group_ard("in")(node) == pytest.approx(float(ard(node)), rel=1e-5)


def test_group_ard_of_shared_alpha_is_the_closed_form_of_the_lecture():
    mean = np.asarray(groups().mean)[0]
    alpha = 0.3
    node = Multiplicative(f32(mean), jnp.full((1, 4), np.log(alpha), jnp.float32))
    m = mean.shape[0]
    each = m / 2 * np.log(np.mean(mean**2, 0)) - 0.5 * np.log(mean**2).sum(0)
    each += m / 2 * np.log(1 + 1 / alpha)
    assert group_ard("out")(node) == pytest.approx(each.sum(), rel=1e-4)


def test_each_part_of_a_scaled_node_has_its_own_prior():
    q = nodes.group_normal_jeffreys()(random.key(0), (3, 4))
    prior = priors.group_normal_jeffreys(0.5)
    assert prior == ScaledPrior(log_uniform, prior.weight)
    expected = log_uniform(q.scale) + standard_normal(0.5)(q.weight)
    found = kl({"dense": {"kernel": q}}, prior)
    assert found == pytest.approx(float(expected), rel=1e-6)
    # Nested: dropout has no KL, the weight below keeps its role.
    nested = Scaled(dropout(0.5)(random.key(1), (3, 4)).scale, q, "in")
    again = kl({"dense": {"kernel": nested}}, {"dense": prior})
    assert again == pytest.approx(float(expected), rel=1e-6)
    # A layer that is not Scaled has the weight's.
    plain = kl({"dense": {"kernel": q.weight}}, prior)
    assert plain == pytest.approx(float(standard_normal(0.5)(q.weight)), rel=1e-6)


def test_factors_weigh_the_layers():
    make = nodes.group_normal_jeffreys()
    params = {name: {"kernel": make(random.key(0), (3, 4))} for name in ("a", "b")}
    prior = priors.group_normal_jeffreys()
    alone = float(kl({"a": params["a"]}, prior))
    assert kl(params, WeightedPrior(prior, {"b": 10.0})) == pytest.approx(11 * alone)
    with pytest.raises(ValueError, match=r"given for \['c'\]"):
        kl(params, WeightedPrior(prior, {"c": 10.0}))


def test_structured_pruning_has_a_kl_of_its_scales_only():
    q = nodes.structured()(random.key(0), (5, 4))
    found = kl({"dense": {"kernel": q}}, priors.structured())
    assert found == pytest.approx(float(jnp.sum(q.scale.kl())), rel=1e-6)


def test_errors():
    with pytest.raises(ValueError, match="choose from"):
        group_ard("rows")
    for scale in (0.0, -1.0):
        with pytest.raises(ValueError, match="must be positive"):
            half_cauchy(scale)


STACKED = {
    "adaptive": (adaptive_dropout(0.2), log_uniform),
    "adaptive-layer": (adaptive_dropout(0.2, "layer"), log_uniform),
    "binary": (adaptive_binary_dropout(0.2), bernoulli()),
    "jeffreys": (
        nodes.group_normal_jeffreys(axis="out"),
        priors.group_normal_jeffreys(),
    ),
    "horseshoe": (nodes.group_horseshoe(axis="in"), priors.group_horseshoe()),
    "structured": (nodes.structured(axis="in"), priors.structured()),
}


@pytest.mark.parametrize("name", STACKED)
def test_layers_that_scan_has_stacked_cost_as_much_as_apart(name):
    """`nn.scan` keeps the nodes of its layers as one, with an axis in front."""
    make, prior = STACKED[name]
    pair = [make(random.key(i), (4, 3)) for i in (0, 1)]
    shifted = jax.tree.map(lambda leaf: leaf - 0.5, pair[1])
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), pair[0], shifted)
    apart = sum(float(kl({"a": node}, prior)) for node in (pair[0], shifted))
    assert float(kl({"a": both}, prior)) == pytest.approx(apart, rel=1e-5)


def test_stacked_horseshoes_lose_their_units_apart():
    make = nodes.group_horseshoe(axis="in")
    pair = [make(random.key(i), (4, 3)) for i in (0, 1)]
    scale = pair[1].scale
    small = jnp.zeros((2, 4), jnp.float32).at[:, 2].set(-9.0)
    unit = dataclasses.replace(scale.unit, log_mean=small)
    pair[1] = pair[1].replace(scale=scale.replace(unit=unit))
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *pair)
    for change in (
        edits.mean_only,
        edits.chain(edits.prune_units(3.0), edits.mean_only),
    ):
        expected = [change({"a": {"kernel": n}})["a"]["kernel"].mean for n in pair]
        got = change({"a": {"kernel": both}})["a"]["kernel"].mean
        np.testing.assert_allclose(got, np.stack(expected), rtol=1e-6)
    assert not np.any(got[1, 2])
    assert np.all(got[0])


@pytest.mark.parametrize(
    "make",
    [
        priors.structured,
        priors.group_normal_jeffreys,
        priors.group_horseshoe,
    ],
)
def test_weights_below_units_are_standard_normal_unless_told_otherwise(make):
    node = Additive(f32([[0.5, -1.0]]), f32([[-1.0, 0.5]]))
    units = LogNormal(f32([[0.5], [-0.5]]), f32([[-1.0], [0.0]]))
    for arguments, weight_scale in (({}, 1.0), ({"weight_scale": 0.5}, 0.5)):
        made = make(**arguments)
        assert made.weight(node) == standard_normal(weight_scale)(node)
    if make is priors.group_horseshoe:
        horseshoe = nodes.Horseshoe(
            LogNormal(units.log_mean[:, 0], units.log_var[:, 0]), units
        )
        assert make().scale(horseshoe) == half_cauchy(1.0)(horseshoe)
