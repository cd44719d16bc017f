"""Laws of the estimators: they sample the same pre-activation, in different ways."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from claims import every
from estimator_cases import (
    CASES,
    DENSE_W,
    DENSE_X,
    DRAWS,
    compiled,
    linear,
    problem,
    run,
)
from jax import random

from vnets import noise as noises
from vnets import ops
from vnets.estimators import (
    ESTIMATORS,
    VAR_FLOOR,
    _perturb,
    lrt,
    per_example_sampling,
    weight_sampling,
)
from vnets.layers import Dense
from vnets.nodes import (
    Dropout,
    Gaussian,
    Multiplicative,
    Point,
    Scaled,
    dropout,
    gaussian,
    multiplicative,
    point,
    variance,
)

# Those that sample the pre-activation itself; test_magnitudes.py has the others.
SAMPLERS = (lrt, weight_sampling, per_example_sampling)

PLAIN = {
    "gaussian": gaussian(-1.0),
    "variance": variance(),
    "layer": multiplicative(-0.5, "layer"),
    "output": multiplicative(-0.5, "output"),
    "input": multiplicative(-0.5, "input"),
    "weight": multiplicative(-0.5, "weight"),
}
SCALED = {
    "binary-position": dropout(0.3, gaussian(-1.0)),
    "binary-batch": dropout(0.3, gaussian(-1.0), per="batch"),
    "gaussian-dropout-out": dropout(0.3, gaussian(-1.0), "normal", "out"),
}


@functools.partial(jax.jit, static_argnums=0)
def exact_moments(op, q, x):
    """x E w and x^2 Var w."""
    mean, var = (
        jnp.zeros(q.shape, jnp.float32) if moment is None else moment
        for moment in q.moments()
    )
    return linear(op, x, mean), linear(op, jnp.square(x), var)


def all_draws(op, q, x):
    return [
        compiled(estimator, op)(q, x, random.split(random.key(number), DRAWS))
        for number, estimator in enumerate(SAMPLERS)
    ]


@pytest.mark.parametrize("name", ["gaussian", "variance", "input"])
def test_convolutions_have_the_moments_of_the_node(name, assert_moments):
    """The mean is x E w and the variance x^2 Var w, of each pre-activation alone."""
    op, q, x = problem("conv", PLAIN[name])
    mean, var = exact_moments(op, q, x)
    for draws in all_draws(op, q, x):
        assert_moments(draws, mean, var)


@pytest.mark.parametrize("name", SCALED)
def test_convolutions_agree_under_noise_on_units(name, assert_same_moments):
    op, q, x = problem("conv", SCALED[name])
    first, *others = all_draws(op, q, x)
    for draws in others:
        assert_same_moments(first, draws)
    mean, _ = exact_moments(op, q.weight, x)
    gap = np.abs(np.asarray(first).mean(0) - mean)
    error = np.asarray(first).std(0) / np.sqrt(DRAWS)
    assert np.all(gap <= 5 * error + 1e-5)  # dropout has mean one


def test_examples_are_independent_unless_weights_are_shared():
    """Two equal examples: one weight sample gives equal outputs, the others not."""
    op, q, _ = problem("dense", gaussian(0.0))
    x = jnp.ones(DENSE_X, jnp.float32)
    keys = random.split(random.key(0), DRAWS)
    for estimator in SAMPLERS:
        draws = np.asarray(compiled(estimator, op)(q, x, keys))
        correlation = np.corrcoef(draws[:, 0, 0], draws[:, 1, 0])[0, 1]
        if estimator is weight_sampling:
            assert correlation == pytest.approx(1)
        else:
            assert abs(correlation) < 5 / np.sqrt(DRAWS)


def test_outputs_are_independent_under_lrt():
    op, q, x = problem("conv", gaussian(0.0))
    draws = compiled(lrt, op)(q, x, random.split(random.key(0), DRAWS))
    flat = np.asarray(draws).reshape(DRAWS, -1)
    correlation = np.corrcoef(flat.T) - np.eye(flat.shape[1])
    # Some 11,000 pairs: six standard errors instead of five.
    assert np.abs(correlation).max() < 6 / np.sqrt(DRAWS)


@pytest.mark.parametrize("per", ["example", "position", "batch"])
def test_dropout_drops_what_it_says(per):
    """With an identity kernel the noise itself comes out."""
    op = ops.TiledConv((4, 5), (1, 1), ((0, 0), (0, 0)), 1)
    eye = jnp.eye(3, dtype=jnp.float32).reshape(1, 1, 3, 3)
    q = Scaled(Dropout(0.5, 3), Point(eye), "in", per)
    x = jnp.ones((6, 4, 5, 3), jnp.float32)
    draws = np.asarray(jax.jit(functools.partial(run, lrt, op))(q, x, random.key(0)))
    assert set(np.unique(draws)) == {0.0, 2.0}
    constant_over_pixels = np.all(draws == draws[:, :1, :1])
    constant_over_examples = np.all(draws == draws[:1])
    assert constant_over_pixels == (per != "position")
    assert constant_over_examples == (per == "batch")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("estimator", ESTIMATORS.values())
def test_without_noise_an_estimator_is_the_linear_map(case, estimator):
    op, q, x = problem(case, point())
    expected = linear(op, x, q.mean)
    np.testing.assert_array_equal(estimator(op, q, x, None), expected)
    quiet = dropout(0.0)(random.key(0), q.shape)
    np.testing.assert_array_equal(
        estimator(op, quiet, x, None), linear(op, x, quiet.weight.mean)
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("estimator", SAMPLERS)
def test_a_vanishing_alpha_is_a_point(case, estimator):
    """At log alpha -60 the noise is 1e-13 of a weight; LRT's floor adds 1e-8."""
    op, q, x = problem(case, multiplicative(-60.0, "weight"))
    draw = jax.jit(functools.partial(run, estimator, op))
    expected = linear(op, x, q.mean)
    for node in (q, Gaussian(q.mean, jnp.full(q.shape, -60.0, jnp.float32))):
        np.testing.assert_allclose(draw(node, x, random.key(0)), expected, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["gaussian", "variance", "layer"])
def test_gradients_at_zero_inputs_are_finite(case, name):
    """A blank patch has variance 0, where the root has no slope."""
    op, q, x = problem(case, PLAIN[name])
    blank = x.at[0].set(0)

    def loss(q, x):
        return jnp.sum(jnp.square(lrt(op, q, x, random.key(0))))

    slopes = jax.jit(jax.grad(loss, argnums=(0, 1)))
    for inputs in (blank, jnp.zeros_like(x)):
        for leaf in jax.tree.leaves(slopes(q, inputs)):
            assert np.all(np.isfinite(leaf))


def plain_lrt(op, q, x, key):
    """The formula as it stands in the paper."""
    mean, var = q.moments()
    h = op.lift(x)
    y_var = op.apply(jnp.square(h), var)
    noise = jnp.sqrt(y_var + VAR_FLOOR) * noises.normal(key, y_var.shape)
    return op.lower(noise if mean is None else op.apply(h, mean) + noise)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["gaussian", "variance", "output"])
def test_lrt_gradients_are_those_of_the_formula(case, name):
    op, q, x = problem(case, PLAIN[name])

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_slopes(estimator, q, x):
        def loss(q, x):
            y = estimator(op, q, x, random.key(5))
            weights = jnp.cos(jnp.arange(y.size, dtype=jnp.float32))
            return jnp.sum(jnp.square(y) * weights.reshape(y.shape))

        return jax.value_and_grad(loss, argnums=(0, 1))(q, x)

    ours, plain = (value_and_slopes(f, q, x) for f in (lrt, plain_lrt))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


def test_perturb_and_its_gradient():
    keys = random.split(random.key(0), 4)
    mean, draws, g = (random.normal(key, (50,)) for key in keys[:3])
    var = jnp.exp(3 * random.normal(keys[3], (50,)))

    def plain(mean, var):
        return mean + jnp.sqrt(var + VAR_FLOOR) * draws

    def with_slopes(function):
        def run(mean, var):
            y, pullback = jax.vjp(function, mean, var)
            return y, pullback(g)

        return jax.jit(run)

    perturb = with_slopes(lambda m, v: _perturb(m, v, draws))
    ours, slopes = perturb(mean, var)
    expected, plain_slopes = with_slopes(plain)(mean, var)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
    for a, b in zip(slopes, plain_slopes, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    # Rounding may leave a variance just below zero, of a Scaled node's say.
    for bad in (0.0, -1e-9):
        var = jnp.full((50,), bad, jnp.float32)
        y, slopes = perturb(mean, var)
        np.testing.assert_allclose(y, mean, atol=1e-7)
        assert every(np.all(np.isfinite(bar)) for bar in slopes)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("estimator", SAMPLERS)
def test_an_example_does_not_see_the_rest_of_its_batch(case, estimator):
    """Draws are numbered by row, so the first rows are the same in any batch."""
    op, q, x = problem(case, gaussian(-1.0))
    draw = jax.jit(functools.partial(run, estimator, op))
    many = jnp.concatenate([x, 10 * x, -x])
    np.testing.assert_allclose(
        draw(q, many, random.key(1))[: len(x)],
        draw(q, x, random.key(1)),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("make", [gaussian(0.0), variance()])
def test_the_bias_never_enters_the_variance(make):
    layer = Dense(4, make)
    x = random.normal(random.key(1), DENSE_X)
    variables = layer.init({"params": random.key(0), "noise": random.key(0)}, x)
    kernel = variables["params"]["kernel"]
    apply = jax.jit(
        lambda bias: layer.apply(
            {"params": {"kernel": kernel, "bias": bias}},
            x,
            rngs={"noise": random.key(2)},
        )
    )
    bias = jnp.asarray([1.0, -2.0, 30.0, 400.0], jnp.float32)
    gap = apply(bias) - apply(jnp.zeros(4, jnp.float32))
    np.testing.assert_allclose(gap, np.stack([bias] * 2), rtol=1e-6, atol=1e-5)


@functools.cache
def gradient_of(estimator):
    """The gradient of a dense net's mean loss, of many keys."""

    def loss(q, key, head, x, labels):
        h = jax.nn.relu(estimator(ops.DENSE, q, x, key))
        log_p = jax.nn.log_softmax(h @ head)
        return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=1))

    return jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0, None, None, None)))


def gradient_draws(estimator, q, head, x, labels, draws):
    """Draws of it, [n, parameters]."""
    keys = random.split(random.key(11), draws)
    bars = gradient_of(estimator)(q, keys, head, x, labels)
    return np.asarray(bars.log_var, np.float64).reshape(draws, -1)


def total_variance(draws):
    """Trace of the covariance, and its standard error."""
    each = np.sum((draws - draws.mean(axis=0)) ** 2, axis=1)
    return each.mean(), each.std() / np.sqrt(len(each))


def test_gradient_variance_is_ordered():
    """LRT <= per example (it is its conditional mean) <= per batch (Kingma et al.).

    With equal examples the last two differ by the batch size exactly: shared weights
    make B equal terms where independent ones make B terms of their own.
    """
    batch, draws = 6, 2000
    keys = random.split(random.key(0), 3)
    q = gaussian(-1.0)(keys[0], (5, 8))
    head = random.normal(keys[1], (8, 3))
    x = jnp.abs(random.normal(keys[2], (batch, 5)))  # pixels are not negative
    labels = jnp.zeros(batch, jnp.int32)
    estimators = (lrt, per_example_sampling, weight_sampling)
    (a, a_se), (b, b_se), (c, c_se) = (
        total_variance(gradient_draws(f, q, head, x, labels, draws)) for f in estimators
    )
    assert a + 5 * a_se < b - 5 * b_se  # for log_var the inequality is strict
    assert b + 5 * b_se < c - 5 * c_se

    same = jnp.broadcast_to(x[:1], x.shape)
    (a, a_se), (b, b_se), (c, c_se) = (
        total_variance(gradient_draws(f, q, head, same, labels, draws))
        for f in estimators
    )
    assert a + 5 * a_se < b - 5 * b_se
    assert abs(c - batch * b) < 5 * np.hypot(c_se, batch * b_se)


def test_sharing_alpha_keeps_the_mean_gradient_unbiased(assert_same_moments):
    """LRT and weight sampling estimate the same gradient of log alpha."""
    q = multiplicative(-1.0, "output")(random.key(0), DENSE_W)
    x = random.normal(random.key(1), (1, 3))  # one example: the laws are the same

    def slopes(estimator, key):
        def loss(log_alpha):
            node = Multiplicative(q.mean, log_alpha)
            return jnp.sum(jnp.square(estimator(ops.DENSE, node, x, key)))

        return jax.grad(loss)(q.log_alpha)

    keys = random.split(random.key(2), DRAWS)
    means = [
        np.asarray(jax.jit(jax.vmap(functools.partial(slopes, f)))(keys))
        for f in (lrt, weight_sampling)
    ]
    error = np.hypot(*(m.std(0) / np.sqrt(DRAWS) for m in means))
    assert np.all(np.abs(means[0].mean(0) - means[1].mean(0)) < 5 * error)
