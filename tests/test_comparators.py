"""Every way to make a bag of nets measures alike; configs say what they are made of."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from configs import comparators
from experiments import core
from experiments.config_files import load_config
from experiments.kinds.classify import Particles
from experiments.spec import ConfigError
from experiments.studies import comparators as study
from vnets import data, samplers, svgd
from vnets.nets import MLP

IMAGES, WALK = 24, 4


def trained(row):
    """Nets as the config of a row takes them, untrained and small."""
    model = MLP(widths=(8, 8))
    x = np.zeros((1, 8, 8, 1), np.float32)

    def init(key):
        return model.init({"params": key}, x)["params"]

    many = svgd.particles(init, WALK)(random.key(0))
    if row == "svgd":
        return [core.Net(Particles(model), many, {})]
    method, _, members = comparators.ROWS[row]
    nets = [core.Net(model, init(random.key(i)), {}) for i in range(members)]
    if method in ("collected", "average", "swag"):
        nets = [dataclasses.replace(net, collected={"params": many}) for net in nets]
    return nets


DRAWS = {"one": 1, "ensemble": 5, "snapshot": 4, "average": 1, "swag": 3, "svgd": 4}
DRAWS |= dict.fromkeys(("laplace", "laplace_diagonal", "laplace_sampled"), 3)


@pytest.mark.parametrize("row", DRAWS)
def test_every_method_measures_alike(row):
    config = load_config(f"configs/comparators.py:{row},quick")
    config.images, config.samples = IMAGES, min(config.samples, 3)
    made = core.build(config)
    found = made.measure({"net": trained(row)}, random.key(0)).evals
    assert found["made"]["draws"] == DRAWS[row]
    assert 0 <= found["inside"]["accuracy"] <= 1
    assert 0 <= found["outside"]["auroc/entropy"] <= 1
    assert found["made"]["megabytes"] > 0
    assert "train_seconds" not in found["made"]  # of nets that no record is of
    assert ("precision" in found["made"]) == row.startswith("laplace")
    assert ("kernel" in found["made"]) == (row == "svgd")


def test_a_temperature_stands_beside_what_samples():
    for row, heat in {"sgld": 1.0, "csgld": 1.0, "one": None, "swag": None}.items():
        run = load_config(f"configs/comparators.py:{comparators.ROWS[row][1]},quick")
        assert study._temperature(run.optimizer).get("temperature") == heat


def test_passes_count_all_nets_and_what_they_begin_from():
    passes = {
        row: study._passes(f"configs/comparators.py:{run}", "quick", members)
        for row, (_, run, members) in comparators.ROWS.items()
    }
    assert passes["one"] == passes["ivon"] == 30
    assert passes["ensemble"] == 5 * 30
    assert passes["svgd"] == 10 * 30
    assert passes["fge"] == 30 + 20


def test_the_first_net_of_a_fast_ensemble_is_begun_at_the_trained_one():
    """Its nets are kept where the rate is lowest, at the ends of the cycles."""
    config = load_config("configs/comparators.py:net_fge,quick")
    made = core.build(config)
    assert made.start.run == "configs/comparators.py:net"
    assert len(made.task.collect) == config.optimizer.learning_rate.cycles
    rate = samplers.triangular(0.05, 5e-4, made.task.collect[-1], 5)
    seen = np.asarray([rate(step) for step in range(made.task.collect[-1])])
    ends = np.asarray(made.task.collect) % len(seen)
    np.testing.assert_array_equal(seen[ends], seen.min())


def test_a_config_says_what_is_collected_and_how_many_train():
    collecting = core.build(load_config("configs/comparators.py:net_csgld,quick"))
    steps = collecting.task.collect
    assert len(steps) == 4 * 5
    together = core.build(load_config("configs/comparators.py:net_svgd,quick"))
    state = jax.eval_shape(together.task.start, random.key(0))
    assert {
        len(leaf.shape) and leaf.shape[0] for leaf in jax.tree.leaves(state.params)
    } == {10}


def test_particles_are_the_mean_of_their_nets():
    [net] = trained("svgd")
    x = jnp.asarray(data.load("digits_8x8").test.inputs[:5] / 255.0, jnp.float32)
    variables = {"params": net.params}
    ours, _ = net.model.apply(variables, x, mutable=[])
    each = [
        net.model.model.apply(
            {"params": jax.tree.map(lambda a, i=i: a[i], net.params)}, x
        )
        for i in range(WALK)
    ]
    mean = np.mean([jax.nn.softmax(one) for one in each], 0)
    np.testing.assert_allclose(jax.nn.softmax(ours), mean, rtol=1e-4)


def test_particles_need_a_run_that_has_them():
    config = load_config("configs/comparators.py:svgd,quick")
    with pytest.raises(ConfigError, match="particles"):
        study._particles(config, None, trained("one"))
