"""The variance of the gradient of the means, against its closed form."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from experiments import core
from experiments.config_files import load_config
from experiments.core import Net
from experiments.spec import ConfigError
from experiments.studies import gradient_noise
from experiments.studies.gradient_noise import (
    additive,
    multiplicative,
    variance_per_weight,
)
from experiments.thresholds import layers_of
from vnets.data import Split
from vnets.nets import MLP
from vnets.nodes import Gaussian, is_posterior
from vnets.types import Params

INPUTS, DRAWS = 6, 4000


@pytest.fixture(scope="module")
def net():
    """A linear net of two classes, and noise so small that the loss is linear in it."""
    model = MLP((), 2, posteriors={})
    mean = random.normal(random.key(0), (INPUTS, 2))
    log_alpha = jnp.linspace(-12.0, -6.0, 2 * INPUTS).reshape(INPUTS, 2)
    node = Gaussian(mean, log_alpha + 2 * jnp.log(jnp.abs(mean)))
    params: Params = {"dense1": {"kernel": node, "bias": jnp.zeros(2)}}
    return Net(model, params, {})


def changed(net, form):
    params = jax.tree.map(form, net.params, is_leaf=is_posterior)
    return Net(net.model, params, net.collections)


def test_the_two_forms_are_the_same_posterior(net):
    there = changed(net, multiplicative)
    back = changed(there, additive)
    for one in (there, back):
        for a, b in zip(
            one.params["dense1"]["kernel"].moments(),
            net.params["dense1"]["kernel"].moments(),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, rtol=1e-4)


def test_the_gradient_of_one_example_has_the_variance_of_the_formula(net):
    """y_k = m_k + s_k eps_k with m = x mu, s_k^2 = sum_i x_i^2 var_ik.

    To first order in the noise, g_k = p_k - hot_k varies by H (s eps), and d y_k / d mu
    is x_i (additive) or x_i + x_i^2 alpha_ik mu_ik eps_k / s_k (multiplicative).
    """
    x = random.normal(random.key(1), (1, INPUTS))
    label = jnp.zeros((1,), jnp.int32)
    node = net.params["dense1"]["kernel"]
    mu, var = np.asarray(node.mean, np.float64), np.exp(np.asarray(node.log_var))
    inputs = np.asarray(x[0], np.float64)
    p = np.asarray(jax.nn.softmax(x @ node.mean)[0], np.float64)
    gradient = p - np.asarray([1.0, 0.0])
    hessian = np.diag(p) - np.outer(p, p)
    std = np.sqrt(inputs**2 @ var)
    through_loss = inputs[:, None, None] * (hessian * std[None, :])[None]
    expected_additive = (through_loss**2).sum(-1)
    direct = (inputs[:, None] ** 2) * var / mu / std[None] * gradient[None]
    both = through_loss + direct[:, :, None] * np.eye(2)[None]
    expected_multiplicative = (both**2).sum(-1)
    for form, expected in (
        (additive, expected_additive),
        (multiplicative, expected_multiplicative),
    ):
        spread = variance_per_weight(changed(net, form), x, label, random.key(2), DRAWS)
        # A variance of n normal draws has a relative error of sqrt(2 / n).
        np.testing.assert_allclose(
            spread["dense1"]["kernel"].mean, expected, rtol=6 * np.sqrt(2 / DRAWS)
        )


def test_dropped_means_keep_their_noise_and_are_left_out(net):
    """Half of the means are 0, as after training that drops them."""
    node = net.params["dense1"]["kernel"]
    idle = jnp.arange(node.mean.size).reshape(node.shape) % 2 == 1
    log_var = jnp.where(idle, -2.0, node.log_var)
    dropped = Gaussian(jnp.where(idle, 0.0, node.mean), log_var)
    params: Params = {"dense1": {**net.params["dense1"], "kernel": dropped}}
    sparse = Net(net.model, params, {})
    both = [changed(sparse, form) for form in (additive, multiplicative)]
    for one in both:
        mean, var = one.params["dense1"]["kernel"].moments()
        np.testing.assert_allclose(mean, dropped.mean, atol=2 * gradient_noise.LEAST)
        np.testing.assert_allclose(var, jnp.exp(log_var), rtol=1e-4)
    layers = {layer.name: layer for layer in layers_of(sparse.params)}
    x = random.normal(random.key(1), (1, INPUTS))
    label = jnp.zeros((1,), jnp.int32)
    found = [
        gradient_noise._kept(
            layers, variance_per_weight(one, x, label, random.key(2), DRAWS)
        )
        for one in both
    ]
    expected = np.asarray(log_var - 2 * jnp.log(jnp.abs(node.mean)))[~np.asarray(idle)]
    for log_alpha, _ in found:
        np.testing.assert_allclose(log_alpha, expected, rtol=1e-4)
    # Weights with little noise of their own: what the others' noise does to their
    # gradient is the same in both forms, all but its own part (below exp(-6)).
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=0.2)


def test_one_draw_is_refused_and_a_range_without_weights_has_no_curve(net):
    config = load_config("configs/sparse_vd.py:lenet_300_100_gradient_noise,quick")
    config.gradient.draws = 1
    with pytest.raises(ConfigError, match=r"gradient\.draws must be at least 2, not 1"):
        core.build(config)
    config.gradient.update({"draws": 2, "images": 1, "range": (50.0, 60.0)})
    one = Split(np.full((1, INPUTS), 255, np.uint8), np.zeros(1, np.int32))
    points, nets = SimpleNamespace(train=one), {"net": [net]}
    measured = gradient_noise._measure(config.gradient, points, nets, random.key(3))
    assert measured.curves["gradient"]["log_alpha"] == []
    assert np.isnan(measured.evals["gradient"]["ratio"])
