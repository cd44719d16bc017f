"""Laws of the mixture that noisy weights are coded by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from scipy import special, stats

from vnets import nodes, priors
from vnets.priors import coding

OWN = coding.Mixture(
    jnp.asarray([-0.5, 0.0, 0.8], jnp.float32),
    jnp.log(jnp.asarray([0.1, 0.02, 0.4], jnp.float32)),
    jnp.asarray([0.3, 1.0, -0.2], jnp.float32),
)
MEAN, STD = np.array([-0.6, 0.01, 0.3, 1.5]), np.array([0.2, 0.01, 0.5, 0.05])
SHARE = special.softmax(np.asarray(OWN.logits, np.float64))


def prices():
    found = OWN.price(jnp.float32(MEAN), jnp.float32(np.square(STD)))
    return np.asarray(found, np.float64)


def components():
    """KL of each weight from each component, [W, K], by SciPy's closed form."""
    m, s = np.asarray(OWN.means, np.float64), np.exp(np.asarray(OWN.log_std, float))
    ratio = np.log(s / STD[:, None])
    return ratio + (np.square(STD)[:, None] + (MEAN[:, None] - m) ** 2) / 2 / s**2 - 0.5


def test_the_density_is_that_of_the_mixture():
    w = np.linspace(-2, 3, 20_001)
    std = np.exp(np.asarray(OWN.log_std, np.float64))
    expected = (SHARE * stats.norm.pdf(w[:, None], np.asarray(OWN.means), std)).sum(1)
    found = np.exp(np.asarray(OWN.density(jnp.float32(w)), np.float64))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
    assert np.trapezoid(found, w) == pytest.approx(1, abs=1e-4)


def test_the_price_is_at_least_the_kl():
    z = np.linspace(-8, 8, 4001)
    w = MEAN[:, None] + STD[:, None] * z
    log_q = stats.norm.logpdf(z) - np.log(STD)[:, None]
    log_p = np.asarray(OWN.density(jnp.float32(w)), np.float64)
    kl = np.trapezoid(stats.norm.pdf(z) * (log_q - log_p), z, axis=1)
    assert np.all(prices() >= kl - 1e-3)
    # One component has all of the posterior of the last weight: nothing to choose.
    assert prices()[-1] == pytest.approx(kl[-1], rel=0.05)


def test_the_price_is_that_of_the_best_choice_of_a_component():
    kl = components()
    r = special.softmax(np.log(SHARE) - kl, axis=1)
    paid = (r * (kl - np.log(SHARE))).sum(1) + special.xlogy(r, r).sum(1)
    np.testing.assert_allclose(prices(), paid, rtol=1e-4, atol=1e-4)
    rng = np.random.default_rng(0)
    for _ in range(20):
        other = rng.dirichlet(np.ones(3), len(MEAN))
        costs = (other * (kl - np.log(SHARE))).sum(1) + special.xlogy(other, other).sum(
            1
        )
        assert np.all(costs >= prices() - 1e-4)


def test_a_single_component_is_a_normal_prior():
    node = nodes.gaussian(log_var=-3.0)(random.key(0), (6, 5))
    for scale in (0.2, 1.0):
        one = coding.mixture(1, scale)
        expected = priors.standard_normal(scale)(node)
        np.testing.assert_allclose(one(node), expected, rtol=1e-5)


def test_it_is_a_prior_that_learns():
    """Descent on the price of fixed weights finds where they are."""
    node = nodes.gaussian(log_var=-6.0)(random.key(1), (40, 10))
    node = node.with_mean(jnp.where(node.mean > 0, 0.5, -0.2))
    mixture = coding.mixture(5)
    before = priors.kl({"a": {"kernel": node}}, mixture)
    slope = jax.jit(jax.grad(lambda own: own(node) / node.mean.size))
    for _ in range(300):
        mixture = jax.tree.map(lambda p, g: p - 0.02 * g, mixture, slope(mixture))
    after = priors.kl({"a": {"kernel": node}}, mixture)
    assert float(after) < 0.8 * float(before)
    pruned = node.kept(jnp.zeros_like(node.mean, bool))
    assert float(mixture(pruned)) == 0


def test_a_mixture_starts_as_hinton_and_van_camps():
    own = coding.mixture()
    np.testing.assert_allclose(own.means, [-0.24, -0.12, 0, 0.12, 0.24], atol=1e-7)
    np.testing.assert_allclose(np.exp(own.log_std), 0.06, rtol=1e-5)
    two = coding.mixture(2)
    np.testing.assert_allclose(two.means, [-0.24, 0.24], rtol=1e-6)
    np.testing.assert_allclose(np.exp(two.log_std), 0.24, rtol=1e-5)


def test_what_makes_no_mixture_is_refused():
    with pytest.raises(ValueError, match="1 component"):
        coding.mixture(0)
    with pytest.raises(ValueError, match="positive reach"):
        coding.mixture(3, 0.0)
    with pytest.raises(TypeError, match=r"coding\.Mixture does not fit"):
        OWN(nodes.variance("sign")(random.key(0), (3, 4)))
