"""Laws of the loss: its scale, its schedules, its state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from vnets.layers import TEST
from vnets.likelihoods import Categorical, Gaussian
from vnets.loss import ModelState, bound, forward, knots, neg_elbo, with_penalty
from vnets.nets import MLP, LeNet5
from vnets.nodes import Point, gaussian, point, variance
from vnets.priors import kl, log_uniform
from vnets.train import first_nonfinite_layer

BATCH = {
    "input": np.asarray(random.normal(random.key(1), (12, 5))),
    "target": np.arange(12) % 3,
}
STATE = ModelState(step=jnp.int32(0), collections={})


def classifier(net, n_train=12, beta=None, smoothing=0.0, average="predictions", **how):
    """The loss of a classifier under the log-uniform prior."""
    likelihood = Categorical(smoothing)
    predict = forward(net, **how)
    return neg_elbo(predict, likelihood, log_uniform, n_train, beta, average)


def net_and_params(make):
    net = MLP((7,), 3, posteriors={"dense1": make})
    rngs = {"params": random.key(0), "noise": random.key(0)}
    return net, jax.jit(net.init)(rngs, BATCH["input"])["params"]


def test_cross_entropy_is_minus_log_probability():
    logits = 5 * random.normal(random.key(0), (20, 4))
    labels = jnp.arange(20) % 4
    wide = np.asarray(logits, np.float64)
    p = np.exp(wide) / np.exp(wide).sum(axis=1, keepdims=True)
    expected = -np.log(p[np.arange(20), np.asarray(labels)])
    np.testing.assert_allclose(
        Categorical().nll(logits, labels), expected, rtol=1e-5, atol=1e-6
    )
    assert np.isfinite(Categorical().nll(1e4 * logits, labels)).all()


def test_label_smoothing_is_the_cross_entropy_to_smoothed_labels():
    """-sum_k q_k log p_k with q = (1 - s) onehot + s / K."""
    logits = 3 * random.normal(random.key(0), (20, 4))
    labels = jnp.arange(20) % 4
    log_p = np.asarray(jax.nn.log_softmax(logits), np.float64)
    q = 0.9 * np.eye(4)[np.asarray(labels)] + 0.1 / 4
    got = Categorical(0.1).cost(logits, labels)
    np.testing.assert_allclose(got, -(q * log_p).sum(1), rtol=1e-5)
    np.testing.assert_array_equal(
        Categorical().cost(logits, labels), Categorical().nll(logits, labels)
    )


def test_the_loss_is_smoothed_and_its_metrics_are_not():
    net, params = net_and_params(point())
    key = random.key(0)
    plain, (_, before) = classifier(net)(params, STATE, BATCH, key)
    loss = classifier(net, smoothing=0.2)
    value, (_, metrics) = loss(params, STATE, BATCH, key)
    logits = net.apply({"params": params}, BATCH["input"])
    expected = Categorical(0.2).cost(logits, BATCH["target"]).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert float(value) != pytest.approx(float(plain))
    for name in ("nll", "data_term", "elbo", "accuracy"):
        np.testing.assert_array_equal(metrics[name], before[name])
    for bad in (-0.1, 1.0):
        with pytest.raises(ValueError, match="smoothing must be in"):
            Categorical(bad)


def test_gaussian_nll_is_minus_the_log_of_a_density():
    std = 0.5
    grid = jnp.linspace(-4, 6, 2001, dtype=jnp.float32)
    density = np.exp(
        np.asarray(Gaussian(std).log_p(jnp.float32(1.0), grid), np.float64)
    )
    step = 10 / 2000
    # Sums over a grid much finer than the width are exact to rounding.
    assert density.sum() * step == pytest.approx(1, rel=1e-5)
    assert (density * (grid - 1.0) ** 2).sum() * step == pytest.approx(std**2, rel=1e-4)


def test_the_bound_has_per_example_scale():
    nll = jnp.asarray([1.0, 3.0], jnp.float32)
    assert float(bound(nll, jnp.float32(50), 100)) == pytest.approx(2.5)
    assert float(bound(nll, jnp.float32(50), 100, beta=0.1)) == pytest.approx(2.05)


def test_loss_is_the_bound_and_its_metrics_add_up():
    net, params = net_and_params(gaussian(-3.0))
    loss = classifier(net, 1000)
    value, (state, metrics) = jax.jit(loss)(params, STATE, BATCH, random.key(2))
    assert float(value) == float(metrics["loss"])
    assert float(metrics["kl"]) == pytest.approx(
        float(kl(params, log_uniform)), rel=1e-6
    )
    expected = float(metrics["nll"]) + float(metrics["kl"]) / 1000
    assert float(value) == pytest.approx(expected, rel=1e-6)
    # The bound of the whole training set is -N times the loss (at beta = 1).
    assert float(metrics["elbo"]) == pytest.approx(-1000 * float(value), rel=1e-5)
    data_term = float(metrics["data_term"])
    assert data_term == pytest.approx(-1000 * float(metrics["nll"]), rel=1e-6)
    assert state.collections == {}
    logits = net.apply(
        {"params": params}, BATCH["input"], rngs={"noise": random.key(2)}
    )
    accuracy = np.mean(np.asarray(logits).argmax(axis=-1) == BATCH["target"])
    assert float(metrics["accuracy"]) == pytest.approx(accuracy, abs=1e-6)


def test_beta_follows_the_step_and_does_not_touch_the_likelihood():
    net, params = net_and_params(gaussian(-3.0))
    loss = jax.jit(classifier(net, 1000, knots([[0, 0], [2, 1]], 10)))
    for step, beta in ((0, 0.0), (5, 0.25), (20, 1.0), (99, 1.0)):
        state = STATE.replace(step=jnp.int32(step))
        value, (_, metrics) = loss(params, state, BATCH, random.key(2))
        expected = float(metrics["nll"]) + beta * float(metrics["kl"]) / 1000
        assert float(value) == pytest.approx(expected, rel=1e-5)


def test_a_deterministic_loss_is_the_mean_over_any_batches():
    net, params = net_and_params(point())
    loss = jax.jit(classifier(net, mode=TEST))
    whole, _ = loss(params, STATE, BATCH, random.key(0))
    halves = [
        loss(params, STATE, {n: v[i : i + 6] for n, v in BATCH.items()}, random.key(0))[
            0
        ]
        for i in (0, 6)
    ]
    assert float(whole) == pytest.approx(float(sum(halves)) / 2, rel=1e-5)


def test_knots_interpolate_and_hold_their_ends():
    schedule = knots([[1, 2.0], [3, 6.0], [4, 0.0]], unit=10)
    expected = {0: 2, 10: 2, 15: 3, 30: 6, 35: 3, 40: 0, 1000: 0}
    for step, value in expected.items():
        assert float(schedule(step)) == pytest.approx(value, abs=1e-6)
        assert float(jax.jit(schedule)(jnp.int32(step))) == pytest.approx(
            value, abs=1e-6
        )
    assert schedule(0).dtype == jnp.float32


@pytest.mark.parametrize(
    "points", [[], [[1, 2], [1, 3]], [[2, 0], [1, 0]], [[1, 2, 3]]]
)
def test_points_that_are_no_schedule_are_refused(points):
    with pytest.raises(ValueError, match="pairs with rising times"):
        knots(points, 10)


def test_the_loss_of_an_ensemble_is_that_of_the_averaged_prediction():
    net, params = net_and_params(gaussian(0.0))
    key = random.key(3)
    loss = classifier(net, 1000, samples=4)
    _, (state, metrics) = jax.jit(loss)(params, STATE, BATCH, key)
    draws = [
        net.apply({"params": params}, BATCH["input"], rngs={"noise": one})
        for one in random.split(key, 4)
    ]
    p = np.mean([jax.nn.softmax(logits) for logits in draws], axis=0)
    nll = -np.mean(np.log(p[np.arange(12), BATCH["target"]]))
    assert float(metrics["nll"]) == pytest.approx(nll, rel=1e-5)
    single = np.mean([np.mean(Categorical().nll(y, BATCH["target"])) for y in draws])
    assert nll < single  # Jensen
    assert state.collections == {}
    with pytest.raises(ValueError, match="samples must be at least 1"):
        classifier(net, 1000, samples=0)


def test_a_penalty_is_added_at_the_scale_of_the_training_set():
    net, params = net_and_params(gaussian(-3.0))
    plain = classifier(net, 100)

    def penalty(params):
        return 50 + 0 * params["dense1"]["bias"].sum()

    loss = with_penalty(plain, penalty, 100, weight=lambda step: 0.1 * (step + 1))
    key = random.key(3)
    value, (_, metrics) = plain(params, STATE, BATCH, key)
    more, (_, also) = loss(params, STATE, BATCH, key)
    assert float(more - value) == pytest.approx(0.1 * 50 / 100, rel=1e-4)
    assert also["loss"] == more
    assert also["penalty"] == 50
    assert set(also) == {*metrics, "penalty"}


def test_the_first_layer_that_is_not_finite_is_named():
    """A convolutional net too, whose plan calls methods before it has a path."""
    net = LeNet5(batch_norm=True)
    image = jnp.ones((2, 16, 16, 1), jnp.float32)
    variables = jax.jit(net.init)(random.key(0), image)
    params = variables.pop("params")
    state = ModelState(step=jnp.int32(0), collections=variables)
    locate = first_nonfinite_layer(net)
    batch = {"input": image}
    assert locate(params, state, batch, random.key(1)) is None
    params["conv2"]["kernel"] = Point(jnp.full((5, 5, 20, 50), jnp.nan))
    assert locate(params, state, batch, random.key(1)) == "conv2"


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_mean_loss_of_several_draws_is_that_of_each_by_itself(smoothing):
    """With the same keys; the mean of predictions has a smaller loss (Jensen)."""
    model, params = net_and_params(variance())

    def loss(**options):
        made = classifier(model, smoothing=smoothing, **options)
        return lambda key: made(params, STATE, BATCH, key)[1][1]

    key = random.key(3)
    several = loss(samples=4, average="losses")(key)
    each = [loss()(one) for one in random.split(key, 4)]
    for name in ("loss", "nll", "accuracy", "elbo"):
        mean = np.mean([float(one[name]) for one in each])
        assert float(several[name]) == pytest.approx(mean, rel=1e-5)
    assert loss(samples=4)(key)["nll"] < several["nll"]
    with pytest.raises(ValueError, match="unknown average 'both'"):
        loss(average="both")


@pytest.mark.parametrize("beta", [0.1, 0, np.float32(0.1), jnp.float32(0.1), None])
def test_beta_may_be_a_number(beta):
    net, params = net_and_params(gaussian(-3.0))
    loss = classifier(net, 1000, beta)
    value, (_, metrics) = jax.jit(loss)(params, STATE, BATCH, random.key(2))
    share = (1.0 if beta is None else float(beta)) * float(metrics["kl"]) / 1000
    assert float(value) == pytest.approx(float(metrics["nll"]) + share, rel=1e-5)


@pytest.mark.parametrize("beta", [-0.1, "0.1", [0.1], np.nan, jnp.zeros(2)])
def test_a_beta_that_is_no_weight_is_refused(beta):
    net, _ = net_and_params(point())
    with pytest.raises(ValueError, match="beta is a number from 0 on, or a function"):
        classifier(net, 1000, beta)
    with pytest.raises(ValueError, match="weight is a number from 0 on"):
        with_penalty(lambda *_: None, lambda _: 0.0, 10, beta)
    with pytest.raises(ValueError, match="n_train must be at least 1"):
        classifier(net, 0)
