"""Laws of stochastic biases and scales of normalization, in our layers and others."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import random
from vector_nets import (
    VECTOR,
    WEIGHT,
    keys_of,
    moved,
    net_and_params,
    normalized_net,
    rngs,
)

from vnets import (
    edits,
    estimators,
    layers,
    propagation,
    tree,
)
from vnets.layers import TRAIN, Mode, stochastic
from vnets.nets import MLP, LeNet5
from vnets.nodes import (
    Gaussian,
    Point,
    dropout,
    gaussian,
    masked,
    multiplicative,
    point,
    variance,
)

# Layer and input: a bias of each form.
CASES = {
    "dense": (layers.Dense(4, WEIGHT, bias_posterior=VECTOR), (3, 2)),
    "sequence": (layers.Dense(3, WEIGHT, bias_posterior=VECTOR), (2, 3, 2)),
    "conv": (
        layers.Conv(2, (2, 2), posterior=WEIGHT, bias_posterior=VECTOR),
        (2, 3, 3, 2),
    ),
}
SAMPLED = (
    ("dense", "lrt"),
    ("dense", "weight_sampling"),
    ("dense", "flipout"),
    ("dense", "antithetic"),
    ("sequence", "per_example_sampling"),
    ("conv", "lrt"),
    ("conv", "weight_sampling"),
)


@functools.cache
def layer_draws(case, estimator):
    """Parameters, input and many outputs of a layer, [n, B, ..., O]."""
    layer, shape = CASES[case]
    x = random.normal(random.key(2), shape)
    params = moved(layer.init(rngs(), x)["params"], "bias")
    mode = Mode(getattr(estimators, estimator))

    @jax.jit
    def draw(params, keys):
        def one(key):
            return layer.apply({"params": params}, x, mode, rngs={"noise": key})

        return jax.vmap(one)(keys)

    return params, x, np.asarray(draw(params, keys_of())), draw


@pytest.mark.parametrize(("case", "estimator"), SAMPLED)
def test_a_bias_adds_its_moments_to_those_of_the_layer(case, estimator, assert_moments):
    layer, _ = CASES[case]
    params, x, draws, _ = layer_draws(case, estimator)
    (w_mean, w_var), (mean, var) = (params[n].moments() for n in ("kernel", "bias"))

    def linear(x, kernel, bias):
        return layer.apply({"params": {"kernel": Point(kernel), "bias": bias}}, x)

    expected = linear(x, w_mean, mean), linear(jnp.square(x), w_var, var)
    assert_moments(draws, *expected)


@pytest.mark.parametrize("estimator", ["lrt", "weight_sampling"])
def test_who_shares_the_draw_of_a_bias(estimator):
    _, _, _, draw = layer_draws("conv", estimator)
    params, *_ = layer_draws("conv", "lrt")
    kernel = Point(jnp.zeros(params["kernel"].shape, jnp.float32))
    [y] = np.asarray(draw({**params, "kernel": kernel}, keys_of(1, 1)))
    pixels = y.reshape(len(y), -1, y.shape[-1])
    np.testing.assert_array_equal(pixels, np.broadcast_to(pixels[:, :1], pixels.shape))
    same = np.array_equal(pixels[0], pixels[1])
    assert same == (estimator == "weight_sampling")  # one draw for the minibatch


@pytest.mark.parametrize(
    "mode",
    [Mode(norm="batch"), Mode(estimators.weight_sampling)],
    ids=["batch", "running"],
)
def test_batch_normalization_with_noisy_scale_and_bias(mode, assert_moments):
    both = {"scale": VECTOR, "bias": gaussian(-2.0)}
    norm = layers.batch_norm("norm", mode, posteriors=both)
    plain = layers.batch_norm("norm", mode, bias=False, scale=False)
    x = random.normal(random.key(3), (3, 2, 2, 2)) + 1.0
    variables = norm.init(rngs(), x)
    assert jax.tree.structure(variables["batch_stats"]) == jax.tree.structure(
        plain.init(rngs(), x)["batch_stats"]
    )
    scale = variables["params"]["scale"]
    np.testing.assert_array_equal(scale.mean, np.ones(2))  # where the array starts

    @jax.jit
    @jax.vmap
    def draw(key):
        return norm.apply(variables, x, rngs={"noise": key}, mutable=["batch_stats"])

    y, new = draw(keys_of())
    statistics = {"batch_stats": variables["batch_stats"]}
    h, kept = plain.apply(statistics, x, mutable=["batch_stats"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-6), new, kept)
    var = jnp.square(h) * jnp.exp(-0.5) + jnp.exp(-2.0)
    assert_moments(y, h, var)


def test_a_perceptron_with_normalization():
    """In batch statistics the units of each hidden layer have moments 0 and 1."""
    net = MLP((5, 4), 3, batch_norm=True)
    x = random.normal(random.key(1), (50, 7))
    variables = net.init(rngs(), x)
    params = variables["params"]
    assert set(params) == {"dense1", "dense2", "dense3", "norm1", "norm2"}
    assert set(params["dense1"]) == {"kernel"}  # the normalization has the bias
    _, state = net.apply(
        variables, x, TRAIN, mutable=["batch_stats"], capture_intermediates=True
    )
    y = np.asarray(state["intermediates"]["norm2"]["__call__"][0])
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(0), 1, rtol=1e-2)
    moved = {"params": params, "batch_stats": state["batch_stats"]}
    logits = propagation.moments(net, moved, x)
    np.testing.assert_allclose(logits.mean, net.apply(moved, x), rtol=1e-4, atol=1e-5)


def test_moments_of_noisy_scales_and_biases_go_through_normalization(assert_moments):
    _, variables, _ = normalized_net()
    net = propagation.Layers(variables)
    h = propagation.Moments(
        random.normal(random.key(1), (2, 1, 1, 20)),
        random.uniform(random.key(2), (2, 1, 1, 20)),
    )
    y = net.norm("norm1", h)
    params, seen = (variables[n]["norm1"] for n in ("params", "batch_stats"))
    keys = random.split(random.key(3), 3)
    shape = (20_000, *h.mean.shape)
    x = h.mean[None] + jnp.sqrt(h.var)[None] * random.normal(keys[0], shape)
    scale, bias = (
        params[name].sample(key, (shape[0], 1, 1, 1))
        for name, key in zip(("scale", "bias"), keys[1:], strict=True)
    )
    slope = jax.lax.rsqrt(seen["var"] + 1e-5).reshape(1, 1, 1, 1, -1)
    x = (x - seen["mean"].reshape(1, 1, 1, 1, -1)) * slope
    assert_moments(x * scale + bias, y.mean, y.var)


def test_moments_of_logits_with_noisy_biases(assert_mean, assert_moments):
    """One hidden layer, whose units are Gaussian and positive: exact."""
    net = MLP(
        (3,), 2, posteriors={"dense1/bias": gaussian(-4.0), "dense2/bias": VECTOR}
    )
    x = random.normal(random.key(4), (2, 4))
    params = net.init(rngs(), x)["params"]
    params = {**params, "dense1": moved(params["dense1"], "bias", 9.0)}
    logits = propagation.moments(net, {"params": params}, x)

    @jax.jit
    @jax.vmap
    def draw(key):
        return net.apply({"params": params}, x, rngs={"noise": key})

    draws = np.asarray(draw(keys_of(2, 5000)))
    assert_moments(draws, logits.mean, logits.var)
    centred = draws - np.asarray(logits.mean)
    assert_mean(centred[..., 0] * centred[..., 1], logits.cov[:, 0, 1])


class Theirs(nn.Module):
    """Somebody's model with a normalization."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(3, (2, 2), name="stem")(x)
        x = nn.BatchNorm(name="norm")(x, use_running_average=not train)
        return nn.Dense(2, name="head")(nn.relu(x).reshape(x.shape[0], -1))


class Modulated(nn.Module):
    """Layers may be called what vectors are called."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="scale")(x) * nn.Dense(2, name="bias")(x)


@pytest.mark.parametrize(
    ("pattern", "noisy"),
    [
        ("*", {"scale", "bias"}),
        ("scale", {"scale"}),
        ("*/bias", {"scale/bias", "bias/bias"}),
    ],
)
def test_a_layer_may_be_called_scale(pattern, noisy):
    net = stochastic(Modulated(), {pattern: VECTOR})
    params = net.init(random.key(0), jnp.ones((1, 3)))["params"]
    found = {place.name for place, _ in tree.nodes(params)}
    assert found == noisy


def test_any_model_takes_noisy_vectors(assert_moments):
    x = random.normal(random.key(1), (3, 3, 3, 1))
    net = stochastic(Theirs(), {"norm/*": VECTOR, "*/scale": VECTOR, "*/bias": VECTOR})
    with pytest.raises(ValueError, match=r"'norm/\*'.*'head', 'stem', 'head/bias'"):
        net.init(random.key(0), x, train=False)
    net = stochastic(Theirs(), {"*/scale": VECTOR, "head/bias": VECTOR})
    variables = net.init(random.key(0), x, train=False)
    params = variables["params"]
    assert isinstance(params["norm"]["scale"], Gaussian)
    assert isinstance(params["head"]["bias"], Gaussian)
    theirs = Theirs().init(random.key(0), x)
    for one in (params["stem"]["bias"], params["norm"]["bias"]):
        assert isinstance(one, jax.Array)
    arrays = edits.carry_means(params, theirs["params"])
    jax.tree.map(np.testing.assert_array_equal, arrays, theirs["params"])
    quiet = {**variables, "params": edits.mean_only(params)}
    for train in (False, True):
        y, new = (
            one.apply(v, x, train=train, mutable=["batch_stats"])
            for one, v in ((net, quiet), (Theirs(), theirs))
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), y, new)

    @jax.jit
    @jax.vmap
    def draw(key):
        return net.apply(
            {**variables, "params": {**arrays, "head": params["head"]}},
            x,
            train=False,
            rngs={"noise": key},
        )

    expected = Theirs().apply(theirs, x)
    assert_moments(draw(keys_of()), expected, jnp.full_like(expected, jnp.exp(-0.5)))


def test_unknown_names_list_the_vectors():
    with pytest.raises(
        ValueError, match=r"dense9/bias.*'dense1', 'dense2'.*dense1/bias"
    ):
        MLP((3,), 2, posteriors={"dense9/bias": VECTOR})
    # Before a normalization there is no bias to name.
    with pytest.raises(ValueError, match=r"conv1/bias.*norm1/scale.*dense2/bias"):
        LeNet5(batch_norm=True, posteriors={"conv1/bias": VECTOR})
    with pytest.raises(ValueError, match=r"norm1/scale.*'conv1/bias'"):
        LeNet5(posteriors={"norm1/scale": VECTOR})


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        (dropout(0.5), "'dense1/bias' is a vector"),
        (variance(), "not ZeroMean"),
        (masked(), "not Masked"),
        (multiplicative(-3.0, per="input"), "alpha per layer, output or weight"),
        (point(jax.nn.initializers.lecun_normal()), "an init of vectors"),
    ],
)
def test_what_no_vector_can_be_is_refused(factory, words):
    net = MLP((3,), 2, posteriors={"dense1/bias": factory})
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(net.init, rngs(), jnp.zeros((1, 2), jnp.float32))


def test_estimators_of_variance_layers_refuse_a_vector_with_a_mean():
    net, params, x = net_and_params(dense1_bias=VECTOR)
    mode = Mode(estimators.magnitude_mean)
    with pytest.raises(ValueError, match="magnitude_mean are of variance layers"):
        net.apply({"params": params}, x, mode, rngs={"noise": random.key(0)})
