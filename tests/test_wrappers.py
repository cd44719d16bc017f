"""Laws of Flax's wrappers around stochastic layers: WeightNorm and SpectralNorm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from claims import every
from flax import linen as nn
from jax import random

from vnets import edits, layers, nodes
from vnets import nodes as made
from vnets.nodes import is_posterior

X = (4, 6)
LOG_VAR = -8.0


class Weight(nn.Module):
    axes: int | None = -1

    @nn.compact
    def __call__(self, x):
        inner = nn.Dense(3, name="inner")
        return nn.WeightNorm(inner, feature_axes=self.axes, name="wrap")(x)


class Spectral(nn.Module):
    @nn.compact
    def __call__(self, x, update_stats=False):
        inner = nn.Dense(3, name="inner")
        return nn.SpectralNorm(inner, name="wrap")(x, update_stats=update_stats)


MODELS = {
    "weight": layers.call(Weight()),
    "weight of all": layers.call(Weight(axes=None)),
    "spectral": layers.call(Spectral(), update_stats=layers.training),
}
NODES = {
    "gaussian": made.gaussian(LOG_VAR),
    "multiplicative": made.multiplicative(-3.0),
    "point": made.point(),
    "dropout": made.dropout(0.3, made.gaussian(LOG_VAR)),
}


def stirred(model, factory):
    """A converted model, and parameters of norms other than 1 with their arrays."""
    net = layers.stochastic(model, {"inner": factory})
    x = random.normal(random.key(1), X)
    variables = jax.jit(net.init)(random.key(0), x)
    arrays = jax.tree.map(
        lambda q: jnp.asarray(edits.mean_of(q).mean if is_posterior(q) else q) + 0.3,
        variables["params"],
        is_leaf=is_posterior,
    )
    params = edits.carry_means(arrays, into=variables["params"])
    return net, {**variables, "params": params}, {**variables, "params": arrays}, x


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("node", NODES)
def test_without_noise_a_wrapped_layer_is_that_of_flax(kind, node):
    """In both modes, the statistics included; and the paths are Flax's own."""
    net, variables, arrays, x = stirred(MODELS[kind], NODES[node])
    quiet = {**variables, "params": edits.mean_only(variables["params"])}
    theirs = jax.eval_shape(net.model.init, random.key(0), x)
    assert set(theirs["params"]["wrap" if "weight" in kind else "inner"]) == set(
        variables["params"]["wrap" if "weight" in kind else "inner"]
    )
    for mode in (layers.TRAIN, layers.TEST):
        flags = {"update_stats": mode.norm == "batch"} if kind == "spectral" else {}
        mutable = [name for name in arrays if name != "params"]
        expected = net.model.apply(arrays, x, mutable=mutable, **flags)
        got = net.apply(quiet, x, mode=mode, mutable=mutable)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            got,
            expected,
        )


@pytest.mark.parametrize("kind", MODELS)
def test_the_deviation_is_divided_as_the_mean(kind, assert_moments):
    """The draws of w, from the layer's answers to the rows of a unit matrix."""
    net, variables, arrays, _ = stirred(MODELS[kind], NODES["gaussian"])
    mean = arrays["params"]["inner"]["kernel"]
    arrays = {**variables, "params": {**arrays["params"]}}
    arrays["params"]["inner"] = {"kernel": mean, "bias": jnp.zeros((3,))}
    variables["params"]["inner"]["bias"] = jnp.zeros((3,))
    eye = jnp.eye(6)
    wrapped = net.model.apply(arrays, eye)
    factor = jnp.abs(wrapped / mean)

    @jax.jit
    @jax.vmap
    def draw(key):
        return net.apply(variables, eye, rngs={"noise": key})

    keys = random.split(random.key(3), 2000)
    start = stds_of(variables["params"]["inner"]["kernel"])
    assert_moments(draw(keys), wrapped, jnp.square(factor * start))


def stds_of(node):
    return jnp.sqrt(node.moments()[1])


def test_gradients_are_finite_and_zeros_stay_zeros():
    net, variables, _, x = stirred(MODELS["weight"], NODES["gaussian"])

    def loss(params):
        y = net.apply({"params": params}, x, rngs={"noise": random.key(1)})
        return jnp.sum(jnp.square(y))

    params = variables["params"]
    gone = {**params, "inner": {**params["inner"]}}
    gone["inner"]["kernel"] = made.Gaussian(jnp.zeros((6, 3)), jnp.full((6, 3), -9.0))
    for one in (params, gone):
        grads = jax.jit(jax.grad(loss))(one)
        assert every(jnp.isfinite(g).all() for g in jax.tree.leaves(grads))
    pruned = edits.prune(-jnp.inf)(params)
    np.testing.assert_allclose(
        net.apply({"params": pruned}, x, rngs={"noise": random.key(1)}),
        jnp.broadcast_to(params["inner"]["bias"], (4, 3)),
        atol=1e-6,
    )


class Standardized(nn.Dense):
    """Weight standardization, as many write it."""

    def param(self, name, *args, **kwargs):
        w = super().param(name, *args, **kwargs)
        return w / w.std(0, keepdims=True) if name == "kernel" else w


class Others(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = Standardized(3, name="std")(x)
        doubled = nn.map_variables(
            lambda layer: layer(x),
            trans_in_fn=lambda tree: jax.tree.map(lambda w: 2 * w, tree),
            init=self.is_initializing(),
        )
        return nn.Dense(2, name="head")(doubled(nn.Dense(3, name="own")))


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ("std", "'std': Standardized overrides `param`"),
        ("own", "'own' is within nn.map"),
    ],
)
def test_mappings_that_nobody_knows_are_refused_by_name(layer, words):
    x = jnp.ones((2, 3), jnp.float32)
    net = layers.stochastic(Others(), {layer: made.gaussian()})
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(net.init, random.key(0), x)
    jax.eval_shape(
        layers.stochastic(Others(), {"head": made.gaussian()}).init, random.key(0), x
    )


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        ({"inner": made.variance()}, "WeightNorm of 'inner/kernel', a ZeroMean"),
        ({"inner": nodes.masked()}, "'inner/kernel', a Masked"),
    ],
)
def test_weights_without_a_mean_of_their_own_are_refused(patterns, words):
    x = jnp.ones((2, 3), jnp.float32)
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(layers.stochastic(Weight(), patterns).init, random.key(0), x)


def test_a_stochastic_bias_is_left_alone_where_flax_does():
    """By default WeightNorm is of kernels; of vectors it has no clear meaning."""
    patterns = {"inner": made.gaussian(), "inner/bias": made.gaussian(-3.0)}
    x = jnp.ones((2, 3), jnp.float32)
    net = layers.stochastic(Weight(), patterns)
    params = jax.jit(net.init)(random.key(0), x)["params"]
    np.testing.assert_array_equal(params["inner"]["bias"].log_var, np.full(3, -3.0))
    every = nn.WeightNorm(nn.Dense(3), variable_filter=None)
    net = layers.stochastic(every, {"*bias": made.gaussian()})
    with pytest.raises(ValueError, match="bias', a Gaussian vector"):
        jax.eval_shape(net.init, random.key(0), x)
