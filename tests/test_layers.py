"""Laws of Mode and of our own layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import random

from vnets import estimators, layers, pooling
from vnets.layers import TEST, TRAIN, Conv, Dense, Mode
from vnets.nodes import (
    gaussian,
)

IMAGE = (3, 9, 8, 2)


@pytest.fixture(scope="module")
def image():
    return random.normal(random.key(1), IMAGE)


def test_modes_are_checked_hashable_and_static():
    with pytest.raises(ValueError, match=r"'both'.*batch.*running"):
        Mode(norm="both")
    with pytest.raises(ValueError, match=r"'yes'.*False.*True"):
        Mode(remat="yes")
    assert Mode() == TEST
    assert hash(Mode()) == hash(TEST)
    assert Mode(norm="batch") == TRAIN != TEST
    assert jax.tree.leaves(TEST) == []
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def f(mode, x):
        traces.append(mode)
        return x

    for mode in (Mode(), TEST, Mode(norm="running"), Mode(estimators.weight_sampling)):
        f(mode, jnp.float32(1))
    assert len(traces) == 2
    jax.jit(lambda mode, x: x)(TEST, jnp.float32(1))  # as a leafless tree


@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 6)])
def test_dense_is_flax_dense(shape):
    x = random.normal(random.key(0), shape)
    made = Dense(5).init(random.key(1), x)
    q = made["params"]["kernel"]
    plain = {"params": {"kernel": q.mean, "bias": made["params"]["bias"]}}
    expected = nn.Dense(5).apply(plain, x)
    np.testing.assert_allclose(Dense(5).apply(made, x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
@pytest.mark.parametrize("padding", ["SAME", "VALID", ((1, 2), (0, 1))])
def test_conv_is_flax_conv(strides, padding, image):
    ours = Conv(5, (3, 2), strides, padding)
    made = jax.jit(ours.init)(random.key(1), image)
    q = made["params"]["kernel"]
    plain = {"params": {"kernel": q.mean, "bias": made["params"]["bias"] + 1}}
    expected = jax.jit(nn.Conv(5, (3, 2), strides, padding).apply)(plain, image)
    got = jax.jit(ours.apply)(plain, image)  # an array is a point
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_a_kernel_of_the_wrong_shape_is_refused():
    made = Dense(5).init(random.key(0), jnp.ones((2, 3), jnp.float32))
    with pytest.raises(ValueError, match=r"kernel is \(3, 5\).*needs \(4, 5\)"):
        Dense(5).apply(made, jnp.ones((2, 4), jnp.float32))


def test_a_layer_without_bias_has_none():
    made = Dense(5, use_bias=False).init(random.key(0), jnp.ones((2, 3), jnp.float32))
    assert set(made["params"]) == {"kernel"}


@pytest.mark.parametrize("activation", sorted(pooling.ACTIVATIONS))
@pytest.mark.parametrize("height", [4, 5])
def test_activate_max_pool_is_the_plain_thing(activation, height):
    x = random.normal(random.key(0), (2, height, 6, 3))

    def plain(x):
        y = pooling.ACTIVATIONS[activation](x)
        return nn.max_pool(y, (2, 2), (2, 2))

    def ours(x):
        return pooling.activate_max_pool(x, activation)

    np.testing.assert_array_equal(ours(x), plain(x))
    grads = [
        jax.jit(jax.grad(lambda x, f=f: jnp.sum(jnp.sin(f(x)))))(x)
        for f in (ours, plain)
    ]
    np.testing.assert_allclose(*grads, rtol=1e-5, atol=1e-6)


def test_batch_norm_has_the_parameters_that_are_asked_for():
    x = random.normal(random.key(0), (8, 3))
    for bias, scale in ((True, True), (True, False), (False, False)):
        module = layers.batch_norm("norm", layers.TRAIN, bias=bias, scale=scale)
        variables = module.init(random.key(0), x)
        learned = {name for name, on in (("bias", bias), ("scale", scale)) if on}
        assert set(variables.get("params", {})) == learned


@pytest.mark.parametrize(
    "estimator", [estimators.lrt, estimators.weight_sampling], ids=lambda f: f.__name__
)
def test_what_a_layer_computes_again_it_need_not_keep(image, estimator):
    """The same gradients, from residuals that are little more than the inputs."""
    conv = Conv(4, (3, 3), posterior=gaussian(-4.0))
    variables = conv.init({"params": random.key(0), "noise": random.key(1)}, image)

    def loss(remat, params, x):
        mode = Mode(estimator, remat=remat)
        y = conv.apply(params, x, mode, rngs={"noise": random.key(2)})
        return jnp.sum(jnp.sin(y))

    def kept(remat):
        shapes = jax.eval_shape(
            lambda *inputs: jax.vjp(functools.partial(loss, remat), *inputs)[1],
            variables,
            image,
        )
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    again, stored = (
        jax.jit(jax.grad(functools.partial(loss, remat), argnums=(0, 1)))(
            variables, image
        )
        for remat in (True, False)
    )
    for a, b in zip(*map(jax.tree.leaves, (again, stored)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    y = conv.apply(variables, image, rngs={"noise": random.key(2)})
    given = sum(leaf.size for leaf in jax.tree.leaves((variables, image)))
    assert kept(True) <= given + 2 * y.size < kept(False)
