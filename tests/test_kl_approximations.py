"""The exact KL to the log-uniform prior, and what the study of its fits finds."""

import numpy as np
import pytest
from jax import random
from scipy import integrate, stats

from experiments import core
from experiments.config_files import load_config
from experiments.spec import ConfigError
from experiments.studies import kl_approximations


def small(variant="log_uniform_rational"):
    config = load_config(f"configs/kl_approximations.py:{variant},quick")
    config.grid.update({"points": 41, "weights": 100, "rounds": 2})
    return config


@pytest.mark.parametrize("log_alpha", [-6.0, -1.0, 0.0, 2.5, 8.0])
def test_the_exact_kl_is_the_integral_of_its_definition(log_alpha):
    """E ln|1 + std eps| - ln std + (gamma + ln 2) / 2, split at the pole of the log."""
    std = np.exp(0.5 * log_alpha)

    def integrand(e):
        return np.log(np.abs(1 + std * e)) * stats.norm.pdf(e)

    pole = -1 / std
    pieces = [(-40, pole), (pole, 40)] if pole > -40 else [(-40, 40)]
    total = sum(integrate.quad(integrand, *p, limit=2000)[0] for p in pieces)
    expected = total - 0.5 * log_alpha + 0.5 * (np.euler_gamma + np.log(2))
    [kl], _ = kl_approximations.exact(np.array([log_alpha]))
    assert kl == pytest.approx(expected, abs=1e-6)


def test_its_slope_is_the_derivative():
    grid, step = np.linspace(-8, 8, 17), 1e-4
    high, low = (kl_approximations.exact(grid + s * step)[0] for s in (0.5, -0.5))
    _, slope = kl_approximations.exact(grid)
    np.testing.assert_allclose((high - low) / step, slope, atol=1e-7)


@pytest.mark.parametrize("variant", kl_approximations.PER_WEIGHT)
def test_the_study_measures_every_fit(variant):
    study = core.build(small(variant))
    measured = study.measure({}, random.key(0))
    found = measured.evals["kl"]
    assert 0 < found["mean_error"] <= found["error"] < 0.7
    assert found["error_small"] <= found["error"]
    assert found["slope_error_small"] <= found["slope_error"]
    assert found["cost"] > 0
    assert len(measured.curves["grid"]["log_alpha"]) == 41


def test_wrong_fields_are_refused():
    config = small()
    config.approximation = "log_uniform_2018"
    with pytest.raises(ConfigError, match="log_uniform_rational"):
        core.build(config)
    config = small()
    config.grid.range = (1.0, 10.0)
    with pytest.raises(ConfigError, match="log alpha 0"):
        core.build(config)
