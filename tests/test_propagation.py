"""Laws of moment propagation: Monte Carlo where exact, the plain net where quiet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from claims import every
from flax import linen as nn
from jax import lax, random

from vnets import evaluate, moments, nodes, ops, plan, propagation
from vnets.data import Split
from vnets.layers import TRAIN
from vnets.moments import Moments
from vnets.nets import (
    MLP,
    VGG,
    Chain,
    ConvDecoder,
    LeNet5,
    ResNet,
    StridedCNN,
    WhitenedCNN,
)
from vnets.nodes import (
    additive,
    dropout,
    gaussian,
    multiplicative,
    point,
    variance,
)
from vnets.pooling import ACTIVATIONS, window_max_pool

DRAWS = 5_000
SHAPE, K = (2, 3, 1), 3
POSTERIORS = {
    "point": point(),
    "gaussian": gaussian(-2.0),
    "sign": additive(-2.0, noise="sign"),
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
    y, both = moments.linear(ops.DENSE, q, h), moments.joint(q, h)
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

    y = moments.linear(op, q, h)
    assert y.mean.shape == (2, 1, 1, 4)
    w = jax.jit(lambda key: q.sample(key, (DRAWS, 2)))(random.key(2))
    draws = np.einsum("nbhwi,nbhwio->nbo", draws_of(h, 3), w)
    assert_moments(draws, y.mean[:, 0, 0], y.var[:, 0, 0])


def relu(h):
    return moments.activation("relu", h)


def relu_pool(h):
    return relu(moments.max_pool(h))


def test_relu_and_maximum_agree_with_monte_carlo(assert_moments):
    h, other = random_moments((5, 6)), random_moments((5, 6), seed=1)
    draws = draws_of(h, 10)
    y = relu(h)
    assert_moments(np.maximum(draws, 0), y.mean, y.var)
    y = moments.maximum(h, other)
    largest = np.maximum(draws, draws_of(other, 11))
    assert_moments(largest, y.mean, y.var)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations_agree_with_monte_carlo(kind, assert_moments):
    h = random_moments((5, 6))
    y = jax.jit(lambda h: moments.activation(kind, h))(h)
    assert_moments(ACTIVATIONS[kind](draws_of(h, 10)), y.mean, y.var)


def test_relu_of_a_variance_layers_output_is_in_closed_form():
    var = jnp.asarray([[1e-6, 0.5, 2.0, 1e6]], jnp.float32)
    y = relu(Moments(jnp.zeros_like(var), var))
    np.testing.assert_allclose(y.mean, np.sqrt(var / (2 * np.pi)), rtol=1e-6)
    np.testing.assert_allclose(y.var, var * (1 - 1 / np.pi) / 2, rtol=1e-6)


@pytest.mark.parametrize("ratio", [1e3, 50.0, 6.0, -6.0, -50.0, -1e30])
def test_relu_far_from_its_kink_loses_no_digits(ratio):
    """In float32 the textbook second moment minus squared mean would be noise."""
    std = 1e-3
    mean = jnp.asarray([[ratio * std]], jnp.float32)
    y = relu(Moments(mean, jnp.full((1, 1), std**2, jnp.float32)))
    np.testing.assert_allclose(y.mean, np.maximum(mean, 0), atol=1e-9 * 1e3)
    np.testing.assert_allclose(y.var / std**2, float(ratio > 0), atol=1e-6)


def test_no_variance_is_the_plain_operation():
    zero = random_moments((2, 5, 4, 3), quiet=True)
    none = Moments(zero.mean)
    window = (1, 2, 2, 1)
    pooled = lax.reduce_window(zero.mean, -np.inf, lax.max, window, window, "VALID")
    expected = np.maximum(pooled, 0)
    for h in (zero, none):
        y = jax.jit(relu_pool)(h)
        np.testing.assert_array_equal(y.mean, expected)
        np.testing.assert_array_equal(jax.jit(relu)(h).mean, np.maximum(h.mean, 0))
        assert (y.var is None) if h.var is None else not np.any(y.var)


def test_gradients_are_finite_without_variance():
    def total(mean, var):
        h = Moments(mean, var)
        found = [moments.maximum(h, Moments(-mean, var))]
        found += [moments.activation(kind, h) for kind in ACTIVATIONS]
        return sum(jnp.sum(y.mean) + jnp.sum(y.var) for y in found)

    mean = jnp.asarray([0.0, 1.0, -2.0], jnp.float32)
    for gradient in jax.jit(jax.grad(total, (0, 1)))(mean, jnp.zeros_like(mean)):
        assert np.all(np.isfinite(gradient))


def test_pooling_of_independent_pixels_is_near_monte_carlo():
    """What `relu_pool` says of its error, with room for the 5000 draws (0.014)."""
    h = random_moments((64, 2, 2, 1))
    y = jax.jit(relu_pool)(h)
    draws = draws_of(h, 3)
    pooled = np.maximum(draws.max(axis=(2, 3)), 0)[:, :, 0]
    error = (y.mean[:, 0, 0, 0] - pooled.mean(axis=0)) / pooled.std(axis=0)
    assert np.sqrt(np.mean(np.square(error))) < 0.03 + 0.014
    assert np.max(np.abs(error)) < 0.16 + 3 * 0.014


def test_overlapping_padded_windows_are_near_monte_carlo():
    """Nine independent pixels at most; what lies beyond the edge never wins."""
    h = random_moments((64, 4, 4, 1))
    y = jax.jit(lambda h: moments.max_pool(h, 3, 2, "SAME"))(h)
    assert y.mean.shape == (64, 2, 2, 1)
    draws = jnp.asarray(draws_of(h, 3), jnp.float32).reshape(-1, 4, 4, 1)
    pooled = np.asarray(window_max_pool(draws, 3, 2, "SAME")).reshape(DRAWS, 64, 2, 2)
    std = pooled.std(axis=0)
    error = (y.mean[..., 0] - pooled.mean(axis=0)) / std
    assert np.sqrt(np.mean(np.square(error))) < 0.1
    np.testing.assert_allclose(np.sqrt(y.var[..., 0]), std, rtol=1 / 3)


def test_means_and_constants_are_exact(assert_moments):
    h = random_moments((2, 3, 4, 3))
    chain = (plan.Standardize((0.1, 0.2, 0.3), (0.5,)), plan.MeanPool())
    y = propagation.Layers({}).run(chain, h)
    x = (draws_of(h, 3) - np.asarray([0.1, 0.2, 0.3])) / 0.5
    assert_moments(x.mean(axis=(2, 3)), y.mean, y.var)


def test_a_residual_step_adds_what_its_sides_say(assert_moments):
    """Exact for a quiet input, whatever noise either side has."""
    sides = [{"kernel": POSTERIORS["gaussian"](random.key(i), (4, 4))} for i in (0, 1)]
    params = dict(zip(("a", "b"), sides, strict=True))
    step = plan.Residual((plan.Dense("a", 4, False),), (plan.Dense("b", 4, False),))
    x = random_moments((2, 4)).mean
    y = propagation.Layers({"params": params}).run((step,), Moments(x))
    w = sum(
        side["kernel"].sample(random.key(9 + i), (DRAWS, 2))
        for i, side in enumerate(sides)
    )
    assert_moments(jnp.einsum("bi,nbio->nbo", x, w), y.mean, y.var)
    quiet = plan.Residual((plan.Dense("a", 4, False),))
    y = propagation.Layers({"params": params}).run((quiet,), Moments(x))
    alone = moments.linear(ops.DENSE, sides[0]["kernel"], Moments(x))
    np.testing.assert_array_equal(y.mean, alone.mean + x)
    np.testing.assert_array_equal(y.var, alone.var)


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
    expected_softmax = jax.jit(moments.log_expected_softmax)
    np.testing.assert_array_equal(expected_softmax(mean, None), plain)
    np.testing.assert_allclose(expected_softmax(mean, zero), plain, atol=1e-6)
    # Noise that all logits share moves no probability.
    np.testing.assert_allclose(expected_softmax(mean, zero + 7.0), plain, atol=1e-5)


@pytest.mark.parametrize(("scale", "error"), [(0.1, 0.001), (0.3, 0.01), (1.0, 0.04)])
def test_expected_softmax_is_near_monte_carlo(scale, error):
    """Its stated errors (0.0006, 0.006, 0.03), and nearer than the plain softmax."""
    mean, cov, expected = noisy_logits(scale)
    p = np.exp(jax.jit(moments.log_expected_softmax)(mean, cov))
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    gap, plain = (
        np.sqrt(np.mean(np.square(q - expected))) for q in (p, jax.nn.softmax(mean))
    )
    assert gap < min(error, 0.6 * plain)


@pytest.mark.parametrize("rank", [1, 2, 10])
@pytest.mark.parametrize("size", [0.1, 10.0])
def test_expected_softmax_and_points_have_finite_gradients(rank, size):
    """Of any covariance: eigenvalues that are equal, or 0, are no trouble."""
    mean, factor = random.normal(random.key(0), (16, 10)), jnp.eye(10)[:, :rank]
    drawn = random.normal(random.key(1), (16, 10, rank))
    for a in (jnp.broadcast_to(factor, (16, 10, rank)), drawn):
        cov = jnp.square(size) * a @ jnp.swapaxes(a, 1, 2)
        for function in (moments.log_expected_softmax, moments.points):
            slopes = jax.grad(
                lambda m, c, f=function: jnp.sum(jnp.square(jnp.tanh(f(m, c)))), (0, 1)
            )(mean, cov)
            assert every(np.all(np.isfinite(slope)) for slope in slopes)


def test_the_gradient_of_the_expected_softmax_is_its_slope():
    mean, cov, _ = noisy_logits(1.0)
    mean, cov = mean[:5], cov[:5] + jnp.eye(10)[None]  # far from where a root is steep
    step = random.normal(random.key(2), cov.shape)
    step = 1e-2 * (step + jnp.swapaxes(step, 1, 2))

    def shifted(t):
        found = moments.log_expected_softmax(mean, cov + t * step)
        return jnp.sum(found[:, 0] - found[:, 1])

    slope = (shifted(1.0) - shifted(-1.0)) / 2
    assert float(jax.grad(shifted)(0.0)) == pytest.approx(float(slope), rel=2e-2)


def test_weights_that_vary_together_are_refused():
    model = MLP(widths=(), classes=3)
    params = model.init(random.key(0), jnp.zeros((1, 4)))["params"]
    mean = params["dense1"]["kernel"].mean
    together = nodes.Correlated(mean, jnp.ones_like(mean), jnp.ones((2, *mean.shape)))
    for place in ("kernel", "bias"):
        of = mean if place == "kernel" else params["dense1"]["bias"]
        node = nodes.Correlated(of, jnp.ones_like(of), jnp.ones((2, *of.shape)))
        given = {"dense1": {**params["dense1"], place: node}}
        with pytest.raises(ValueError, match="not of a Correlated"):
            propagation.moments(model, {"params": given}, jnp.ones((1, 4)))
    with pytest.raises(ValueError, match="vary independently"):
        moments.linear(ops.DENSE, together, Moments(jnp.ones((1, 4))))


@pytest.mark.parametrize("channels", [1, 2])
def test_constants_of_other_channels_are_refused(channels):
    """They would make three channels of one."""
    steps = (plan.Standardize((0.1, 0.2, 0.3), (1.0,)), plan.Dense("dense1", 2))
    model, x = Chain(steps), jnp.ones((1, 2, 2, channels))
    with pytest.raises(ValueError, match=f"does not fit {channels} channels"):
        model.init(random.key(0), x)
    with pytest.raises(ValueError, match=f"does not fit {channels} channels"):
        propagation.Layers({}).run(steps[:1], Moments(x))


def test_expected_softmax_is_right_to_first_order_in_the_covariance():
    """E f(z) = f(m) + 1/2 sum_ij cov_ij d_ij f + O(cov^2)."""
    mean, cov, _ = noisy_logits(0.3)
    small = 1e-2 * cov[:5]
    hessians = jax.jit(jax.vmap(jax.hessian(jax.nn.softmax)))(mean[:5])
    step = 0.5 * np.einsum("bij,bkij->bk", small, hessians)
    p = np.exp(jax.jit(moments.log_expected_softmax)(mean[:5], small))
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


@pytest.fixture(scope="module")
def lenet():
    """LeNet-5 with batch norm and noise in every layer, on a batch of two."""
    shape, names = (16, 16, 1), ("conv1", "conv2", "dense1", "dense2")
    net = LeNet5(batch_norm=True, posteriors=dict.fromkeys(names, multiplicative(-2.0)))
    x = random.uniform(random.key(0), (2, *shape), jnp.float32)
    return net, start(net, shape), x


CHAIN = (
    plan.Conv("conv", 4, (3, 3), (2, 2)),
    plan.WindowMaxPool(),
    plan.Activation("abs"),
    plan.MaxPool(),
    plan.Flatten(),
    plan.Dense("top", K),
)
GROWING = (
    *ConvDecoder((4, 8), (2, 3), 32, "tanh").plan,
    plan.Activation(),
    plan.Dense("top", K),
)
NETS = {
    "perceptron": (MLP((5, 4), K, activation="tanh", batch_norm=True), SHAPE),
    "lenet5": (LeNet5(activation="leaky_relu", batch_norm=True), (17, 16, 1)),
    "vgg": (VGG(K, 0.05, blocks=2, input_std=(0.5,)), (8, 8, 3)),
    "resnet": (ResNet(K, (1, 1), 2, zero_last_scale=False), (17, 16, 3)),
    "strided": (StridedCNN(K), (8, 8, 3)),
    "whitened": (WhitenedCNN(K, widths=(4, 4), hidden=5, last_pool=3), (16, 16, 3)),
    "chain": (Chain(steps=CHAIN), (16, 16, 3)),
    "growing": (Chain(steps=GROWING), (5,)),
}


SLOW = {
    "lenet5",
    "resnet",
    "vgg",
    "whitened",
}  # "chain" has the same steps, but for residuals


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in NETS],
)
def test_without_noise_it_is_the_net_itself_and_noise_makes_variance(name):
    """Operation by operation, and so bit for bit."""
    net, shape = NETS[name]
    variables = start(net, shape)
    x = random.uniform(random.key(0), (2, *shape), jnp.float32)
    logits = propagation.moments(net, variables, x)
    assert logits.cov is None
    np.testing.assert_array_equal(logits.mean, net.apply(variables, x))
    noisy = net.clone(posteriors={net.layers[0]: multiplicative(-9.0)})
    noisy = propagation.moments(noisy, start(noisy, shape), x)
    assert np.all(np.isfinite(noisy.cov))
    assert np.all(noisy.var > 0)
    # So little noise moves the means little: by some of its standard deviations.
    assert np.all(np.abs(noisy.mean - logits.mean) < 3 * np.sqrt(noisy.var))


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
    h = moments.Moments(x, jnp.ones_like(x))
    got = propagation.Layers(named).norm("norm1", h, epsilon=0.5)
    np.testing.assert_allclose(got.mean, norm.apply(variables, x), rtol=1e-6)
    np.testing.assert_allclose(got.var, np.full(x.shape, 1 / 1.5), rtol=1e-6)


@pytest.mark.slow
def test_lenet_with_noise_everywhere_is_near_its_samples(lenet):
    """Approximate: correlated pixels, and ReLU and pooling of what is not Gaussian.

    A quarter of a standard deviation allows the 0.16 of pooling twice in squares.
    """
    net, variables, x = lenet
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


def test_models_without_moments_are_named():
    x = jnp.zeros((1, 4), jnp.float32)
    with pytest.raises(TypeError, match=r"Dense has no plan.*Chain"):
        propagation.moments(nn.Dense(3), {}, x)
    net = Chain(steps=(plan.Dense("top", K), plan.Activation()))
    with pytest.raises(ValueError, match="end with Dense, not Activation"):
        propagation.moments(net, {}, x)


@pytest.mark.parametrize("quiet", [True, False])
def test_a_noisy_layer_reads_channels_that_became_positions(quiet, assert_moments):
    """Exact, of inputs with noise of their own or none."""
    steps = (plan.DepthToSpace((2, 2)), plan.Conv("conv", 3, (3, 2)), plan.Flatten())
    net = Chain(steps=steps, posteriors={"conv": gaussian(-1.0)})
    variables = start(net, (2, 1, 4))
    h = random_moments((3, 2, 1, 4), quiet=quiet)
    y = propagation.Layers(variables).run(steps, h)
    x = jnp.asarray(draws_of(h, 4), jnp.float32).reshape(-1, 2, 1, 4)
    draws = jax.jit(net.apply)(variables, x, rngs={"noise": random.key(3)})
    assert_moments(draws.reshape(DRAWS, *y.mean.shape), y.mean, y.var)


def test_depthwise_kernels_and_means_of_windows_have_moments_of_their_own():
    """Each output's by itself, exactly: sums of independent weights or pixels."""
    x = random_moments((2, 6, 5, 3)).mean
    steps = (plan.Depthwise("own", (3, 2), (2, 1), ((1, 0), (1, 1))),)
    net = Chain(steps=steps, posteriors={"own": gaussian(-1.0)})
    variables = start(net, (6, 5, 3))
    h = propagation.Layers(variables).run(steps, Moments(x))
    mean, var = variables["params"]["own"]["kernel"].moments()
    op = ops.GeneralConv((2, 1), ((1, 0), (1, 1)), (1, 1), (1, 1), groups=3)
    bias = variables["params"]["own"]["bias"]
    wanted = np.asarray(op.apply(x, mean)) + np.asarray(bias)
    np.testing.assert_allclose(h.mean, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(h.var, op.apply(x**2, var), rtol=1e-5, atol=1e-5)
    ones = Moments(x, jnp.ones_like(x))
    pooled = propagation.Layers({}).run((plan.WindowMeanPool(2, 1, "VALID"),), ones)
    np.testing.assert_allclose(pooled.var, np.full(pooled.mean.shape, 1 / 4))
    norm = plan.LayerNorm("norm1")
    quiet = start(Chain(steps=(norm,)), (7,))
    y = propagation.Layers(quiet).run(
        (norm,), Moments(x[:, 0, :, 0].repeat(7, 1)[:, :7])
    )
    assert y.var is None
    with pytest.raises(ValueError, match="'norm1': layer normalization has no moments"):
        propagation.Layers(quiet).run((norm,), ones)
