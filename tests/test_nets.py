"""Laws of the nets: every posterior on every subset of layers, counts, batch norm."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from claims import every
from jax import random

from vnets import compact
from vnets.layers import TEST, TRAIN
from vnets.likelihoods import Categorical
from vnets.nets import (
    MLP,
    VGG,
    ConvDecoder,
    ConvEncoder,
    LeNet5,
    ResNet,
    StridedCNN,
    WhitenedCNN,
    lenet_300_100,
)
from vnets.nodes import (
    dropout,
    gaussian,
    is_noisy,
    is_posterior,
    multiplicative,
    variance,
)
from vnets.plan import Conv, Dense

LAYERS = {
    "lenet5": ("conv1", "conv2", "dense1", "dense2"),
    "lenet_300_100": ("dense1", "dense2", "dense3"),
    "mlp": ("dense1", "dense2"),
}
NETS = {
    "lenet5": LeNet5,
    "lenet5-batch-norm": functools.partial(LeNet5, batch_norm=True),
    "lenet_300_100": lenet_300_100,
    "mlp": functools.partial(MLP, (32,)),
}
KINDS = {
    "gaussian": gaussian(),
    "layer": multiplicative(),
    "output": multiplicative(per="output"),
    "input": multiplicative(per="input"),
    "weight": multiplicative(per="weight"),
    "variance": variance(),
    "dropout": dropout(0.5),
    "dropout-out": dropout(0.5, axis="out"),
    "dropout-gaussian": dropout(0.5, gaussian(), per="example"),
}
X = jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32)


def rngs(seed=0):
    keys = random.split(random.key(seed), 2)
    return {"params": keys[0], "noise": keys[1]}


def few(layers):
    """None, each one and all: pairs add little."""
    return [(), *((layer,) for layer in layers), layers]


def subsets(layers):
    return [
        chosen
        for size in range(len(layers) + 1)
        for chosen in itertools.combinations(layers, size)
    ]


def count(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("choose", [few, pytest.param(subsets, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NETS)
def test_every_posterior_on_every_subset_of_layers(name, kind, choose):
    layers = LAYERS[name.removesuffix("-batch-norm")]
    for number, chosen in enumerate(choose(layers)):
        net = NETS[name](posteriors=dict.fromkeys(chosen, KINDS[kind]))
        logits, variables = jax.eval_shape(
            lambda x, net=net: net.init_with_output(rngs(), x), X
        )
        assert (logits.shape, logits.dtype) == ((2, 10), jnp.float32)
        noisy = {n for n in layers if is_noisy(variables["params"][n]["kernel"])}
        assert noisy == set(chosen)
        if number == 0:
            deterministic = count(variables["params"])
        assert count(variables["params"]) >= deterministic
        leaves = jax.tree.leaves(variables["params"])
        assert every(leaf.dtype == jnp.float32 for leaf in leaves)
        assert not any(leaf.weak_type for leaf in leaves)
        hash(net)


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (LeNet5(), 431_080),  # Caffe's: 520 + 25,050 + 400,500 + 5,010
        (LeNet5(batch_norm=True), 431_080 + 570),  # scale and bias for one bias
        (lenet_300_100(), 266_610),
        (LeNet5(classes=3), 431_080 - 7 * 501),
        (MLP((20, 30), 4), 784 * 20 + 20 + 20 * 30 + 30 + 30 * 4 + 4),
        (LeNet5(posteriors={"dense1": gaussian()}), 431_080 + 400_000),
        (LeNet5(posteriors={"dense1": variance()}), 431_080),
        (LeNet5(posteriors={"dense1": multiplicative()}), 431_080 + 1),
        (LeNet5(posteriors={"dense1": dropout(0.5)}), 431_080),
        # 7 x 7 positions of 64 maps are left of 28 x 28 pixels.
        (StridedCNN(), 832 + 51_264 + 401_536 + 16_512 + 1_290),
        (StridedCNN(width=2), 1_664 + 204_928 + 1_605_888 + 65_792 + 2_570),
        (ConvEncoder(), 160 + 4_640 + 15_690),
    ],
)
def test_parameter_counts(net, expected):
    variables = jax.eval_shape(lambda x: net.init(rngs(), x), X)
    assert count(variables["params"]) == expected


def test_a_convolutional_decoder_has_few_weights_and_is_a_small_file():
    net, z = ConvDecoder(activation="tanh"), random.normal(random.key(2), (3, 10))
    y, variables = net.init_with_output(rngs(), z)
    assert y.shape == (3, 784)
    assert count(variables["params"]) == 8_624 + 9_280 + 580
    small = compact.quantize(compact.capture(net, variables, (10,)), 6)
    content = compact.dumps(small)
    assert len(content) < 6 / 8 * count(variables["params"])
    again = compact.loads(content)
    model, read = again.to_flax()
    wanted = model.apply(read, z)
    np.testing.assert_allclose(
        compact.Predictor(again)(np.asarray(z)), wanted, rtol=1e-4, atol=1e-5
    )
    assert np.ptp(wanted - y) < 0.2 * np.ptp(y)


@pytest.mark.parametrize("shape", [(56, 56, 1), (14, 56, 1), (3136,), (28, 28, 3)])
def test_an_encoder_of_pictures_takes_no_other_size(shape):
    with pytest.raises(ValueError, match=r"\[B, 784\] or \[B, 28, 28, 1\]"):
        ConvEncoder().init(random.key(0), jnp.zeros((1, *shape)))


@pytest.mark.parametrize("make", [ConvEncoder, ConvDecoder])
def test_halves_of_a_convolutional_autoencoder_refuse_what_they_cannot_be(make):
    for fields, message in (
        ({"size": (28, 30)}, r"multiples of 4, not \(28, 30\)"),
        ({"size": (28,)}, "size must be two whole numbers"),
        ({"widths": (16, 16, 16)}, "widths must be two whole numbers"),
        ({"activation": "mish"}, "'mish'"),
    ):
        with pytest.raises(ValueError, match=message):
            make(**fields)
    with pytest.raises(ValueError, match="8 x 8 has 64 pixels, not 784"):
        ConvDecoder((8, 8))


@pytest.mark.parametrize("name", NETS)
def test_unknown_layers_are_refused(name):
    layers = LAYERS[name.removesuffix("-batch-norm")]
    with pytest.raises(ValueError, match=rf"\['dense9'\].*{layers[0]}.*{layers[-1]}"):
        NETS[name](posteriors={"dense9": variance(), layers[0]: variance()})


@pytest.mark.parametrize(
    ("make", "fields"),
    [
        (MLP, ["widths", "classes"]),
        (LeNet5, ["classes"]),
        (VGG, ["classes"]),
        (StridedCNN, ["width", "classes"]),
        (ConvEncoder, ["classes"]),
        (ResNet, ["stages", "width", "classes"]),
        (WhitenedCNN, ["widths", "classes", "channels", "hidden", "last_pool"]),
        (functools.partial(Dense, "a"), ["features"]),
        (functools.partial(Conv, "a", kernel=(3, 3)), ["features"]),
    ],
)
def test_counts_are_whole_and_at_least_one(make, fields):
    for field, bad in itertools.product(fields, (0, -1, 1.5, "2")):
        several = field in ("widths", "stages")
        what = "whole numbers" if several else "a whole number"
        with pytest.raises(ValueError, match=f"{field}.* must be {what} of at least 1"):
            make(**{field: (3, bad) if several else bad})
        make(**{field: (3, np.int64(2)) if several else np.int64(2)})


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("relu", [0.0, 2.0]),
        ("leaky_relu", [-0.02, 2.0]),
        ("softplus", [0.126928, 2.126928]),
        ("tanh", [-np.tanh(2.0), np.tanh(2.0)]),
        ("abs", [2.0, 2.0]),
    ],
)
def test_activations_stand_between_the_layers_of_a_perceptron(activation, expected):
    """With identities for kernels, the output is the activation of the input."""
    identity = {"kernel": jnp.eye(2), "bias": jnp.zeros(2, jnp.float32)}
    params = {"dense1": identity, "dense2": identity}
    x = jnp.asarray([[-2.0, 2.0]], jnp.float32)
    y = MLP((2,), 2, activation).apply({"params": params}, x)
    np.testing.assert_allclose(y, [expected], rtol=1e-6)
    if activation == "relu":
        default = MLP((2,), 2).apply({"params": params}, x)
        np.testing.assert_array_equal(y, default)


def test_unknown_activations_are_refused():
    with pytest.raises(
        ValueError, match=r"'sine'.*abs.*leaky_relu.*relu.*softplus.*tanh"
    ):
        MLP((2,), 2, "sine")


def test_points_take_no_noise_key():
    net = MLP((5,), 3)
    x = jnp.ones((2, 4), jnp.float32)
    variables = net.init(random.key(0), x)
    assert net.apply(variables, x).shape == (2, 3)


def test_one_more_noisy_layer_leaves_the_others_draws():
    """dense2 is noisy in both nets, dense1 before it in one, with too little variance
    to be seen: dense2's pre-activations are the same."""
    x = random.normal(random.key(1), (4, 6))
    one = MLP((5, 5), 3, posteriors={"dense2": gaussian(0.0)})
    two = MLP(
        (5, 5), 3, posteriors={"dense1": gaussian(-80.0), "dense2": gaussian(0.0)}
    )
    params = jax.jit(two.init)(rngs(), x)["params"]
    quiet = {
        **params,
        "dense1": {**params["dense1"], "kernel": params["dense1"]["kernel"].mean},
    }

    def hidden(net, params):
        _, state = net.apply(
            {"params": params},
            x,
            rngs={"noise": random.key(3)},
            capture_intermediates=True,
        )
        return state["intermediates"]["dense2"]["__call__"][0]

    with_one, with_two = hidden(one, quiet), hidden(two, params)
    np.testing.assert_allclose(with_one, with_two, rtol=1e-5, atol=1e-5)
    mean_pass = hidden(
        one,
        {
            **quiet,
            "dense2": {**params["dense2"], "kernel": params["dense2"]["kernel"].mean},
        },
    )
    assert not np.allclose(with_one, mean_pass, atol=0.1)  # there are draws to compare


@pytest.fixture(scope="module")
def normalized():
    """LeNet-5 with batch norm, whose running statistics have seen a batch."""
    net = LeNet5(batch_norm=True)
    x = random.normal(random.key(1), (100, 28, 28, 1)) + 0.5

    @jax.jit
    def make(x):
        variables = net.init(rngs(), x)
        _, seen = net.apply(variables, x, TRAIN, mutable=["batch_stats"])
        return {**variables, **seen}

    return net, make(x), x


def test_batch_norm_is_switched_by_the_mode(normalized):
    net, variables, x = normalized
    fresh = jax.eval_shape(lambda x: net.init(rngs(), x), X)["batch_stats"]
    assert set(fresh) == {"norm1", "norm2", "norm3"}
    assert every(
        np.all(np.asarray(norm["mean"]) != 0)
        for norm in variables["batch_stats"].values()
    )
    apply = jax.jit(
        functools.partial(net.apply, mutable=["batch_stats"]), static_argnums=2
    )
    _, same = apply(variables, x, TEST)
    jax.tree.map(
        np.testing.assert_array_equal, same["batch_stats"], variables["batch_stats"]
    )
    _, moved = apply(variables, x, TRAIN)
    assert not np.allclose(
        moved["batch_stats"]["norm1"]["mean"], variables["batch_stats"]["norm1"]["mean"]
    )


def test_the_loss_is_the_same_at_any_batch_size(normalized):
    """Noise off and running statistics: batch 1, 50 and N."""
    net, variables, x = normalized
    labels = jnp.arange(len(x)) % 10

    @jax.jit
    def losses(x, labels):
        return Categorical().nll(net.apply(variables, x, TEST), labels)

    whole = losses(x, labels)
    for size in (50, 1):
        parts = [
            losses(x[i : i + size], labels[i : i + size])
            for i in range(0, len(x) if size > 1 else 10, size)
        ]
        got = jnp.concatenate(parts)
        np.testing.assert_allclose(got, whole[: len(got)], rtol=1e-4, atol=1e-5)


def test_normalized_layers_have_no_bias(normalized):
    _, variables, _ = normalized
    with_bias = {n for n, layer in variables["params"].items() if "bias" in layer}
    assert with_bias == {"norm1", "norm2", "norm3", "dense2"}
    nodes = jax.tree.leaves(variables["params"], is_leaf=is_posterior)
    assert sum(is_posterior(node) for node in nodes) == 4
