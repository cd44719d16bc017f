"""Laws of IVON: the paper's algorithm, and the posterior that it ends at."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax, random
from train_tasks import fit, make_split, make_task

from experiments import spec
from vnets import ivon, layers, likelihoods, nets, nodes, priors, train
from vnets.loss import ModelState, forward, neg_elbo

N, DELTA, START = 40, 0.05, 0.7  # examples, delta and the first h


def test_it_is_the_algorithm_of_the_paper():
    """Step by step beside algorithm 1, on a loss that is no parabola, b1 = 0."""
    rate, b2 = 0.1, 0.9
    draws = np.random.default_rng(0).normal(size=(8, 5))

    def loss(w):
        return jnp.sum(jnp.cosh(w) + jnp.sin(3 * w))

    def bound(node, draw):
        w = node.mean + jnp.exp(node.log_var / 2) * draw
        kl = priors.standard_normal((N * DELTA) ** -0.5)(node)
        return loss(w) + kl / N

    log_var = jnp.full(5, -np.log(N * (START + DELTA)))
    node = {"w": nodes.Additive(jnp.linspace(-1, 1, 5), log_var)}
    optimizer = ivon.ivon(rate, N, b1=0.0, b2=b2)
    state = optimizer.init(node)
    mean, h = np.linspace(-1, 1, 5), np.full(5, START)
    for draw in draws:
        gradient = {"w": jax.grad(bound)(node["w"], draw)}
        moves, state = optimizer.update(gradient, state, node)
        node = jax.tree.map(jnp.add, node, moves)

        var = 1 / (N * (h + DELTA))
        g = np.asarray(jax.grad(loss)(jnp.asarray(mean + np.sqrt(var) * draw)))
        seen = g * draw / np.sqrt(var)
        square = (1 - b2) ** 2 * (h - seen) ** 2 / (2 * (h + DELTA))
        h = b2 * h + (1 - b2) * seen + square
        mean = mean - rate * (START + DELTA) * (g + DELTA * mean) / (h + DELTA)
        np.testing.assert_allclose(node["w"].mean, mean, rtol=1e-4)
        var = 1 / (N * (h + DELTA))
        np.testing.assert_allclose(jnp.exp(node["w"].log_var), var, rtol=1e-4)


@pytest.mark.parametrize("estimator", ["lrt", "weight_sampling"])
def test_a_linear_model_has_its_exact_mean_field_posterior(estimator):
    """Means of Bayes' posterior, and one over the diagonal of its precision."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(N, 3)) @ np.array([[1, 0.6, 0], [0, 0.8, 0], [0, 0, 0.5]])
    std, scale = 0.5, 1.0
    y = x @ np.array([1.0, -0.5, 2.0]) + std * rng.normal(size=N)
    precision = x.T @ x / std**2 + np.eye(3) / scale**2
    expected = np.linalg.solve(precision, x.T @ y / std**2)

    model = layers.Dense(1, nodes.gaussian(-4.0), use_bias=False)
    mode = spec.mode(estimator)
    loss = neg_elbo(
        forward(model, mode),
        likelihoods.Gaussian(std),
        priors.standard_normal(scale),
        N,
    )
    batch = {"input": jnp.asarray(x, jnp.float32), "target": y[:, None]}
    batch["target"] = jnp.asarray(batch["target"], jnp.float32)
    rates = {"name": "ivon", "learning_rate": ((0.0, 0.05), (1.0, 0.0)), "b2": 0.998}
    steps = 6000
    optimizer = spec.optimizer(rates, steps, N)

    def step(carry, number):
        params, state = carry
        own = ModelState(number, {})
        key = random.fold_in(random.key(2), number)
        gradient = jax.grad(lambda p: loss(p, own, batch, key)[0])(params)
        moves, state = optimizer.update(gradient, state, params)
        return (jax.tree.map(jnp.add, params, moves), state), None

    keys = {"params": random.key(0), "noise": random.key(1)}
    params = model.init(keys, batch["input"], mode)["params"]
    run = jax.jit(lambda carry: lax.scan(step, carry, jnp.arange(steps))[0])
    node = run((params, optimizer.init(params)))[0]["kernel"]
    var = 1 / np.diag(precision)
    np.testing.assert_allclose(jnp.exp(node.log_var)[:, 0], var, rtol=0.1)
    gap = np.abs(node.mean[:, 0] - expected) / np.sqrt(var)
    np.testing.assert_array_less(gap, 0.2)


def test_what_has_no_noise_descends_with_momentum():
    params = {"bias": jnp.ones(2), "w": nodes.Additive(jnp.ones(2), jnp.zeros(2))}
    gradient = {"bias": jnp.ones(2), "w": nodes.Additive(jnp.ones(2), jnp.zeros(2))}
    optimizer = ivon.ivon(0.1, N)
    moves, state = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_allclose(moves["bias"], -0.1, rtol=1e-5)
    np.testing.assert_allclose(moves["w"].mean, -0.1, rtol=1e-5)  # variance at start
    assert jax.tree.leaves(state.momentum)[0].shape == (2,)


def test_other_noise_is_refused():
    with pytest.raises(ValueError, match="learning_rate is at least 0"):
        ivon.ivon(-0.1, N)
    optimizer = ivon.ivon(0.1, N)
    for node in (nodes.ZeroMean(jnp.zeros(2)), nodes.Multiplicative(*jnp.ones((2, 2)))):
        with pytest.raises(ValueError, match="'w' is a"):
            optimizer.init({"w": node})
    with pytest.raises(ValueError, match="there are none"):
        optimizer.init({"w": jnp.ones(2)})
    with pytest.raises(ValueError, match="n_train must be"):
        ivon.ivon(0.1, 0)
    with pytest.raises(ValueError, match="b2 is in"):
        ivon.ivon(0.1, N, b2=1.0)


def test_a_task_is_trained_with_it(one_device):
    split = make_split()
    own = dict.fromkeys(("dense1", "dense2"), nodes.gaussian(-6.0))
    model = nets.MLP((16,), 4, posteriors=own)
    prior, n = priors.standard_normal(0.3), len(split)
    task = dataclasses.replace(
        make_task(split, ivon.ivon(0.1, n, b2=0.9)),
        init=train.initializer(model, jnp.zeros((1, 4, 4, 1), jnp.float32)),
        loss=neg_elbo(forward(model), likelihoods.Categorical(), prior, n),
        locate=None,
    )
    [result] = fit(task, one_device, epochs=20)
    losses = [row["loss"] for row in result.history]
    assert losses[-1] < 0.5 * losses[0]
