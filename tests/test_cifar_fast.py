"""The fast CIFAR recipe: what is noisy where, what learns how, and the net itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from experiments import core
from experiments.config_files import load_config
from experiments.spec import ConfigError
from vnets import compact, nets
from vnets.layers import Mode
from vnets.nodes import ZeroMean


def config(variant, scale="quick"):
    return load_config(f"configs/cifar_fast.py:{variant},{scale}")


def test_noise_stands_where_the_row_says():
    noisy = {}
    for method in ("dropout", "variance", "vd"):
        posteriors = config(f"cifar10_{method}", "short").model.posteriors
        kinds = {layer: spec["kind"] for layer, spec in posteriors.items()}
        noisy[method] = {n: kind for n, kind in kinds.items() if kind != "point"}
    assert noisy["dropout"] == {"dense1": "dropout"}
    assert noisy["variance"] == {"dense1": "variance"}
    assert noisy["vd"] == dict.fromkeys(("conv5", "conv6", "dense1"), "multiplicative")


@pytest.fixture(scope="module")
def built():
    return core.build(config("cifar10_variance"))


def test_the_whitening_is_of_the_data_and_does_not_learn(built):
    task = built.task
    state = jax.jit(task.start)(random.key(0))
    kernel = state.params["whiten"]["kernel"].mean
    images = np.asarray(built.dataset.train.inputs, np.float64)[:5000] / 255
    patches = np.lib.stride_tricks.sliding_window_view(
        (images - 0.3) / 0.4, (2, 2), axis=(1, 2)
    ).reshape(-1, 4)
    seen = patches @ np.asarray(kernel, np.float64).reshape(4, 8)[:, :4]
    moments = seen.T @ seen / len(seen)
    np.testing.assert_allclose(moments, np.eye(4), atol=0.02)
    gradients = jax.tree.map(jnp.ones_like, state.params)
    updates, _ = task.optimizer.update(gradients, state.opt_state, state.params)
    assert not jnp.any(updates["whiten"]["kernel"].mean)
    assert jnp.all(updates["whiten"]["bias"] != 0)
    assert isinstance(state.params["dense1"]["kernel"], ZeroMean)


def test_convolutions_learn_by_muon_at_unit_norm(built):
    state = jax.jit(built.task.start)(random.key(0))
    gradients = jax.tree.map(
        lambda x: random.normal(random.key(1), x.shape), state.params
    )
    updates, _ = built.task.optimizer.update(gradients, state.opt_state, state.params)
    for layer in ("conv1", "conv2"):
        kernel = state.params[layer]["kernel"].mean
        outputs = kernel.shape[-1]
        moved = kernel + updates[layer]["kernel"].mean
        unit = kernel * np.sqrt(outputs) / jnp.linalg.norm(kernel)
        step = np.asarray((moved - unit).reshape(-1, outputs))
        values = np.linalg.svd(step, compute_uv=False) / 0.24
        assert values.max() < 1.4
        assert values[: min(step.shape)].mean() > 0.5


def test_groups_name_what_is_wrong():
    wrong = config("cifar10_variance")
    wrong.optimizer.groups = {"nowhere/*": {"name": "muon", "learning_rate": ((0, 1),)}}
    with pytest.raises(ConfigError, match=r"optimizer.groups: nothing is left"):
        core.build(wrong)
    wrong.optimizer.groups = {"conv*": {"name": "lion", "learning_rate": ((0, 1),)}}
    with pytest.raises(ConfigError, match=r"groups.conv\*.name.*'lion'.*'muon'"):
        core.build(wrong)
    wrong = config("cifar10_variance")
    wrong.train_average = "both"
    with pytest.raises(ConfigError, match=r"train_average.*'both'.*losses"):
        core.build(wrong)


NET = nets.WhitenedCNN(widths=(8, 12), hidden=16, channels=1, last_pool=2)


def test_the_net_is_captured_folded_and_predicts_without_jax():
    """Normalization behind pooling moves into the convolution before both."""
    x = random.uniform(random.key(0), (4, 17, 17, 1))
    variables = NET.init({"params": random.key(1)}, x)
    variables |= NET.apply(variables, x, Mode(norm="batch"), mutable=["batch_stats"])[1]
    expected = NET.apply(variables, x)
    assert expected.shape == (4, 10)
    graph = compact.fold_norms(compact.capture(NET, variables, x.shape[1:]))
    net = compact.Predictor(compact.quantize(graph, bits=8))
    error = np.asarray(net(np.asarray(x))) - expected
    assert np.max(np.abs(error)) < 0.05 * np.std(expected)  # of weights of 8 bits


def test_a_net_without_groups_is_refused():
    with pytest.raises(ValueError, match="widths must be one or more"):
        nets.WhitenedCNN(widths=())
