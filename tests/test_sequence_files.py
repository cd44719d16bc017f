"""Laws of files of nets that read tokens: the same function, fewer words."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import random
from sequence_nets import LENGTH, NETS, WORDS, case, net_of, sparse, tokens

from vnets import compact, plan
from vnets.compact import (
    codec,
    description,
    limits,
    sequence_cuts,
    sequence_files,
    sequences,
)
from vnets.compact.graph import Statistics, kernel_shapes
from vnets.nets import Chain
from vnets.nodes import Point, gaussian
from vnets.plan import sequences as steps

TOLERANCE = 1e-5  # of the largest output


def close(found, wanted):
    scale = max(np.abs(wanted).max(), 1e-3)
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE * scale)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", NETS)
def test_shrinking_keeps_the_function(name, seed):
    graph, x, wanted = case(name, seed)
    small = compact.shrink(graph)
    for form in ("auto", "sparse", "dense"):
        for one in (graph, small):
            close(compact.Predictor(one, form)(x), wanted)
    assert sum(small.nonzeros().values()) <= sum(graph.nonzeros().values())
    again = compact.shrink(small)
    assert again.plan == small.plan
    for kind in ("kernels", "biases"):
        jax.tree.map(
            np.testing.assert_array_equal, getattr(again, kind), getattr(small, kind)
        )


@pytest.mark.parametrize("name", NETS)
def test_a_file_holds_the_quantized_net(name, tmp_path):
    """Read back it is the same to the bit, and predicts as the dense net in JAX."""
    graph, x, _ = case(name)
    rows = set(graph.biases) & {"embed", "place"}
    moved = {n: np.linspace(-1, 1, graph.biases[n].size, dtype="f4") for n in rows}
    graph = dataclasses.replace(graph, biases={**graph.biases, **moved})
    small = compact.quantize(graph, 6, {"run": name})
    compact.save(tmp_path / "net.vnz", small)
    held = compact.load(tmp_path / "net.vnz").net
    assert (held.plan, held.shape, held.about) == (small.plan, (LENGTH,), small.about)
    jax.tree.map(
        np.testing.assert_array_equal,
        {n: dataclasses.asdict(one) for n, one in held.layers.items()},
        {n: dataclasses.asdict(one) for n, one in small.layers.items()},
    )
    assert compact.dumps(held) == (tmp_path / "net.vnz").read_bytes()
    model, variables = held.to_flax()
    close(compact.Predictor(held)(x), jax.jit(model.apply)(variables, x))


class TheirBlock(nn.Module):
    """Of Flax's own layers."""

    @nn.compact
    def __call__(self, x, mask):
        h = nn.LayerNorm(name="norm1")(x)
        seen = nn.make_attention_mask(jnp.ones_like(mask), mask)
        x = x + nn.MultiHeadDotProductAttention(2, name="attention")(h, mask=seen)
        h = nn.Dense(16, name="dense1")(nn.LayerNorm(name="norm2")(x))
        return x + nn.Dense(8, name="dense2")(nn.gelu(h))


class Theirs(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        mask = tokens > 0
        x = nn.Embed(WORDS, 8, name="embed")(tokens)
        x = x + nn.Embed(LENGTH, 8, name="place")(jnp.arange(LENGTH)[None])
        x = TheirBlock(name="block1")(x, mask)
        x = nn.LayerNorm(name="norm")(x)
        counts = mask | ~mask.any(1, keepdims=True)
        return nn.Dense(3, name="dense1")(x.mean(1, where=counts[..., None]))


def test_a_transformer_of_flax_is_captured():
    x = tokens()
    like = jax.eval_shape(Theirs().init, random.key(0), x)["params"]
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: draw.normal(size=leaf.shape), like)
    params = jax.tree.map(np.float32, params)
    net = Chain(steps=NETS["transformer"][0])
    graph = compact.capture(net, {"params": params}, (LENGTH,))
    wanted = jax.jit(Theirs().apply)({"params": params}, x)
    close(compact.Predictor(compact.fold_norms(graph))(x), wanted)


def small_lstm(change):
    """The graph of "lstm" whose parameters, as arrays, somebody changed."""
    net, run = net_of("lstm")
    params = sparse(net, 1.0, 0)
    kernels = {name: layer["kernel"].mean.copy() for name, layer in params.items()}
    biases = {n: layer["bias"] for n, layer in params.items() if "bias" in layer}
    change(kernels, biases)
    params = {
        name: {"kernel": Point(kernel)}
        | ({"bias": biases[name]} if name in biases else {})
        for name, kernel in kernels.items()
    }
    graph = compact.capture(net, {"params": params}, (LENGTH,))
    return graph, np.asarray(run(params, tokens()))


def test_dead_words_have_no_rows_in_a_file():
    """The two that are left take no more room in a vocabulary 20 times as large."""

    def two_words(kernels, biases):
        kernels["embed"][:] = 0
        kernels["embed"][[7, 30]] = 1.0

    graph, wanted = small_lstm(two_words)
    small = compact.quantize(graph, 8)
    sizes = [len(compact.dumps(small))]
    first = dataclasses.replace(small.plan[0], vocabulary=20 * WORDS)
    wide = dataclasses.replace(small, plan=(first, *small.plan[1:]))
    sizes.append(len(compact.dumps(wide)))
    assert sizes[1] <= sizes[0] + 2
    x = tokens()
    close(compact.Predictor(compact.shrink(graph))(x), wanted)
    unknown = np.where(np.isin(x, [0, 7, 30]), x, 1)  # all dead words are alike
    close(compact.Predictor(graph)(unknown), wanted)


def test_a_gate_without_weights_is_a_number():
    units = 7

    def constant(kernels, biases):
        kernels["lstm"][:, : 2 * units] = 0  # i and f

    graph, wanted = small_lstm(constant)
    predictor = compact.Predictor(compact.shrink(graph))
    close(predictor(tokens()), wanted)
    step = predictor._steps[0]._steps[0]
    assert step._live.size == 2 * units


def test_units_that_nobody_reads_and_states_that_stay_zero_are_cut():
    units = 7

    def dead(kernels, biases):
        kernels["dense1"][:2] = 0  # 0 and 1: nobody but
        kernels["lstm"][6:, :] = 0
        kernels["lstm"][6, 1] = 1.0  # 0 reads them: 1's input gate
        kernels["lstm"][:, 2 * units + 2] = 0  # 2: no candidate
        biases["lstm"][2 * units + 2] = 0

    graph, wanted = small_lstm(dead)
    small = compact.shrink(graph)
    assert small.kernels["lstm"].shape == (6 + 4, 4 * 4)
    assert small.kernels["dense1"].shape == (4, 3)
    close(compact.Predictor(small)(tokens()), wanted)


@pytest.mark.parametrize("pool", [steps.Last(), steps.MeanPositions()])
def test_units_are_cut_before_the_positions_are_one(pool):
    chain = (
        steps.Embedding("embed", WORDS, 6),
        plan.Dense("dense1", 5),
        pool,
        plan.Dense("dense2", 3),
    )
    net = Chain(steps=chain)
    params = sparse(net, 1.0, 0)
    params["dense1"]["kernel"].mean[:, 1] = 0  # it is a constant
    params["dense2"]["kernel"].mean[3] = 0  # and nobody reads this one
    graph = compact.capture(net, {"params": params}, (LENGTH,))
    small = compact.shrink(graph)
    assert small.biases["dense1"].size <= 3
    x = tokens()
    close(compact.Predictor(small)(x), np.asarray(net.apply({"params": params}, x)))


def test_dead_heads_are_cut():
    net, run = net_of("transformer")
    params = sparse(net, 1.0, 0)
    value = params["block1/attention/value"]
    value["kernel"].mean[:, :4] = 0  # of the first head all: its values are constant
    graph = compact.capture(net, {"params": params}, (LENGTH,))
    small = compact.shrink(graph)
    attention = small.plan[2].body[1]
    assert len(attention.values) == 1
    x = tokens()
    close(compact.Predictor(small)(x), np.asarray(run(params, x)))
    for name in ("value", "query", "key", "out"):
        params[f"block1/attention/{name}"]["kernel"].mean[:] = 0
    small = compact.shrink(compact.capture(net, {"params": params}, (LENGTH,)))
    assert (small.plan[2].body[1].keys, small.plan[2].body[1].values) == ((1,), (1,))
    close(compact.Predictor(small)(x), np.asarray(run(params, x)))


@pytest.mark.parametrize("queries", [1, 2, 4])
def test_attention_takes_some_queries_at_once(queries, monkeypatch):
    graph, x, wanted = case("transformer")
    monkeypatch.setattr(sequences, "AT_ONCE_BYTES", 4 * queries * x.size)
    close(compact.Predictor(graph)(x), wanted)


def test_layers_with_noise_keep_their_units():
    """And draws of a dense layer's are as before; others hold none."""
    net, _ = net_of("lstm")
    params = sparse(net, 0.3, 0)
    params["dense1"]["kernel"] = gaussian(-2.0)(random.key(0), (7, 3))
    graph = compact.capture(net, {"params": params}, (LENGTH,), noise=True)
    small = compact.quantize(graph, 8)
    assert kernel_shapes(small.plan, small.shape)["dense1"] == (7, 3)
    predictor = compact.Predictor(compact.loads(compact.dumps(small)))
    x = tokens()
    drawn = predictor(x, np.random.default_rng(0))
    assert np.abs(drawn - predictor(x)).max() > 0.01
    params["lstm"]["kernel"] = gaussian(-2.0)(random.key(0), (13, 28))
    with pytest.raises(ValueError, match="holds no noise of 'lstm'"):
        compact.capture(net, {"params": params}, (LENGTH,), noise=True)
    layers = dict(small.layers)
    layers["lstm"] = dataclasses.replace(
        layers["lstm"], deviations=layers["dense1"].deviations
    )
    with pytest.raises(ValueError, match="holds no noise of 'lstm'"):
        compact.dumps(dataclasses.replace(small, layers=layers))


def test_a_scale_of_states_moves_into_what_reads_them():
    net, run = net_of("lstm")
    params = sparse(net, 0.5, 0)
    scale = np.linspace(-1, 2, 7).astype(np.float32)
    scaled = {**params, "lstm": {**params["lstm"], "scale": scale}}
    graph = compact.fold_norms(compact.capture(net, {"params": scaled}, (LENGTH,)))
    kernel, head = (params[n]["kernel"].mean.copy() for n in ("lstm", "dense1"))
    kernel[6:] *= scale[:, None]
    head *= scale[:, None]
    params["lstm"] = {**params["lstm"], "kernel": Point(kernel)}
    params["dense1"] = {**params["dense1"], "kernel": Point(head)}
    close(compact.Predictor(graph)(tokens()), np.asarray(run(params, tokens())))


@pytest.mark.parametrize("reader", ["none", "noisy", "norm"])
def test_a_scale_of_states_that_nothing_takes_in_is_refused(reader):
    graph, _, _ = case("lstm")
    scale = Statistics(np.ones(7, np.float32), np.zeros(7, np.float32))
    steps_, noise = graph.plan, set()
    if reader == "none":
        steps_ = steps_[:-1]
    elif reader == "noisy":
        noise = {"dense1"}
    else:
        steps_ = (*steps_[:-1], plan.LayerNorm("between"), steps_[-1])
    assert isinstance(graph.plan[-1], plan.Dense)
    with pytest.raises(ValueError, match="the scale of 'lstm' cannot be folded"):
        sequence_cuts.fold_scales(steps_, {"lstm": scale}, dict(graph.kernels), noise)


def test_inputs_that_are_no_tokens_are_refused():
    graph, x, _ = case("lstm")
    predict = compact.Predictor(graph)
    np.testing.assert_array_equal(predict(x.astype(np.uint8)), predict(x))
    assert predict(x[:0]).shape == (0, 3)
    for bad, message in (
        (x.astype(np.float32), "inputs are float32: the net reads tokens"),
        (x[:, 1:], r"\[12, 8\], the net takes \[B, 9\]"),
        (x + WORDS, f"tokens are .* the net knows 0 to {WORDS - 1}"),
        (x - 1, "tokens are -1"),
    ):
        with pytest.raises(ValueError, match=message):
            predict(bad)


def test_what_is_no_net_of_tokens_is_refused():
    graph, _, _ = case("lstm")
    small = compact.quantize(graph, 8)
    embed, *rest = small.plan
    long = steps.Attention("a", 3, (1,) * 257, (1,) * 257, 1)
    for change, message in (
        ({"plan": (*rest, embed)}, "must be the first step|needs .T, I."),
        ({"plan": tuple(rest)}, r"LSTM needs \[T, I\]"),
        ({"plan": (embed, rest[0], rest[2])}, "ends with a vector"),
    ):
        with pytest.raises(ValueError, match=message):
            compact.dumps(dataclasses.replace(small, **change))
    for made, message in (
        (lambda: steps.Embedding("e", 5, 2, 5), "None or a token, 0 to 4, not 5"),
        (lambda: steps.Attention("a", 4, (2, 2), (2,), 2), "2 and 1"),
        (lambda: steps.Attention.even("a", 6, 4), "no multiple of 4 heads"),
        (lambda: steps.GRU("g", 0), "features of 'g'"),
    ):
        with pytest.raises(ValueError, match=message):
            made()
    for step, message in (
        (long, "more than 256 heads"),
        (steps.GRU("x" * 65, 1), "cannot name a layer"),
        (steps.Embedding("e", 2**20 + 1, 1), "sizes beyond 1048576"),
    ):
        with pytest.raises(ValueError, match=message):
            description.check_step(step)


def test_work_is_in_proportion_to_weights():
    """However long the sequences are that a small file says it reads."""
    embed, last = steps.Embedding("e", 4, 1), steps.Last()
    many = tuple(steps.LSTM(f"l{n}", 1) for n in range(20))
    pairs = (embed, steps.Attention.even("a", 1, 1), last, plan.Dense("d", 1))
    limits.check_work((embed, *many, last), (1000,))
    limits.check_work(pairs, (100,))
    for chain, length, message in (
        ((embed, *many, last), 4000, "recurrent steps have 80000 positions"),
        (pairs, 2**20, "attention, activations"),
    ):
        with pytest.raises(ValueError, match=message):
            limits.check_work(chain, (length,))


def test_more_words_than_the_vocabulary_are_refused():
    graph, _, _ = case("lstm")
    small = compact.quantize(graph, 8)
    kernels = kernel_shapes(small.plan, small.shape)
    source = codec.Bytes(codec.varint(WORDS + 1))
    with pytest.raises(ValueError, match="more words than its vocabulary"):
        codec._unpacked(source, kernels["embed"], words=True)


@pytest.mark.parametrize("kind", [-1, len(sequence_files.KINDS)])
def test_steps_that_do_not_exist_are_refused(kind):
    with pytest.raises(ValueError, match="unknown step"):
        sequence_files.unpacked(sequence_files.FIRST + kind, codec.Bytes(b"\x01a\x01"))


def test_a_plan_counts_what_its_steps_cost():
    costs = plan.costs(NETS["transformer"][0], (LENGTH,))
    assert costs["embed"] == plan.Cost(WORDS * 8, 0)
    assert costs["block1/attention/query"] == plan.Cost(64, 64 * LENGTH)
    assert costs["block1/dense1"] == plan.Cost(8 * 16, 8 * 16 * LENGTH)
    lstm = plan.costs(NETS["lstm"][0], (LENGTH,))["lstm"]
    assert lstm == plan.Cost(13 * 28, 13 * 28 * LENGTH)
    with pytest.raises(ValueError, match="live units are not of 'lstm'"):
        plan.costs(NETS["lstm"][0], (LENGTH,), {"lstm": (1, 1)})


def test_the_layers_of_a_chain_can_be_noisy():
    noisy = {"lstm": gaussian(-1.0), "embed": gaussian(-1.0), "dense1": gaussian(-1.0)}
    net = Chain(steps=NETS["lstm"][0], posteriors=noisy)
    x = tokens(2)
    variables = net.init({"params": random.key(0), "noise": random.key(1)}, x)
    run = jax.jit(lambda key: net.apply(variables, x, rngs={"noise": key}))
    assert jnp.abs(run(random.key(1)) - run(random.key(2))).max() > 1e-3
