"""Laws of what is measured in the phase transition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from experiments import transition
from vnets.data import Split
from vnets.edits import zero_mean
from vnets.nets import MLP, LeNet5
from vnets.nodes import multiplicative, variance

LABELS = jnp.arange(600) % 3


def params_with(make):
    net = MLP((6,), 3, posteriors={"dense1": make})
    rngs = {"params": random.key(0), "noise": random.key(1)}
    return net, jax.jit(net.init)(rngs, jnp.zeros((1, 5), jnp.float32))["params"]


@pytest.mark.parametrize("log_alpha", [-3.0, 0.0, 4.0, 9.0])
def test_dropping_the_means_costs_half_the_inverse_of_alpha(log_alpha):
    _, params = params_with(multiplicative(log_alpha))
    cost = transition.substitution(params, "dense1")
    assert cost["kl"] == pytest.approx(0.5 * np.exp(-log_alpha), rel=1e-3, abs=1e-6)
    assert cost["half_inverse_alpha"] == pytest.approx(0.5 * np.exp(-log_alpha))


def test_a_layer_without_alpha_has_no_such_cost():
    _, params = params_with(variance())
    assert transition.substitution(params, "dense1") is None
    with pytest.raises(ValueError, match=r"dense9.*dense1.*dense2"):
        transition.substitution(params, "dense9")


def test_gaussian_kl_is_the_integral():
    x = np.linspace(-30, 30, 60001)

    def density(mean, var):
        return np.exp(-((x - mean) ** 2) / (2 * var)) / np.sqrt(2 * np.pi * var)

    q, p = density(0.3, 0.5), density(-1.0, 2.0)
    expected = np.sum(q * np.log((q + 1e-300) / (p + 1e-300))) * 0.001
    numbers = (jnp.float32(v) for v in (0.3, 0.5, -1.0, 2.0))
    assert float(transition.gaussian_kl(*numbers)) == pytest.approx(expected, rel=1e-4)


def test_channels_are_told_apart():
    """A class in the means is no information in the variances, and the reverse."""
    signal = (LABELS - 1.0)[:, None] * jnp.ones((1, 4), jnp.float32)
    flat = jnp.ones_like(signal)
    mean = transition.channel_information(2 * signal, flat, LABELS)
    # Class means -2, 0, 2 with unit noise: SNR 8/3.
    assert mean["mean_information"] == pytest.approx(0.5 * np.log1p(8 / 3), rel=1e-5)
    assert mean["variance_information"] == pytest.approx(0.0, abs=1e-6)
    var = transition.channel_information(None, jnp.exp(signal), LABELS)
    assert var["mean_information"] == 0.0
    # Class means of log v are -1, 0, 1: 2/3 over 2.
    assert var["variance_information"] == pytest.approx(0.5 * np.log1p(1 / 3), rel=1e-5)


def test_the_probe_reads_the_named_layer():
    net, params = params_with(multiplicative(2.0))
    image = np.random.default_rng(0).integers(0, 256, (60, 5), np.uint8)
    split = Split(image, np.arange(60, dtype=np.int32) % 3)
    found = transition.probe(net, "dense1", split)(params, {}, random.key(0))
    node = params["dense1"]["kernel"]
    h = image.astype(np.float32) / 255
    mean, var = node.moments()
    expected = transition.channel_information(
        h @ mean, h**2 @ var, jnp.asarray(split.target)
    )
    assert found == pytest.approx(expected, rel=1e-4)
    dropped = transition.probe(net, "dense1", split)(
        zero_mean(params, random.key(1)), {}, random.key(0)
    )
    assert dropped["mean_information"] == 0.0
    assert dropped["variance_information"] == pytest.approx(
        found["variance_information"], rel=1e-5
    )


def test_the_probe_reads_a_layer_of_a_convolutional_net():
    net = LeNet5(batch_norm=True, posteriors={"dense1": multiplicative(2.0)})
    image = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 1), np.uint8)
    split = Split(image, np.arange(30, dtype=np.int32) % 3)
    rngs = {"params": random.key(0), "noise": random.key(1)}
    variables = jax.jit(net.init)(rngs, jnp.zeros((1, 16, 16, 1), jnp.float32))
    params = variables.pop("params")
    found = transition.probe(net, "dense1", split)(params, variables, random.key(0))
    assert found["mean_information"] > 0
    assert found["variance_information"] > 0
