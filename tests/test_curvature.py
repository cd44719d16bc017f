"""Laws of kappa: against jax's own second derivatives, its memory, and its edit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import random

from vnets import backend, curvature, edits, evaluate, layers, likelihoods, pooling
from vnets.data import Split
from vnets.nets import MLP, LeNet5
from vnets.nodes import (
    Multiplicative,
    Point,
    ZeroMean,
    dropout,
    gaussian,
    multiplicative,
    variance,
)

SHAPE, K = (2, 3, 1), 3
# float32 derivatives of second order: a few hundred rounding errors of 1e-7.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def images(n, shape=SHAPE, classes=K):
    rng = np.random.default_rng(n)
    image = rng.integers(0, 256, (n, *shape), np.uint8)
    return Split(image, rng.integers(0, classes, n).astype(np.int32))


def start(net, shape=SHAPE):
    rngs = {"params": random.key(0), "noise": random.key(1)}
    variables = jax.jit(net.init)(rngs, jnp.zeros((1, *shape), jnp.float32))
    return jax.tree.map(lambda x: 3 * x, variables)  # away from the flat start


def mlp(factory, layer="dense2", activation="tanh"):
    net = MLP((5, 4), K, activation=activation, posteriors={layer: factory})
    return net, start(net)


def log_likelihood(net, variables, split, layer):
    """The sum of log p over a split as a function of the layer's weight."""
    params = edits.mean_only(variables["params"])

    def total(weight):
        changed = {**params, layer: {**params[layer], "kernel": Point(weight)}}
        rest = {name: v for name, v in variables.items() if name != "params"}
        logits = net.apply({"params": changed, **rest}, evaluate.to_float(split.inputs))
        return -jnp.sum(likelihoods.Categorical().nll(logits, split.target))

    return total, params[layer]["kernel"].mean


# 23 images in batches of 10 end with a batch of 3; 4 and 5 units in blocks of 3 too.
@pytest.mark.parametrize("layer", ["dense1", "dense2"])
def test_equals_the_diagonal_of_the_hessian(layer):
    net, variables = mlp(gaussian(-1.0), layer)
    split = images(23)
    total, mean = log_likelihood(net, variables, split, layer)
    hessian = jax.jit(jax.jacrev(jax.jacrev(total)))(mean)
    expected = np.einsum("ijij->ij", hessian)
    options = {"batch_size": 10, "directions": 3}
    second = curvature.second_derivatives(net, variables, layer, split, **options)
    assert np.abs(expected).max() > 0.1
    assert (expected > 0).any(), "a convex direction, that an absolute value would hide"
    np.testing.assert_allclose(second, expected, **CLOSE)
    kappa = curvature.kappa(net, variables, layer, split, n=230, **options)
    var = np.exp(np.asarray(variables["params"][layer]["kernel"].log_var))
    np.testing.assert_allclose(kappa, -10 * var * expected, **CLOSE)


def test_of_a_linear_model_is_in_closed_form():
    """d^2 log p / dw_ij^2 = -h_i^2 p_j (1 - p_j) where nothing follows the layer."""
    net = MLP((), K, posteriors={"dense1": gaussian(0.0)})
    variables, split = start(net), images(7)
    h = evaluate.to_float(split.inputs).reshape(7, -1)
    p = jax.nn.softmax(h @ variables["params"]["dense1"]["kernel"].mean)
    second = curvature.second_derivatives(net, variables, "dense1", split)
    np.testing.assert_allclose(second, -jnp.square(h).T @ (p * (1 - p)), **CLOSE)


def test_through_batch_norm_and_relu_of_lenet():
    shape = (16, 16, 1)
    net = LeNet5(batch_norm=True, posteriors={"dense1": gaussian(-2.0)})
    variables, split = start(net, shape), images(6, shape, 10)
    total, mean = log_likelihood(net, variables, split, "dense1")
    second = curvature.second_derivatives(
        net, variables, "dense1", split, batch_size=6, directions=100
    )
    # Of some weights, those of the largest derivatives among them, one by one.
    order = np.argsort(np.abs(second).ravel())
    rows, columns = np.unravel_index(order[[-1, -2, -3, 9000]], second.shape)

    def along(i, j):
        return jax.grad(jax.grad(lambda t: total(mean.at[i, j].add(t))))(0.0)

    expected = jax.jit(jax.vmap(along))(rows, columns)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(second[rows, columns], expected, rtol=1e-3, atol=1e-6)


class Convolved(nn.Module):
    """A dense layer with a convolution and pooling after it."""

    @nn.compact
    def __call__(self, x, mode=layers.TEST):
        x = layers.Dense(16, gaussian(0.0), name="dense")(x.reshape(len(x), -1), mode)
        x = layers.Conv(4, (3, 3), name="conv")(x.reshape(-1, 4, 4, 1), mode)
        x = pooling.relu_max_pool(jnp.tanh(x)).reshape(len(x), -1)
        return layers.Dense(K, name="out")(x, mode)


def test_through_a_tail_with_convolution_and_pooling():
    net, split = Convolved(), images(4)
    variables = start(net)
    total, mean = log_likelihood(net, variables, split, "dense")
    second = curvature.second_derivatives(net, variables, "dense", split)

    def along(i, j):
        return jax.grad(jax.grad(lambda t: total(mean.at[i, j].add(t))))(0.0)

    rows, columns = np.indices(mean.shape).reshape(2, -1)
    expected = jax.jit(jax.vmap(along))(rows, columns).reshape(mean.shape)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(second, expected, rtol=1e-3, atol=1e-5)


def test_memory_does_not_grow_with_the_images():
    """LeNet-5's dense1, 400,000 weights: all temporaries of a batch within 256 MiB."""
    net = LeNet5(batch_norm=True, posteriors={"dense1": variance()})
    x = jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32)
    key = jax.eval_shape(lambda: random.key(0))
    variables = jax.eval_shape(net.init, {"params": key, "noise": key}, x)
    variables["params"] = jax.eval_shape(edits.mean_only, variables["params"])
    run = curvature._batch_sum(
        net, "dense1", 500, 20, evaluate.to_float, backend.forms()
    )
    sizes = []
    for n in (200, 1000):
        arrays = (
            jax.ShapeDtypeStruct((n, 28, 28, 1), jnp.uint8),
            jax.ShapeDtypeStruct((n,), jnp.int32),
            jax.ShapeDtypeStruct((), jnp.int32),
        )
        compiled = run.lower(variables, *arrays, batch_size=100).compile()
        sizes.append(compiled.memory_analysis().temp_size_in_bytes)
    assert sizes[1] <= sizes[0] + 1e6
    assert 400_000 * 4 < sizes[1] < 256 * 2**20


def test_layers_without_a_kappa_are_named():
    net = LeNet5(posteriors={"dense1": dropout(0.5), "dense2": gaussian()})
    shape = (16, 16, 1)
    variables, split = start(net, shape), images(2, shape)
    for layer, words in (
        ("dense9", "choose from .*conv1.*dense2"),
        ("conv1", "no dense layer.*choose from .*dense1"),
        ("dense1", "Scaled weights"),
    ):
        with pytest.raises(ValueError, match=words):
            curvature.kappa(net, variables, layer, split)
    net, variables = mlp(gaussian(), "dense2")
    with pytest.raises(ValueError, match="Point weights"):
        curvature.kappa(net, variables, "dense1", images(2))


def test_a_layer_used_twice_is_refused():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x, mode=layers.TEST):
            dense = layers.Dense(6, gaussian(), name="dense")
            return dense(dense(x.reshape(len(x), -1), mode), mode)

    with pytest.raises(ValueError, match="more than once"):
        curvature.second_derivatives(Twice(), start(Twice()), "dense", images(2))


@pytest.mark.parametrize("factory", [gaussian(-1.0), multiplicative(2.0), variance()])
@pytest.mark.parametrize("replacement", curvature.REPLACEMENTS)
def test_mean_propagation_takes_the_noise_below_the_threshold(factory, replacement):
    params = mlp(factory)[1]["params"]
    node = params["dense2"]["kernel"]
    kappa = jnp.arange(20, dtype=jnp.float32).reshape(5, 4) - 10.0
    edited = curvature.propagate_mean({"dense2": kappa}, 3.0, replacement)(params)
    mean, var = edited["dense2"]["kernel"].moments()
    old_mean, old_var = node.moments()
    stays = np.asarray(kappa) >= 3
    assert stays.sum() == 7
    assert curvature.stochastic_fraction(kappa, 3.0) == pytest.approx(7 / 20)
    np.testing.assert_allclose(var, np.where(stays, old_var, 0), rtol=1e-5)
    if isinstance(node, ZeroMean):
        assert mean is None
    else:
        expected = old_mean if replacement == "mean" else old_mean * stays
        np.testing.assert_array_equal(mean, expected)
    np.testing.assert_array_equal(
        edited["dense1"]["kernel"].mean, params["dense1"]["kernel"].mean
    )


def test_the_ends_of_the_threshold():
    net, variables = mlp(multiplicative(1.0), activation="relu")
    params = variables["params"]
    assert isinstance(params["dense2"]["kernel"], Multiplicative)
    kappa = {"dense2": jnp.ones((5, 4), jnp.float32)}
    x = jnp.ones((1, *SHAPE), jnp.float32)

    none = {"params": curvature.propagate_mean(kappa, float("inf"))(params)}
    apply = jax.jit(net.apply)
    quiet = apply({"params": edits.mean_only(params)}, x)
    noisy = apply(none, x, rngs={"noise": random.key(0)})
    # The estimator's floor under the variance, 1e-16, is all the noise there is.
    np.testing.assert_allclose(noisy, quiet, rtol=1e-5, atol=1e-6)

    every = curvature.propagate_mean(kappa, -float("inf"))(params)
    for new, old in zip(
        every["dense2"]["kernel"].moments(),
        params["dense2"]["kernel"].moments(),
        strict=True,
    ):
        np.testing.assert_allclose(new, old, rtol=1e-5)


def test_kappa_is_the_loss_that_a_weights_noise_costs():
    """E log p = log p(mean) - kappa / 2 to second order, for noise on one weight."""
    net, variables = mlp(gaussian(-6.0))
    split, std = images(9), np.exp(-3.0)
    node = variables["params"]["dense2"]["kernel"]
    node = dataclasses.replace(node, log_var=jnp.full(node.shape, -6.0, jnp.float32))
    variables["params"]["dense2"]["kernel"] = node
    kappa = curvature.kappa(net, variables, "dense2", split)
    total, mean = log_likelihood(net, variables, split, "dense2")
    total = jax.jit(total)
    i, j = np.unravel_index(int(np.argmax(np.abs(kappa))), kappa.shape)
    # Odd orders cancel over +-std; the fourth is std^2 = 0.0025 times smaller or so.
    both = total(mean.at[i, j].add(std)) + total(mean.at[i, j].add(-std))
    np.testing.assert_allclose(both / 2 - total(mean), -kappa[i, j] / 2, rtol=3e-2)


def test_an_unknown_replacement_or_shape_is_refused():
    with pytest.raises(ValueError, match=r"choose from .*mean.*zero"):
        curvature.propagate_mean({}, 0.0, "median")
    params = mlp(gaussian())[1]["params"]
    wrong = curvature.propagate_mean({"dense2": jnp.ones((2, 2), jnp.float32)}, 0.0)
    with pytest.raises(ValueError, match="kappa is"):
        wrong(params)
    params = mlp(dropout(0.5))[1]["params"]
    shared = curvature.propagate_mean({"dense2": jnp.ones((5, 4), jnp.float32)}, 0.0)
    with pytest.raises(ValueError, match="noise on units"):
        shared(params)
