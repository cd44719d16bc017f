"""Laws of layers for sequences: one draw a call, one noise on units a sequence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from claims import every
from flax import linen as nn
from jax import random

from vnets import ops
from vnets.estimators import lrt, sequence_lrt
from vnets.layers import GRU, LSTM, Embed, Mode, stochastic
from vnets.layers.recurrent import drawn
from vnets.nodes import Point, Scaled, gaussian, variance
from vnets.priors import kl, log_uniform

BATCH, STEPS, INPUTS, HIDDEN = 3, 5, 4, 6
X = random.normal(random.key(1), (BATCH, STEPS, INPUTS))
RECURRENT = [LSTM, GRU]


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


def flax_params(kind, kernel, bias):
    """The kernel [I + H, G H] as Flax's cell has it."""
    names = {LSTM: "ifgo", GRU: "rzn"}[kind]
    parts = jnp.split(kernel, len(names), axis=-1)
    biases = jnp.split(bias, len(names))
    cell = {}
    for name, part, own in zip(names, parts, biases, strict=True):
        read, held = {"kernel": part[:INPUTS]}, {"kernel": part[INPUTS:]}
        (held if kind is LSTM else read)["bias"] = own
        cell |= {f"i{name}": read, f"h{name}": held}
    if kind is GRU:
        cell["hn"]["bias"] = jnp.zeros_like(biases[-1])
    return {"params": {"cell": cell}}


@pytest.mark.parametrize("kind", RECURRENT)
def test_without_noise_it_is_the_cell_of_flax(kind):
    layer = kind(HIDDEN, bias_init=nn.initializers.normal(0.3))
    params = layer.init(random.key(0), X)["params"]
    cell = {LSTM: nn.LSTMCell, GRU: nn.GRUCell}[kind](HIDDEN)
    theirs = flax_params(kind, params["kernel"].mean, params["bias"])
    close(layer.apply({"params": params}, X), nn.RNN(cell).apply(theirs, X))


@pytest.mark.parametrize("make", [gaussian(-1.0), variance("sign")])
@pytest.mark.parametrize("kind", RECURRENT)
def test_a_call_has_one_draw(kind, make):
    layer = kind(HIDDEN, posterior=make)
    key = {"noise": random.key(2)}
    params = layer.init({"params": random.key(0), **key}, X)["params"]
    own = layer.apply(
        {"params": params}, rngs=key, method=lambda module: module.make_rng("noise")
    )
    point = Point(params["kernel"].sample(own))
    expected = layer.apply({"params": {**params, "kernel": point}}, X)
    close(layer.apply({"params": params}, X, rngs=key), expected)
    again = kind(HIDDEN, posterior=make, redraw=True)
    assert jnp.abs(again.apply({"params": params}, X, rngs=key) - expected).max() > 0.01


def grouped(key, shape):
    """Points under Gaussian noise on inputs, hidden units and gates."""
    near = gaussian(-1.0)
    on_inputs = Scaled(near(key, (shape[0],)), Point(random.normal(key, shape)), "in")
    return Scaled(near(random.fold_in(key, 1), (shape[1],)), on_inputs, "out")


@pytest.mark.parametrize("kind", RECURRENT)
def test_noise_on_units_is_one_draw_for_a_sequence(kind):
    q = grouped(random.key(3), (INPUTS + HIDDEN, kind.gates * HIDDEN))
    params = {"kernel": q, "bias": jnp.full(kind.gates * HIDDEN, 0.2)}
    layer, key = kind(HIDDEN), {"noise": random.key(2)}
    found = layer.apply({"params": params}, X, rngs=key)
    own = layer.apply(
        {"params": params}, rngs=key, method=lambda module: module.make_rng("noise")
    )
    weight, ins, outs = drawn(q, own, BATCH)
    assert ins.shape == (BATCH, INPUTS + HIDDEN)
    assert outs.shape == (BATCH, kind.gates * HIDDEN)
    for number in range(BATCH):
        kernel = Point(ins[number][:, None] * weight * outs[number][None])
        one = layer.apply({"params": {**params, "kernel": kernel}}, X[number][None])
        close(found[number], one[0])


@pytest.mark.parametrize("front", [True, False])
@pytest.mark.parametrize("kind", RECURRENT)
def test_padding_says_nothing(kind, front):
    layer = kind(HIDDEN)
    variables = layer.init(random.key(0), X)
    rubbish = jnp.full((BATCH, 2, INPUTS), 9.0)
    order = [rubbish, X] if front else [X, rubbish]
    here = [jnp.zeros((BATCH, 2), bool), jnp.ones((BATCH, STEPS), bool)]
    mask = jnp.concatenate(here if front else here[::-1], 1)
    padded = layer.apply(variables, jnp.concatenate(order, 1), mask)
    close(padded[:, -1], layer.apply(variables, X)[:, -1])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"takes \[B, T, I\], not \[3, 4\]"):
        LSTM(HIDDEN).init(random.key(0), X[:, 0])
    with pytest.raises(ValueError, match=r"mask is \[3, 4\], the input \[3, 5\]"):
        GRU(HIDDEN).init(random.key(0), X, jnp.ones((3, 4), bool))
    with pytest.raises(ValueError, match="takes integers, not float32"):
        Embed(7, 2).init(random.key(0), X)
    q = Scaled(
        gaussian()(random.key(0), (10,)), Point(jnp.ones((10, 24))), per="position"
    )
    with pytest.raises(ValueError, match="one draw of noise on units a sequence"):
        drawn(q, random.key(0), BATCH)


def test_a_token_has_one_draw_wherever_it_stands():
    tokens = jnp.asarray([[1, 2, 1], [2, 2, 0]])
    layer = Embed(3, 4, posterior=gaussian(0.0))
    key = {"noise": random.key(2)}
    variables = layer.init({"params": random.key(0), **key}, tokens)
    rows = layer.apply(variables, tokens, rngs=key)
    close(rows[0, 0], rows[0, 2])
    close(rows[0, 1], rows[1, 1])
    assert jnp.abs(rows[0, 0] - variables["params"]["kernel"].mean[1]).max() > 0.1


def test_lrt_of_a_sequence_has_the_marginals_and_lasts(assert_moments):
    q = gaussian(-1.0)(random.key(0), (INPUTS, 3))
    draw = jax.vmap(lambda key: sequence_lrt(ops.DENSE, q, X, key))
    draws = draw(random.split(random.key(3), 2000))
    assert_moments(draws, X @ q.mean, jnp.square(X) @ jnp.exp(q.log_var))
    same = jnp.broadcast_to(X[:, :1], X.shape)
    lasting = sequence_lrt(ops.DENSE, q, same, random.key(0))
    close(lasting, jnp.broadcast_to(lasting[:, :1], lasting.shape))
    assert jnp.std(lrt(ops.DENSE, q, same, random.key(0)), axis=1).min() > 0.01


class Reader(nn.Module):
    """What people have: an embedding, attention, a fused cell and a head."""

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(11, 8, name="embed")(tokens)
        x = x + nn.MultiHeadDotProductAttention(2, name="attention")(x)
        x = nn.RNN(nn.OptimizedLSTMCell(6, name="cell"), name="rnn")(x)
        return nn.Dense(3, name="head")(x[:, -1])


TOKENS = random.randint(random.key(5), (4, 7), 0, 11)
SAMPLED = {"embed": gaussian(-3.0), "cell/*/kernel": gaussian(-3.0)}
NAMED = {"attention/*": gaussian(-3.0), "head": variance()}


@pytest.fixture(scope="module")
def reader():
    model = stochastic(Reader(), NAMED, sampled=SAMPLED)
    return model, model.init(random.key(0), TOKENS)["params"]


def test_every_weight_of_a_reader_can_be_noisy(reader):
    model, params = reader
    leaves = jax.tree_util.tree_leaves_with_path(
        params, is_leaf=lambda leaf: hasattr(leaf, "moments")
    )
    plain = [
        jax.tree_util.keystr(p) for p, leaf in leaves if not hasattr(leaf, "moments")
    ]
    assert plain
    assert every(name.endswith("['bias']") for name in plain)
    assert kl(params, log_uniform) > 0

    def loss(params, key):
        logits = model.apply({"params": params}, TOKENS, rngs={"noise": key})
        return jnp.sum(jnp.square(logits)) + kl(params, log_uniform)

    slopes = jax.jit(jax.grad(loss))(params, random.key(1))
    for path, slope in jax.tree_util.tree_leaves_with_path(slopes):
        assert np.all(np.isfinite(slope)), path
        if "key" not in str(path):  # the softmax of attention ignores that bias
            assert np.any(slope != 0), path


def test_its_mean_is_the_net_of_flax(reader):
    model, params = reader

    def quiet(leaf):
        return leaf.moments()[0] if hasattr(leaf, "moments") else leaf

    means = jax.tree.map(quiet, params, is_leaf=lambda leaf: hasattr(leaf, "moments"))
    means["head"]["kernel"] = jnp.ones((6, 3))
    points = jax.tree.map(Point, means)
    points = jax.tree_util.tree_map_with_path(
        lambda path, leaf, old: leaf if hasattr(old, "moments") else leaf.mean,
        points,
        params,
        is_leaf=lambda leaf: hasattr(leaf, "moments"),
    )
    close(
        model.apply({"params": points}, TOKENS),
        Reader().apply({"params": means}, TOKENS),
    )


def test_what_is_sampled_is_one_draw_of_a_call(reader):
    model, params = reader
    twice = jnp.concatenate([TOKENS, TOKENS])
    mode = Mode(estimator=sequence_lrt)
    quiet = {**params, "attention": nn.unbox(params["attention"])}
    for name, node in quiet["attention"].items():
        quiet["attention"][name] = {**node, "kernel": Point(node["kernel"].mean)}
    quiet["head"] = {"kernel": Point(jnp.ones((6, 3))), "bias": jnp.zeros(3)}
    y = model.apply({"params": quiet}, twice, mode=mode, rngs={"noise": random.key(3)})
    close(y[:4], y[4:])
    other = model.apply({"params": quiet}, twice, rngs={"noise": random.key(4)})
    assert jnp.abs(y - other).max() > 1e-3


def test_patterns_of_what_is_sampled_are_checked():
    wrong = stochastic(Reader(), {}, sampled={"nowhere": gaussian()})
    with pytest.raises(ValueError, match=r"no array matches \['nowhere'\].*embedding"):
        wrong.init(random.key(0), TOKENS)
    wrong = stochastic(Reader(), {"head": gaussian()}, sampled={"head": gaussian()})
    with pytest.raises(ValueError, match="has a posterior already"):
        wrong.init(random.key(0), TOKENS)
    model = stochastic(Reader(), {}, sampled={"embed": gaussian()})
    variables = model.init(random.key(0), TOKENS)
    with pytest.raises(ValueError, match="is noisy and has no key"):
        model.apply(variables, TOKENS)


def test_modules_of_nnx_come_over_the_bridge():
    from flax import nnx

    module = nnx.bridge.to_linen(nnx.Linear, INPUTS, 3)
    model = stochastic(module, {}, sampled={"kernel": gaussian(-1.0)})
    params = model.init(random.key(0), X[:, 0])["params"]
    draws = [
        model.apply({"params": params}, X[:, 0], rngs={"noise": random.key(n)})
        for n in (0, 0, 1)
    ]
    close(draws[0], draws[1])
    assert jnp.abs(draws[0] - draws[2]).max() > 0.01
