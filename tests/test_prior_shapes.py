"""Scale mixtures: densities, bounds and shrinkage that are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from scipy import integrate, stats
from sklearn.linear_model import Lasso, Ridge

from experiments import core
from experiments.config_files import load_config
from experiments.spec import ConfigError
from experiments.studies import prior_shapes
from vnets import priors

W = np.geomspace(0.003, 30, 41)


def small(variant="horseshoe"):
    config = load_config(f"configs/prior_shapes.py:{variant},quick")
    config.average.update({"draws": 200, "walks": 3})
    config.draws, config.points = 500, 9
    return config


def mixing(name):
    return prior_shapes.mixings(small())[name]


@pytest.mark.parametrize("name", ["laplace", "student", "log_normal", "horseshoe"])
def test_a_density_is_the_integral_of_its_mixture(name):
    one = mixing(name)
    assert one.masses.sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(one.density(jnp.float32(W)), one.log_prob(W), atol=2e-3)


def test_the_integral_is_that_of_a_quadrature():
    def integrand(scale, w):
        return stats.norm.pdf(w, 0, scale) * stats.halfcauchy.pdf(scale)

    for w in (0.1, 1.0, 5.0):
        pieces = (0, w), (w, np.inf)
        total = sum(integrate.quad(integrand, *p, args=(w,))[0] for p in pieces)
        found = mixing("horseshoe").log_prob(np.array([w]))
        assert found[0] == pytest.approx(np.log(total), abs=1e-7)


def test_the_horseshoe_is_within_its_bounds():
    """K / 2 ln(1 + 4 / w^2) < p(w) < K ln(1 + 2 / w^2), Carvalho et al. 2010."""
    p = np.exp(np.asarray(priors.horseshoe().log_prob(jnp.float32(W)), np.float64))
    k = (2 * np.pi**3) ** -0.5
    assert np.all(k / 2 * np.log1p(4 / W**2) < p)
    assert np.all(p < k * np.log1p(2 / W**2))


@pytest.mark.parametrize("make", [priors.laplace, priors.horseshoe])
def test_a_scale_is_one(make):
    wide, w = make(2.5), jnp.float32(W)
    expected = make().log_prob(w / 2.5) - np.log(2.5)
    np.testing.assert_allclose(wide.log_prob(w), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="must be positive"):
        make(0.0)


def test_the_horseshoe_has_a_gradient_at_its_pole_and_in_its_tails():
    slope = jax.vmap(jax.grad(priors.horseshoe().log_prob))
    found = slope(jnp.array([0.0, 1e-3, 1e3, 1e6]))
    assert np.all(np.isfinite(found))
    np.testing.assert_allclose(found[2:], [-2e-3, -2e-6], rtol=1e-3)  # as 1 / w^2


def test_shrinkage_of_a_horseshoe_is_a_beta():
    """kappa = 1 / (1 + l^2) ~ Beta(1/2, 1/2)."""
    rng = np.random.default_rng(0)
    kappa = 1 / (1 + mixing("horseshoe").draw(rng, 4000) ** 2)
    assert stats.kstest(kappa, stats.beta(0.5, 0.5).cdf).pvalue > 1e-3


def test_a_normal_prior_halves_what_has_noise_of_its_scale():
    y = np.array([0.1, 3.0, 20.0])
    np.testing.assert_allclose(mixing("normal").kept(y), 0.5)
    np.testing.assert_allclose(mixing("normal").kept(y, noise=3.0), 0.1)


@pytest.mark.parametrize("name", ["laplace", "student", "horseshoe"])
def test_what_is_left_is_tweedies_formula(name):
    """E[w | y] = y + noise^2 d ln p(y) / dy."""
    y, step, noise = np.array([0.5, 2.0, 6.0]), 1e-4, 0.7
    ends = [mixing(name).log_prob(y + s * step, noise) for s in (0.5, -0.5)]
    expected = y + noise**2 * (ends[0] - ends[1]) / step
    np.testing.assert_allclose(mixing(name).kept(y, noise) * y, expected, rtol=1e-6)


def regression():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 12))
    return x, x[:, :3] @ [2.0, -1.0, 0.5] + 0.5 * rng.normal(size=60)


def test_the_mode_under_a_laplace_prior_is_the_lasso():
    """alpha = noise^2 / (N scale): the gradient of what is not 0 vanishes."""
    (x, y), noise, scale = regression(), 0.5, 0.05
    alpha = noise**2 / (len(y) * scale)
    w = Lasso(alpha, fit_intercept=False, tol=1e-10, max_iter=10_000).fit(x, y).coef_
    slope = x.T @ (y - x @ w) / noise**2
    prior = jax.vmap(jax.grad(priors.laplace(scale).log_prob))(jnp.float32(w))
    assert 0 < np.sum(w == 0) < len(w)
    np.testing.assert_allclose((slope + prior)[w != 0], 0, atol=1e-3 / scale)
    assert np.all(np.abs(slope[w == 0]) <= 1 / scale)


def test_the_mode_under_a_normal_prior_is_ridge():
    (x, y), noise, scale = regression(), 0.5, 0.3
    w = Ridge((noise / scale) ** 2, fit_intercept=False).fit(x, y).coef_
    slope = x.T @ (y - x @ w) / noise**2 - w / scale**2
    np.testing.assert_allclose(slope, 0, atol=1e-8)


def test_a_wider_cut_leaves_less_of_what_the_data_say():
    shares = [prior_shapes.cut_share(cut) for cut in (10.0, 100.0, 1000.0)]
    assert sorted(shares) == shares
    # (1 - share) / share is C / (a - ln 1000), of one C
    constant = [
        (1 / s - 1) * (a - np.log(1e3))
        for s, a in zip(shares, (10, 100, 1000), strict=True)
    ]
    np.testing.assert_allclose(constant, constant[0], rtol=0.01)


@pytest.mark.parametrize("variant", ["horseshoe", "log_uniform", "spike_slab"])
def test_the_study_measures_what_a_prior_has(variant):
    found = core.build(small(variant)).measure({}, random.key(0)).evals
    assert found["density"]["error"] < 1e-3
    assert ("draws" in found) == ("shrinkage" in found) == (variant != "log_uniform")
    if variant == "log_uniform":
        assert found["digits"]["slope"] == pytest.approx(1, abs=0.02)
    if variant == "spike_slab":
        assert found["gradient"]["spike"] == pytest.approx(3e3, rel=1e-2)
        assert found["gradient"]["slab"] == pytest.approx(1e-7, rel=1e-2)
        assert found["gradient"]["meet"] == pytest.approx(0.0053, abs=1e-4)


def test_an_unknown_prior_is_refused():
    config = small()
    config.prior = "horse"
    with pytest.raises(ConfigError, match="horseshoe"):
        core.build(config)


def test_a_cut_that_leaves_nothing_near_zero_is_refused():
    config = small("log_uniform")
    config.cuts = (5.0, 10.0)
    with pytest.raises(ConfigError, match=r"above 6\.91"):
        core.build(config)
