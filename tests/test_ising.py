"""Couplings of spins: chains with the law of their system, and methods that find it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from ml_collections import ConfigDict
from scipy import stats

from experiments import core
from experiments.config_files import load_config
from experiments.spec import ConfigError
from experiments.studies import ising

SPEC = ConfigDict({"side": 4, "dimensions": 3, "coupling": 0.2, "neighbours": 2.0})
FORMS = {"non_centred": ising.Form(), "centred": ising.Centred()}


def few(method):
    """A config of 4 spins."""
    config = load_config(f"configs/ising.py:glass_{method},quick")
    config.system.update({"side": 2})
    config.samples, config.burn_in = (400, 4000), 30
    return config


def test_systems_are_those_of_the_paper():
    rng = np.random.default_rng(0)
    lattice = ising.ferromagnet(SPEC, rng)
    np.testing.assert_array_equal(lattice, lattice.T)
    assert set(np.unique(lattice)) == {0.0, 0.2}
    np.testing.assert_array_equal((lattice > 0).sum(0), 6)
    many = [ising.glass(SPEC, rng) for _ in range(30)]
    there = np.concatenate([one[np.triu_indices(64, 1)] for one in many])
    assert np.mean(there != 0) == pytest.approx(2 / 64, rel=0.1)
    assert np.std(there[there != 0]) == pytest.approx(0.5**0.5, rel=0.1)


def test_chains_have_the_law_of_their_system():
    """By a chi-squared test of all states of three spins."""
    couplings = np.array([[0, 0.6, -0.3], [0.6, 0, 0.2], [-0.3, 0.2, 0]])
    found = np.asarray(ising.sampled(jnp.asarray(couplings), 8000, 30, random.key(0)))
    states = np.array(list(itertools.product((-1, 1), repeat=3)))
    p = np.exp(0.5 * np.einsum("si,ij,sj->s", states, couplings, states))
    counts = [np.sum(np.all(found == s, 1)) for s in states]
    assert stats.chisquare(counts, 8000 * p / p.sum()).pvalue > 1e-3


@pytest.mark.parametrize("name", FORMS)
def test_couplings_and_prices_are_those_of_draws(name):
    """E[J], and the KL of the weights: the mean of log ratios at drawn scales."""
    form = FORMS[name]
    spec = ConfigDict({"log_scale": -0.5, "scale_std": 0.4, "weight_std": 0.3})
    q = form.start(3, spec)
    q["weight"] = q["weight"].replace(mean=jnp.array([0.7, -0.2, 0.0], jnp.float32))
    noise = {
        name: random.normal(random.key(i), (20_000, *node.shape))
        for i, (name, node) in enumerate(q.items())
    }
    draws = np.asarray(jax.vmap(form.drawn, (None, 0))(q, noise)[0])
    error = draws.std(0) / len(draws) ** 0.5
    np.testing.assert_array_less(np.abs(draws.mean(0) - form.mean(q)), 5 * error)

    mean, var, centre = map(np.asarray, (*form.log_scale(q), q["weight"].mean))
    rng = np.random.default_rng(0)
    scale = np.exp(mean + np.sqrt(var) * rng.standard_normal((20_000, 3)))
    prior = 1.0 if name == "non_centred" else scale
    w = centre + 0.3 * rng.standard_normal((20_000, 3))
    ratio = stats.norm.logpdf(w, centre, 0.3) - stats.norm.logpdf(w, 0, prior)
    ratio = ratio.sum(1)
    gap = abs(ratio.mean() - float(form.weight_kl(q)))
    assert gap < 5 * ratio.std() / len(ratio) ** 0.5


def test_the_price_of_a_scale_is_that_of_a_half_cauchy():
    """Where the scale is known, and up to what no gradient sees."""
    form = FORMS["non_centred"]

    def price(log_scale):
        spec = ConfigDict(
            {"log_scale": log_scale, "scale_std": 1e-3, "weight_std": 1.0}
        )
        nothing = dict.fromkeys(("all", "each", "weight"), jnp.zeros((1,)))
        return float(form.drawn(form.start(1, spec), nothing)[1])

    def exact(log_scale):
        return -stats.halfcauchy.logpdf(np.exp(log_scale)) - log_scale

    for a, b in ((-2.0, 0.0), (0.0, 3.0)):
        expected = 2 * (exact(b) - exact(a))  # of the layer's scale and the pair's
        assert price(b) - price(a) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("method", ["pseudo_likelihood", "non_centred", "centred"])
def test_many_states_tell_the_couplings(method):
    found = core.build(few(method)).measure({}, random.key(3))
    assert found.evals["n4000"]["rms"] < min(0.06, 0.8 * found.evals["n400"]["rms"])


def test_a_sample_needs_two_states():
    config = few("mean_field")
    config.samples = (1, 10)
    with pytest.raises(ConfigError, match=r"config\.samples"):
        core.build(config)
