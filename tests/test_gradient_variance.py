"""Variance of the gradient over minibatches and noise: the laws, on a small net."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from claims import every
from jax import random
from ml_collections import ConfigDict

from experiments import core, gradient_variance
from experiments.config_files import load_config
from experiments.gradient_variance import KINDS, spread
from experiments.spec import ConfigError
from experiments.studies.gradient_noise import additive, batch_loss
from vnets.data import Dataset, Split
from vnets.edits import mean_only
from vnets.estimators import lrt, weight_sampling
from vnets.evaluate import to_float
from vnets.layers import Mode
from vnets.nets import MLP
from vnets.nodes import Additive, is_posterior, multiplicative, point

SIZES, EXAMPLES, MINIBATCHES = (4, 16), 4000, 1000
ERRORS = 5


@pytest.fixture(scope="module")
def split():
    image = np.random.default_rng(0).integers(0, 256, (40, 2, 2, 1), dtype=np.uint8)
    return Split(image, np.arange(40, dtype=np.int32) % 3)


@pytest.fixture(scope="module")
def net():
    """Two layers of type B noise; alpha 1 in the hidden layer."""
    model = MLP(
        (5,),
        3,
        posteriors={
            "dense1": multiplicative(0.0, "weight"),
            "dense2": multiplicative(-1.0, "weight"),
        },
    )
    keys = {"params": random.key(0), "noise": random.key(1)}
    params = model.init(keys, jnp.zeros((1, 2, 2, 1), jnp.float32))["params"]
    return core.Net(model, params, {})


@pytest.fixture(scope="module")
def measured(net, split):
    """The whole study, on this net."""
    spec = {"batch_sizes": SIZES, "examples": EXAMPLES, "minibatches": MINIBATCHES}
    dataset = Dataset("fake", split, None, split, 3, {}, "fake")
    nets = {"net": [net]}
    return gradient_variance._measure(ConfigDict(spec), dataset, nets, random.key(2))


@pytest.mark.parametrize("place", ["top", "bottom"])
def test_the_ways_are_ordered_and_the_terms_add_up(measured, place):
    """LRT < a sample per example < one for the minibatch; flipout is in between."""
    found, curve = measured.evals[place], measured.curves[place]
    assert found["separate_low"] > 1
    assert found["single_of_separate_low"] > 1
    assert found["single_low"] > found["flipout_high"]
    assert 0.1 < found["single_covariance"] < 1
    assert abs(found["flipout_covariance"]) < found["single_covariance"]
    assert found["none"] < 1
    assert found["score_low"] > found["single_high"]
    # Examples under LRT are independent: minibatches vary as single examples over M.
    wide = (found["independence_high"] / found["independence"]) ** (ERRORS / 1.96)
    assert 1 / wide < found["independence"] < wide
    # The variance at M = 4 is what M = 16 and M = 1 say.
    one, other = curve["single"][1], curve["single_formula"][1]
    assert one == pytest.approx(other, rel=ERRORS * 2 * math.sqrt(2 / MINIBATCHES))
    assert curve["batch_size"] == [1, *SIZES]
    assert every(len(axis) == 3 for axis in curve.values())
    for name in ("lrt", "none"):
        assert curve[name][0] == pytest.approx(curve[name][2] * SIZES[-1])
    assert every(np.isfinite(value) for value in found.values())


def test_without_noise_the_variance_is_that_of_the_examples(net, split):
    """Against all gradients of single examples, with and without a centre."""
    quiet = core.Net(net.model, mean_only(net.params, None), {})
    loss = batch_loss(net.model)

    def gradient(image, label):
        def one(params):
            return loss({"params": params}, image[None], label[None], random.key(0))

        bar = jax.grad(one)(quiet.params)
        return {name: 40 * bar[name]["kernel"].mean for name in bar}

    each = jax.jit(jax.vmap(gradient))(to_float(split.inputs), split.target)
    layers = ("dense1", "dense2")
    keys = random.key(3), random.key(4)
    plain, centre = spread(quiet, layers, Mode(lrt), split, keys, 1, EXAMPLES)
    around, _ = spread(quiet, layers, Mode(lrt), split, keys, 1, EXAMPLES, centre)
    for name in layers:
        expected = float(np.mean(np.var(np.asarray(each[name], np.float64), axis=0)))
        for found in (plain, around):
            one = found[name]["theta"]
            error = one.squares.std() / math.sqrt(EXAMPLES)
            assert abs(one.value - expected) < ERRORS * error
            assert len(one.squares) == EXAMPLES
            assert found[name]["log_var"].value == 0
        assert plain[name]["mu"].value == pytest.approx(around[name]["mu"].value, 1e-4)


def test_the_score_function_has_the_mean_of_draws_of_the_weights(net, split):
    """Though it differentiates no net."""
    params = {
        name: {**own, "kernel": Additive(own["kernel"].mean, jnp.full(shape, -2.0))}
        for name, own in net.params.items()
        for shape in [own["kernel"].mean.shape]
    }
    layers, keys = ("dense1", "dense2"), (random.key(5), random.key(6))
    given = core.Net(net.model, params, {}), layers, Mode(weight_sampling), split, keys
    scored, found = spread(*given, 16, 4000, by_score=True)
    plain, wanted = spread(*given, 16, 4000)
    for name in layers:
        for number, kind in list(enumerate(KINDS))[1:]:
            size = (scored[name][kind].value + plain[name][kind].value) / 4000
            gap = np.mean(np.square(found[name][number] - wanted[name][number]))
            assert size / 3 < gap < 3 * size
            # The gradient by mu stands out from what is left to chance.
            assert kind == "log_var" or np.mean(np.square(found[name][1])) > 6 * size


def test_theta_is_the_mean_of_the_multiplicative_form(net, split):
    """dL/dtheta = dL/dmu + 2 dL/dlog sigma^2 / mu, the chain rule at a fixed alpha."""
    # LRT's noise multiplies a standard deviation: of either sign, the same in both.
    loss, image = batch_loss(net.model), to_float(split.inputs)

    def gradients(params):
        def one(params):
            return loss({"params": params}, image, split.target, random.key(4))

        return jax.jit(jax.grad(one))(params)

    added = jax.tree.map(additive, net.params, is_leaf=is_posterior)
    there, here = gradients(net.params), gradients(added)
    for name in ("dense1", "dense2"):
        node = added[name]["kernel"]
        theta, _, log_var = gradient_variance._kinds(node, here[name]["kernel"])
        expected = there[name]["kernel"]
        np.testing.assert_allclose(theta, expected.mean, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(log_var, expected.log_alpha, rtol=1e-3, atol=1e-6)
    assert KINDS == ("theta", "mu", "log_var")


def test_of_the_same_examples_what_both_share_cancels():
    """An interval is as wide as independent draws make it, unless they are paired."""
    rng = np.random.default_rng(0)
    size = rng.lognormal(0, 2, 10_000)  # of the gradients of each example
    one, other = (size * rng.uniform(0.5, 1.5, len(size)) for _ in range(2))
    paired, apart = (
        gradient_variance._ratio(
            "r",
            gradient_variance.Variance(2 * one.mean(), 2 * one, 1),
            gradient_variance.Variance(other.mean(), other, batch_size),
        )
        for batch_size in (1, 100)
    )
    assert paired["r"] == apart["r"]
    assert apart["r_low"] < paired["r_low"] < 2 < paired["r_high"] < apart["r_high"]
    relative = np.hypot(*(x.std() / x.mean() / 100 for x in (one, other)))
    assert apart["r_high"] / apart["r"] == pytest.approx(np.exp(1.96 * relative), 1e-3)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("batch_sizes", (1, 100), "batch_sizes must rise from 2"),
        ("batch_sizes", (100, 10), "batch_sizes must rise"),
        ("examples", 1, "examples must be at least 2"),
        ("minibatches", 0, "minibatches must be at least 2"),
    ],
)
def test_wrong_fields_are_refused(field, value, words):
    config = load_config("configs/gradient_variance.py:epochs_10,quick")
    with config.unlocked(), config.ignore_type():
        config.gradient[field] = value
    with pytest.raises(ConfigError, match=words):
        core.build(config)


def test_a_layer_without_noise_is_refused(net):
    quiet = {**net.params["dense2"], "kernel": point()(random.key(0), (5, 3))}
    other = core.Net(net.model, {**net.params, "dense2": quiet}, {})
    with pytest.raises(ConfigError, match="'dense2' of this net is a Point"):
        gradient_variance.ends(other)
