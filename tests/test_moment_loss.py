"""Laws of training by moments: the points, the loss beside draws, and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from experiments import core
from experiments.config_files import load_config
from experiments.spec import ConfigError
from vnets import likelihoods, moments, nets, nodes, priors, propagation
from vnets.loss import ModelState, forward, neg_elbo

N, DRAWS = 20, 4_000
CLASSES = likelihoods.Categorical()


def task(posteriors, classes=3):
    """A net, its parameters, its state and a batch."""
    model = nets.MLP((6,), classes, posteriors=posteriors)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(N, 4)), jnp.float32)
    keys = {"params": random.key(0), "noise": random.key(1)}
    params = model.init(keys, x)["params"]
    batch = {"input": x, "target": jnp.asarray(rng.integers(0, classes, N))}
    return model, params, ModelState(jnp.zeros((), jnp.int32), {}), batch


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_points_have_the_mean_and_the_covariance(scale):
    rng = np.random.default_rng(1)
    mean, root = rng.normal(size=(2, 3)), scale * rng.normal(size=(2, 3, 3))
    cov = root @ root.transpose(0, 2, 1)
    found = moments.points(*(jnp.asarray(a, jnp.float32) for a in (mean, cov)))
    assert found.shape == (6, 2, 3)
    np.testing.assert_allclose(found.mean(0), mean, atol=1e-5)
    gap = np.asarray(found) - mean
    seen = np.einsum("sbk,sbl->bkl", gap, gap) / len(found)
    np.testing.assert_allclose(seen, cov, atol=2e-5)
    assert moments.points(jnp.zeros((2, 3)), None).shape == (1, 2, 3)


def test_without_noise_it_is_the_loss_and_its_gradient():
    model, params, state, batch = task({})
    args = params, state, batch, random.key(0)
    plain = neg_elbo(forward(model), CLASSES, priors.log_uniform, N)
    ours = propagation.moment_loss(model, CLASSES, priors.log_uniform, N)
    one, other = (jax.grad(loss, has_aux=True)(*args)[0] for loss in (plain, ours))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), one, other
    )


@pytest.mark.parametrize("name", ["dropout", "gaussian"])
def test_it_is_near_the_mean_over_draws(name):
    """Noise before the last layer, whose moments are exact: to the third degree."""
    noise = {"dropout": nodes.dropout(0.5), "gaussian": nodes.gaussian(-3.0)}[name]
    model, params, state, batch = task({"dense2": noise})
    prior = priors.log_uniform

    @jax.jit
    def losses(keys):
        plain = neg_elbo(forward(model), CLASSES, prior, N, average="losses")
        return jax.vmap(lambda key: plain(params, state, batch, key)[0])(keys)

    drawn = losses(random.split(random.key(2), DRAWS))
    ours, _ = propagation.moment_loss(model, CLASSES, prior, N)(
        params, state, batch, random.key(0)
    )
    # The mask's fourth moments are not the points': a hundredth of the loss.
    error = 5 * float(drawn.std()) / DRAWS**0.5
    assert abs(float(ours) - float(drawn.mean())) <= error + 0.01 * abs(float(ours))
    off, _ = neg_elbo(forward(model), CLASSES, prior, N)(
        {**params, "dense2": {**params["dense2"], "kernel": still(params)}},
        *(state, batch, random.key(0)),
    )
    assert float(off) < float(drawn.mean()) - error  # noise costs something here


def still(params):
    return nodes.Point(params["dense2"]["kernel"].moments()[0])


def test_a_gaussian_target_has_the_expected_square_exactly():
    """E (y - f)^2 = (y - mean)^2 + variance, which points of two moments have."""
    model, params, state, batch = task({"dense2": nodes.gaussian(-2.0)}, classes=1)
    batch = {**batch, "target": jnp.ones((N, 1), jnp.float32)}
    noise = likelihoods.Gaussian(std=0.7)
    loss = propagation.moment_loss(model, noise, priors.standard_normal(1.0), N, 0.0)
    found, _ = loss(params, state, batch, random.key(0))
    logits = propagation.moments(model, {"params": params}, batch["input"])
    square = np.square(1 - logits.mean) + logits.var
    expected = np.mean(square) / (2 * 0.49) + np.log(0.7) + 0.5 * np.log(2 * np.pi)
    assert float(found) == pytest.approx(float(expected), rel=1e-4)


def test_what_draws_nothing_refuses_what_is_of_draws():
    config = load_config("configs/noise_sources.py:net_moments,quick")
    core.build(config)
    config.train_samples = 2
    with pytest.raises(ConfigError, match="train_samples is of draws"):
        core.build(config)
    model = nets.MLP((6,), 3, batch_norm=True)
    x = jnp.ones((2, 4))
    state = ModelState(jnp.zeros((), jnp.int32), {"batch_stats": {}})
    loss = propagation.moment_loss(model, CLASSES, priors.log_uniform, N)
    with pytest.raises(ValueError, match="without batch normalization"):
        loss({}, state, {"input": x, "target": jnp.zeros(2, int)}, random.key(0))
