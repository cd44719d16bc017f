"""Evidence by size: formulas against densities, bounds, and nets that are padded."""

import jax.numpy as jnp
import numpy as np
import pytest
from claims import every
from jax import random
from ml_collections import ConfigDict
from scipy import optimize, stats

from experiments import core
from experiments.config_files import load_config
from experiments.spec import ConfigError
from experiments.studies import occam, occam_nets
from experiments.studies.description_length import Layers, Posterior
from experiments.studies.noisy_weights import Cases
from vnets import laplace, nodes, priors

RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, 12)
Y = RNG.standard_normal((12, 2))
MODEL = occam.Linear(np.polynomial.polynomial.polyvander(X, 2), Y, 0.3, 0.8)
NET, TASK = (
    Layers(2, 3, 1),
    occam_nets.Task(
        Cases(
            np.concatenate([RNG.standard_normal((9, 2)), np.ones((9, 1))], 1),
            RNG.standard_normal(9),
        ),
        0.5,
        1.3,
    ),
)
W = RNG.standard_normal(NET.size)


def test_evidence_is_the_density_of_all_targets():
    cov = 0.09 * np.eye(12) + 0.64 * MODEL.design @ MODEL.design.T
    expected = stats.multivariate_normal(np.zeros(12), cov).logpdf(Y.T)
    np.testing.assert_allclose(MODEL.evidence, expected, rtol=1e-9)


def test_the_bound_is_the_largest_of_independent_coefficients():
    """By the library's KL, and by a search over means and variances."""
    design, y = MODEL.design, Y[:, 0]

    def bound(theta):
        mean, log_var = np.split(theta, 2)
        square = np.sum(np.square(y - design @ mean))
        square += np.sum(np.square(design) @ np.exp(log_var))
        ratio = (np.square(mean) + np.exp(log_var)) / 0.64
        kl = 0.5 * np.sum(ratio - 1 - log_var + np.log(0.64))
        log_p = -0.5 * square / 0.09 - 12 * np.log(0.3 * np.sqrt(2 * np.pi))
        return log_p - kl

    found = optimize.minimize(lambda t: -bound(t), np.zeros(6), tol=1e-10)
    assert MODEL.elbo[0] == pytest.approx(-found.fun, abs=1e-5)
    assert np.all(MODEL.elbo < MODEL.evidence)


def test_laplace_of_a_padded_net_is_the_evidence():
    assert MODEL.laplace(5) == pytest.approx(MODEL.evidence[0], abs=2e-3)


def test_the_test_nll_is_the_mean_of_draws():
    """Of targets around a truth, by the predictive density of one."""
    rng, n, truth = np.random.default_rng(1), 40_000, np.array([[0.2, -0.4]])
    at = MODEL.design[:1]
    var = 0.09 + (at @ np.linalg.inv(MODEL.precision) @ at.T)[0, 0]
    y = truth + 0.3 * rng.standard_normal((n, 2))
    nll = -stats.norm.logpdf(y, at @ MODEL.mean, var**0.5)
    gap = np.abs(MODEL.nll(at, truth) - nll.mean(0))
    assert np.all(gap < 5 * nll.std(0) / n**0.5)


@pytest.mark.parametrize("name", ["point", "bound"])
def test_costs_have_their_gradients(name):
    if name == "point":
        start = W

        def cost(w):
            return occam_nets.point_cost(TASK, NET, 0.7, w)

    else:
        start = np.concatenate([W, RNG.uniform(-3, 0, NET.size)])

        def cost(theta):
            return occam_nets.bound_cost(TASK, NET, theta)

    slope = cost(start)[1]
    for i in range(0, len(start), 3):
        step = np.zeros(len(start))
        step[i] = 1e-5
        numeric = (cost(start + step)[0] - cost(start - step)[0]) / 2e-5
        assert slope[i] == pytest.approx(numeric, rel=1e-4, abs=1e-5)


def test_the_bound_of_a_net_is_the_likelihood_of_draws_less_the_kl():
    q = Posterior(W, np.full(NET.size, -2.0))
    node = nodes.Additive(*(jnp.asarray(part, jnp.float32) for part in q))
    kl = float(priors.standard_normal(1.3)(node))
    draws = W + np.exp(-1.0) * RNG.standard_normal((4000, NET.size))
    log_p = np.array([-occam_nets.point_cost(TASK, NET, 0.0, w)[0] for w in draws])
    value, _ = occam_nets.bound_cost(TASK, NET, np.concatenate(q))
    assert abs(log_p.mean() - kl + value) < 5 * log_p.std() / len(draws) ** 0.5


@pytest.mark.parametrize("kind", [laplace.full, laplace.factored])
def test_units_that_are_shut_change_no_evidence(kind):
    own, more = (occam_nets.evidence(TASK, NET, W, kind, n) for n in (3, 5))
    assert own == pytest.approx(more, rel=1e-4)


def test_the_studies_measure_all_sizes():
    for variant in ("legendre", "nets"):
        config = load_config(f"configs/occam.py:{variant},quick")
        config.sizes, config.made.size = (1, 2, 3), 2
        config.made.update({"train": 15, "test": 6, "sets": 4})
        if variant == "nets":
            config.iterations = config.restarts = config.draws = 3
        found = core.build(config).measure({}, random.key(0))
        for one in found.curves.values():
            assert every(len(axis) == 3 for axis in one.values())
        assert found.evals["elbo"]["peak"] in (1, 2, 3)


def test_the_true_size_lies_between_others():
    config: ConfigDict = load_config("configs/occam.py:monomials,quick")
    config.sizes = (3, 4)
    with pytest.raises(ConfigError, match="between its ends"):
        core.build(config)
