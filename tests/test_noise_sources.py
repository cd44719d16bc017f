"""Noise of images and of batch statistics, and the study that has every noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import random

from configs import noise_sources
from experiments import core
from experiments.config_files import load_config
from experiments.spec import ConfigError
from vnets import statistics
from vnets.augment import Augmented, CropAndFlip
from vnets.layers import TRAIN, call
from vnets.nets import MLP
from vnets.predictor import Member, Predictor, Stack

N, BATCH = 40, 8


def normalized(momentum=0.9):
    """A net with batch normalization of its input, and variables of it."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            x = nn.BatchNorm(
                use_running_average=not train, momentum=momentum, name="norm"
            )(x)
            return nn.Dense(3, name="dense")(x)

    net = call(Net(), train="train")
    x = np.random.default_rng(0).normal(2.0, 3.0, (N, 4)).astype(np.float32)
    return net, jax.jit(net.init)(random.key(0), x[:1]), x


def drawn(net, variables, x, draws=30, batch_size=BATCH, seed=1):
    return statistics.of_batches(
        net, variables, x, random.key(seed), batch_size=batch_size, draws=draws
    )


@pytest.mark.parametrize("momentum", [0.5, 0.99])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_statistics_of_all_inputs_are_theirs_whatever_the_momentum(momentum, size):
    net, variables, x = normalized(momentum)
    x = size * x
    found = drawn(net, variables, x, draws=2, batch_size=N)["batch_stats"]["norm"]
    for seen, own in (("mean", x.mean(0)), ("var", x.var(0))):
        np.testing.assert_allclose(found[seen][0], own, rtol=1e-4)
        np.testing.assert_allclose(found[seen][1], own, rtol=1e-4)


def test_statistics_vary_as_those_of_batches_without_repetition():
    net, variables, x = normalized()
    draws = 400
    means = drawn(net, variables, x, draws)["batch_stats"]["norm"]["mean"]
    # A mean of n of N without repetition.
    var = x.var(0) / BATCH * (N - BATCH) / (N - 1)
    np.testing.assert_allclose(means.var(0), var, rtol=5 * (2 / draws) ** 0.5)
    gap = np.abs(np.asarray(means.mean(0)) - x.mean(0))
    assert (gap < 5 * np.sqrt(var / draws)).all()


def test_a_net_that_normalizes_its_batch_is_one_of_the_stack():
    net, variables, x = normalized()
    several = drawn(net, variables, x, draws=1, batch_size=N)
    logits, _ = net.apply(variables, x, mode=TRAIN, mutable=["batch_stats"])
    predicted = Predictor(Stack(net, several))(x, random.key(0))[0]
    np.testing.assert_allclose(
        predicted, jax.nn.log_softmax(logits), rtol=5e-3, atol=5e-3
    )


def test_statistics_that_there_are_not_are_refused():
    net, variables, x = normalized()
    for fields, words in (
        ({"draws": 0}, "draws must be at least 1"),
        ({"batch_size": N + 1}, f"from 1 to {N}"),
        ({"batch_size": 0}, f"from 1 to {N}"),
    ):
        with pytest.raises(ValueError, match=words):
            drawn(net, variables, x, **fields)
    with pytest.raises(ValueError, match="no batch normalization"):
        drawn(net, {"params": variables["params"]}, x)


def test_an_augmented_net_sees_each_image_moved_and_each_draw_another_way():
    seen = MLP(widths=(), classes=4)
    x = random.normal(random.key(3), (2, 3, 3, 1))
    variables = seen.init(random.key(0), x)
    moved = Augmented(seen, CropAndFlip(pad=1, flip=False))
    predicted = Predictor(Member(moved, variables), samples=80)(x, random.key(0))
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    crops = jnp.stack(
        [padded[:, i : i + 3, j : j + 3] for i in range(3) for j in range(3)]
    )
    logits = seen.apply(variables, crops.reshape(18, 3, 3, 1)).reshape(9, 2, 4)
    each, predicted = np.asarray(jax.nn.log_softmax(logits)), np.asarray(predicted)
    for image in range(2):
        gaps = np.abs(predicted[:, None, image] - each[None, :, image]).max(-1)
        assert gaps.min(1).max() < 1e-5  # each is one of the nine
        assert set(gaps.argmin(1)) == set(range(9))
    with pytest.raises(ValueError, match="alternate"):
        Augmented(seen, CropAndFlip(flip="alternate"))


def measured(row, **fields):
    """What the study finds of a net that has learned nothing."""
    config = load_config(f"configs/noise_sources.py:{row},quick")
    config.samples = 3
    trained = load_config(f"configs/noise_sources.py:net_{row},quick")
    trained.model.widths = (8, 8)
    made = core.build(trained)
    params, collections = jax.jit(made.task.init)(random.key(0))
    for name, value in fields.items():
        config[name] = value
    study = core.build(config)
    net = core.Net(made.model, params, collections)
    return study.measure({"net": [net]}, random.key(1)).evals


@pytest.mark.parametrize("row", ["none", "all", "gaussian"])
def test_an_average_costs_no_more_than_its_draws_on_average(row):
    found = measured(row)
    ens = found["ens"]
    assert ens["samples"] == 3
    assert ens["nll"] <= ens["nll_of_one"] + 1e-6
    if row == "none":
        np.testing.assert_allclose(ens["nll"], found["det"]["nll"], rtol=1e-5)
        np.testing.assert_allclose(ens["nll_of_one"], ens["nll"], rtol=1e-5)
    else:
        assert ens["nll"] < ens["nll_of_one"]
    assert ("permuted_ens" in found) == (row == "gaussian")
    assert not {"moments", "many"} & set(found)


def test_moments_stand_beside_many_draws_of_dropout():
    found = measured("dropout")
    assert found["many"]["samples"] == 200
    assert found["moments"]["samples"] == 1
    gap = found["moments"]["nll"] - found["many"]["nll"]
    assert abs(gap) < 0.01


def test_what_the_study_has_not_is_refused():
    for row, fields, words in (
        ("none", {"also": ("kappa",)}, r"also.*moments.*permuted"),
        ("none", {"samples": 0}, "samples"),
    ):
        with pytest.raises(ConfigError, match=words):
            measured(row, **fields)
    config = load_config("configs/noise_sources.py:statistics,quick")
    config.noise.batch_size = 10**6
    study = core.build(config)
    made = core.build(load_config("configs/noise_sources.py:net_statistics,quick"))
    params, held = jax.jit(made.task.init)(random.key(0))
    net = core.Net(made.model, params, held)
    with pytest.raises(ConfigError, match=r"noise\.batch_size.*from 1 to 1437"):
        study.measure({"net": [net]}, random.key(0))


def test_nets_have_the_noise_of_their_row():
    for row in noise_sources.ROWS:
        config = load_config(f"configs/noise_sources.py:net_{row},quick")
        study = load_config(f"configs/noise_sources.py:{row},quick")
        assert config.model.batch_norm == ("batch_size" in study.noise)
        assert ("augment" in config.dataset) == ("augment" in study.noise)
        assert bool(config.model.posteriors) == (
            row in ("dropout", "all", "gaussian", "variance", "moments")
        )
