"""What LRT neglects in a convolution, by formula and by draws; the study itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from experiments import core
from experiments.config_files import load_config
from experiments.spec import ConfigError
from experiments.studies import conv_lrt
from vnets import ops
from vnets.estimators import weight_sampling
from vnets.nets import MLP
from vnets.nodes import gaussian

DRAWS = 4000


@pytest.fixture(scope="module")
def convolution():
    """Inputs, a node, and draws of its noise [n, B, H, W, O] by weight samples."""
    node = gaussian(0.0)(random.key(0), (2, 3, 2, 2))
    x = jnp.abs(random.normal(random.key(1), (2, 5, 6, 2)))
    op = ops.conv((5, 6), (2, 3), (2, 2), padding="VALID")
    mean = op.lower(op.apply(op.lift(x), node.mean))
    run = jax.jit(jax.vmap(lambda key: weight_sampling(op, node, x, key) - mean))
    noise = run(random.split(random.key(2), DRAWS))
    return x, node, np.asarray(noise, np.float64)


def test_correlations_are_those_of_the_draws(convolution):
    x, node, noise = convolution
    found = conv_lrt.correlations(x, jnp.exp(node.log_var), 10)
    assert len(found) == 4  # the output map is 4 x 4
    assert found[0] == pytest.approx(1, abs=1e-5)
    std = noise.std(axis=0)
    for offset in (1, 3):
        products = full = 0
        for axis in (2, 3):
            n = noise.shape[axis]
            one = np.take(noise, range(offset, n), axis)
            other = np.take(noise, range(n - offset), axis)
            products = products + (one * other).sum(axis=(1, 2, 3, 4))
            ahead = np.take(std, range(offset, n), axis - 1)
            full += (ahead * np.take(std, range(n - offset), axis - 1)).sum()
        draws = products / full
        error = draws.std() / np.sqrt(DRAWS)
        assert abs(draws.mean() - found[offset]) < 5 * error


def test_the_mean_of_a_map_varies_as_its_draws_do(convolution):
    x, node, noise = convolution
    found = conv_lrt.variance_of_mean(x, jnp.exp(node.log_var))
    together = noise.mean(axis=(2, 3)).var(axis=0).sum()
    alone = noise.var(axis=0).mean(axis=(1, 2)).sum() / 16
    # Each of the variances has a relative error of at most sqrt(2 / DRAWS).
    assert found == pytest.approx(together / alone, rel=5 * 2 * np.sqrt(2 / DRAWS))
    assert found > 1


# LeNet-5 compiled for two estimators, in training and in tests.
@pytest.mark.slow
def test_the_study_measures_all_that_its_table_shows():
    config = load_config("configs/conv_lrt.py:flipout,quick")
    config.evals.samples, config.covariance.images, config.cost.rounds = 2, 4, 1
    config.training.batch_size = 8
    study = core.build(config)
    model = conv_lrt.classify.build(config.training)
    params, collections = model.init(random.key(0))
    net = core.Net(model.model, params, collections)
    measured = study.measure({"net": [net]}, random.key(1))
    for name in ("lrt", "sampled"):
        for column in ("one", "ens"):
            assert 0 <= measured.evals[f"{name}_{column}"]["accuracy"] <= 1
    for layer in ("conv1", "conv2"):
        assert 0 < measured.evals[layer]["neighbour"] < 1
        assert measured.evals[layer]["variance_of_mean"] > 1
        curve = measured.curves[layer]
        assert len(curve["offset"]) == len(curve["correlation"]) == 4
    assert measured.evals["step"]["of_lrt"] > 0


def test_a_net_without_noisy_convolutions_is_refused():
    model = MLP((), 2, posteriors={"dense1": gaussian()})
    x = jnp.zeros((1, 4), jnp.float32)
    keys = {"params": random.key(0), "noise": random.key(0)}
    net = core.Net(model, model.init(keys, x)["params"], {})
    with pytest.raises(ConfigError, match=r"none of this net's layers \['dense1'\]"):
        conv_lrt.noisy_convolutions(net)


@pytest.mark.parametrize(
    ("group", "field", "value", "words"),
    [
        ("evals", "samples", 0, "evals.samples must be at least 1"),
        ("covariance", "images", 0, "covariance.images must be at least 1"),
        ("covariance", "offsets", 1, "covariance.offsets must be at least 2"),
        ("cost", "rounds", 0, "cost.rounds must be at least 1"),
    ],
)
def test_wrong_fields_are_refused(group, field, value, words):
    config = load_config("configs/conv_lrt.py:lrt,quick")
    config[group][field] = value
    with pytest.raises(ConfigError, match=words):
        core.build(config)


def test_an_unknown_way_is_answered_with_the_known_ones():
    config = load_config("configs/conv_lrt.py:lrt,quick")
    config.way = "antithetic"
    with pytest.raises(ConfigError, match=r"flipout.*lrt.*separate.*single"):
        core.build(config)
