"""Normal priors with scales in closed form are those at the best scale, by search."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from scipy import optimize, stats

from experiments import spec as parts
from vnets.nodes import (
    Dropout,
    Point,
    Scaled,
    dropout,
    gaussian,
    multiplicative,
    variance,
)
from vnets.priors import (
    ScaledPrior,
    WeightedPrior,
    ard,
    empirical_each,
    empirical_laplace,
    empirical_normal,
    hierarchical_normal,
    kl,
    learned_scales,
    standard_normal,
)

NODES = {
    "gaussian": gaussian(-3.0)(random.key(0), (6, 5)),
    "multiplicative": multiplicative(0.5, "output")(random.key(1), (2, 2, 3, 4)),
    "variance": variance()(random.key(2), (6, 5)),
}


def least(value):
    """The least of a function of ln s."""
    return optimize.minimize_scalar(value, bounds=(-8, 4), method="bounded").fun


@pytest.mark.parametrize("name", sorted(NODES))
def test_the_empirical_scale_is_the_best_one(name):
    node = NODES[name]
    found = least(lambda log_s: float(standard_normal(np.exp(log_s))(node)))
    assert float(empirical_normal(node)) == pytest.approx(found, rel=1e-4)


@pytest.mark.parametrize("name", sorted(NODES))
@pytest.mark.parametrize(("shape", "rate"), [(1.0, 1e-2), (50.0, 200.0)])
def test_the_hierarchical_scale_is_the_best_with_its_hyperprior(name, shape, rate):
    node = NODES[name]
    law = stats.invgamma(shape, scale=rate)

    def value(log_s):
        divergence = float(standard_normal(np.exp(log_s))(node))
        return divergence - law.logpdf(np.exp(2 * log_s))

    found = float(hierarchical_normal(shape, rate)(node))
    assert found == pytest.approx(least(value), rel=1e-4, abs=1e-3)


def test_a_mean_and_a_scale_for_each_weight_leave_no_kl():
    """The best normal prior of each weight is its own law; any other costs more."""
    node = NODES["gaussian"]
    assert float(empirical_each(node)) == float(kl({"a": {"kernel": node}}, node)) == 0
    for other in (
        node.replace(mean=node.mean + 0.1),
        node.replace(log_var=node.log_var + 0.1),
        node.replace(log_var=node.log_var - 0.1),
    ):
        assert float(kl({"a": {"kernel": node}}, other)) > 0
    std = np.sqrt(np.mean(np.exp(node.log_var)))
    assert float(empirical_each.scale(node)) == pytest.approx(std, rel=1e-5)


def test_one_scale_costs_more_than_one_for_each_weight():
    node = NODES["gaussian"]
    assert float(empirical_normal(node)) > float(ard(node)) > 0


@pytest.mark.parametrize("prior", [empirical_normal, hierarchical_normal()])
def test_gradients_are_those_of_the_fixed_scale(prior):
    """The best scale has no gradient of its own: the envelope theorem."""
    node = NODES["gaussian"]
    second = np.square(node.mean) + np.exp(node.log_var)
    square = second.mean()
    if prior is not empirical_normal:
        square = (second.sum() + 2e-2) / (second.size + 4)
    ours = jax.grad(prior)(node)
    fixed = jax.grad(standard_normal(float(np.sqrt(square))))(node)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(fixed), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_each_layer_has_its_own_scale():
    wide = NODES["gaussian"].replace(mean=100 * NODES["gaussian"].mean)
    params = {"a": {"kernel": NODES["gaussian"]}, "b": {"kernel": wide}}
    expected = empirical_normal(NODES["gaussian"]) + empirical_normal(wide)
    total = kl(params, parts.prior("empirical_normal"))
    assert float(total) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("prior", [empirical_normal, hierarchical_normal(5.0, 40.0)])
def test_the_learned_scale_is_that_of_the_least(prior):
    node = NODES["gaussian"]
    other = node.replace(mean=0.1 * node.mean)
    params = {"a": {"kernel": node, "bias": other}, "b": {"kernel": Point(node.mean)}}
    found = learned_scales(params, prior)
    assert set(found) == {"a", "a/bias"}
    for name, one in (("a", node), ("a/bias", other)):

        def value(log_s, one=one):
            divergence = float(standard_normal(np.exp(log_s))(one))
            if prior is empirical_normal:
                return divergence
            law = stats.invgamma(prior.shape, scale=prior.rate)
            return divergence - law.logpdf(np.exp(2 * log_s))

        best = optimize.minimize_scalar(value, bounds=(-8, 4), method="bounded").x
        assert float(found[name]) == pytest.approx(np.exp(best), rel=1e-2)
    assert learned_scales(params, {"a": standard_normal(), "a/bias": prior}) == {
        "a/bias": found["a/bias"]
    }
    assert learned_scales(params, standard_normal()) == {}


def test_learned_scales_sees_what_the_kl_sees():
    node, units = NODES["gaussian"], gaussian()(random.key(1), (6,))
    trees = {
        "dropout": {"a": {"kernel": dropout(0.5)(random.key(0), (3, 2))}},
        "scaled": {"a": {"kernel": Scaled(scale=units, weight=node)}},
        "plain": {"a": {"kernel": node}},
    }
    expected = empirical_normal.scale(node)
    assert float(kl(trees["dropout"], empirical_normal)) == 0
    assert learned_scales(trees["dropout"], empirical_normal) == {}
    weighted = WeightedPrior(empirical_normal, {"a": 2.0})
    assert learned_scales(trees["plain"], weighted) == {"a": expected}
    apart = ScaledPrior(scale=standard_normal(), weight=empirical_normal)
    assert learned_scales(trees["scaled"], apart) == {"a": expected}
    both = learned_scales(trees["scaled"], empirical_normal)
    assert set(both) == {"a", "a/units"}
    assert both["a"] == expected


def test_configs_name_them_and_wrong_ones_are_refused():
    made = parts.prior({"kind": "hierarchical_normal", "shape": 2.0, "rate": 0.5})
    assert np.isfinite(float(kl({"a": {"kernel": NODES["gaussian"]}}, made)))
    with pytest.raises(parts.ConfigError, match=r"positive shape and rate, not 0"):
        parts.prior({"kind": "hierarchical_normal", "shape": 0.0})
    with pytest.raises(TypeError, match=r"Dropout.*weights with normal noise"):
        empirical_normal(Dropout(0.5, 3))
    with pytest.raises(TypeError, match="sign noise"):
        empirical_normal(variance("sign")(random.key(0), (3, 4)))
    zero = NODES["gaussian"].replace(log_var=jnp.full((6, 5), -jnp.inf))
    assert np.isfinite(float(empirical_normal(zero)))


@pytest.mark.parametrize("name", sorted(NODES))
def test_the_empirical_laplace_scale_is_the_best_one(name):
    """E[log q - log p] by a quadrature for each weight, at the best scale by search."""
    node = NODES[name]
    mean, var = (0 if m is None else np.asarray(m, np.float64) for m in node.moments())
    std = np.sqrt(np.broadcast_to(var, node.shape)).ravel()
    z = np.linspace(-8, 8, 8001)
    w = np.broadcast_to(mean, node.shape).reshape(-1, 1) + std[:, None] * z
    sizes = np.trapezoid(stats.norm.pdf(z) * np.abs(w), z, axis=1)
    entropy = 0.5 * np.log(2 * np.pi * np.e * np.square(std))
    found = least(lambda t: np.sum(t + np.log(2) + sizes * np.exp(-t) - entropy))
    assert float(empirical_laplace(node)) == pytest.approx(found, rel=1e-4)
    assert float(empirical_laplace.scale(node)) == pytest.approx(sizes.mean(), rel=1e-4)
