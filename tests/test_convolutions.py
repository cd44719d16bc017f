"""Laws of convolutions that are not plain 2-D ones, and of empty batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from claims import every
from flax import linen as nn
from jax import random

from tests.test_ops import FORMS
from vnets import layers, nets, nodes, ops
from vnets.estimators import ESTIMATORS, lrt
from vnets.layers.convolutions import convolution

FEATURES = 4
LAYERS = {
    "1-D": (nn.Conv, (6, 3), {"kernel_size": 3, "strides": 2}),
    "causal": (
        nn.Conv,
        (6, 3),
        {"kernel_size": (2,), "padding": "CAUSAL", "kernel_dilation": 2},
    ),
    "3-D": (nn.Conv, (3, 2, 4, 2), {"kernel_size": (2, 2, 3), "padding": "VALID"}),
    "grouped": (nn.Conv, (4, 3, 4), {"kernel_size": (3, 2), "feature_group_count": 2}),
    "depthwise": (
        nn.Conv,
        (4, 3, 4),
        {"kernel_size": (3, 3), "feature_group_count": 4},
    ),
    "dilated": (nn.Conv, (5, 4, 2), {"kernel_size": (3, 2), "kernel_dilation": (2, 1)}),
    "of holes": (
        nn.Conv,
        (3, 4, 2),
        {"kernel_size": (3, 2), "padding": 1, "input_dilation": (2, 1)},
    ),
    "circular": (nn.Conv, (4, 3, 2), {"kernel_size": (3, 2), "padding": "CIRCULAR"}),
    "circular, dilated": (
        nn.Conv,
        (5, 2),
        {"kernel_size": (3,), "padding": "CIRCULAR", "kernel_dilation": 2},
    ),
    "reflected": (
        nn.Conv,
        (5, 4, 2),
        {"kernel_size": (4, 3), "padding": "REFLECT", "strides": (2, 1)},
    ),
    "transposed": (nn.ConvTranspose, (3, 4, 2), {"kernel_size": (3, 2), "strides": 2}),
    "transposed, padded": (
        nn.ConvTranspose,
        (3, 2),
        {"kernel_size": 4, "strides": (2,), "padding": ((1, 2),)},
    ),
    "transposed, dilated": (
        nn.ConvTranspose,
        (3, 4, 2),
        {"kernel_size": (2, 3), "kernel_dilation": (2, 1), "padding": "VALID"},
    ),
    "transposed, circular": (
        nn.ConvTranspose,
        (3, 2, 2),
        {"kernel_size": (4, 7), "strides": (1, 2), "padding": "CIRCULAR"},
    ),
}
DRAWS = 2000


@functools.cache
def problem(name):
    """The layer of Flax without bias, its op, and an input [2, *size, C]."""
    kind, size, options = LAYERS[name]
    module = kind(FEATURES, use_bias=False, name="layer", **options)
    x = random.normal(random.key(0), (2, *size))
    op, shape = convolution(module, x)
    return module, op, x, random.normal(random.key(1), shape)


def product(op, x, w):
    return op.lower(op.apply(op.lift(x), w))


@pytest.mark.parametrize("name", LAYERS)
def test_the_op_is_that_of_flax(name):
    """In value and in both gradients; the lift of squares is the square of the lift."""
    module, op, x, w = problem(name)

    @jax.jit
    def both(x, w):
        def theirs(x, w):
            return module.apply({"params": {"kernel": w}}, x)

        ours, pull = jax.vjp(functools.partial(product, op), x, w)
        want, push = jax.vjp(theirs, x, w)
        g = jnp.cos(jnp.arange(want.size, dtype=jnp.float32)).reshape(want.shape)
        return (ours, pull(g)), (want, push(g))

    got, want = both(x, w)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())
    np.testing.assert_array_equal(jnp.square(op.lift(x)), op.lift(jnp.square(x)))


def drawn(name, estimator):
    _, op, x, w = problem(name)
    node = nodes.Gaussian(w, jnp.full(w.shape, -1.0, jnp.float32))
    keys = random.split(random.key(2), DRAWS)
    draw = functools.partial(estimator, op, node, x)
    return np.asarray(jax.jit(jax.vmap(draw))(keys))


OF_A_MEAN = [name for name in ESTIMATORS if not name.startswith("magnitude")]
SAMPLED = [
    *((name, one) for name in LAYERS for one in ("lrt", "weight_sampling")),
    *((name, one) for name in ("grouped", "transposed") for one in OF_A_MEAN[2:]),
]


@pytest.mark.parametrize(("name", "estimator"), SAMPLED)
def test_estimators_have_the_closed_moments(name, estimator, assert_moments):
    """The variance of a pre-activation is the convolution of x^2 with that of w."""
    _, op, x, w = problem(name)
    var = jnp.full(w.shape, np.exp(-1.0), jnp.float32)
    moments = product(op, x, w), product(op, jnp.square(x), var)
    assert_moments(drawn(name, ESTIMATORS[estimator]), *moments)


@pytest.mark.parametrize("name", LAYERS)
def test_a_converted_layer_is_that_of_flax_with_noise(name):
    """The mean path is Flax's, bias included; no gradient of a zero input is NaN."""
    kind, *_, options = LAYERS[name]
    model = kind(FEATURES, bias_init=nn.initializers.ones_init(), name=None, **options)
    x = problem(name)[2]
    net = layers.stochastic(model, {"*": nodes.gaussian(-80.0)})

    def loss(params, x):
        return jnp.sum(net.apply({"params": params}, x, rngs={"noise": random.key(1)}))

    @jax.jit
    def run(x):
        params = net.init(random.key(0), x)["params"]
        plain = {"kernel": params["kernel"].mean, "bias": params["bias"]}
        got = net.apply({"params": params}, x, rngs={"noise": random.key(1)})
        want = model.apply({"params": plain}, x)
        return got, want, jax.grad(loss, (0, 1))(params, jnp.zeros_like(x))

    got, want, slopes = run(x)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert every(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slopes))


def test_the_bias_joins_the_mean_only():
    """Of a zero input: the noise is the floor's, whatever the bias."""
    kind, size, options = LAYERS["transposed"]
    model = kind(FEATURES, bias_init=nn.initializers.constant(100.0), **options)
    net = layers.stochastic(model, {"*": nodes.gaussian(0.0)})
    x = jnp.zeros((2, *size), jnp.float32)

    @jax.jit
    def run(x):
        return net.apply(net.init(random.key(0), x), x, rngs={"noise": random.key(1)})

    np.testing.assert_allclose(run(x), 100.0, atol=1e-5)


@pytest.mark.parametrize("size", [2, 0])
@pytest.mark.parametrize("name", LAYERS)
def test_every_estimator_takes_them_and_empty_batches(name, size):
    _, op, x, w = problem(name)
    units = nodes.dropout(0.5, nodes.variance(), axis="out")
    for estimator, make in [
        *((one, nodes.gaussian()) for one in OF_A_MEAN),
        ("magnitude", nodes.variance()),
        ("weight_sampling", units),
    ]:
        run = functools.partial(ESTIMATORS[estimator], op)
        y = jax.eval_shape(
            lambda x, key, run=run, make=make: run(make(key, w.shape), x, key),
            x[:size],
            random.key(0),
        )
        assert y.shape == (size, *product_shape(name)[1:])


@functools.cache
def product_shape(name):
    _, op, x, w = problem(name)
    return jax.eval_shape(functools.partial(product, op), x, w).shape


NATIVE = ("1-D", "grouped", "circular", "transposed, circular")
EMPTY = {
    **{form: (op, (5, 6, 3), (3, 3, 3, 4)) for form, op in FORMS.items()},
    **{name: (problem, name) for name in NATIVE},
    "dense": (ops.DENSE, (3,), (3, 4)),
    "sequence": (ops.DENSE, (2, 3), (3, 4)),
}


@pytest.mark.parametrize("form", EMPTY)
def test_an_empty_batch_gives_nothing_and_no_gradient(form):
    if form in NATIVE:
        _, op, x, w = problem(form)
        x = x[:0]
    else:
        op, size, shape = EMPTY[form]
        x, w = jnp.zeros((0, *size), jnp.float32), jnp.ones(shape, jnp.float32)
    node = nodes.Gaussian(w, w)

    @jax.jit
    def run(x, node):
        y, pull = jax.vjp(lambda x, node: lrt(op, node, x, random.key(0)), x, node)
        return y, pull(y)

    y, (x_bar, node_bar) = run(x, node)
    assert y.shape[0] == 0
    assert y.shape[-1] == w.shape[-1]
    assert x_bar.shape == x.shape
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(node_bar))


def test_empty_batches_go_through_nets():
    """Stochastic biases and flattening included."""
    noisy = {"conv1": nodes.gaussian(), "dense1": nodes.gaussian()}
    noisy |= {"conv1/bias": nodes.gaussian(), "dense1/bias": nodes.gaussian()}
    net = nets.LeNet5(posteriors=noisy)
    one = jnp.ones((1, 28, 28, 1), jnp.float32)
    variables = jax.eval_shape(net.init, random.key(0), one)
    for name in ("lrt", "per_example_sampling"):
        mode = layers.Mode(ESTIMATORS[name])
        y = jax.eval_shape(
            lambda v, mode=mode: net.apply(
                v, one[:0], mode=mode, rngs={"noise": random.key(0)}
            ),
            variables,
        )
        assert y.shape == (0, 10)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (nn.Conv, {"mask": np.ones((3, 3, 4, 4))}, "Conv takes no mask"),
        (nn.Conv, {"precision": "highest"}, "Conv takes no precision"),
        (nn.ConvTranspose, {"transpose_kernel": True}, "takes no transpose_kernel"),
        (nn.ConvTranspose, {"padding": "REFLECT"}, "SAME, VALID, CIRCULAR, a number"),
        (
            nn.Conv,
            {"padding": "same"},
            "VALID, CIRCULAR, REFLECT, a number.*not 'same'",
        ),
        (nn.Conv, {"padding": "CAUSAL"}, "padding must be .* not 'CAUSAL'"),
        (nn.Conv, {"padding": ((1, 1),)}, "for each of 2 axes"),
        (nn.Conv, {"strides": (1, 1, 1)}, "strides is a number, or one for each of 2"),
        (nn.Conv, {"feature_group_count": 3}, "3 does not divide 4 input"),
        (nn.Conv, {"input_dilation": 2}, "input_dilation takes a padding of numbers"),
        (nn.Conv, {"kernel_size": 3}, r"takes \[B, 1 axes, C\], not \[2, 5, 5, 4\]"),
        (
            nn.Conv,
            {"kernel_dilation": 3, "padding": "VALID"},
            r"kernel \(3, 3\) is larger than the padded input \(5, 5\)",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_its_name(kind, options, message):
    options = {"kernel_size": (3, 3), **options}
    net = layers.stochastic(
        nn.Sequential([kind(4, **options)]), {"layers_0": nodes.gaussian()}
    )
    x = jnp.ones((2, 5, 5, 4), jnp.float32)
    with pytest.raises(ValueError, match=f"layer 'layers_0': .*{message}"):
        jax.eval_shape(net.init, random.key(0), x)


def test_unshared_convolutions_are_named():
    model = nn.Sequential([nn.ConvLocal(4, (3, 3)), nn.Dense(2)])
    net = layers.stochastic(model, {"layers_0": nodes.gaussian()})
    with pytest.raises(ValueError, match="'layers_0' is a ConvLocal"):
        jax.eval_shape(net.init, random.key(0), jnp.ones((1, 3, 3, 2), jnp.float32))


@pytest.mark.parametrize("groups", [2, 4])
def test_a_grouped_convolution_has_no_noise_on_its_inputs(groups):
    """Its kernel has a part of the units only, and one unit would be all of them."""
    model = nn.Conv(4, (3, 3), feature_group_count=groups)
    x = jnp.ones((1, 3, 3, 4), jnp.float32)
    net = layers.stochastic(model, {"*": nodes.dropout(0.5, axis="in")})
    with pytest.raises(ValueError, match=f"noise on {4 // groups} units does not fit"):
        jax.eval_shape(net.init, random.key(0), x)
