"""Laws of moments that go through nets: near samples, and the net where quiet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import random
from moment_cases import DRAWS, POSTERIORS, covariance, draws_of, random_moments

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
    gaussian,
    multiplicative,
    variance,
)

SHAPE, K = (2, 3, 1), 3


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
