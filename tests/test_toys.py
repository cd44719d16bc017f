"""Laws of the toy problems: data, kinds of solution, half-normals, bands."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from experiments import build, core, toy_four_classes, toy_regression
from experiments.config_files import load_config
from experiments.toys import FullBatch, Points, as_is
from vnets import edits, train
from vnets.layers import TEST
from vnets.nets import MLP
from vnets.objectives import ModelState, cross_entropy
from vnets.posteriors import Point, ZeroMean, gaussian, variance

VARIANCE = {"dense3": {"kind": "variance"}}
KEY = random.key(5)
X = random.normal(random.key(7), (40, 2), jnp.float32)


def config(which, **changes):
    made = load_config(f"configs/{which},quick")
    with made.unlocked():
        for path, value in changes.items():
            *parents, last = path.split("__")
            node = made
            for parent in parents:
                node = node[parent]
            node[last] = value
    return made


def four_classes(variant="variance", **changes):
    """The config with a net and a data set small enough for a test."""
    small = {"dataset__per_class": 8, "evals__samples": 6, "evals__draws": 2}
    small |= {"evals__points": 3}
    if variant != "solutions":
        net = {"model__widths": (8, 8, 2, 8), "model__posteriors": VARIANCE}
        small |= {**net, "epochs": 1, "steps": 4, "probe__samples": 6}
    return config(f"toy_four_classes.py:{variant}", **small | changes)


def regression(variant="variance", **changes):
    small = {"evals__samples": 5, "evals__test_points": 16, "evals__grid_points": 25}
    if variant != "ensemble":
        small |= {"model__widths": (8, 16), "epochs": 1, "steps": 3}
    return config(f"toy_regression.py:{variant}", **small | changes)


def fitted(experiment, mesh):
    """The result of one epoch, and what it measures."""
    [result] = train.fit(
        experiment.task, epochs=1, seeds=[0], mesh=mesh, show_progress=False
    )
    assert result.failed is None
    return result, experiment.evaluations(result.state.params, {}, random.key(0))


def net(layer, node):
    """An MLP 2-3-2-4 and its parameters with the given kernel in a layer."""
    model = MLP((3, 2), 4, activation="leaky_relu", posteriors={layer: variance()})
    rngs = {"params": random.key(0), "noise": random.key(1)}
    params = jax.jit(model.init)(rngs, X)["params"]
    return model, {**params, layer: {**params[layer], "kernel": node}}


# The source.


def test_every_batch_is_the_whole_set_copied():
    points = Points(jnp.arange(6.0).reshape(3, 2), jnp.arange(3))
    source = FullBatch(points, steps=10, copies=2)
    assert (source.n, source.batch_size, source.steps_per_epoch) == (3, 6, 10)
    chunks = list(source.chunks(random.key(0), 0, 5))
    assert [len(chunk) for chunk in chunks] == [5, 5]
    batch = source.batch(source.arrays, chunks[1][0], random.key(0))
    np.testing.assert_array_equal(batch["image"], np.tile(points.image, (2, 1)))
    np.testing.assert_array_equal(batch["label"], [0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(as_is(points.image), points.image)


@pytest.mark.parametrize("sizes", [{"steps": 0}, {"steps": 1, "copies": 0}])
def test_a_source_without_updates_is_refused(sizes):
    with pytest.raises(ValueError, match="at least 1"):
        FullBatch(Points(X, X[:, 0]), **sizes)


# Four classes.


def test_clouds_lie_around_their_centres(assert_moments):
    points = toy_four_classes.four_classes(2000, random.key(0))
    for k, centre in enumerate(toy_four_classes.CENTRES):
        own = points.image[points.label == k]
        assert len(own) == 2000
        assert_moments(own, centre, np.ones(2))


def test_test_points_are_others_and_the_seed_is_the_data_sets():
    first, same = (core.build(four_classes(seed=seed)) for seed in (0, 1))
    other = core.build(four_classes(dataset__seed=1))
    arrays = [e.task.source.arrays["image"] for e in (first, same, other)]
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
    h = toy_four_classes.layer_input(model, params, X)
    name, node = toy_four_classes.variance_layer(params)
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
        {"params": state.params}, batch["image"], rngs={"noise": random.key(1)}
    )
    expected = [logits, jax.nn.softmax(logits)]
    for loss, given in zip(losses, expected, strict=True):
        wanted = float(cross_entropy(given, batch["label"]).mean())
        assert loss == pytest.approx(wanted, rel=1e-5)
    # The least that it can be is that of certain and right answers.
    sure = 1e3 * jax.nn.one_hot(batch["label"], 4)
    floor = cross_entropy(jax.nn.softmax(sure), batch["label"])
    np.testing.assert_allclose(floor, np.log(1 + 3 / np.e), rtol=1e-5)


@pytest.fixture(scope="module")
def trained(one_device):
    """The experiment, and what one short training came to."""
    experiment = core.build(four_classes())
    return experiment, *fitted(experiment, one_device)


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
        ({"model__posteriors": {"dense3": {"kind": "gaussian"}}}, ["Gaussian"]),
        ({"model__activation": "sine"}, ["sine", "leaky_relu", "tanh"]),
        ({"steps": 0}, ["config.steps"]),
        ({"evals__draws": 0}, ["config.evals.draws"]),
        ({"dataset__per_class": 0}, ["config.dataset.per_class"]),
    ],
)
def test_bad_values_are_named(changes, words):
    with pytest.raises(build.ConfigError) as caught:
        core.build(four_classes(**changes))
    for word in words:
        assert word in str(caught.value)


# Regression.


def test_observations_have_the_noise_of_the_problem(assert_moments):
    points = toy_regression.cubic(4000, random.key(0))
    assert np.abs(points.image).max() <= 4
    assert_moments(points.image, np.zeros(1), np.full(1, 16 / 3))
    assert_moments(points.label - points.image[:, 0] ** 3, np.zeros(()), 9.0)


def test_a_net_sees_standard_units_and_answers_in_the_points_own():
    points = toy_regression.cubic(20, random.key(0))
    statistics = toy_regression.statistics(points)
    model = toy_regression.Standardized(MLP((), 1), *statistics)
    identity = {"dense1": {"kernel": Point(jnp.ones((1, 1))), "bias": jnp.zeros(1)}}
    y, _ = model.apply({"params": identity}, points.image, mutable=[])
    x_mean, x_std, y_mean, y_std = statistics
    np.testing.assert_allclose(
        (y - y_mean) / y_std, (points.image[:, 0] - x_mean) / x_std, atol=1e-5
    )
    assert float(y.mean()) == pytest.approx(float(points.label.mean()), rel=1e-4)
    assert float(y.std()) == pytest.approx(float(points.label.std()), rel=1e-4)


def test_bands_of_a_known_mixture():
    """f_s = x^3 + 2 eps: the band has the standard deviation sqrt(4 + 9)."""
    grid = jnp.linspace(-6, 6, 25)
    spread = 2 * random.normal(random.key(0), (20_000, 25), jnp.float32)
    functions = grid[None] ** 3 + spread
    mean, lower, upper = toy_regression.band(functions)
    np.testing.assert_allclose((lower + upper) / 2, mean, atol=1e-3)
    variances = ((upper - lower) / (2 * toy_regression.NORMAL_95)) ** 2 - 9
    np.testing.assert_allclose(variances, 4, atol=5 * 4 * np.sqrt(2 / 20_000))
    found = toy_regression.summary(grid, functions)
    # sd of the mean's error 2 / sqrt(20,000) = 0.014; so is about its rms.
    assert found["rmse"] < 0.05
    assert found["width_ratio"] == pytest.approx(1, abs=0.01)
    target = grid**3 + 1.0
    exact = 0.5 * np.log(2 * np.pi * 13) + 0.5 / 13
    nll = toy_regression.mixture_nll(functions, target)
    # Of a density the average over 20,000 draws is good to 1 %; over 25 places, less.
    assert nll == pytest.approx(exact, abs=0.01)


def test_width_ratio_compares_outside_with_inside():
    grid = jnp.linspace(-6, 6, 25)
    outside = jnp.abs(grid) > 4
    spread = jnp.where(outside, 4.0, 0.0)
    functions = grid[None] ** 3 + spread[None] * jnp.asarray([[-1.0], [1.0]])
    found = toy_regression.summary(grid, functions)
    half = toy_regression.NORMAL_95
    assert found["width_inside"] == pytest.approx(2 * half * 3, rel=1e-5)
    assert found["width_outside"] == pytest.approx(2 * half * 5, rel=1e-5)
    assert found["width_ratio"] == pytest.approx(5 / 3, rel=1e-5)
    assert found["rmse"] == pytest.approx(0, abs=1e-4)


def test_the_regression_loss_is_the_bound_in_the_targets_units():
    points = toy_regression.cubic(20, random.key(0))
    inner = MLP((4,), 1, posteriors={"dense2": gaussian(-3.0)})
    model = toy_regression.Standardized(inner, *toy_regression.statistics(points))
    params, _ = jax.jit(train.initializer(model, points.image))(random.key(0))
    prior = build.prior("standard_normal")
    loss = jax.jit(toy_regression.regression_loss(model, prior, 20))
    batch = {"image": points.image, "label": points.label}
    key = random.key(1)
    value, (state, metrics) = loss(params, ModelState(jnp.int32(0), {}), batch, key)
    expected = float(metrics["nll"]) + float(metrics["kl"]) / 20
    assert float(metrics["kl"]) > 0
    assert float(value) == pytest.approx(expected, rel=1e-5)
    # A Gaussian's NLL is its squared error and a constant.
    constant = np.log(3) + 0.5 * np.log(2 * np.pi)
    wanted = float(metrics["rmse"]) ** 2 / 18 + constant
    assert float(metrics["nll"]) == pytest.approx(wanted, rel=1e-5)
    assert state.collections == {}


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
    half = toy_regression.NORMAL_95 * np.sqrt(9 + shift**2 / 4)
    width = np.subtract(band["upper"], band["lower"])
    np.testing.assert_allclose(width, 2 * half, rtol=1e-4)
    assert measured.evals["predictive"]["samples"] == 2


@pytest.mark.parametrize("variant", ["dropout", "gaussian_dropout", "vd", "gaussian"])
def test_every_kind_of_noise_builds_and_has_a_finite_gradient(variant):
    experiment = core.build(regression(variant))
    task = experiment.task
    state = jax.jit(task.start)(random.key(0))
    batch = task.source.batch(task.source.arrays, None, KEY)
    grads = jax.jit(jax.grad(lambda p: task.loss(p, state.model, batch, KEY)[0]))(
        state.params
    )
    leaves = jax.tree.leaves(grads)
    assert all(np.all(np.isfinite(leaf)) for leaf in leaves)
    assert all(np.any(np.asarray(leaf) != 0) for leaf in leaves)
    silent = edits.mean_only(state.params)
    assert jax.tree.structure(silent) != jax.tree.structure(state.params)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prior": "log_uniform_2015"}, ["config.prior", "ZeroMean"]),
        ({"copies": 0}, ["config.copies"]),
        ({"evals__grid_points": 0}, ["config.evals.grid_points"]),
        ({"dataset__size": 0}, ["config.dataset.size"]),
    ],
)
def test_bad_values_of_the_regression_are_named(changes, words):
    with pytest.raises(build.ConfigError) as caught:
        core.build(regression(**changes))
    for word in words:
        assert word in str(caught.value)
