"""Laws of the estimators: they sample the same pre-activation, in different ways."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from vnets import noise as noises
from vnets import ops
from vnets.estimators import (
    ESTIMATORS,
    MAGNITUDE_MEAN,
    MAGNITUDE_STD,
    VAR_FLOOR,
    _perturb,
    lrt,
    magnitude,
    magnitude_gaussian,
    magnitude_mean,
    per_example_sampling,
    weight_sampling,
)
from vnets.layers import Dense
from vnets.posteriors import (
    Dropout,
    Gaussian,
    Multiplicative,
    Point,
    Scaled,
    adaptive_dropout,
    dropout,
    gaussian,
    multiplicative,
    point,
    variance,
)

# Those that sample the pre-activation itself; the magnitudes sample another layer.
SAMPLERS = (lrt, weight_sampling, per_example_sampling)
MAGNITUDES = (magnitude, magnitude_gaussian, magnitude_mean)
DRAWS = 2000
DENSE_X, DENSE_W = (2, 3), (3, 4)
CONV_X, CONV_W = (2, 4, 5, 2), (3, 3, 2, 3)
CONV = ops.TiledConv((4, 5), (3, 3), ((1, 1), (0, 0)), 2)
CASES = {"dense": (ops.DENSE, DENSE_X, DENSE_W), "conv": (CONV, CONV_X, CONV_W)}

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
    "binary-example": dropout(0.3, gaussian(-1.0), per="example"),
    "binary-batch": dropout(0.3, gaussian(-1.0), per="batch"),
    "gaussian-dropout-out": dropout(0.3, gaussian(-1.0), "normal", "out"),
    "dropout-of-a-variance-layer": dropout(0.3, variance()),
    "dropout-alone": dropout(0.3, per="example"),
    "adaptive-dropout": adaptive_dropout(0.3),
}


def run(estimator, op, q, x, key):
    return estimator(op, q, x, key)


@functools.cache
def compiled(estimator, op):
    """Many draws [n, B, ..., O] of a pre-activation."""
    draw = functools.partial(run, estimator, op)
    return jax.jit(jax.vmap(draw, in_axes=(None, None, 0)))


@functools.cache
def problem(case, make):
    op, x_shape, w_shape = CASES[case]
    key = random.key(0)
    return op, make(key, w_shape), random.normal(random.fold_in(key, 1), x_shape)


def linear(op, x, w):
    return op.lower(op.apply(op.lift(x), w))


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


@pytest.mark.parametrize(
    ("case", "name"),
    [
        *(("dense", name) for name in PLAIN),
        *(("conv", name) for name in ("gaussian", "variance", "input")),
    ],
)
def test_estimators_have_the_moments_of_the_node(case, name, assert_moments):
    """The mean is x E w and the variance x^2 Var w, of each pre-activation alone."""
    op, q, x = problem(case, PLAIN[name])
    mean, var = exact_moments(op, q, x)
    for draws in all_draws(op, q, x):
        assert_moments(draws, mean, var)


@pytest.mark.parametrize(
    ("case", "name"),
    [
        *(("dense", name) for name in SCALED),
        ("conv", "binary-position"),
        ("conv", "gaussian-dropout-out"),
    ],
)
def test_estimators_agree_under_noise_on_units(case, name, assert_same_moments):
    op, q, x = problem(case, SCALED[name])
    first, *others = all_draws(op, q, x)
    for draws in others:
        assert_same_moments(first, draws)
    mean, _ = exact_moments(op, q.weight, x)
    gap = np.abs(np.asarray(first).mean(0) - mean)
    error = np.asarray(first).std(0) / np.sqrt(DRAWS)
    assert np.all(gap <= 5 * error + 1e-5)  # dropout has mean one


@pytest.mark.parametrize("noise", ["sign", "uniform"])
@pytest.mark.parametrize("estimator", [weight_sampling, per_example_sampling])
def test_sampling_serves_every_noise(noise, estimator, assert_moments):
    op, q, x = problem("dense", gaussian(-1.0, noise=noise))
    mean, var = q.moments()
    draws = compiled(estimator, op)(q, x, random.split(random.key(3), DRAWS))
    assert_moments(draws, x @ mean, jnp.square(x) @ var)


@pytest.mark.parametrize("noise", ["sign", "uniform"])
def test_lrt_refuses_noise_that_is_not_normal(noise):
    for make in (variance(noise), dropout(0.5, variance(noise))):
        op, q, x = problem("dense", make)
        message = f"not '{noise}'.*weight_sampling.*per_example_sampling"
        with pytest.raises(ValueError, match=message):
            lrt(op, q, x, random.key(0))


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
    # Some 2000 pairs: six standard errors instead of five.
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
        assert all(np.all(np.isfinite(bar)) for bar in slopes)


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


@pytest.mark.parametrize("case", CASES)
def test_magnitudes_have_the_moments_of_a_half_normal(case, assert_moments):
    """The mean is sqrt(2 v / pi), the variance (1 - 2 / pi) v; `magnitude_mean` has the
    mean alone."""
    op, q, x = problem(case, variance())
    std = np.sqrt(linear(op, jnp.square(x), q.moments()[1]))
    keys = random.split(random.key(7), DRAWS)
    for estimator in (magnitude, magnitude_gaussian):
        draws = compiled(estimator, op)(q, x, keys)
        assert_moments(draws, MAGNITUDE_MEAN * std, (MAGNITUDE_STD * std) ** 2)
        # Different laws of the same moments: only |eps| is never negative.
        assert (np.min(draws) >= 0) == (estimator is magnitude)
    quiet = magnitude_mean(op, q, x, None)
    np.testing.assert_allclose(quiet, MAGNITUDE_MEAN * std, rtol=1e-5, atol=1e-7)


def test_the_magnitude_is_that_of_lrt_and_its_noise_that_of_dropout():
    op, q, x = problem("conv", variance())
    key = random.key(8)
    np.testing.assert_allclose(
        magnitude(op, q, x, key), jnp.abs(lrt(op, q, x, key)), rtol=1e-6
    )
    ratio = (MAGNITUDE_STD / MAGNITUDE_MEAN) ** 2
    assert ratio == pytest.approx(np.pi / 2 - 1, rel=1e-12)


@pytest.mark.parametrize("estimator", MAGNITUDES)
def test_magnitudes_are_of_variance_layers_only(estimator):
    for make in (gaussian(), multiplicative(), variance("sign"), dropout(0.5)):
        op, q, x = problem("dense", make)
        if isinstance(q, Scaled):  # noise on the units of a point: nothing to refuse
            assert estimator(op, q, x, random.key(0)).shape == (2, 4)
            continue
        with pytest.raises(ValueError, match="variance layers with normal noise, not"):
            estimator(op, q, x, random.key(0))


@pytest.mark.parametrize("estimator", MAGNITUDES)
def test_magnitudes_have_finite_gradients_and_those_of_the_formula(estimator):
    op, q, x = problem("dense", variance())
    key = random.key(9)

    def loss(scale, x):
        return jnp.sum(jnp.sin(estimator(op, q.replace(scale=scale), x, key)))

    std = jnp.sqrt(jnp.square(x) @ jnp.square(q.scale))
    factor = estimator(op, q, x, key) / std  # does not depend on the scale

    def plain(scale, x):
        return jnp.sum(jnp.sin(factor * jnp.sqrt(jnp.square(x) @ jnp.square(scale))))

    slopes, plain_slopes = (
        jax.jit(jax.grad(function, argnums=(0, 1))) for function in (loss, plain)
    )
    ours, expected = slopes(q.scale, x), plain_slopes(q.scale, x)
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    for leaf in slopes(q.scale, x.at[0].set(0)):
        assert np.all(np.isfinite(leaf))


# Precision: bfloat16 for activations and means, float32 for whatever is a variance.


def products(function, *args):
    """Types of the operands of every matrix product, in order."""
    found = []

    def visit(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general":
                found.append({str(v.aval.dtype) for v in eqn.invars})
            for value in eqn.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    visit(inner)

    visit(jax.make_jaxpr(function)(*args).jaxpr)
    return found


def test_only_variances_are_multiplied_in_float32():
    x = random.normal(random.key(0), (8, 6)).astype(jnp.bfloat16)
    node = gaussian(-4.0)(random.key(0), (6, 5))
    y = lrt(ops.DENSE, node, x, random.key(0))
    assert y.dtype == jnp.bfloat16
    types = products(lambda x: lrt(ops.DENSE, node, x, random.key(0)), x)
    assert types == [{"float32"}, {"bfloat16"}]
    for estimator in (weight_sampling, per_example_sampling):
        assert estimator(ops.DENSE, node, x, random.key(0)).dtype == jnp.bfloat16
        types = products(lambda x, f=estimator: f(ops.DENSE, node, x, random.key(0)), x)
        assert types == [{"bfloat16"}]


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_half_precision_is_a_rounding(name):
    """Within the roundings of the inputs, the weights, their sum and the result."""
    magnitudes = name.startswith("magnitude")
    make = variance() if magnitudes else gaussian(-4.0)
    node = make(random.key(0), (64, 5))
    x = random.normal(random.key(3), (16, 64)).astype(jnp.bfloat16)
    full = ESTIMATORS[name](ops.DENSE, node, x.astype(jnp.float32), random.key(0))
    half = ESTIMATORS[name](ops.DENSE, node, x, random.key(0))
    unit = float(jnp.finfo(jnp.bfloat16).eps)
    # |x| |w| summed, with the weights as large as any draw of 16-bit normals (4.9).
    mean, var = node.moments()
    largest = 5 * jnp.sqrt(var) + (0 if mean is None else jnp.abs(mean))
    bound = unit * (jnp.abs(x.astype(jnp.float32)) @ largest + jnp.abs(full))
    assert half.dtype == jnp.bfloat16
    assert jnp.all(jnp.abs(half.astype(jnp.float32) - full) <= bound)
