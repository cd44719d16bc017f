"""Laws of `stochastic`: models of Flax that are not ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import serialization
from jax import random

from vnets import estimators
from vnets.edits import mean_only
from vnets.layers import TEST, TRAIN, Conv, Dense, Mode, stochastic
from vnets.nodes import (
    Additive,
    Point,
    ZeroMean,
    dropout,
    gaussian,
    point,
    variance,
)

IMAGE = (3, 9, 8, 2)


@pytest.fixture(scope="module")
def image():
    return random.normal(random.key(1), IMAGE)


class Theirs(nn.Module):
    """Somebody's model: strides, SAME, integer and uneven padding, a nested block."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), strides=2, name="stem")(x))
        x = nn.relu(Block(name="block")(x))
        return nn.Dense(5, name="head")(x.reshape(x.shape[0], -1))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), padding=1, use_bias=False, name="conv1")(x)
        x = nn.Conv(3, (2, 3), padding=((1, 0), (0, 1)), name="conv2")(x)
        return nn.Conv(3, (2, 2), strides=(1, 2), padding="VALID", name="conv3")(x)


@pytest.fixture(scope="module")
def variables(image):
    """Of the original model, with biases that are not zero."""
    made = jax.jit(Theirs().init)(random.key(0), image)
    return jax.tree.map(lambda leaf: leaf + 0.01, made)


def paths(tree, **kwargs):
    return {
        jax.tree_util.keystr(path)
        for path, _ in jax.tree_util.tree_leaves_with_path(tree, **kwargs)
    }


def test_stochastic_keeps_the_paths_of_the_parameters(image, variables):
    net = stochastic(Theirs(), {"stem": gaussian(), "block/*": variance()})
    made = jax.eval_shape(net.init, random.key(0), image)
    is_node = {"is_leaf": lambda node: isinstance(node, Additive | ZeroMean | Point)}
    assert paths(made, **is_node) == paths(variables)
    kinds = {
        name: type(made["params"]["block"][name]["kernel"])
        for name in ("conv1", "conv2", "conv3")
    }
    assert set(kinds.values()) == {ZeroMean}
    assert type(made["params"]["stem"]["kernel"]) is Additive
    assert not isinstance(made["params"]["head"]["kernel"], Point)  # left as it was


@pytest.mark.parametrize("patterns", [{}, {"*": point()}, {"*": gaussian()}])
def test_stochastic_equals_the_model_when_nothing_is_noisy(patterns, image, variables):
    """A trained model's parameters fit as they are, and as points."""
    net = stochastic(Theirs(), patterns)
    expected = jax.jit(Theirs().apply)(variables, image)
    got = jax.jit(net.apply)(variables, image)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    if patterns:
        nodes = {"params": as_points(variables["params"])}
        np.testing.assert_array_equal(jax.jit(net.apply)(nodes, image), got)


def as_points(params):
    return {
        name: (Point(value) if name == "kernel" else value)
        if not isinstance(value, dict)
        else as_points(value)
        for name, value in params.items()
    }


def test_stochastic_layers_are_noisy_and_can_be_edited(image):
    net = stochastic(Theirs(), {"head": gaussian(-2.0), "stem": dropout(0.5)})
    made = jax.jit(net.init)(random.key(0), image)
    apply = jax.jit(net.apply)
    a, b = (apply(made, image, rngs={"noise": random.key(i)}) for i in (1, 2))
    assert not np.allclose(a, b)
    quiet = {"params": mean_only(made["params"])}
    plain = jax.tree.map(
        lambda q: q.mean if isinstance(q, Point) else q,
        quiet,
        is_leaf=lambda q: isinstance(q, Point),
    )
    np.testing.assert_allclose(
        jax.jit(net.apply)(quiet, image),
        jax.jit(Theirs().apply)(plain, image),
        rtol=1e-4,
        atol=1e-5,
    )


def test_the_mode_reaches_stochastic_layers(image):
    """One weight sample for the batch: equal images, equal outputs."""
    net = stochastic(Theirs(), {"head": gaussian(0.0)})
    made = jax.jit(net.init)(random.key(0), image)
    apply = jax.jit(net.apply)
    same = jnp.broadcast_to(image[:1], image.shape)
    for estimator in (estimators.lrt, estimators.weight_sampling):
        y = apply(made, same, mode=Mode(estimator), rngs={"noise": random.key(1)})
        shared = np.allclose(y[0], y[1], rtol=1e-4)
        assert shared == (estimator is estimators.weight_sampling)


def test_the_first_matching_pattern_counts(image):
    net = stochastic(Theirs(), {"block/conv2": variance(), "block/*": gaussian()})
    block = jax.eval_shape(net.init, random.key(0), image)["params"]["block"]
    kinds = [type(block[f"conv{i}"]["kernel"]) for i in (1, 2, 3)]
    assert kinds == [Additive, ZeroMean, Additive]


def test_a_path_that_matches_nothing_is_refused(image):
    net = stochastic(Theirs(), {"head": gaussian(), "blocks/*": gaussian()})
    with pytest.raises(ValueError, match=r"'blocks/\*'.*'block/conv1'.*'head', 'stem'"):
        jax.eval_shape(net.init, random.key(0), image)


def test_a_module_of_another_kind_is_named_with_its_kind():
    model = nn.Sequential([nn.Embed(3, 4), nn.Dense(2)])
    net = stochastic(model, {"layers_0": gaussian()})
    x = jnp.zeros((1, 3), jnp.int32)
    with pytest.raises(ValueError, match=r"\['layers_1',.*'layers_0' is a Embed"):
        jax.eval_shape(net.init, random.key(0), x)


@pytest.mark.parametrize(
    "posteriors", [["head"], {"head": "gaussian"}, {0: gaussian()}]
)
def test_what_maps_no_names_to_factories_is_refused(posteriors):
    with pytest.raises(ValueError, match="map the names of layers to factories"):
        stochastic(Theirs(), posteriors)


def test_a_layer_without_a_key_says_what_to_give():
    x = jnp.ones((2, 3), jnp.float32)
    net = stochastic(Head({}), {"head": gaussian(), "head/bias": gaussian()})
    variables = jax.eval_shape(net.init, random.key(0), x)
    with pytest.raises(ValueError, match=r"'head' is noisy .* rngs=.*split_rngs="):
        jax.eval_shape(net.apply, variables, x)


def test_a_kernel_that_is_neither_array_nor_node_is_refused():
    """Such as that of a forgotten call, and of a checkpoint restored without types."""
    x = jnp.ones((2, 3), jnp.float32)
    forgotten = stochastic(Head({}), {"head": gaussian})
    with pytest.raises(ValueError, match=r"'head/kernel' is a function, neither"):
        forgotten.init(random.key(0), x)
    net = stochastic(Head({}), {"head": gaussian()})
    params = net.init(random.key(0), x)["params"]
    saved = serialization.to_bytes(params)
    like = jax.eval_shape(net.init, random.key(0), x)["params"]
    again = serialization.from_bytes(like, saved)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    untyped = serialization.msgpack_restore(saved)
    with pytest.raises(ValueError, match=r"'head/kernel' is a dict, neither"):
        net.apply({"params": untyped}, x, rngs={"noise": random.key(1)})


def test_stochastic_is_hashable():
    posteriors = {"head": gaussian()}
    assert hash(stochastic(Theirs(), posteriors)) == hash(
        stochastic(Theirs(), posteriors)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature_group_count": 3}, "3 does not divide 2 input"),
        ({"input_dilation": 2}, "input_dilation takes a padding of numbers"),
        ({"padding": "CIRCLE"}, "padding must be SAME, VALID"),
        ({"precision": "highest"}, "takes no precision"),
        ({"kernel_size": 3}, r"\[B, 1 axes, C\]"),
    ],
)
def test_convolutions_that_cannot_be_are_refused(options, message, image):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            own = {"kernel_size": (3, 3), **options}
            return nn.Conv(4, name="conv", **own)(x)

    with pytest.raises(ValueError, match=message):
        jax.eval_shape(
            stochastic(Model(), {"conv": gaussian()}).init, random.key(0), image
        )


class Head(nn.Module):
    """A Dense with options, called by the name that Flax gives its input."""

    options: dict

    @nn.compact
    def __call__(self, x):
        return nn.Dense(4, name="head", **self.options)(inputs=x)


def test_options_of_a_dense_are_kept_or_refused():
    x = jnp.ones((2, 3), jnp.float32)
    kept = {"dtype": jnp.bfloat16, "bias_init": nn.initializers.constant(-2.0)}
    for posteriors in ({"head": gaussian()}, {"head/bias": gaussian()}):
        net = stochastic(Head(kept), posteriors)
        made = net.init(random.key(0), x)
        bias = mean_only(made["params"])["head"]["bias"]
        bias = bias.mean if isinstance(bias, Point) else bias
        np.testing.assert_array_equal(bias, np.full(4, -2.0, np.float32))
        assert net.apply(made, x, rngs={"noise": random.key(1)}).dtype == jnp.bfloat16
    net = stochastic(Head({"dot_general": jax.lax.dot_general}), {"head": gaussian()})
    with pytest.raises(ValueError, match="'head': a stochastic Dense takes no dot_gen"):
        net.init(random.key(0), x)


def test_inputs_without_a_batch_are_refused():
    """Noise for each example has no meaning there, and a bias added an axis."""
    key, row = random.key(0), jnp.ones((3,), jnp.float32)
    with pytest.raises(ValueError, match=r"takes a batch, \[B, ..., I\], not \[3\]"):
        Dense(5).init(key, row)
    with pytest.raises(ValueError, match=r"'head' takes a batch"):
        stochastic(Head({}), {"head": gaussian()}).init(key, row)
    with pytest.raises(ValueError, match=r"takes \[B, H, W, I\], not \[8, 8, 1\]"):
        Conv(5, (3, 3)).init(key, jnp.ones((8, 8, 1), jnp.float32))
    for options in ({"kernel_size": 3}, {"kernel_size": (3, 3), "strides": 2}):
        with pytest.raises(ValueError, match="is a pair, for H and W, not"):
            Conv(5, **options).init(key, jnp.ones((1, 8, 8, 1), jnp.float32))


class Normalized(nn.Module):
    """A normalization that says, or does not say, which statistics count."""

    running: bool | None = None

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(self.running, name="norm")(x)
        return nn.Dense(2, name="head")(x)


class OwnNorm(nn.BatchNorm):
    """Somebody's normalization with another call."""

    @nn.compact
    def __call__(self, x, *, train):
        return super().__call__(x, use_running_average=not train)


class OwnDense(nn.Dense):
    """Somebody's layer around that of Flax."""

    def __call__(self, x):
        return 2 * super().__call__(x)


class Wrapped(nn.Module):
    @nn.compact
    def __call__(self, x):
        return OwnDense(2, name="head")(OwnNorm(name="norm")(x, train=True))


@pytest.mark.parametrize("vectors", [{}, {"norm/scale": gaussian(-50.0)}])
def test_a_normalization_of_theirs_follows_the_mode(vectors):
    """Unless it says otherwise; and a subclass's own call is not passed over."""
    x = random.normal(random.key(0), (6, 3)) + 5.0
    net = stochastic(Normalized(), {"head": point(), **vectors})
    made = net.init(random.key(0), x)
    for mode in (TRAIN, TEST):
        expected, _ = stochastic(
            Normalized(mode.norm == "running"), net.posteriors
        ).apply(made, x, rngs={"noise": random.key(1)}, mutable=["batch_stats"])
        got, new = net.apply(
            made, x, mode=mode, rngs={"noise": random.key(1)}, mutable=["batch_stats"]
        )
        np.testing.assert_array_equal(got, expected)
        other = stochastic(Wrapped(), net.posteriors)
        own, theirs = other.apply(
            made, x, mode=mode, rngs={"noise": random.key(1)}, mutable=["batch_stats"]
        )
        assert np.any(theirs["batch_stats"]["norm"]["mean"])
        if mode is TRAIN:
            np.testing.assert_array_equal(own, 2 * got)
        moved = np.any(new["batch_stats"]["norm"]["mean"])
        assert moved == (mode is TRAIN)
