"""Laws of the regression in one dimension: observations, bands, mixtures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from claims import every
from jax import random
from toy_configs import KEY, config, fitted

from experiments import core
from experiments import spec as parts
from experiments.kinds import regress
from experiments.points import CURVES
from experiments.studies import toy_regression
from vnets import edits
from vnets.likelihoods import NORMAL_95, Gaussian
from vnets.loss import ModelState
from vnets.nets import MLP
from vnets.nodes import Point

CUBIC = CURVES["cubic"]


def regression(variant="variance", **changes):
    small = {"evals__samples": 5, "evals__test_points": 16, "evals__grid_points": 25}
    if variant != "ensemble":
        widths = (8, 8, 8) if variant.startswith("sines") else (8, 16)
        small |= {"model__widths": widths, "epochs": 1, "steps": 3}
    return config(f"toy_regression.py:{variant}", **small | changes)


def test_observations_have_the_noise_of_the_problem(assert_moments):
    points = CUBIC.observe(4000, random.key(0))
    assert np.abs(points.inputs).max() <= 4
    assert_moments(points.inputs, np.zeros(1), np.full(1, 16 / 3))
    assert_moments(points.target - points.inputs[:, 0] ** 3, np.zeros(()), 9.0)


def test_sines_have_the_noise_that_is_said():
    """On average over x; at a place it has the slope by eps, which is not 1."""
    sines = CURVES["sines"]
    points = sines.observe(200_000, random.key(0))
    x = points.inputs[:, 0]
    assert 0 <= float(x.min()) < float(x.max()) <= 0.5
    gap = np.asarray(points.target - sines.truth(x), np.float64)
    # Linear in eps but for terms of 0.02 (4 pi)^2 / 4 relative to it.
    assert np.sqrt(np.mean(gap**2)) == pytest.approx(sines.noise, rel=0.02)
    truth = sines.truth(jnp.asarray([0.0, 0.25, 1.0], jnp.float32))
    np.testing.assert_allclose(truth, [0, 0.55, 1], atol=1e-6)


def test_a_net_sees_standard_units_and_answers_in_the_points_own():
    points = CUBIC.observe(20, random.key(0))
    statistics = regress.statistics(points)
    model = regress.Standardized(MLP((), 1), *statistics)
    identity = {"dense1": {"kernel": Point(jnp.ones((1, 1))), "bias": jnp.zeros(1)}}
    y, _ = model.apply({"params": identity}, points.inputs, mutable=[])
    x_mean, x_std, y_mean, y_std = statistics
    np.testing.assert_allclose(
        (y - y_mean) / y_std, (points.inputs[:, 0] - x_mean) / x_std, atol=1e-5
    )
    assert float(y.mean()) == pytest.approx(float(points.target.mean()), rel=1e-4)
    assert float(y.std()) == pytest.approx(float(points.target.std()), rel=1e-4)


def test_bands_of_a_known_mixture():
    """f_s = x^3 + 2 eps: the band has the standard deviation sqrt(4 + 9)."""
    grid = jnp.linspace(-6, 6, 25)
    spread = 2 * random.normal(random.key(0), (20_000, 25), jnp.float32)
    functions = grid[None] ** 3 + spread
    mean, lower, upper = toy_regression.band(CUBIC, functions)
    np.testing.assert_allclose((lower + upper) / 2, mean, atol=1e-3)
    variances = ((upper - lower) / (2 * NORMAL_95)) ** 2 - 9
    np.testing.assert_allclose(variances, 4, atol=5 * 4 * np.sqrt(2 / 20_000))
    found = toy_regression.summary(CUBIC, grid, functions)
    # sd of the mean's error 2 / sqrt(20,000) = 0.014; so is about its rms.
    assert found["rmse"] < 0.05
    assert found["width_ratio"] == pytest.approx(1, abs=0.01)
    target = grid**3 + 1.0
    exact = 0.5 * np.log(2 * np.pi * 13) + 0.5 / 13
    nll = Gaussian(CUBIC.noise).metrics(functions, target)["nll"]
    # Of a density the average over 20,000 draws is good to 1 %; over 25 places, less.
    assert nll == pytest.approx(exact, abs=0.01)


def test_width_ratio_compares_outside_with_inside():
    grid = jnp.linspace(-6, 6, 25)
    outside = jnp.abs(grid) > 4
    spread = jnp.where(outside, 4.0, 0.0)
    functions = grid[None] ** 3 + spread[None] * jnp.asarray([[-1.0], [1.0]])
    found = toy_regression.summary(CUBIC, grid, functions)
    half = NORMAL_95
    assert found["width_inside"] == pytest.approx(2 * half * 3, rel=1e-5)
    assert found["width_outside"] == pytest.approx(2 * half * 5, rel=1e-5)
    assert found["width_ratio"] == pytest.approx(5 / 3, rel=1e-5)
    assert found["rmse"] == pytest.approx(0, abs=1e-4)


def test_the_regression_loss_is_the_bound_in_the_targets_units():
    experiment = core.build(regression("gaussian"))
    task = experiment.task
    state = jax.jit(task.start)(random.key(0))
    batch = task.source.batch(task.source.arrays, None, KEY)
    loss = jax.jit(task.loss)
    value, (new, metrics) = loss(state.params, ModelState(jnp.int32(0), {}), batch, KEY)
    expected = float(metrics["nll"]) + float(metrics["kl"]) / task.source.n
    assert float(metrics["kl"]) > 0
    assert float(value) == pytest.approx(expected, rel=1e-5)
    # A Gaussian's NLL is its squared error and a constant.
    constant = np.log(3) + 0.5 * np.log(2 * np.pi)
    wanted = float(metrics["rmse"]) ** 2 / 18 + constant
    assert float(metrics["nll"]) == pytest.approx(wanted, rel=1e-5)
    assert new.collections == {}


@pytest.fixture(scope="module")
def curves(one_device):
    """Variant to its experiment, result and measures, after a few updates."""
    found = {}
    for variant in ("variance", "deterministic"):
        experiment = core.build(regression(variant))
        found[variant] = experiment, *fitted(experiment, one_device)
    return found


@pytest.mark.slow
def test_measures_of_regression_nets(curves):
    evals = curves["variance"][2].evals
    assert evals["predictive"]["samples"] == 5
    # No constant is closer to x^3 than zero; its RMSE on the grid is at least 24.
    assert evals["det"]["rmse"] >= 24
    band = curves["variance"][2].curves["band"]
    assert {len(values) for values in band.values()} == {25}
    assert set(band) == {"x", "mean", "lower", "upper", "truth"}
    assert len(curves["variance"][2].curves["observed"]["x"]) == 20
    evals = curves["deterministic"][2].evals
    assert evals["predictive"]["samples"] == 1
    assert evals["predictive"]["width_ratio"] == pytest.approx(1, abs=1e-4)
    assert evals["det"]["rmse"] == evals["predictive"]["rmse"]
    assert curves["variance"][1].history[-1]["width_inside"] > 0


@pytest.mark.slow
def test_an_ensemble_is_the_mixture_of_its_members(curves):
    experiment, result, alone = curves["deterministic"]
    study = core.build(regression("ensemble"))
    assert list(study.nets["net"].seeds(1)) == [5, 6, 7, 8, 9]
    params = result.state.params
    last = params["dense3"]
    other = {**params, "dense3": {**last, "bias": last["bias"] + 1.0}}
    nets = [core.Net(experiment.model, p, {}) for p in (params, other)]
    measured = study.measure({"net": nets}, random.key(0))
    # The second member lies higher by one standard deviation of the targets.
    shift = experiment.model.y_std
    band, single = measured.curves["band"], alone.curves["band"]
    middle = np.asarray(single["mean"]) + shift / 2
    np.testing.assert_allclose(band["mean"], middle, rtol=1e-4, atol=1e-3)
    half = NORMAL_95 * np.sqrt(9 + shift**2 / 4)
    width = np.subtract(band["upper"], band["lower"])
    np.testing.assert_allclose(width, 2 * half, rtol=1e-4)
    assert measured.evals["predictive"]["samples"] == 2


@pytest.mark.parametrize(
    "variant", ["dropout", "gaussian_dropout", "vd", "gaussian", "sines_gaussian"]
)
def test_every_kind_of_noise_builds_and_has_a_finite_gradient(variant):
    experiment = core.build(regression(variant))
    task = experiment.task
    state = jax.jit(task.start)(random.key(0))
    batch = task.source.batch(task.source.arrays, None, KEY)
    grads = jax.jit(jax.grad(lambda p: task.loss(p, state.model, batch, KEY)[0]))(
        state.params
    )
    leaves = jax.tree.leaves(grads)
    assert every(np.all(np.isfinite(leaf)) for leaf in leaves)
    assert every(np.any(np.asarray(leaf) != 0) for leaf in leaves)
    silent = edits.mean_only(state.params)
    assert jax.tree.structure(silent) != jax.tree.structure(state.params)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prior": "log_uniform_2015"}, ["config.prior", "ZeroMean"]),
        ({"copies": 0}, ["config.copies"]),
        ({"evals__grid_points": 2}, ["config.evals.grid_points", "at least 3"]),
        ({"dataset__size": 0}, ["config.dataset.size"]),
    ],
)
def test_bad_values_of_the_regression_are_named(changes, words):
    with pytest.raises(parts.ConfigError) as caught:
        core.build(regression(**changes))
    for word in words:
        assert word in str(caught.value)
