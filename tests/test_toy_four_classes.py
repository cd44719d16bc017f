"""Laws of the four classes in the plane: data, kinds of solution, half-normals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from toy_configs import KEY, VARIANCE, X, config, fitted

from experiments import core
from experiments import spec as parts
from experiments.points import CENTRES
from experiments.points import four_classes as four_classes_of
from experiments.studies import toy_four_classes
from vnets.data import Split
from vnets.layers import TEST
from vnets.likelihoods import Categorical
from vnets.loss import ModelState
from vnets.nets import MLP
from vnets.nodes import ZeroMean, variance
from vnets.sources import Whole


def four_classes(variant="variance", **changes):
    """The config with a net and a data set small enough for a test."""
    small = {"dataset__per_class": 8, "evals__samples": 6, "evals__draws": 2}
    small |= {"evals__points": 3}
    if variant != "solutions":
        net = {"model__widths": (8, 8, 2, 8), "model__posteriors": VARIANCE}
        small |= {**net, "epochs": 1, "steps": 4, "probe__samples": 6}
    return config(f"toy_four_classes.py:{variant}", **small | changes)


def net(layer, node):
    """An MLP 2-3-2-4 and its parameters with the given kernel in a layer."""
    model = MLP((3, 2), 4, activation="leaky_relu", posteriors={layer: variance()})
    rngs = {"params": random.key(0), "noise": random.key(1)}
    params = jax.jit(model.init)(rngs, X)["params"]
    return model, {**params, layer: {**params[layer], "kernel": node}}


# The source.


def test_every_batch_is_the_whole_set_copied():
    points = Split(jnp.arange(6.0).reshape(3, 2), jnp.arange(3))
    source = Whole(points, steps=10, copies=2)
    assert (source.n, source.batch_size, source.steps_per_epoch) == (3, 6, 10)
    chunks = list(source.chunks(random.key(0), 0, 5))
    assert [len(chunk) for chunk in chunks] == [5, 5]
    batch = source.batch(source.arrays, chunks[1][0], random.key(0))
    np.testing.assert_array_equal(batch["input"], np.tile(points.inputs, (2, 1)))
    np.testing.assert_array_equal(batch["target"], [0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("sizes", [{"steps": 0}, {"steps": 1, "copies": 0}])
def test_a_source_without_updates_is_refused(sizes):
    with pytest.raises(ValueError, match="at least 1"):
        Whole(Split(X, X[:, 0]), **sizes)


# Four classes.


def test_clouds_lie_around_their_centres(assert_moments):
    points = four_classes_of(2000, random.key(0))
    for k, centre in enumerate(CENTRES):
        own = points.inputs[points.target == k]
        assert len(own) == 2000
        assert_moments(own, centre, np.ones(2))


def test_test_points_are_others_and_the_seed_is_the_data_sets():
    first, same = (core.build(four_classes(seed=seed)) for seed in (0, 1))
    other = core.build(four_classes(dataset__seed=1))
    arrays = [e.task.source.arrays["input"] for e in (first, same, other)]
    np.testing.assert_array_equal(arrays[0], arrays[1])
    assert not np.any(np.isclose(arrays[0], arrays[2]))


def scales(means):
    """Log standard deviations [B, 2] around class means, and the classes."""
    label = np.repeat(np.arange(4), 50)
    draws = 0.01 * np.random.default_rng(0).normal(size=(200, 2))
    return np.asarray(means, np.float64)[label] + draws, label


@pytest.mark.parametrize(
    ("means", "opposition"),
    [
        ([(-9, -9), (0, 0), (1, 1), (2, 2)], 0.0),  # one repeats the other
        ([(-9, -3), (0, 0), (1, 5), (2, 6)], 0.0),  # another scale, the same order
        ([(-9, -9), (3, 0), (0, 3), (3, 3)], 3.0),  # the axes of a plane
        ([(-9, -9), (3, 0), (0, 1), (3, 3)], 1.0),  # the smaller difference counts
        ([(0, 3), (1, 2), (2, 1), (3, 0)], 3.0),  # the reverse order
    ],
)
def test_opposition_is_how_far_units_order_classes_differently(means, opposition):
    log_scale, label = scales(means)
    found = toy_four_classes.solution(log_scale, label)
    # Means of 50 draws of 0.01, four of them in a difference: 0.01 is 3.5 errors of a
    # difference and the largest of twelve pairs.
    assert found["opposition"] == pytest.approx(opposition, abs=0.01)
    assert found["complementary"] == float(opposition > 0)
    # The names of units, their overall loudness and the classes' order are no matter.
    changed = toy_four_classes.solution(
        log_scale[::-1, ::-1] + [3, -1], 3 - label[::-1]
    )
    assert changed["opposition"] == pytest.approx(found["opposition"], abs=1e-9)
    assert changed["redundancy"] == pytest.approx(found["redundancy"], abs=1e-9)


def test_scales_and_inputs_are_those_of_the_net(assert_moments):
    scale = random.normal(random.key(3), (3, 2), jnp.float32)
    model, params = net("dense2", ZeroMean(scale))
    name, node = toy_four_classes.variance_layer(params)
    h = toy_four_classes.layer_input(model, name)(params, X)
    assert name == "dense2"
    std = np.exp(toy_four_classes.log_scales(node, h))

    @jax.jit
    def outputs(key):
        _, state = model.apply(
            {"params": params}, X, TEST, rngs={"noise": key}, capture_intermediates=True
        )
        return state["intermediates"]["dense2"]["__call__"][0]

    draws = jax.vmap(outputs)(random.split(random.key(4), 2000))
    bias = params["dense2"]["bias"][None]
    assert_moments(draws, np.broadcast_to(bias, std.shape), std**2)


def test_relu_of_a_variance_layer_is_half_normal_and_of_other_noise_is_not():
    h = jnp.abs(random.normal(random.key(1), (500, 6), jnp.float32)) + 0.1
    scale = random.normal(random.key(2), (6, 2), jnp.float32)
    law = toy_four_classes.half_normal(ZeroMean(scale), h, 10, random.key(3))
    n = 500 * 10 * 2
    # Standard errors of a Bernoulli(1/2), and of ReLU(z) and its square relative to
    # their means: E z+ = 1/sqrt(2 pi), E z+^2 = 1/2, E z+^4 = 3/2.
    assert abs(law["zeros"] - 0.5) < 5 * 0.5 / np.sqrt(n)
    assert abs(law["mean"] - 1) < 5 * np.sqrt(np.pi - 1) / np.sqrt(n)
    assert abs(law["second"] - 1) < 5 * np.sqrt(5) / np.sqrt(n)
    assert law["n"] == round(n * (1 - law["zeros"]))
    assert law["ks_scaled"] < 2.65  # exceeded with probability 2 exp(-2 2.65^2), 1.6e-6
    # One input with noise of +-1: ReLU(y) is 0 or sqrt(v), which has the second moment
    # and the zeros of the law, but neither its mean nor its distribution.
    sign = ZeroMean(scale[:1], "sign")
    other = toy_four_classes.half_normal(sign, h[:, :1], 10, random.key(3))
    assert abs(other["zeros"] - 0.5) < 5 * 0.5 / np.sqrt(n)
    assert other["mean"] > 1.2
    assert other["ks_scaled"] > 30


def test_the_second_softmax_is_in_the_loss_and_nowhere_else():
    plain, twice = (core.build(four_classes(v)) for v in ("variance", "authors"))
    state = jax.jit(plain.task.start)(random.key(0))
    batch = plain.task.source.batch(plain.task.source.arrays, None, KEY)
    start = ModelState(jnp.int32(0), {})
    losses = [
        float(jax.jit(e.task.loss)(state.params, start, batch, random.key(1))[0])
        for e in (plain, twice)
    ]
    logits = jax.jit(plain.model.apply)(
        {"params": state.params}, batch["input"], rngs={"noise": random.key(1)}
    )
    expected = [logits, jax.nn.softmax(logits)]
    for loss, given in zip(losses, expected, strict=True):
        wanted = float(Categorical().nll(given, batch["target"]).mean())
        assert loss == pytest.approx(wanted, rel=1e-5)
    # The least that it can be is that of certain and right answers.
    sure = 1e3 * jax.nn.one_hot(batch["target"], 4)
    floor = Categorical().nll(jax.nn.softmax(sure), batch["target"])
    np.testing.assert_allclose(floor, np.log(1 + 3 / np.e), rtol=1e-5)


@pytest.fixture(scope="module")
def trained(one_device):
    """The experiment, and what one short training came to."""
    experiment = core.build(four_classes())
    return experiment, *fitted(experiment, one_device)


@pytest.mark.slow
def test_measures_of_a_trained_net(trained):
    _, result, measured = trained
    assert set(measured.evals) == {"det", "stoch", "ens", "solution", "half_normal"}
    # Without noise the layer gives its bias: one answer, right for one class of four.
    assert measured.evals["det"]["accuracy"] == 0.25
    assert measured.evals["ens"]["samples"] == 6
    for curve in ("activations", "scales"):
        axes = measured.curves[curve]
        assert {len(values) for values in axes.values()} == {12}
        assert np.bincount(axes["class"]).tolist() == [3, 3, 3, 3]
    assert result.history[-1]["det"] == 0.25
    assert np.isfinite(result.history[-1]["opposition"])


def test_the_gallery_shows_the_extremes(trained, monkeypatch):
    experiment, result, own = trained
    monkeypatch.setattr(core, "load_config", lambda which: four_classes())
    study = core.build(four_classes("solutions"))
    assert study.nets["net"].members == 3
    params = result.state.params
    repeating = ZeroMean(jnp.ones((8, 2), jnp.float32))
    nets = [
        core.Net(experiment.model, p, {})
        for p in (
            params,
            {**params, "dense3": {**params["dense3"], "kernel": repeating}},
        )
    ]
    measured = study.measure({"net": nets}, random.key(0))
    own = own.evals["solution"]
    opposition = measured.evals["solution"]["opposition"]
    assert own["opposition"] > 0
    assert opposition == pytest.approx(own["opposition"] / 2, rel=1e-5)
    assert set(measured.curves) == {"least_opposed", "most_opposed"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model__posteriors": {}}, ["config.model.posteriors", "none"]),
        ({"model__widths": (8, 8, 3, 8)}, ["2 units", "dense3"]),
        ({"model__posteriors": {"dense3": {"kind": "gaussian"}}}, ["Additive"]),
        ({"model__activation": "sine"}, ["sine", "leaky_relu", "tanh"]),
        ({"steps": 0}, ["config.steps"]),
        ({"evals__draws": 0}, ["config.evals.draws"]),
        ({"dataset__per_class": 0}, ["config.dataset.per_class"]),
    ],
)
def test_bad_values_are_named(changes, words):
    with pytest.raises(parts.ConfigError) as caught:
        core.build(four_classes(**changes))
    for word in words:
        assert word in str(caught.value)


# Regression.
