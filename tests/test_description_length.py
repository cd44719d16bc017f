"""Gradients, codes and studies of what weights cost in bits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from scipy import stats

from experiments import core
from experiments.config_files import load_config
from experiments.spec import ConfigError
from experiments.studies import description_length, noisy_weights
from experiments.studies.description_length import Layers, Posterior, with_ones
from experiments.studies.noisy_weights import Cases, Mixture
from vnets import nets, nodes, propagation
from vnets.priors import coding

rng = np.random.default_rng(0)
CLASSES, NUMBERS = Layers(6, 3, 4), Layers(6, 3, 1)
CASES = Cases(with_ones(rng.normal(size=(9, 6))), rng.normal(size=9))
LABELS = rng.integers(0, 4, 9)
OWN = Mixture(rng.normal(size=3), rng.normal(size=3) - 1, rng.normal(size=3))


def posterior(net):
    draw = np.random.default_rng(1)
    return Posterior(draw.normal(size=net.size), draw.normal(size=net.size) - 2)


def slope(function, at, width=1e-5):
    """By differences."""
    steps = width * np.eye(len(at))
    return np.array([function(at + s) - function(at - s) for s in steps]) / width / 2


def test_gradients_of_a_draw_are_those_of_differences():
    q = posterior(CLASSES)

    def nll(mean, log_var):
        own = np.random.default_rng(5)
        return CLASSES.nll(Posterior(mean, log_var), CASES.x, LABELS, own)

    found = nll(*q)
    by_mean = slope(lambda m: nll(m, q.log_var).value, q.mean)
    by_log_var = slope(lambda v: nll(q.mean, v).value, q.log_var)
    np.testing.assert_allclose(found.mean, by_mean, atol=1e-7)
    np.testing.assert_allclose(found.log_var, by_log_var, atol=1e-7)


def test_graves_takes_the_squares_of_examples_gradients():
    w = posterior(CLASSES).mean
    silent = Posterior(w, np.full(CLASSES.size, description_length.SILENT))
    each = [
        CLASSES.nll(silent, CASES.x[n : n + 1], LABELS[n : n + 1], rng).mean
        for n in range(9)
    ]
    found = CLASSES.squares(w, CASES.x, LABELS)
    np.testing.assert_allclose(found, np.square(each).sum(0), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", description_length.PRIORS)
def test_slopes_of_a_prior_are_those_of_the_library(name):
    prior, q = description_length.PRIORS[name], posterior(CLASSES)
    ours = prior.slopes(q.mean, np.exp(q.log_var))
    theirs = jax.grad(prior.fitted)(q.node)
    np.testing.assert_allclose(ours[0], theirs.mean, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(ours[1], theirs.log_var, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", description_length.PRIORS)
def test_a_price_is_the_kl_from_the_density_of_the_same_scale(name):
    prior, q = description_length.PRIORS[name], posterior(CLASSES)
    z = np.linspace(-9, 9, 4001)
    w = q.mean[:, None] + q.std[:, None] * z
    log_p = prior.density(w, prior.scale(q))
    log_q = stats.norm.logpdf(z) - np.log(q.std)[:, None]
    kl = np.trapezoid(stats.norm.pdf(z) * (log_q - log_p), z, axis=1).sum()
    assert prior.price(q) == pytest.approx(kl, rel=1e-3)


def test_the_price_of_a_mixture_is_that_of_the_library():
    q = posterior(NUMBERS)
    value, by_weight, by_mixture = noisy_weights.price(q, OWN)
    own = coding.Mixture(*(jnp.asarray(part, jnp.float32) for part in OWN))
    expected, slopes = jax.value_and_grad(lambda own, q: own(q), (0, 1))(own, q.node)
    assert value == pytest.approx(float(expected), rel=1e-5)
    ours = (*by_mixture, *by_weight)
    theirs = [getattr(slopes[0], n) for n in OWN._fields]
    theirs += [slopes[1].mean, slopes[1].log_var]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_the_expected_error_is_that_of_propagated_moments_and_of_draws():
    q = posterior(NUMBERS)
    found = noisy_weights.expected(NUMBERS, q, CASES)
    net = nets.MLP(widths=(3,), classes=1, activation="sigmoid")
    layers = {}
    pairs = zip(NUMBERS.matrices(q.mean), NUMBERS.matrices(q.log_var), strict=True)
    for number, pair in enumerate(pairs, start=1):
        mean, log_var = (jnp.asarray(part, jnp.float32) for part in pair)
        layers[f"dense{number}"] = {
            "kernel": nodes.Additive(mean[:-1], log_var[:-1]),
            "bias": nodes.Additive(mean[-1], log_var[-1]),
        }
    x = jnp.asarray(CASES.x[:, :-1], jnp.float32)
    logits = propagation.moments(net, {"params": layers}, x)
    np.testing.assert_allclose(found.predicted, logits.mean[:, 0], atol=1e-5)
    gap = np.square(CASES.y - np.asarray(logits.mean)[:, 0])
    value = np.mean(gap + np.asarray(logits.var)[:, 0])
    assert found.value == pytest.approx(value, rel=1e-4)

    own, errors = np.random.default_rng(2), []
    for _ in range(4000):
        first, second = NUMBERS.matrices(q.mean + q.std * own.normal(size=len(q.mean)))
        h = with_ones(1 / (1 + np.exp(-CASES.x @ first)))
        errors.append(np.mean(np.square((h @ second)[:, 0] - CASES.y)))
    assert abs(np.mean(errors) - found.value) < 5 * np.std(errors) / len(errors) ** 0.5


def test_gradients_of_the_expected_error_are_those_of_differences():
    q = posterior(NUMBERS)
    found = noisy_weights.expected(NUMBERS, q, CASES)

    def value(mean, log_var):
        return noisy_weights.expected(NUMBERS, Posterior(mean, log_var), CASES).value

    by_mean = slope(lambda m: value(m, q.log_var), q.mean)
    by_log_var = slope(lambda v: value(q.mean, v), q.log_var)
    np.testing.assert_allclose(found.mean, by_mean, atol=1e-7)
    np.testing.assert_allclose(found.log_var, by_log_var, atol=1e-7)


def labels(variant, **changes):
    config = load_config(f"configs/description_length.py:{variant},quick")
    config.update({"steps": 50, "width": 4, **changes})
    config.evals.update({"samples": 2, "cuts": 5})
    config.probe.every = 25
    return config


@pytest.mark.parametrize("variant", ["weight_noise", "adaptive", "adaptive_laplace"])
def test_labels_come_back_from_a_real_coder(variant):
    found = core.build(labels(variant)).measure({}, random.key(0))
    coded, bits = found.evals["coded"], found.evals["bits"]
    assert coded["returned"] == 1
    assert abs(coded["net"] - coded["draw"]) < 64 + 0.01 * coded["draw"]
    assert bits["total"] == pytest.approx(bits["errors"] + bits["weights"])
    assert coded["net"] < 1.2 * bits["total"] + 200
    assert found.curves["training"]["step"] == [25.0, 50.0]
    assert 0 <= found.evals["pruned"]["share"] < 1
    assert found.evals["graves"]["before"] > 0


def test_fixed_noise_stays_as_it_was_and_adaptive_noise_does_not():
    for variant, fixed in (("weight_noise", True), ("adaptive", False)):
        config = labels(variant)
        learner = description_length.Learner.of(
            config, description_length.PRIORS["normal"], core.build(config).dataset
        )
        *_, (_, q) = learner.trained(learner.learn[1], [3])
        assert np.all(q.log_var == config.log_var) == fixed


def test_rounded_weights_have_a_grid_that_is_the_best():
    config = labels("likelihood", steps=200, width=8)
    config.probe.every = 200
    study = core.build(config)
    found = study.measure({}, random.key(1)).evals
    assert "coded" not in found
    config.evals.finest = 2  # a subset of the grids
    coarse = core.build(config).measure({}, random.key(1)).evals
    assert found["bits"]["total"] <= coarse["bits"]["total"]
    assert found["bits"]["errors"] <= coarse["bits"]["errors"]
    assert found["bits"]["total"] > found["bits"]["errors"] > 0


def numbers(variant, **changes):
    config = load_config(f"configs/noisy_weights.py:{variant},quick")
    config.made.update({"train": 40, "test": 60, "inputs": 12})
    config.update({"held_out": 10, "updates": 3, "iterations": 10, **changes})
    return config


@pytest.mark.parametrize(
    "variant", ["linear", "ridge", "points", "points_decay", "noisy_mixture"]
)
def test_every_method_errs_less_than_the_mean_of_the_numbers(variant):
    changes = {} if variant.startswith("noisy") else {"iterations": 60}
    found = core.build(numbers(variant, **changes)).measure({}, random.key(0))
    assert 0 < found.evals["test"]["relative"] < 1
    assert ("bits" in found.evals) == variant.startswith("noisy")
    if variant.startswith("noisy"):
        stages = found.curves["stages"]
        assert stages["weight"][-1] == 1
        assert stages["total"][-1] == found.evals["bits"]["total"]
        assert found.evals["starts"]["least"] == found.evals["bits"]["total"]


def test_the_cost_falls_in_a_stage():
    """The optimizer has the right gradient: more updates never cost more."""
    totals = [
        core.build(numbers("noisy_at_once", iterations=n, restarts=1))
        .measure({}, random.key(0))
        .evals["bits"]["total"]
        for n in (1, 10, 40)
    ]
    assert totals[0] > totals[1] > totals[2]


def test_made_cases_are_scaled_by_those_to_learn_from():
    spec = numbers("ridge").made
    learn, test = noisy_weights.made(spec, np.random.default_rng(0))
    assert learn.x.shape == (40, 13)
    assert test.y.shape == (60,)
    np.testing.assert_allclose(learn.x[:, :-1].std(0), 1)
    np.testing.assert_allclose(learn.y.mean(), 0, atol=1e-12)
    assert np.all(test.x[:, -1] == 1)
    assert test.error(np.full(60, test.y.mean())) == pytest.approx(1)


@pytest.mark.parametrize(
    ("made", "field", "value", "words"),
    [
        (labels, "noise", "much", "adaptive"),
        (labels, "prior", "cauchy", "laplace"),
        (labels, "steps", 40, "must divide"),
        (labels, "width", 0, "width"),
        (numbers, "method", "lasso", "ridge"),
        (numbers, "held_out", 40, "from 1 to 39"),
        (numbers, "restarts", 0, "restarts"),
    ],
)
def test_bad_values_name_the_field(made, field, value, words):
    variant = "adaptive" if made is labels else "noisy_mixture"
    with pytest.raises(ConfigError, match=words):
        core.build(made(variant, **{field: value}))


def test_seeds_have_data_of_their_own():
    study = core.build(numbers("ridge"))
    run = functools.partial(study.measure, {})
    errors = [run(random.key(n)).evals["test"]["relative"] for n in (0, 0, 1)]
    assert errors[0] == errors[1] != errors[2]
