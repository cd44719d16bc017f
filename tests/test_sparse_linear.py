"""Laws of the fitted linear models, and their study from config to record."""

import numpy as np
import pytest
from jax import random
from scipy.special import expit

from experiments import core, running, workdirs
from experiments.config_files import load_config
from experiments.spec import ConfigError
from experiments.studies import rvm, sparse_linear
from vnets import data

TRUE = (3.0, -3.0, 2.0)  # weights of the first features; the rest is noise


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 25))
    logit = x[:, : len(TRUE)] @ np.asarray(TRUE) - 0.5
    return x, (rng.uniform(size=len(x)) < expit(logit)).astype(np.float64)


@pytest.fixture(scope="module")
def machine(problem):
    return rvm.fit(*problem, rounds=500)


def test_mode_is_where_the_gradient_vanishes(problem):
    x, y = problem
    precision = np.linspace(0.0, 5.0, x.shape[1])
    w, hessian = rvm.mode(x, y, precision, np.full(x.shape[1], 3.0))
    p = expit(x @ w)
    gradient = x.T @ (p - y) + precision * w
    # Newton stops where g' H^-1 g is below its tolerance.
    assert gradient @ np.linalg.solve(hessian, gradient) < rvm.NEWTON_TOLERANCE
    expected = (x.T * (p * (1 - p))) @ x + np.diag(precision)
    np.testing.assert_allclose(hessian, expected, rtol=1e-10)


def test_precisions_meet_the_fixed_point_of_mackay(problem, machine):
    """a = gamma / w^2 with gamma = 1 - a Sigma_ii, for every weight that is left."""
    x, y = problem
    assert machine.converged
    live = np.isfinite(machine.precision)
    inputs = np.concatenate([x[:, live], np.ones((len(x), 1))], axis=1)
    prior = np.append(machine.precision[live], 0.0)
    start = np.append(machine.weight[live], machine.bias)
    w, hessian = rvm.mode(inputs, y, prior, start)
    np.testing.assert_allclose(w, start, atol=1e-6)
    gamma = 1 - prior * np.diag(np.linalg.inv(hessian))
    a, w = prior[:-1], w[:-1]
    # The evidence is flat where nothing gains more than GAIN: for a weight of gamma, a
    # step d of log a costs about gamma^2 d^2 / 4.
    slack = 4 * np.sqrt(rvm.GAIN) / gamma[:-1]
    assert np.all(np.abs(np.log(gamma[:-1] / np.square(w) / a)) < slack)


def test_evidence_rises_by_the_predicted_gain(problem):
    """Of the first change of the empty model, against Laplace's evidence itself."""
    x, y = problem

    def evidence(columns, precision):
        inputs = np.concatenate([x[:, columns], np.ones((len(x), 1))], axis=1)
        prior = np.append(precision, 0.0)
        w, hessian = rvm.mode(inputs, y, prior, np.zeros(len(prior)))
        logit = inputs @ w
        fit = np.sum(y * logit - np.logaddexp(0, logit)) - 0.5 * prior @ np.square(w)
        log_det = np.linalg.slogdet(hessian)[1] - np.sum(np.log(precision))
        return fit - 0.5 * log_det

    w, hessian = rvm.mode(np.ones((len(x), 1)), y, np.zeros(1), np.zeros(1))
    best, gain = rvm.improvements(
        x, y, np.ones((len(x), 1)), w, hessian, np.full(x.shape[1], np.inf)
    )
    assert int(np.argmax(gain)) < len(TRUE)
    # The gain is that of a quadratic likelihood; weak features change it little.
    empty = evidence([], np.zeros(0))
    weak = [i for i in range(len(TRUE), x.shape[1]) if np.isfinite(best[i])]
    assert weak
    for i in weak:
        rise = evidence([i], best[i : i + 1]) - empty
        assert rise == pytest.approx(gain[i], rel=0.1, abs=0.02)


def test_noise_is_pruned_and_signal_is_found(machine):
    found = machine.weight[: len(TRUE)]
    assert np.all(np.sign(found) == np.sign(TRUE))
    # A logistic weight of 3 from 600 examples has a standard error below 0.4.
    np.testing.assert_allclose(found, TRUE, atol=2.0)
    assert np.array_equal(machine.weight == 0, np.isinf(machine.precision))
    # Pure noise has q^2 > s, and so a finite precision, with probability 0.32.
    assert np.mean(machine.weight[len(TRUE) :] == 0) > 0.5


def digits(count=300):
    whole = data.load("digits_8x8")
    return whole.train.take(np.arange(count)), whole.test


def test_a_stronger_penalty_is_sparser():
    learn, test = digits()
    x = sparse_linear.features(test)
    found = []
    for c in (0.1, 1.0):
        weight, log_p, facts = sparse_linear.l1((c,), 0.2, 100)(learn, x)
        assert facts["strength"] == c
        np.testing.assert_allclose(np.exp(log_p).sum(1), 1.0, rtol=1e-6)
        found.append(sparse_linear.scores(weight, log_p, test.target))
    strong, weak = found
    assert strong["sparsity"] > weak["sparsity"]
    assert strong["nonzero"] == round((1 - strong["sparsity"]) * 640)
    assert weak["accuracy"] > 0.7


def test_one_class_against_the_rest_is_what_scikit_learn_fits():
    learn, test = digits()
    x = sparse_linear.features(test)
    weight, log_p, facts = sparse_linear.l1_each(strengths=1, folds=2)(learn, x)
    assert facts["least_strength"] == facts["largest_strength"] == 1e-4
    assert not weight.any()  # so strong a penalty leaves the rates of the classes
    np.testing.assert_allclose(np.exp(log_p).sum(1), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(log_p, np.broadcast_to(log_p[0], log_p.shape))


def quick(variant, **fit):
    config = load_config(f"configs/sparse_linear.py:{variant},quick")
    config.fit.update(fit)
    return config


@pytest.mark.parametrize(
    ("variant", "fit"),
    [
        ("digits_noise_l1", {"strengths": (0.1,), "sweeps": 3}),
        ("digits_l1_each", {"strengths": 2, "folds": 2}),
        ("digits_rvm", {"rounds": 3}),
    ],
)
def test_a_study_without_nets_writes_a_record(variant, fit, tmp_path):
    config = quick(variant, **fit)
    name = f"configs/sparse_linear.py:{variant}"
    [record] = running.run(config, name, lambda seed: tmp_path, [0]).values()
    assert record["status"] == "done"
    pruned = record["evals"]["pruned"]
    assert 0.1 < pruned["accuracy"] < 1
    assert 0 < pruned["sparsity"] < 1
    noisy = variant.startswith("digits_noise")
    assert ("64 noise features" in record["dataset"]["source"]) == noisy
    assert workdirs.held_record(tmp_path, config) is not None


@pytest.mark.parametrize(
    ("variant", "fit", "words"),
    [
        ("digits_l1", {"method": "l2"}, ["fit.method", "l1", "rvm"]),
        ("digits_l1", {"strengths": (0.0,)}, ["config.fit", "positive"]),
        ("digits_l1", {"held_out": 1.0}, ["config.fit", "between 0 and 1"]),
        ("digits_l1_each", {"folds": 1}, ["config.fit", "2 folds"]),
        ("digits_rvm", {"sweeps": 3}, ["config.fit", "rounds"]),
        ("digits_rvm", {"rounds": 0}, ["config.fit", "at least 1"]),
    ],
)
def test_bad_values_name_the_field(variant, fit, words):
    with pytest.raises(ConfigError) as caught:
        core.build(quick(variant, **fit))
    for word in words:
        assert word in str(caught.value)


def test_seeds_do_not_matter():
    study = core.build(quick("digits_rvm", rounds=2))
    one, other = (study.measure({}, random.key(seed)).evals for seed in (0, 1))
    assert one == other
