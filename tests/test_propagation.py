"""Laws of moment propagation: Monte Carlo where exact, the plain net where quiet."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from flax import linen as nn
from jax import lax, random

from vnets import edits, evaluate, ops, plan, propagation
from vnets.data import Split
from vnets.layers import TRAIN
from vnets.nets import MLP, VGG, Chain, LeNet5, ResNet
from vnets.nodes import (
    dropout,
    gaussian,
    multiplicative,
    point,
    variance,
)
from vnets.propagation import Moments

DRAWS = 5_000
SHAPE, K = (2, 3, 1), 3
POSTERIORS = {
    "point": point(),
    "gaussian": gaussian(-2.0),
    "sign": gaussian(-2.0, noise="sign"),
    "multiplicative": multiplicative(0.5),
    "variance": variance(),
    "binary": dropout(0.3),
    "units_out": dropout(0.4, gaussian(-1.0), "normal", axis="out"),
    "both": dropout(0.3, dropout(0.2, variance(), axis="out", per="example")),
}


def start(net, shape=SHAPE):
    """Variables with statistics of batch norm that are not those of the start."""
    rngs = {"params": random.key(0), "noise": random.key(1)}
    variables = jax.jit(net.init)(rngs, jnp.zeros((1, *shape), jnp.float32))
    rng = np.random.default_rng(0)

    def move(path, leaf):
        name = jax.tree_util.keystr(path[-1:])
        if name in ("['kernel']", ".mean", ".scale", ".log_var", ".log_alpha"):
            return leaf
        moved = leaf + rng.uniform(-0.3, 0.3, leaf.shape).astype(np.float32)
        return moved

    return jax.tree_util.tree_map_with_path(move, variables)


def random_moments(shape, seed=0, quiet=False):
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=shape).astype(np.float32)
    var = np.zeros(shape) if quiet else rng.gamma(1.0, size=shape)
    return Moments(jnp.asarray(mean), jnp.asarray(var, jnp.float32))


def draws_of(h, seed):
    noise = np.random.default_rng(seed).normal(size=(DRAWS, *h.mean.shape))
    return np.asarray(h.mean) + np.sqrt(h.var) * noise


def covariance(draws):
    centred = draws - draws.mean(axis=0)
    return centred[:, :, :, None] * centred[:, :, None, :]


@jax.jit
def linear_and_joint(q, h, key):
    """Both, and draws of the weights."""
    y, both = propagation.linear(ops.DENSE, q, h), propagation.joint(q, h)
    return y, both, q.sample(key, (DRAWS, 2))


@pytest.mark.parametrize("noisy_input", [False, True])
@pytest.mark.parametrize("name", POSTERIORS)
def test_linear_layers_agree_with_monte_carlo(
    name, noisy_input, assert_moments, assert_mean
):
    """Marginals and, of `joint`, the covariance between the outputs."""
    q = POSTERIORS[name](random.key(5), (4, 3))
    h = random_moments((2, 4))
    if not noisy_input:
        h = Moments(h.mean)

    y, (mean, cov), w = linear_and_joint(q, h, random.key(8))
    np.testing.assert_allclose(mean, y.mean, rtol=1e-6)
    if name == "point" and not noisy_input:
        assert y.var is None
        assert cov is None
        np.testing.assert_array_equal(y.mean, ops.DENSE.apply(h.mean, q.mean))
        return
    np.testing.assert_allclose(np.einsum("bkk->bk", cov), y.var, rtol=1e-5)
    x = draws_of(h, 7) if noisy_input else np.broadcast_to(h.mean, (DRAWS, 2, 4))
    draws = np.einsum("nbi,nbio->nbo", x, w)
    assert_moments(draws, y.mean, y.var)
    assert_mean(covariance(draws), cov)


def test_convolution_agrees_with_monte_carlo(assert_moments):
    """One pixel of output, so that nothing is shared between positions."""
    q = gaussian(-2.0)(random.key(1), (2, 2, 3, 4))
    h = random_moments((2, 2, 2, 3))
    op = ops.conv((2, 2), (2, 2), (3, 4), padding="VALID")

    y = propagation.linear(op, q, h)
    assert y.mean.shape == (2, 1, 1, 4)
    w = jax.jit(lambda key: q.sample(key, (DRAWS, 2)))(random.key(2))
    draws = np.einsum("nbhwi,nbhwio->nbo", draws_of(h, 3), w)
    assert_moments(draws, y.mean[:, 0, 0], y.var[:, 0, 0])


def test_relu_and_maximum_agree_with_monte_carlo(assert_moments):
    h, other = random_moments((5, 6)), random_moments((5, 6), seed=1)
    draws = draws_of(h, 10)
    y = propagation.relu(h)
    assert_moments(np.maximum(draws, 0), y.mean, y.var)
    y = propagation.maximum(h, other)
    largest = np.maximum(draws, draws_of(other, 11))
    assert_moments(largest, y.mean, y.var)


def test_relu_of_a_variance_layers_output_is_in_closed_form():
    var = jnp.asarray([[1e-6, 0.5, 2.0, 1e6]], jnp.float32)
    y = propagation.relu(Moments(jnp.zeros_like(var), var))
    np.testing.assert_allclose(y.mean, np.sqrt(var / (2 * np.pi)), rtol=1e-6)
    np.testing.assert_allclose(y.var, var * (1 - 1 / np.pi) / 2, rtol=1e-6)


@pytest.mark.parametrize("ratio", [1e3, 50.0, 6.0, -6.0, -50.0, -1e30])
def test_relu_far_from_its_kink_loses_no_digits(ratio):
    """In float32 the textbook second moment minus squared mean would be noise."""
    std = 1e-3
    mean = jnp.asarray([[ratio * std]], jnp.float32)
    y = propagation.relu(Moments(mean, jnp.full((1, 1), std**2, jnp.float32)))
    np.testing.assert_allclose(y.mean, np.maximum(mean, 0), atol=1e-9 * 1e3)
    np.testing.assert_allclose(y.var / std**2, float(ratio > 0), atol=1e-6)


def test_no_variance_is_the_plain_operation():
    zero = random_moments((2, 5, 4, 3), quiet=True)
    none = Moments(zero.mean)
    window = (1, 2, 2, 1)
    pooled = lax.reduce_window(zero.mean, -np.inf, lax.max, window, window, "VALID")
    expected = np.maximum(pooled, 0)
    for h in (zero, none):
        y = jax.jit(propagation.relu_pool)(h)
        np.testing.assert_array_equal(y.mean, expected)
        relu = jax.jit(propagation.relu)
        np.testing.assert_array_equal(relu(h).mean, np.maximum(h.mean, 0))
        assert (y.var is None) if h.var is None else not np.any(y.var)


def test_gradients_are_finite_without_variance():
    def total(mean, var):
        y = propagation.maximum(Moments(mean, var), Moments(-mean, var))
        return jnp.sum(y.mean) + jnp.sum(y.var)

    mean = jnp.asarray([0.0, 1.0, -2.0], jnp.float32)
    for gradient in jax.jit(jax.grad(total, (0, 1)))(mean, jnp.zeros_like(mean)):
        assert np.all(np.isfinite(gradient))


def test_pooling_of_independent_pixels_is_near_monte_carlo():
    """What `relu_pool` says of its error, with room for the 5000 draws (0.014)."""
    h = random_moments((64, 2, 2, 1))
    y = jax.jit(propagation.relu_pool)(h)
    draws = draws_of(h, 3)
    pooled = np.maximum(draws.max(axis=(2, 3)), 0)[:, :, 0]
    error = (y.mean[:, 0, 0, 0] - pooled.mean(axis=0)) / pooled.std(axis=0)
    assert np.sqrt(np.mean(np.square(error))) < 0.03 + 0.014
    assert np.max(np.abs(error)) < 0.16 + 3 * 0.014


def test_pools_and_sums_of_independent_pixels_agree_with_monte_carlo(assert_moments):
    """Windows of two pixels, of which no maximum is taken of a maximum."""
    h = random_moments((2, 4, 2, 3))
    draws = draws_of(h, 4)
    y = propagation.hidden((plan.MeanPool(),), propagation.Layers({}), h)
    assert_moments(draws.mean(axis=(2, 3)), y.mean, y.var)
    pair = plan.WindowMaxPool(size=2, stride=2, padding="SAME")
    column = jax.tree.map(lambda x: x[:, :, :1], h)
    y = propagation.window_pool(column, pair)  # the other column is outside
    pooled = draws[:, :, :, :1].reshape(DRAWS, 2, 2, 2, 3).max(axis=3)[:, :, :, None]
    assert_moments(pooled, y.mean, y.var)
    moved = plan.Standardize((0.5,), (2.0,))
    y = propagation.hidden((moved,), propagation.Layers({}), h)
    assert_moments((draws - 0.5) / 2.0, y.mean, y.var)


def noisy_logits(scale):
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(50, 10)).astype(np.float32)
    factor = scale * rng.normal(size=(50, 10, 10)).astype(np.float32)
    z = mean + np.einsum("bij,nbj->nbi", factor, rng.normal(size=(DRAWS, 50, 10)))
    expected = scipy.special.softmax(z, axis=-1).mean(axis=0)
    return jnp.asarray(mean), jnp.asarray(factor @ factor.mT), expected


def test_softmax_of_logits_without_noise_is_the_softmax():
    mean, zero = random_moments((5, 4)).mean, jnp.zeros((5, 4, 4), jnp.float32)
    plain = jax.nn.log_softmax(mean)
    expected_softmax = jax.jit(propagation.log_expected_softmax)
    np.testing.assert_array_equal(expected_softmax(mean, None), plain)
    np.testing.assert_allclose(expected_softmax(mean, zero), plain, atol=1e-6)
    # Noise that all logits share moves no probability.
    np.testing.assert_allclose(expected_softmax(mean, zero + 7.0), plain, atol=1e-5)


@pytest.mark.parametrize(("scale", "error"), [(0.1, 0.001), (0.3, 0.01), (1.0, 0.04)])
def test_expected_softmax_is_near_monte_carlo(scale, error):
    """Its stated errors (0.0006, 0.006, 0.03), and nearer than the plain softmax."""
    mean, cov, expected = noisy_logits(scale)
    p = np.exp(jax.jit(propagation.log_expected_softmax)(mean, cov))
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    gap, plain = (
        np.sqrt(np.mean(np.square(q - expected))) for q in (p, jax.nn.softmax(mean))
    )
    assert gap < min(error, 0.6 * plain)


def test_expected_softmax_is_right_to_first_order_in_the_covariance():
    """E f(z) = f(m) + 1/2 sum_ij cov_ij d_ij f + O(cov^2)."""
    mean, cov, _ = noisy_logits(0.3)
    small = 1e-2 * cov[:5]
    hessians = jax.jit(jax.vmap(jax.hessian(jax.nn.softmax)))(mean[:5])
    step = 0.5 * np.einsum("bij,bkij->bk", small, hessians)
    p = np.exp(jax.jit(propagation.log_expected_softmax)(mean[:5], small))
    moved = p - jax.nn.softmax(mean[:5])
    assert np.abs(step).max() > 1e-4
    # The next order is cov times smaller: 1e-2 of `step`, and rounding of p itself.
    np.testing.assert_allclose(moved, step, atol=3e-2 * np.abs(step).max())


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        ("dense2", "gaussian"),
        ("dense2", "variance"),
        ("dense3", "units_out"),
        ("dense3", "both"),
    ],
)
def test_logits_of_noise_in_the_last_hidden_layer_are_exact(
    layer, name, assert_moments, assert_mean
):
    net = MLP((5, 4), K, posteriors={layer: POSTERIORS[name]})
    variables = start(net)
    x = random.uniform(random.key(3), (2, *SHAPE), jnp.float32)
    logits = jax.jit(lambda v: propagation.moments(net, v, x))(variables)

    @jax.jit
    def sample(key):
        many = jnp.broadcast_to(x, (DRAWS, *x.shape)).reshape(-1, *SHAPE)
        return net.apply(variables, many, rngs={"noise": key}).reshape(DRAWS, 2, K)

    draws = sample(random.key(4))
    assert_moments(draws, logits.mean, logits.var)
    assert_mean(covariance(np.asarray(draws, np.float64)), logits.cov)


BRANCH = (plan.Conv("b", 3, (1, 1)), plan.Activation(), plan.Norm("norm_b"))
STEPS = (
    plan.Standardize((0.2,), (0.5,)),
    *(plan.Conv("a", 3, (3, 3), (2, 2)), plan.Norm("norm_a"), plan.MaxPool()),
    *(plan.Residual(BRANCH), plan.Activation(), plan.WindowMaxPool(size=2)),
    *(plan.MeanPool(), plan.Dense("c", 4), plan.Activation(), plan.Dense("d", K)),
)
NETS = {
    "lenet": (functools.partial(LeNet5, batch_norm=True), (16, 16, 1)),
    "vgg": (functools.partial(VGG, width=0.1, blocks=2), (8, 8, 3)),
    "resnet": (functools.partial(ResNet, 4, (1,), 2), (8, 8, 3)),
    "chain": (functools.partial(Chain, steps=STEPS), (16, 16, 1)),
}


def noisy_net(name):
    """A net with batch norm and noise in every layer, on a batch of two."""
    make, shape = NETS[name]
    net = make(posteriors=dict.fromkeys(make().layers, multiplicative(-2.0)))
    x = random.uniform(random.key(0), (2, *shape), jnp.float32)
    return net, start(net, shape), x


@pytest.mark.parametrize("name", NETS)
def test_without_noise_any_plan_is_the_net_itself(name):
    """Operation by operation, and so bit for bit; with noise there is a variance."""
    net, variables, x = noisy_net(name)
    noisy = jax.jit(lambda v: propagation.moments(net, v, x))(variables)
    assert np.all(np.isfinite(noisy.mean))
    assert np.all(np.asarray(noisy.var) > 0)
    quiet = {**variables, "params": edits.mean_only(variables["params"])}
    logits = propagation.moments(net, quiet, x)
    assert logits.cov is None
    np.testing.assert_array_equal(logits.mean, net.apply(quiet, x))


def test_normalization_without_scale_and_shift_is_not_left_out():
    net, shape = LeNet5(batch_norm=True, norm_affine=False), (16, 16, 1)
    variables = dict(start(net, shape))
    variables["batch_stats"] = jax.tree.map(lambda x: x + 0.3, variables["batch_stats"])
    x = random.uniform(random.key(0), (2, *shape), jnp.float32)
    logits = propagation.moments(net, variables, x)
    np.testing.assert_array_equal(logits.mean, net.apply(variables, x))


def test_a_normalization_has_the_epsilon_of_its_net():
    x = random.normal(random.key(0), (2, 3), jnp.float32)
    norm = nn.BatchNorm(use_running_average=True, epsilon=0.5)
    variables = norm.init(random.key(0), x)
    named = {kind: {"norm1": held} for kind, held in variables.items()}
    h = propagation.Moments(x, jnp.ones_like(x))
    got = propagation.Layers(named).norm("norm1", h, epsilon=0.5)
    np.testing.assert_allclose(got.mean, norm.apply(variables, x), rtol=1e-6)
    np.testing.assert_allclose(got.var, np.full(x.shape, 1 / 1.5), rtol=1e-6)


@pytest.mark.slow
def test_lenet_with_noise_everywhere_is_near_its_samples():
    """Approximate: correlated pixels, and ReLU and pooling of what is not Gaussian.

    A quarter of a standard deviation allows the 0.16 of pooling twice in squares.
    """
    net, variables, x = noisy_net("lenet")
    logits = jax.jit(lambda v: propagation.moments(net, v, x))(variables)
    many = jnp.repeat(x, 400, axis=0)
    draws = jax.jit(net.apply)(variables, many, rngs={"noise": random.key(1)})
    draws = np.asarray(draws).reshape(2, 400, 10)
    spread = draws.std(axis=1)
    assert np.max(np.abs(logits.mean - draws.mean(axis=1)) / spread) < 0.25
    np.testing.assert_allclose(np.sqrt(logits.var), spread, rtol=0.25)


def test_it_is_tested_as_any_model_is():
    """A mean-free net: guessing without noise, an ensemble's answer from moments."""
    net = MLP((256,), K, posteriors={"dense1": variance()})
    variables = start(net)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, *SHAPE), np.uint8)
    x = evaluate.to_float(jnp.asarray(image))
    log_p = jax.jit(lambda v: propagation.predict(net, v, x))(variables)
    split = Split(image, np.asarray(jnp.argmax(log_p, -1), np.int32))
    model = propagation.SamplingFree(net)
    result = evaluate.evaluate(
        model, variables, split, evaluate.EvalSpec(), random.key(0), batch_size=16
    )
    assert result["accuracy"] == 1.0
    nll = -jnp.mean(jnp.max(log_p, -1))
    assert result["nll"] == pytest.approx(float(nll), rel=1e-5)
    with pytest.raises(ValueError, match="norm='running'"):
        model.apply(variables, x, mode=TRAIN)


def test_unknown_nets_are_named():
    with pytest.raises(TypeError, match="object: it has no plan"):
        propagation.moments(object(), {}, jnp.zeros((1, 1)))
    for net, shape in (
        (MLP((4,), K, activation="tanh"), SHAPE),
        (LeNet5(activation="tanh"), (16, 16, 1)),
    ):
        x = jnp.zeros((1, *shape), jnp.float32)
        with pytest.raises(ValueError, match="relu, not 'tanh'"):
            propagation.moments(net, start(net, shape), x)
