"""The numbers of two pictures: what a ReLU leaves, and what a fit finds."""

import numpy as np
import pytest
from jax import random
from scipy import stats
from toy_configs import config

from experiments import core
from experiments.spec import ConfigError
from experiments.studies import densities


def measured(variant, **changes):
    study = core.build(config(f"densities.py:{variant}", **changes))
    return study.measure({}, random.key(0))


@pytest.mark.parametrize("variant", ["relu", "coin"])
def test_half_of_the_mass_is_at_0_and_the_rest_half_of_a_normal(variant):
    found = measured(variant).evals["density"]
    assert found["zero"] == pytest.approx(0.5, abs=0.01)
    assert found["mean"] == pytest.approx((2 * np.pi) ** -0.5, abs=0.01)
    second = found["mean"] ** 2 + found["deviation"] ** 2
    assert second == pytest.approx(0.5, abs=0.01)
    assert found["distance"] < 0.01


def test_a_unit_without_a_mean_is_normal():
    found = measured("unit").evals["density"]
    assert found["zero"] == 0
    assert (found["mean"], found["deviation"]) == pytest.approx((0, 1), abs=0.02)
    assert found["distance"] < 0.01


def test_the_distance_tells_other_distributions_apart(monkeypatch):
    unfair = densities.Unit(lambda y, key: y * (y > 0.3))
    monkeypatch.setitem(densities.UNITS, "relu", unfair)
    assert measured("relu").evals["density"]["distance"] > 0.1


@pytest.mark.parametrize("variant", ["unit", "relu"])
def test_the_histogram_is_the_density(variant):
    curve = measured(variant).curves["unit"]
    gap = np.abs(np.subtract(curve["exact"], curve["drawn"]))
    assert gap.max() < 0.03
    assert max(curve["exact"]) > 0.35


def test_one_divergence_seeks_a_mode_and_the_other_covers_both():
    found = {name: measured(name).evals["density"] for name in densities.DIVERGENCES}
    assert found["reverse"]["mean"] == pytest.approx(3, abs=0.03)
    assert found["reverse"]["deviation"] == pytest.approx(1.0, abs=0.03)
    assert found["reverse"]["kl"] == pytest.approx(np.log(2), abs=0.01)
    assert found["forward"]["mean"] == pytest.approx(0, abs=1e-3)
    assert found["forward"]["deviation"] == pytest.approx(10**0.5, rel=1e-3)


def test_far_apart_the_one_mode_is_found_as_it_is():
    found = measured("reverse", gap=7.0).evals["density"]
    assert (found["mean"], found["deviation"]) == pytest.approx((7, 1), abs=1e-3)
    assert found["kl"] == pytest.approx(np.log(2), abs=1e-6)


@pytest.mark.parametrize("variant", densities.DIVERGENCES)
def test_one_normal_is_found_as_it_is(variant):
    found = measured(variant, gap=0.0).evals["density"]
    assert (found["mean"], found["deviation"]) == pytest.approx((0, 1), abs=1e-3)
    assert found["kl"] == pytest.approx(0, abs=1e-6)


def test_a_divergence_is_that_of_two_normals():
    x = np.linspace(-20, 20, 4001)
    p, q = stats.norm.logpdf(x, 1.0, 2.0), stats.norm.logpdf(x, -0.5, 1.5)
    exact = np.log(1.5 / 2.0) + (4.0 + 1.5**2) / (2 * 1.5**2) - 0.5
    assert densities.forward(x, p, q) == pytest.approx(exact, rel=1e-6)
    assert densities.reverse(x, q, p) == pytest.approx(exact, rel=1e-6)


def test_wrong_fields_are_refused():
    for match, change in {
        "'coin', 'forward'": {"density": "mean"},
        "config.gap must not": {"gap": -1.0},
        "config.draws must be": {"draws": 1},
    }.items():
        with pytest.raises(ConfigError, match=match):
            measured("forward" if "gap" in change else "relu", **change)
