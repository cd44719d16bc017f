"""What is left of a cut net is counted, timed and rounded as it should be."""

import fnmatch

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from ml_collections import ConfigDict

from configs import structured as configs
from experiments import cuts
from experiments import spec as parts
from experiments.config_files import load_config
from experiments.core import Net
from experiments.studies import bit_precision, structured
from vnets import data, edits, nodes
from vnets.nets import MLP, LeNet5
from vnets.nodes import Point, dropout, gaussian, masked


def lenet_with(conv1, conv2, dense1, dense2):
    """A LeNet-5 of which so many maps and inputs have weights."""
    rng = np.random.default_rng(0)
    shapes = {
        "conv1": (5, 5, 1, 20),
        "conv2": (5, 5, 20, 50),
        "dense1": (800, 500),
        "dense2": (500, 10),
    }
    kernels = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    kernels["conv1"][..., conv1:] = 0
    kernels["conv2"][..., conv2:] = 0
    kernels["dense1"][dense1:] = 0
    kernels["dense2"][dense2:] = 0
    return {
        "params": {
            name: {
                "kernel": Point(jnp.asarray(kernel, jnp.float32)),
                "bias": jnp.zeros(kernel.shape[-1], jnp.float32),
            }
            for name, kernel in kernels.items()
        }
    }


def test_a_whole_net_is_left_whole():
    found = cuts.left(LeNet5(), lenet_with(20, 50, 800, 500), (28, 28, 1))
    assert found == {
        "flops": 24**2 * 500 + 8**2 * 25 * 1000 + 800 * 500 + 5000,
        "flops_ratio": 1.0,
        "units/conv1": 20,
        "units/conv2": 50,
        "units/dense1": 800,
        "units/dense2": 500,
    }


def test_units_and_arithmetic_of_a_cut_net():
    """conv2's map 3 on has no weights; of the inputs of dense1 those of maps 0 ... 2
    count, in so far as they are among the first 60: 20 in positions 0 and 50 + 0 ... 2.
    """
    found = cuts.left(LeNet5(), lenet_with(4, 3, 60, 7), (28, 28, 1))
    assert found["units/conv1"] == 4
    assert found["units/conv2"] == 3
    assert found["units/dense1"] == 6  # rows 0, 1, 2 and 50, 51, 52
    assert found["units/dense2"] == 7
    flops = 24**2 * 25 * 4 + 8**2 * 25 * 4 * 3 + 6 * 7 + 7 * 10
    assert found["flops"] == flops
    full = 24**2 * 500 + 8**2 * 25 * 1000 + 800 * 500 + 5000
    assert found["flops_ratio"] == pytest.approx(full / flops)


def test_a_net_without_weights_has_no_units():
    found = cuts.left(LeNet5(), lenet_with(0, 0, 0, 0), (28, 28, 1))
    assert found["flops"] == 0
    assert not any(v for name, v in found.items() if name.startswith("units/"))


@pytest.fixture(scope="module")
def net():
    """A small perceptron, noisy as in Bayesian compression, half of its units idle."""
    make = nodes.group_normal_jeffreys()
    names = ("dense1", "dense2")
    model = MLP(widths=(12,), classes=10, posteriors=dict.fromkeys(names, make))
    rngs = {"params": random.key(0), "noise": random.key(1)}
    params = jax.jit(model.init)(rngs, jnp.zeros((1, 4, 4, 1)))["params"]
    for name in names:
        scale = params[name]["kernel"].scale
        idle = jnp.arange(scale.shape[0]) % 2 == 1
        scale = scale.replace(log_var=jnp.where(idle, 4.0, -9.0))
        params[name]["kernel"] = params[name]["kernel"].replace(scale=scale)
    return Net(model, params, {})


@pytest.fixture(scope="module")
def split():
    images = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 1), np.uint8)
    return data.Split(images, np.arange(40, dtype=np.int32) % 10)


@pytest.mark.slow
def test_the_study_of_speed(net, split):
    config = load_config("configs/structured_speed.py:lenet5_gnj,quick")
    config.cut = {"units": {"dense1": 0.0, "dense2": 0.0}}
    config.latency = {"batch_size": 8, "rounds": 3}
    change = edits.chain(cuts.pruning(config), edits.mean_only)
    nets = {"net": [net]}
    measured = structured._measure(config, change, split, nets, random.key(0))
    full, cut = measured.evals["full"], measured.evals["cut"]
    assert (full["units/dense1"], full["units/dense2"]) == (16, 12)
    assert (cut["units/dense1"], cut["units/dense2"]) == (8, 6)
    assert cut["flops_ratio"] == (16 * 12 + 120) / (8 * 6 + 60)
    for code in structured.RUNNERS:
        assert full[f"{code}_ms"] > 0
        assert cut[f"{code}_ms"] > 0
        assert cut[f"{code}_speedup"] > 0


def test_the_runners_agree(net, split):
    """What is timed is the net itself."""
    variables = {"params": edits.mean_only(edits.prune_units()(net.params))}
    x = split.inputs.astype(np.float32) / 255
    expected = net.model.apply(variables, x)
    small = cuts.smaller(net.model, variables, (4, 4, 1))
    for run in structured.RUNNERS.values():
        np.testing.assert_allclose(run(small, x)(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_study_of_bits(net, split):
    config = load_config("configs/bit_precision.py:gnj,quick")
    config.cut = {"units": {"dense1": 0.0, "dense2": 0.0}}
    config.significands = (2, 24)
    change = cuts.pruning(config)
    nets = {"net": [net]}
    measured = bit_precision._measure(config, change, split, nets, random.key(0))
    full, found = measured.evals["full"], measured.evals["bits"]
    # Of 16 x 12 + 12 x 10 weights, 8 x 6 + 6 x 10 are kept.
    assert full["compression"] == pytest.approx(312 / 108)
    stored = 48 * found["bits/dense1"] + 60 * found["bits/dense2"]
    assert found["compression"] == pytest.approx(32 * 312 / stored)
    for layer in ("dense1", "dense2"):
        of = {part: found[f"{part}/{layer}"] for part in ("significand", "exponent")}
        assert 1 + of["significand"] + of["exponent"] == found[f"bits/{layer}"]
        assert min(of.values()) >= 1
    curve = measured.curves["bits"]
    assert curve["significand"] == [2.0, 24.0]
    assert curve["nll"][1] == pytest.approx(full["nll"], rel=1e-6)
    assert curve["nll"][0] != full["nll"]


def cut_of(net, cut):
    return cuts.pruning(ConfigDict({"cut": cut}))(net.params)


def test_units_and_weights_are_cut_together(net):
    """Both at once leave what each by itself leaves, and layers have thresholds."""
    layers = ("dense1", "dense2")
    units = cut_of(net, {"units": dict.fromkeys(layers, 0.0)})
    weights = cut_of(net, {"weights": {"dense1": -4.0, "dense2": float("inf")}})
    both = cut_of(
        net, {"weights": {"dense1": -4.0, "dense2": float("inf")}, "units": 0.0}
    )
    for layer in layers:
        used = [
            np.asarray(one[layer]["kernel"].weight.mean != 0)
            for one in (units, weights, both)
        ]
        assert used[0].mean() == 0.5
        assert (used[1].mean() < 1) == (layer == "dense1")
        np.testing.assert_array_equal(used[2], used[0] & used[1])


@pytest.mark.parametrize("cut", [{}, {"maps": 0.0}, {"units": 0.0, "maps": 1.0}])
def test_a_config_cuts_units_or_weights(cut):
    with pytest.raises(parts.ConfigError, match="units, of weights or of both"):
        cuts.pruning(ConfigDict({"cut": cut}))


def test_a_cut_that_does_not_fit_the_net_is_refused(net):
    noisy = {"cut": {"units": {"dense1": 0.0}}}
    with pytest.raises(parts.ConfigError, match=r"evals.cut.*\['dense1', 'dense2'\]"):
        cuts.check_cut(ConfigDict(noisy), net.params)
    points = {"a": {"kernel": nodes.structured()(random.key(0), (3, 4))}}
    cuts.check_cut(ConfigDict({"cut": {"units": 0.0}}), points)
    with pytest.raises(parts.ConfigError, match="no weight of this net has noise"):
        cuts.check_cut(ConfigDict({"cut": {"weights": 3.0}}), points)


def test_optimizer_factors_reach_scales():
    """The patterns of the configs name what they are meant to."""
    params = {"a": {"kernel": nodes.structured()(random.key(0), (3, 4))}}
    factors = {"*/scale/*": 10.0}
    spec = {"name": "sgd", "learning_rate": ((0.0, 1.0),), "factors": factors}
    optimizer = parts.optimizer(spec, 10)
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    kernel = updates["a"]["kernel"]
    assert np.all(np.asarray(kernel.scale.location) == -10)
    assert np.all(np.asarray(kernel.scale.log_std) == -10)
    assert np.all(np.asarray(kernel.weight.mean) == -1)


def test_weight_decay_is_of_the_means_of_weights_alone():
    layers = {
        "noisy": gaussian(-3.0)(random.key(0), (3, 4)),
        "masked": masked()(random.key(1), (3, 4)),
        "scaled": dropout(0.5, gaussian())(random.key(2), (3, 4)),
    }
    params = {name: {"kernel": q, "bias": jnp.ones(4)} for name, q in layers.items()}
    spec = {"name": "sgd", "learning_rate": ((0.0, 1.0),), "weight_decay": 0.1}
    optimizer = parts.optimizer(spec, 10)
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    for name, node in layers.items():
        got = updates[name]["kernel"]
        node, got = (q.weight if name == "scaled" else q for q in (node, got))
        np.testing.assert_allclose(got.mean, -(1 + 0.1 * node.mean), rtol=1e-6)
        assert np.all(updates[name]["bias"] == -1)
    assert np.all(updates["noisy"]["kernel"].log_var == -1)
    assert np.all(updates["masked"]["kernel"].mask == -1)
    for leaf in jax.tree.leaves(updates["scaled"]["kernel"].scale):
        assert np.all(leaf == -1)
    with pytest.raises(parts.ConfigError, match="weight_decay must not be negative"):
        parts.optimizer({**spec, "weight_decay": -1.0}, 10)


@pytest.mark.parametrize("method", ["sbp", "gnj", "ghs", "group_ard"])
def test_every_pattern_of_the_factors_is_of_some_method_s_parameters(method):
    config = load_config(f"configs/structured.py:lenet5_{method},quick")
    make = parts.posterior("", config.model.posteriors.conv1)
    layers = config.model.posteriors
    params = {
        layer: {"kernel": jax.eval_shape(lambda: make(random.key(0), (3, 4)))}
        for layer in layers
    }
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    own = set(config.optimizer.factors) - set(configs.FACTORS)
    assert bool(own) == (method in configs.BALANCED)
    for pattern in own:
        assert any(fnmatch.fnmatchcase(path, pattern) for path in paths), pattern
