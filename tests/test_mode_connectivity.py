"""Runs that train a curve between nets, and what is measured on paths."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from configs import mode_connectivity
from experiments import core
from experiments.config_files import load_config
from experiments.kinds.connect import ENDS, half_square
from experiments.spec import ConfigError
from experiments.studies import mode_connectivity as study
from vnets import data, edits, nodes, tree
from vnets.loss import ModelState
from vnets.nets import MLP
from vnets.rng import stream

X = np.zeros((1, 8, 8, 1), np.float32)


def config_of(variant, **fields):
    config = load_config(f"configs/mode_connectivity.py:{variant},quick")
    with config.unlocked():
        for path, value in fields.items():
            group, _, field = path.rpartition("__")
            (config[group.replace("__", ".")] if group else config)[field] = value
    return config


def trained(seed, posterior=None, widths=(8, 8)):
    """A net that has learned nothing."""
    own = {"dense2": posterior} if posterior else {}
    model = MLP(widths=widths, posteriors=own)
    params = jax.jit(model.init)(random.key(seed), X)["params"]
    return core.Net(model, params, {})


def connect(variant, members):
    config = config_of(variant, model__widths=(8, 8))
    made = core.build(config)
    nets = [trained(seed) for seed in range(members)]
    assert made.start.members == members
    return made, nets, *made.begin(nets, random.key(3))


def test_a_curve_begins_in_the_middle_between_two_seeds():
    _, nets, control, held = connect("net_bezier", 2)
    ends = held[ENDS]
    jax.tree.map(np.testing.assert_array_equal, ends["start"], nets[0].params)
    jax.tree.map(np.testing.assert_array_equal, ends["end"], nets[1].params)
    middle = jax.tree.map(lambda a, b: (a + b) / 2, ends["start"], ends["end"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), control, middle
    )


def test_a_loss_is_that_of_a_net_on_the_curve_and_its_decay():
    made, _, control, held = connect("net_shuffled_polychain", 1)
    task, key = made.task, random.key(2)
    batch = task.source.batch(task.source.arrays, jnp.arange(50), key)
    state = ModelState(jnp.int32(0), held)
    value, (new, _) = task.loss(control, state, batch, key)
    jax.tree.map(np.testing.assert_array_equal, new.collections, held)

    t = float(random.uniform(stream(key, "curve")))
    weights = [max(1 - 2 * t, 0), 1 - abs(1 - 2 * t), max(2 * t - 1, 0)]
    on_curve = jax.tree.map(
        lambda *each: sum(w * a for w, a in zip(weights, each, strict=True)),
        *(held[ENDS]["start"], control, held[ENDS]["end"]),
    )
    logits = made.model.apply({"params": on_curve}, batch["input"])
    log_p = jax.nn.log_softmax(logits)[jnp.arange(50), batch["target"]]
    squares = sum(float(jnp.sum(n.mean**2)) for _, n in tree.weights(on_curve))
    decay = mode_connectivity.DECAY / 2 * squares
    np.testing.assert_allclose(value, -jnp.mean(log_p) + decay, rtol=1e-4)
    assert float(half_square(on_curve)) == pytest.approx(squares / 2, rel=1e-5)


def test_a_column_is_of_the_net_in_the_middle_of_the_curve():
    made, _, control, held = connect("net_bezier", 2)
    control = jax.tree.map(lambda a: 3 * a, control)
    found = made.evaluations(control, held, random.key(0)).evals["det"]
    ends = held[ENDS]
    middle = jax.tree.map(
        lambda a, c, b: a / 4 + c / 2 + b / 4, ends["start"], control, ends["end"]
    )
    test = data.load("digits_8x8").test
    logits = made.model.apply({"params": middle}, test.inputs / np.float32(255))
    right = float(np.mean(np.argmax(logits, -1) == test.target))
    assert found["accuracy"] == pytest.approx(right, abs=1e-6)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"connect__kind": "line"}, "connect.kind"),
        ({"connect__end": "elsewhere"}, "connect.end"),
        ({"nets__ends__members": 1}, "must be 2"),
        ({"optimizer__weight_decay": 1e-4}, r"connect\.weight_decay"),
        ({"model__batch_norm": True}, "batch normalization"),
        ({"nets": {}}, "ends"),
    ],
)
def test_a_curve_that_cannot_be_trained_is_refused(fields, words):
    with pytest.raises(ConfigError, match=words):
        core.build(config_of("net_polychain", **fields))


def measured(variant, nets, **fields):
    config = config_of(variant, points=5, samples=3, **fields)
    return core.build(config).measure({"net": nets}, random.key(1))


@pytest.mark.parametrize("row", ["line", "matched", "shuffled_line"])
def test_a_barrier_is_above_the_worse_end_and_equal_functions_are_equal(row):
    members = mode_connectivity.ROWS[row][2]
    found = measured(row, [trained(seed) for seed in range(members)])
    path, line = found.evals["path"], found.curves["path"]
    assert line["t"] == [0.0, 0.25, 0.5, 0.75, 1.0]
    loss = line["loss"]
    assert path["barrier"] == pytest.approx(max(loss) - max(loss[0], loss[-1]))
    assert path["rise"] == pytest.approx(max(loss) - loss[0])
    assert path["error"] == max(line["error"])
    same = found.evals["ends"]["difference"] < 1e-5
    assert same == (row == "shuffled_line")
    if same:
        assert loss[0] == pytest.approx(loss[-1], abs=1e-5)
    assert 0 < found.evals["curve"]["nll"] < 10


def test_a_trained_curve_is_what_its_run_left():
    made, _, control, held = connect("net_bezier", 2)
    net = core.Net(made.model, control, held)
    curve = study._trained(config_of("bezier"), [net], random.key(0))
    assert curve.kind == "bezier"
    jax.tree.map(np.testing.assert_array_equal, curve.control, control)
    jax.tree.map(np.testing.assert_array_equal, curve.at(1.0), held[ENDS]["end"])


def test_means_go_to_zero_and_variances_stay():
    net = trained(0, nodes.multiplicative(-2.0, per="layer"))
    two = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), net.variables())
    net = dataclasses.replace(net, collected=two)
    for variant, factor in {"means_before": 1, "means_after": 2}.items():
        curve = study._without_means(config_of(variant), [net], random.key(0))
        kept = jax.tree.map(lambda a, f=factor: f * a, net.params)
        mean, var = tree.weight(kept, "dense2").moments()
        for t in (0.0, 0.5, 1.0):
            held = tree.weight(curve.at(t), "dense2").moments()
            np.testing.assert_allclose(held[0], (1 - t) * mean, atol=1e-6)
            np.testing.assert_allclose(held[1], var, rtol=1e-4)
        others = edits.mean_only(curve.at(1.0)), edits.mean_only(edits.zero_mean(kept))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *others)


def test_a_path_needs_a_place_between_its_ends():
    with pytest.raises(ConfigError, match="at least 3"):
        core.build(config_of("line", points=2))
    with pytest.raises(ConfigError, match=r"path.*choose from.*matched"):
        core.build(config_of("line", path="bent"))
