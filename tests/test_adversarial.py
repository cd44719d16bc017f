"""The study of attacks and its predictors, on linear nets that need no training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from experiments import core, datasets
from experiments import spec as parts
from experiments.config_files import load_config
from vnets import attacks, evaluate
from vnets.nets import MLP
from vnets.nodes import Gaussian, Point, ZeroMean
from vnets.predictor import Predictor

VARIANTS = (
    "deterministic",
    "dropout",
    "variance",
    "deep_ensemble",
    "variance_ensemble",
)


def small(variant="variance_ensemble", **changes):
    """A quick config on 16 images, with fields of it changed."""
    config = load_config(f"configs/adversarial.py:{variant},quick")
    config.images, config.batch_size, config.updates = 16, 8, 4
    config.samples = min(config.samples, 3)
    config.attack.draws = (2,)
    for path, value in changes.items():
        *parents, last = path.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[last] = value
    return config


@pytest.fixture(scope="module")
def dataset():
    return datasets.load_data(small().dataset)


@pytest.fixture(scope="module")
def linear(dataset):
    """linear(std): the classifier of the nearest class mean, its weights with noise."""
    image = np.asarray(evaluate.to_float(jnp.asarray(dataset.train.inputs)))
    image = image.reshape(len(image), -1)
    means = np.stack([image[dataset.train.target == k].mean(0) for k in range(10)])
    bias = jnp.asarray(-0.5 * (means**2).sum(1), jnp.float32)
    kernel = jnp.asarray(means.T, jnp.float32)

    def make(std=0.0):
        node = Point(kernel)
        if std:
            log_var = jnp.full(kernel.shape, 2 * np.log(std), jnp.float32)
            node = Gaussian(kernel, log_var)
        return core.Net(MLP(), {"dense1": {"kernel": node, "bias": bias}}, {})

    return make


@pytest.fixture(scope="module")
def images(dataset):
    return evaluate.to_float(jnp.asarray(dataset.test.inputs[:16]))


def measure(config, nets):
    return core.build(config).measure({"net": nets}, random.key(0))


@pytest.mark.slow
def test_a_deterministic_net_and_its_twins(linear, dataset, images):
    """Draws change nothing, copies change nothing, and the attack is the library's."""
    config = small("deterministic", attack__draws=(1, 2))
    one = measure(config, [linear()])
    assert one.evals["draws1"] == one.evals["draws2"]
    twins = measure(config, [linear(), linear()])
    for name, curve in one.curves.items():
        assert curve["success"] == twins.curves[name]["success"]
        assert curve["success"][0] == 0.0
        assert curve["auroc"][0] == 0.5
    log_p = Predictor([linear().member])
    label = jnp.asarray(dataset.test.target[:16])
    right = attacks.is_right(log_p(images, random.key(1))[0], label)
    assert one.evals["clean"] == pytest.approx(
        {
            "accuracy": float(right.mean()),
            "counted": int(right.sum()),
            "success": 0.0,
            "entropy": one.evals["clean"]["entropy"],
        }
    )
    done = attacks.iterated(
        log_p,
        images,
        label,
        epsilon=config.attack.epsilon,
        step=config.attack.step,
        updates=4,
        key=random.key(1),
    )
    rate = attacks.success_rate(done.log_p, label, right)
    np.testing.assert_allclose(one.curves["draws1"]["success"], rate, rtol=1e-6)
    named = one.evals["draws1"]
    for metric, update in {
        "success_quarter": 1,
        "success_half": 2,
        "success": 4,
    }.items():
        assert named[metric] == one.curves["draws1"]["success"][update]
    edge = attacks.fgsm(log_p, images, label, config.attack.epsilon, random.key(1))
    rate = attacks.success_rate(log_p(edge, random.key(1))[0], label, right)
    np.testing.assert_allclose(one.evals["fgsm"]["success"], rate, rtol=1e-6)


def test_an_attack_of_radius_one_always_succeeds(linear):
    """On a linear net it ends at a corner where some other class has all it can."""
    found = measure(small(), [linear(0.02)])
    assert found.evals["unbounded"]["success"] == 1.0
    assert found.evals["draws2"]["success"] < 1.0  # while a small radius is not enough


@pytest.mark.slow
def test_noise_alone_is_told_from_an_attack(linear):
    """Weights that are nothing but noise err without any attack, and all attacks start
    from there, at the entropy of clean images."""
    noisy = linear()
    kernel = ZeroMean(noisy.params["dense1"]["kernel"].mean)
    found = measure(
        small("variance", images=64, batch_size=32, attack__draws=(1, 2)),
        [
            core.Net(
                noisy.model,
                {"dense1": {**noisy.params["dense1"], "kernel": kernel}},
                {},
            )
        ],
    )
    assert found.evals["clean"]["success"] > 0.5  # ten classes, by chance
    for curve in found.curves.values():
        assert curve["success"][0] == found.evals["clean"]["success"]
        assert curve["auroc"][0] == 0.5
        assert len({len(axis) for axis in curve.values()}) == 1
    assert found.curves["draws1"] != found.curves["draws2"]


def test_a_net_without_a_right_answer_is_refused(linear, dataset):
    """Labels shifted by one leave the nearest mean none to be right about."""
    net = linear()
    shifted = jax.tree.map(lambda leaf: jnp.roll(leaf, 1, axis=-1), net.params)
    config = small("deterministic", images=4, batch_size=4)
    with pytest.raises(ValueError, match="none of 4 images"):
        measure(config, [core.Net(net.model, shifted, {})])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("scale", ["quick", "short", "paper"])
def test_every_row_is_attacked_alike(variant, scale):
    """Rows differ in the net and its prediction only; each attack can reach its edge,
    and a quarter of the updates cannot yet."""
    config = load_config(f"configs/adversarial.py:{variant},{scale}")
    other = load_config(f"configs/adversarial.py:deterministic,{scale}")
    for field in ("attack", "unbounded", "updates", "images", "loss", "dataset"):
        assert config[field] == other[field]
    for one in (config.attack, config.unbounded):
        assert config.updates * one.step >= one.epsilon
    assert config.updates // 4 * config.attack.step < config.attack.epsilon
    core.NetSpec(**config.nets.net)
    load_config(f"{config.nets.net.run},{scale}")
    if scale == "quick":
        assert isinstance(core.build(config), core.Study)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"samples": 0}, ["config.samples", "at least 1"]),
        ({"updates": 6}, ["config.updates", "multiple of 4", "6"]),
        ({"images": 12}, ["config.images", "config.batch_size", "8", "12"]),
        ({"images": 8000}, ["config.images", "360"]),
        ({"attack__draws": (1, 0)}, ["config.attack.draws", "at least 1"]),
        ({"attack__draws": ()}, ["config.attack.draws", "at least one"]),
        ({"attack__epsilon": 0.0}, ["config.attack.epsilon", "above 0"]),
        ({"unbounded__step": 1.5}, ["config.unbounded.step", "at most 1"]),
        ({"loss": "nope"}, ["config.loss", "mean_cross_entropy"]),
        ({"nets__net__members": 0}, ["config.nets.net.members", "at least 1"]),
    ],
)
def test_bad_values_name_the_field_and_the_valid_ones(changes, words):
    with pytest.raises(parts.ConfigError) as caught:
        core.build(small(**changes))
    for word in words:
        assert word in str(caught.value)
