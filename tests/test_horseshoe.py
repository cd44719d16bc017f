"""Bounds of the horseshoe: below the evidence, and those of draws."""

import numpy as np
import pytest
from jax import random
from scipy import special, stats

from experiments import core
from experiments.config_files import load_config
from experiments.spec import ConfigError
from experiments.studies import horseshoe
from experiments.studies.prior_shapes import HORSESHOE

Y = np.array([0.0, 0.5, -2.0, 7.0])
MEAN, VAR = np.float64(-0.4), np.float64(0.6)  # of ln s


def log_prob(y, noise, w):
    return stats.norm.logpdf(y, w, noise)


@pytest.mark.parametrize("noise", [0.3, 3.0])
def test_no_bound_is_above_the_evidence_and_the_structured_is_the_best(noise):
    found = {n: horseshoe.best(f, Y, noise)[0] for n, f in horseshoe.FORMS.items()}
    assert np.all(found["structured"] <= HORSESHOE.log_prob(Y, noise) + 1e-6)
    for form in ("centred", "non_centred"):
        assert np.all(found[form] <= found["structured"] + 1e-4)


def test_the_kl_of_a_scale_is_that_of_a_quadrature():
    u = np.linspace(-12, 12, 4001)
    q = stats.norm.logpdf(u, MEAN, VAR**0.5)
    p = stats.halfcauchy.logpdf(np.exp(u)) + u
    expected = np.sum(np.exp(q) * (q - p)) * (u[1] - u[0])
    assert horseshoe.scale_kl(MEAN, VAR) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("form", ["centred", "non_centred"])
def test_a_bound_is_the_mean_of_draws_at_its_best_normal(form):
    """E ln p(y, w, s) / q(w, s), for which m and v are taken from the module's rule."""
    noise, y, rng, n = 0.8, 1.7, np.random.default_rng(0), 200_000
    s = np.exp(MEAN + VAR**0.5 * rng.standard_normal(n))
    if form == "centred":
        v = 1 / (noise**-2 + np.exp(2 * VAR - 2 * MEAN))
        m = y * v / noise**2
        w = m + v**0.5 * rng.standard_normal(n)
        ratio = stats.norm.logpdf(w, 0, s) - stats.norm.logpdf(w, m, v**0.5)
    else:
        first, second = np.exp(MEAN + VAR / 2), np.exp(2 * MEAN + 2 * VAR)
        v = 1 / (1 + second / noise**2)
        m = y * first * v / noise**2
        z = m + v**0.5 * rng.standard_normal(n)
        w = s * z
        ratio = stats.norm.logpdf(z) - stats.norm.logpdf(z, m, v**0.5)
    draws = log_prob(y, noise, w) + ratio
    expected = draws.mean() - horseshoe.scale_kl(MEAN, VAR)
    value, mean = horseshoe.FORMS[form](np.float64(y), noise, MEAN, VAR)
    assert abs(value - expected) < 5 * draws.std() / n**0.5
    assert abs(mean - w.mean()) < 5 * w.std() / n**0.5


def test_the_structured_bound_keeps_what_a_known_scale_keeps():
    """With ln s almost known, E[w] = y s^2 / (s^2 + noise^2)."""
    _, kept = horseshoe.structured(Y, 0.7, np.float64(0.2), np.float64(1e-10))
    share = special.expit(2 * (0.2 - np.log(0.7)))
    np.testing.assert_allclose(kept, Y * share, rtol=1e-4)


def test_the_study_measures_every_noise():
    config = load_config("configs/horseshoe.py:centred,quick")
    config.sizes.update({"all": 12, "large": 3})
    config.curve.points = 2
    found = core.build(config).measure({}, random.key(0))
    assert set(found.evals) == {"strong", "middle", "weak"}
    for one in found.evals.values():
        assert one["gap"] == pytest.approx(one["evidence"] - one["elbo"])
        assert one["gap"] > 0
        assert one["error"] >= 0
    assert len(found.curves["noise"]["gap"]) == 2


def test_an_unknown_form_is_refused():
    config = load_config("configs/horseshoe.py:centred,quick")
    config.form = "central"
    with pytest.raises(ConfigError, match="non_centred"):
        core.build(config)


def test_more_large_weights_than_weights_are_refused():
    config = load_config("configs/horseshoe.py:centred,quick")
    config.sizes.large = 201
    with pytest.raises(ConfigError, match="from 0 to"):
        core.build(config)
