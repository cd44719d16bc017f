"""What patterns match, what they cannot convert, and what is no factory or model."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax import nnx
from jax import random

from vnets import tree
from vnets.layers import Dense, stochastic
from vnets.nets import MLP
from vnets.nodes import Gaussian, Point, Posterior, gaussian, is_posterior


class Mixed(nn.Module):
    """Weights of kinds that no posterior is for, beside a Dense."""

    @nn.compact
    def __call__(self, x):
        x = x + nn.Embed(3, 6, name="embed")(jnp.zeros((4,), jnp.int32))
        x = nn.MultiHeadDotProductAttention(2, name="attention")(x[:, None])[:, 0]
        cell = nn.OptimizedLSTMCell(4, name="lstm")
        _, x = cell(cell.initialize_carry(random.key(0), (4, 6)), x)
        return nn.Dense(2, name="head")(nn.LayerNorm(name="norm")(x))


X = jnp.ones((4, 6), jnp.float32)


def start(net):
    return jax.eval_shape(net.init, random.key(0), X)["params"]


def test_what_cannot_be_stochastic_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="also match weights that cannot") as error:
        start(stochastic(Mixed(), {"*": gaussian()}))
    for name in ("'embed/embedding' (Embed)", "'lstm/hf' (DenseParams)"):
        assert name in str(error.value)
    assert "sampled={name: factory}" in str(error.value)
    for name in (
        "norm",
        "head",
        "attention",
    ):  # vectors are meant by their own names only
        assert f"'{name}" not in str(error.value)


@pytest.mark.parametrize(
    "allow",
    [["*"], ["embed", "lstm"], ["*/*"], ["*d*", "l*"]],
)
def test_unless_it_is_allowed(allow):
    net = stochastic(Mixed(), {"*": gaussian()}, allow)
    params = start(net)
    assert isinstance(params["head"]["kernel"], Gaussian)
    assert not isinstance(params["embed"]["embedding"], Posterior)
    assert net.matched(params)["*"][-1] == "head"


def test_what_is_sampled_need_not_be_allowed():
    sampled = {"embed": gaussian(), "lstm/*": gaussian()}
    params = start(stochastic(Mixed(), {"*": gaussian()}, sampled=sampled))
    leaves = jax.tree.leaves(params, is_leaf=is_posterior)
    arrays = [leaf for leaf in leaves if not is_posterior(leaf)]
    assert arrays
    for bias in arrays:  # of attention [heads, features of each]
        assert bias.ndim == 1 or bias.shape == (2, 3)


@pytest.mark.parametrize(
    ("allow", "words"),
    [
        (["lstm"], r"stochastic: 'embed/embedding' \(Embed\)\. Name"),
        (["*", "embde"], r"allow=\['embde'\]: no weight .*'embed/embedding'"),
    ],
)
def test_what_is_allowed_is_checked(allow, words):
    with pytest.raises(ValueError, match=words):
        start(stochastic(Mixed(), {"*": gaussian()}, allow))
    with pytest.raises(ValueError, match=r"a list of patterns, such as \['embed'\]"):
        stochastic(Mixed(), {"*": gaussian()}, "embed")


def test_patterns_of_vectors_that_cannot_be_nodes_are_refused():
    net = stochastic(Mixed(), {"head/bias": gaussian(), "*/scale": gaussian()}, ["*"])
    with pytest.raises(ValueError, match=r"matches \['\*/scale'\]"):
        start(net)
    patterns = {"head": gaussian(), "*bias": gaussian()}
    with pytest.raises(ValueError, match=r"stochastic: .*'norm/bias' \(LayerNorm\)"):
        start(stochastic(Mixed(), patterns))


@pytest.mark.parametrize(
    ("pattern", "name", "vector", "expected"),
    [
        ("*bias", "dense1/bias", True, True),
        ("*bias", "bias", True, True),
        ("*bias", "unbias", False, False),
        ("*/bias", "dense1/bias", True, True),
        ("*", "dense1/bias", True, False),
        ("*scale", "norm/scale", True, True),
        ("norm/?bias", "norm/bias", True, False),
        ("bias", "bias", False, True),  # a layer of that name
    ],
)
def test_patterns_that_end_as_vectors_do_are_of_vectors(
    pattern, name, vector, expected
):
    assert tree.fits(pattern, name, vector) == expected


def test_matched_lists_the_nodes_of_each_pattern():
    model = nn.Sequential([nn.Dense(3), nn.Dense(3), nn.Dense(2)])
    patterns = {"layers_0": gaussian(), "*bias": gaussian(), "layers_*": gaussian()}
    net = stochastic(model, patterns)
    assert net.matched(start(net)) == {
        "layers_0": ["layers_0"],
        "*bias": ["layers_0/bias", "layers_1/bias", "layers_2/bias"],
        "layers_*": ["layers_1", "layers_2"],
    }


NO_FACTORIES = [
    (Gaussian, "the class Gaussian"),
    (Point(jnp.ones((2, 2))), "a node, Point"),
]


@pytest.mark.parametrize(("make", "what"), NO_FACTORIES)
@pytest.mark.parametrize(
    "use",
    [
        lambda make: stochastic(Mixed(), {"dense1": make}),
        lambda make: MLP((3,), 2, posteriors={"dense1": make}),
        lambda make: Dense(3, make).init(random.key(0), X),
        lambda make: Dense(3, bias_posterior=make).init(random.key(0), X),
    ],
    ids=["stochastic", "net", "layer", "bias"],
)
def test_what_is_given_for_a_factory_is_refused(make, what, use):
    with pytest.raises(ValueError, match=f"needs a factory, .* not {what}"):
        use(make)


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (lambda: nnx.Linear(2, 3, rngs=nnx.Rngs(0)), "Linear of flax.nnx"),
        (lambda: nn.Dense, "the class Dense, which is still to be called"),
        (lambda: "Dense", "a str"),
    ],
)
def test_what_is_no_module_of_linen_is_refused(model, what):
    with pytest.raises(ValueError, match=f"module of flax.linen, not {what}"):
        stochastic(model(), {"*": gaussian()})
