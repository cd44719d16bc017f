"""Laws of Stein particles, SWA and SWAG."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import random

from vnets import edits, svgd, swag
from vnets.loss import ModelState
from vnets.nets import MLP
from vnets.nodes import Point, gaussian
from vnets.predictor import Member, Predictor, Stack

N, SCALE = 20, 0.5


def loss(params, state, batch, key):
    """Of one particle, whose posterior is normal, N(1, SCALE^2)."""
    value = jnp.sum(jnp.square(params["w"] - 1)) / (2 * SCALE**2 * N)
    return value, (state, {"loss": value})


def settled(steps=600, count=40):
    """Particles in one dimension after a while."""
    optimizer = svgd.svgd(0.05, N)
    total = svgd.per_particle(loss)
    params = {"w": 3 * random.normal(random.key(0), (count, 1))}

    def step(carry, _):
        params, state = carry
        state_of = ModelState(jnp.zeros((), jnp.int32), {})
        grads = jax.grad(total, has_aux=True)(params, state_of, None, random.key(0))[0]
        moved, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, moved), state), None

    start = (params, optimizer.init(params))
    (params, _), _ = jax.lax.scan(step, start, length=steps)
    return params


def test_particles_settle_on_the_posterior():
    w = np.asarray(settled()["w"])
    assert w.mean() == pytest.approx(1, abs=0.03)
    assert w.std() == pytest.approx(SCALE, rel=0.15)


def test_the_direction_is_the_formula():
    w, grads = (random.normal(random.key(i), (3, 2)) for i in (0, 1))
    ours, _ = svgd.stein(N).update({"w": grads}, None, {"w": w})
    gaps = np.square(np.asarray(w)[:, None] - np.asarray(w)[None]).sum(-1)
    width = np.median(gaps) / (2 * np.log(4))
    phi = np.zeros((3, 2))
    for i in range(3):
        for j in range(3):
            k = np.exp(-gaps[i, j] / (2 * width))
            phi[i] += k * -N * np.asarray(grads[j]) - (w[j] - w[i]) / width * k
    np.testing.assert_allclose(ours["w"], -phi / 3 / N, rtol=1e-4, atol=1e-6)
    off = np.exp(-gaps / (2 * width))[~np.eye(3, dtype=bool)]
    assert float(svgd.mean_kernel({"w": w})) == pytest.approx(off.mean(), rel=1e-5)


def test_the_direction_is_of_parameters():
    with pytest.raises(ValueError, match="needs the parameters"):
        svgd.stein(3).update(jnp.zeros((2, 3)), optax.EmptyState())


def test_one_particle_is_none():
    with pytest.raises(ValueError, match="2 at least"):
        svgd.particles(lambda key: key, 1)


def walk(count=400):
    """A walk of two tensors whose weights are correlated."""
    z = random.normal(random.key(0), (count, 3))
    kernel = jnp.stack([z[:, 0], z[:, 0] + 0.5 * z[:, 1]], -1).reshape(count, 1, 2)
    layer = {"kernel": Point(1 + kernel), "bias": z[:, :2] + z[:, 2:]}
    return {"params": {"dense1": layer}}


def flat(layer, count):
    bias = layer["bias"].mean if isinstance(layer["bias"], Point) else layer["bias"]
    parts = (np.asarray(layer["kernel"].mean), np.asarray(bias))
    return np.concatenate([p.reshape(count, -1) for p in parts], 1)


def test_swag_has_the_moments_of_the_walk():
    """Half of the variances apart, and half of the covariance in common."""
    collected = walk()
    made = swag.swag(collected, rank=400)
    keys = random.split(random.key(1), 20_000)
    drawn = jax.vmap(lambda key: edits.draw(made["params"], key))(keys)["dense1"]
    ours = flat(drawn, len(keys))
    seen = flat(collected["params"]["dense1"], 400)
    np.testing.assert_allclose(ours.mean(0), seen.mean(0), atol=0.05)
    expected = np.cov(seen.T) / 2 + np.diag(seen.var(0)) / 2
    np.testing.assert_allclose(np.cov(ours.T), expected, atol=0.08)
    mean = swag.average(collected)["params"]["dense1"]
    centre = edits.mean_only(made["params"])["dense1"]
    np.testing.assert_allclose(mean["bias"].mean, centre["bias"].mean, rtol=1e-5)


def test_a_correlated_net_predicts():
    model = MLP((), 2)
    net = swag.swag(walk(5), rank=3)
    x = jnp.ones((4, 1))
    draws = Predictor(Member(model, net), draw=edits.draw, samples=6)(x, random.key(0))
    assert draws.shape == (6, 4, 2)
    assert len(np.unique(draws[:, 0], axis=0)) == 6
    assert len(Predictor(Stack(model, walk(5)))) == 5


def test_what_has_no_mean_is_refused():
    noisy = jax.vmap(lambda key: gaussian()(key, (2, 2)))(random.split(random.key(0)))
    with pytest.raises(ValueError, match="points alone"):
        swag.swag({"params": {"dense1": {"kernel": noisy}}})
    with pytest.raises(ValueError, match="batch_stats"):
        swag.average({**walk(3), "batch_stats": {}})
    with pytest.raises(ValueError, match="needs 2"):
        swag.swag(walk(1))
