"""Laws of deep kernels: the process in float64, and what a net's features change."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import random
from scipy import stats

from experiments import core
from experiments.config_files import load_config
from experiments.spec import ConfigError
from vnets import deep_kernels as dk

N, M = 12, 5
GIVEN = {"log_scale": -0.3, "log_signal": 0.4, "log_noise": -1.2}


def data():
    rng = np.random.default_rng(0)
    x, new = rng.normal(size=(N, 2)), rng.normal(size=(M, 2))
    return x, rng.normal(size=N), new


def kernel(a, b):
    square = ((a[:, None] - b[None]) ** 2).sum(-1)
    return np.exp(2 * 0.4 - square / (2 * np.exp(-0.6)))


def given(net):
    return {"net": net, **{k: jnp.float32(v) for k, v in GIVEN.items()}}


def single(*arrays):
    return [jnp.asarray(a, jnp.float32) for a in arrays]


def test_evidence_and_prediction_are_those_of_the_normal_law():
    x, y, new = data()
    noise = np.exp(-2.4)
    cov = kernel(x, x) + noise * np.eye(N)
    exact = stats.multivariate_normal(np.zeros(N), cov).logpdf(y)
    found = dk.plain.evidence(given({}), *single(x, y))
    assert float(found) == pytest.approx(exact, rel=1e-3)
    mean, var = dk.plain.predict(given({}), *single(x, y, new))
    across = kernel(new, x)
    np.testing.assert_allclose(mean, across @ np.linalg.solve(cov, y), atol=2e-3)
    known = np.einsum("mn,nm->m", across, np.linalg.solve(cov, across.T))
    np.testing.assert_allclose(var, np.exp(0.8) - known + noise, rtol=2e-3)


def test_a_deep_kernel_is_the_plain_one_of_its_features():
    x, y, new = data()
    deep = dk.DeepKernel(lambda w, x: jnp.tanh(x @ w))
    w = jnp.asarray([[1.0, -2.0, 0.5], [0.3, 1.0, 2.0]])
    x, y, new = single(x, y, new)
    seen, far = jnp.tanh(x @ w), jnp.tanh(new @ w)
    ours = deep.predict(given(w), x, y, new)
    np.testing.assert_array_equal(ours, dk.plain.predict(given({}), seen, y, far))
    one = deep.evidence(given(w), x, y)
    assert one == dk.plain.evidence(given({}), seen, y)


def test_far_from_the_data_it_knows_the_prior_alone():
    x, y, _ = data()
    far = 100 + np.zeros((1, 2))
    mean, var = dk.plain.predict(given({}), *single(x, y, far))
    np.testing.assert_allclose(mean, 0, atol=1e-6)
    np.testing.assert_allclose(var, np.exp(0.8) + np.exp(-2.4), rtol=1e-5)


def test_training_finds_the_evidence_of_the_process_that_made_the_data():
    rng = np.random.default_rng(1)
    x = rng.uniform(-2, 2, (60, 1))
    cov = np.exp(-((x - x.T) ** 2) / 2) + 0.01 * np.eye(60)
    y = np.linalg.cholesky(cov) @ rng.normal(size=60)
    x, y = single(x, y)
    start = dk.plain.start({})
    best = dk.fit(dk.plain, start, x, y, optax.adam(0.05), 200)
    true = {**start, "log_noise": jnp.float32(np.log(0.1))}
    reached = dk.plain.evidence(best, x, y)
    assert reached >= dk.plain.evidence(true, x, y) - 0.5
    assert abs(float(jnp.exp(best["log_noise"])) - 0.1) < 0.05


def test_targets_of_another_shape_are_refused():
    x, y, _ = single(*data())
    for wrong in (y[:, None], y[1:]):
        with pytest.raises(ValueError, match="a number for each input"):
            dk.plain.evidence(given({}), x, wrong)
    with pytest.raises(ValueError, match="updates"):
        dk.fit(dk.plain, given({}), x, y, optax.adam(0.1), 0)


def test_data_that_are_not_finite_are_refused():
    x, y = jnp.zeros((3, 1)), jnp.zeros(3)
    for given in ((x.at[0].set(jnp.nan), y), (x, y.at[0].set(jnp.inf))):
        with pytest.raises(ValueError, match="must be finite"):
            dk.fit(dk.plain, dk.plain.start({}), *given, optax.adam(0.1), updates=1)


def test_an_evidence_that_is_no_number_is_refused():
    x, y, _ = single(*data())
    with pytest.raises(ValueError, match=r"after 1 of 3 updates: .*smaller"):
        dk.fit(dk.plain, given({}), x, y, optax.sgd(1e30), 3)


@pytest.mark.parametrize("variant", ["step_deep", "diabetes_plain"])
def test_the_study_measures_what_it_learned(variant):
    config = load_config(f"configs/deep_kernel.py:{variant},quick")
    config.updates, config.points, config.widths = 20, 5, config.widths and (8,)
    made = core.build(config)
    found = made.measure({}, random.key(0))
    assert 0.5 <= found.evals["test"]["coverage"] <= 1
    assert 0 < found.evals["test"]["rmse"] < 1.2  # targets have variance 1
    assert ("band" in found.curves) == (variant == "step_deep")
    config.dataset.name = "breast_cancer"
    if variant == "diabetes_plain":
        with pytest.raises(ConfigError, match="classes, not numbers"):
            core.build(config)
