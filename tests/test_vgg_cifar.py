"""The VGG-like net's configs: what is noisy where, and what each preset changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from claims import every
from jax import random

from configs import vgg_cifar
from experiments import core
from experiments.config_files import load_config
from vnets.nodes import Dropout, Multiplicative, Point, Scaled, ZeroMean


def config(variant, scale="paper"):
    return load_config(f"configs/vgg_cifar.py:{variant},{scale}")


def flat(value, prefix=""):
    """{path: value} of a config."""
    if not hasattr(value, "items"):
        return {prefix: value}
    parts = (flat(one, f"{prefix}/{name}") for name, one in value.items())
    return {path: one for part in parts for path, one in part.items()}


def changed(variant, other):
    """Paths in which two configs differ."""
    a, b = flat(config(variant)), flat(config(other))
    return {p for p in a.keys() | b.keys() if a.get(p) != b.get(p)} - {"/variant"}


def kinds(variant, scale="paper"):
    """{layer: (kind of the weight, rate of the dropout before it)}."""
    found = {}
    for layer, spec in config(variant, scale).model.posteriors.items():
        weight = spec.get("weight", spec)
        found[layer] = (weight["kind"], spec.get("rate", 0.0))
    return found


def test_noise_stands_where_the_authors_have_it():
    dropout, vd = kinds("cifar10_dropout"), kinds("cifar10_vd")
    rates = {layer: rate for layer, (_, rate) in dropout.items() if rate}
    within = ("conv4", "conv6", "conv7", "conv9", "conv10", "conv12", "conv13")
    around = {"conv2": 0.3, "dense1": 0.5, "dense2": 0.5}
    assert rates == {**dict.fromkeys(within, 0.4), **around}
    assert {kind for kind, _ in dropout.values()} == {"point"}
    noisy = {layer for layer, (kind, _) in vd.items() if kind == "multiplicative"}
    assert noisy == {"conv11", "conv12", "conv13", "dense1"}
    # Block 5 has no binary dropout within, everything else keeps its own.
    without = {layer: rate for layer, (_, rate) in vd.items() if rate}
    assert without == {n: r for n, r in rates.items() if n not in ("conv12", "conv13")}
    assert kinds("cifar10_variance")["dense1"] == ("variance", 0.5)
    alone = {
        n for n, (kind, _) in kinds("cifar10_vd_dense1").items() if kind != "point"
    }
    assert alone == {"dense1"}


@pytest.mark.parametrize(
    ("variant", "paths"),
    [
        ("vd_shared_crop", {"/dataset/augment/per"}),
        ("dropout_raw_pixels", {"/model/input_mean", "/model/input_std"}),
        ("dropout_momentum", {"/optimizer"}),
        ("vd_slow_alpha", {"/optimizer", "/kl_weight", "/model/posteriors"}),
        (
            "vd_authors",
            {"/optimizer", "/kl_weight", "/model", "/dataset/augment/per", "/epochs"},
        ),
    ],
)
def test_a_preset_changes_what_it_says(variant, paths):
    method = variant.split("_")[0]
    differing = changed(f"cifar10_{variant}", f"cifar10_{method}")
    assert every(any(one.startswith(path) for path in paths) for one in differing)
    assert every(any(one.startswith(path) for one in differing) for path in paths)


def test_the_authors_recipe_is_theirs():
    theirs = config("cifar100_vd_authors")
    assert (theirs.epochs, theirs.batch_size, theirs.optimizer.b1) == (550, 100, 0.95)
    assert theirs.optimizer.learning_rate == ((0.0, 1e-3), (1.0, 1e-5))
    assert theirs.kl_weight == ((0.0, 1.0),)
    assert theirs.dataset.labels == "coarse"
    node = theirs.model.posteriors.dense1.weight
    assert node.log_alpha == -10.0
    assert (node.init.mean, node.init.stddev) == (0.01, 1.0)
    assert theirs.max_log_alpha == 20.0


def test_labels_are_those_of_the_name():
    for data, labels in vgg_cifar.DATA.items():
        held = config(f"{data}_dropout").dataset
        assert (held.name, held.labels) == (data.split("_")[0], labels)


def test_nodes_hold_dropout_and_the_layer_s_own_noise():
    for variant, kind in (("vd", Multiplicative), ("variance", ZeroMean)):
        built = core.build(config(f"cifar10_{variant}", "quick"))
        shapes, _ = jax.eval_shape(built.task.init, random.key(0))
        dense1, conv1 = shapes["dense1"]["kernel"], shapes["conv1"]["kernel"]
        assert isinstance(dense1, Scaled)
        assert isinstance(dense1.scale, Dropout)
        assert isinstance(dense1.weight, kind)
        assert isinstance(conv1, Point)
        assert set(shapes["norm1"]) == {"bias"}  # no learned scale


@pytest.mark.slow
def test_pixels_are_standardized_within_the_net():
    """Raw pixels and standardized ones are the same image to the rest of the net."""
    ours, raw = (
        core.build(config(f"cifar10_dropout{preset}", "quick"))
        for preset in ("", "_raw_pixels")
    )
    params, collections = jax.jit(ours.task.init)(random.key(0))
    [mean], [std] = ours.model.input_mean, ours.model.input_std
    x = random.uniform(random.key(1), (4, 8, 8, 1), jnp.float32)
    variables = {"params": params, **collections}
    rngs = {"noise": random.key(2)}
    expected = ours.model.apply(variables, x, rngs=rngs)
    got = raw.model.apply(variables, (x - mean) / std / 255, rngs=rngs)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(raw.model.apply(variables, x, rngs=rngs) - expected).max() > 1e-3
