"""Laws of Muon and of optimizers by pattern."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import random

from vnets import optimizers
from vnets.nodes import gaussian, point

PARAMS = {
    "conv1": {"kernel": point()(random.key(0), (3, 3, 4, 8))},
    "dense1": {"kernel": gaussian()(random.key(1), (6, 5)), "bias": jnp.ones(5)},
}
GRADIENTS = jax.tree.map(
    lambda x: random.normal(random.key(2), x.shape, x.dtype), PARAMS
)


def updated(optimizer, params=PARAMS, gradients=GRADIENTS):
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    return updates


@pytest.mark.parametrize("shape", [(3, 3, 4, 8), (2, 2, 2, 40), (6, 5)])
def test_muon_makes_singular_values_near_one(shape):
    gradient = random.normal(random.key(0), shape)
    update = updated(optimizers.muon(1.0), jnp.ones(shape), gradient)
    flat = np.asarray(update).reshape(-1, shape[-1])
    values = np.linalg.svd(flat, compute_uv=False)
    assert values.min() > 0.5
    assert values.max() < 1.3
    # It turns no direction around: the gradient falls along it.
    assert np.sum(flat * np.asarray(gradient).reshape(flat.shape)) < 0


def test_muon_does_not_see_the_size_of_gradients():
    gradient = random.normal(random.key(0), (6, 5))
    large, small = (
        updated(optimizers.muon(0.1), jnp.ones((6, 5)), size * gradient)
        for size in (1.0, 1e-3)
    )
    np.testing.assert_allclose(large, small, rtol=1e-3, atol=1e-5)


def test_muon_keeps_the_norm_that_it_is_asked_to():
    kernel = 7.0 * random.normal(random.key(0), (3, 3, 4, 8))
    gradient = random.normal(random.key(1), kernel.shape)
    plain = updated(optimizers.muon(0.1), kernel, gradient)
    kept = updated(optimizers.muon(0.1, keep_norm=True), kernel, gradient)
    moved = optax.apply_updates(kernel, kept) - plain
    assert jnp.linalg.norm(moved) == pytest.approx(8**0.5, rel=1e-5)
    directions = [one / jnp.linalg.norm(one) for one in (moved, kernel)]
    np.testing.assert_allclose(*directions, atol=1e-6)


def test_muon_refuses_vectors():
    with pytest.raises(ValueError, match=r"matrices and kernels, not of \[5\]"):
        updated(optimizers.muon(0.1), jnp.ones(5), jnp.ones(5))


def test_each_parameter_has_the_optimizer_of_its_first_match():
    by = optimizers.by_pattern(
        {"dense1/kernel/mean": optax.sgd(10.0), "dense1/*": optax.sgd(100.0)},
        optax.sgd(1.0),
    )
    found = jax.tree.map(lambda u, g: u / g, updated(by), GRADIENTS)
    assert jnp.allclose(found["conv1"]["kernel"].mean, -1.0)
    assert jnp.allclose(found["dense1"]["kernel"].mean, -10.0)
    assert jnp.allclose(found["dense1"]["kernel"].log_var, -100.0)
    assert jnp.allclose(found["dense1"]["bias"], -100.0)


def test_a_factor_of_nothing_holds_a_parameter():
    factors = {"conv1/*": 0.0, "*/bias": 3.0, "*/nowhere": 5.0}
    scaled = updated(optimizers.scale_by_pattern(factors))
    assert not jnp.any(scaled["conv1"]["kernel"].mean)
    bias = scaled["dense1"]["bias"], GRADIENTS["dense1"]["bias"]
    np.testing.assert_allclose(bias[0], 3.0 * bias[1])


@pytest.mark.parametrize(
    "make",
    [
        lambda pattern: optimizers.by_pattern({pattern: optax.sgd(1)}, optax.sgd(1)),
        lambda pattern: optimizers.scale_by_pattern({pattern: 2.0}),
    ],
)
def test_a_pattern_of_nothing_is_refused(make):
    with pytest.raises(ValueError, match=r"nothing is left for \['conv2/\*'\].*dense1"):
        make("conv2/*").init(PARAMS)
