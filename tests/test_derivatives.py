"""Laws of derivatives: of a gradient by any mode, of the forms themselves on demand."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import random
from libraries import LIBRARIES

import vnets
from vnets import backend, estimators, layers, nets, nodes, ops
from vnets.pooling import max_pool, relu_max_pool

SAME = ((1, 1), (1, 1))
GAUSSIAN = nodes.gaussian(-2.0)
SHAPES = IMAGE, KERNEL = (2, 4, 5, 3), (3, 3, 3, 2)


def linear(op):
    return lambda x, w: op.lower(op.apply(op.lift(x), w))


def sampled(estimator, op, x, scale):
    node = nodes.ZeroMean(scale)
    return estimator(op, node, x, random.key(2))


# name: (function, shapes of its arguments)
FORMS = {
    "dense": (linear(ops.DENSE), (4, 3), (3, 2)),
    "tiles": (linear(ops.TiledConv((4, 5), (3, 3), SAME, 2)), IMAGE, KERNEL),
    "direct, strided": (linear(ops.DirectConv(SAME, (2, 2))), IMAGE, KERNEL),
    **{
        f"direct, {library}": (linear(ops.DirectConv(SAME, (1, 1), library)), *SHAPES)
        for library in LIBRARIES
    },
    "noise": (functools.partial(sampled, estimators.lrt, ops.DENSE), (4, 3), (3, 2)),
    "magnitude": (
        functools.partial(sampled, estimators.magnitude, ops.DirectConv(SAME)),
        IMAGE,
        KERNEL,
    ),
    "pooling": (lambda x, s: relu_max_pool(x * s), (2, 4, 5, 3), (1, 1, 1, 3)),
    "maxima": (lambda x, s: max_pool(x * s), (2, 4, 5, 3), (1, 1, 1, 3)),
}


@functools.cache
def derivatives(name):
    """Of a scalar: its slope along a direction by both modes, and of its gradient."""
    form, *shapes = FORMS[name]
    rng = np.random.default_rng(0)
    args, along = (
        tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
        for _ in range(2)
    )

    def loss(args):
        return jnp.sum(jnp.sin(form(*args)))

    def dot(a, b):
        return sum(jnp.vdot(x, y) for x, y in zip(a, b, strict=True))

    def first(args):
        return dot(jax.grad(loss)(args), along)

    def forward(args):
        return jax.jvp(loss, (args,), (along,))[1]

    def second(args):
        return jax.grad(first)(args), jax.jvp(jax.grad(loss), (args,), (along,))[1]

    return args, first, second, forward


def close(got, want):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


def under_any(function, *args):
    with backend.use(derivatives="any"):
        return jax.jit(lambda *args: function(*args))(*args)


@pytest.mark.parametrize("name", FORMS)
def test_a_gradient_has_derivatives_in_either_mode(name):
    """And all of them are those that JAX finds by itself."""
    args, first, second, forward = derivatives(name)
    by_reverse, by_forward = jax.jit(second)(args)
    close(by_forward, by_reverse)
    free_slope, (free, _), moved = under_any(
        lambda args: (first(args), second(args), forward(args)), args
    )
    close(by_reverse, free)
    close(jax.jit(first)(args), free_slope)
    close(moved, free_slope)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("wrap", [jax.jit, jax.vmap, lambda function: function])
def test_forward_mode_says_how_it_is_had(name, wrap):
    args, *_, forward = derivatives(name)
    if wrap is jax.vmap:
        args = tuple(arg[None] for arg in args)
    with pytest.raises(TypeError, match=r'no forward mode.*use\(derivatives="any"\)'):
        wrap(forward)(args)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_ties_and_zeros_have_the_slopes_of_the_forms(value):
    """Of equal maxima the first counts, and a variance of 0 has a whole slope."""
    x = jnp.full((1, 2, 2, 1), value, jnp.float32)

    def pooled(x):
        return relu_max_pool(x).sum()

    def noisy(var):
        return estimators._perturb(var, var + 1e-8, jnp.ones_like(var)).sum()

    for function, at in ((pooled, x), (noisy, jnp.zeros((2,), jnp.float32))):
        close(under_any(jax.jacfwd(function), at), jax.grad(function)(at))
        close(under_any(jax.grad(function), at), jax.grad(function)(at))


class Theirs(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Conv(2, (3, 3), name="conv")(x))
        x = nn.avg_pool(x, (2, 2), (2, 2))
        return nn.Dense(2, name="dense")(x.reshape(x.shape[0], -1))


NETS = {
    "converted": (layers.stochastic(Theirs(), {"*": GAUSSIAN}), (2, 4, 4, 1)),
    "own": (nets.MLP((4,), 2, posteriors={"dense1": GAUSSIAN}), (2, 3)),
}


@pytest.mark.parametrize("name", NETS)
def test_nets_have_gradient_penalties_and_forward_mode(name):
    net, shape = NETS[name]
    x = random.normal(random.key(0), shape)
    params = jax.jit(net.init)(random.key(1), x)["params"]
    along = jax.tree.map(jnp.ones_like, params)

    def loss(params, x):
        y = net.apply({"params": params}, x, rngs={"noise": random.key(2)})
        return jnp.sum(jnp.square(y))

    def penalty(params):
        return jnp.sum(jnp.square(jax.grad(loss, 1)(params, x)))

    slopes = jax.tree.map(jnp.sum, jax.jit(jax.grad(penalty))(params))
    moved = under_any(lambda params: jax.jvp(penalty, (params,), (along,))[1], params)
    close(sum(jax.tree.leaves(slopes)), moved)


def test_the_hessian_of_a_net_is_symmetric():
    net, shape = NETS["own"]
    x = random.normal(random.key(0), shape)
    variables = jax.jit(net.init)(random.key(1), x)

    def loss(x):
        y = net.apply(variables, x, rngs={"noise": random.key(2)})
        return jnp.sum(jnp.sin(y))

    hessian = jax.jit(jax.hessian(loss))(x).reshape(x.size, x.size)
    assert np.any(hessian)
    close(hessian, hessian.T)


WRAPPED = {
    "vmap": lambda layer: jax.vmap(layer, (0, None)),
    "scan": lambda layer: (
        lambda xs, w: jax.lax.scan(lambda _, x: (None, layer(x, w)), None, xs)[1]
    ),
    "checkpoint": lambda layer: jax.checkpoint(jax.vmap(layer, (0, None))),
}


@pytest.mark.parametrize("wrap", WRAPPED)
def test_reverse_mode_goes_through_loops_and_vmap(wrap):
    """A gradient from outside, of one argument alone or of both."""
    rng = np.random.default_rng(0)
    xs = jnp.asarray(rng.normal(size=(2, 4, 3)), jnp.float32)
    w = jnp.asarray(rng.normal(size=(3, 2)), jnp.float32)

    def slopes(layer):
        def loss(xs, w):
            return jnp.sum(jnp.sin(WRAPPED[wrap](layer)(xs, w)))

        return jax.jit(lambda: [jax.grad(loss, n)(xs, w) for n in (0, 1, (0, 1))])()

    close(slopes(linear(ops.DENSE)), slopes(jnp.matmul))


def test_no_other_form_has_a_gradient_of_its_own():
    """All go by the decorator that the switch turns off."""
    root = pathlib.Path(vnets.__file__).parent
    users = {
        path.name for path in root.rglob("*.py") if "jax.custom_vjp" in path.read_text()
    }
    assert users == {"derivatives.py"}
