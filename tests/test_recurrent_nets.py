"""Laws of nets for text: groups that go, what is counted, text in windows."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from claims import every
from jax import random

from configs import rnn_language, rnn_text
from experiments import core
from experiments.config_files import ConfigError
from experiments.kinds import language, text
from vnets import compact, data, edits, tree
from vnets.layers import GRU, LSTM, TRAIN, Embed
from vnets.layers.recurrent import CARRY
from vnets.loss import ModelState
from vnets.nets import RecurrentNet
from vnets.nets.recurrent import used
from vnets.nodes import Point, gaussian, group_normal_jeffreys
from vnets.sequences import Tokens

BATCH, STEPS, INPUTS, HIDDEN, WORDS = 3, 6, 4, 5, 7
X = random.normal(random.key(1), (BATCH, STEPS, INPUTS))
TOKENS = random.randint(random.key(2), (BATCH, STEPS), 0, WORDS)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


def near_one(key, shape):
    return gaussian(-2.0, lambda *_: jnp.zeros(shape, jnp.float32))(key, shape)


def on_units(axis, weight, per="example"):
    return group_normal_jeffreys(-2.0, axis=axis, per=per, weight=weight)


def noisy_net():
    """Noise on weights, words, columns, hidden units and gates."""
    weight = gaussian(-6.0)
    posteriors = {
        "embed": on_units("in", on_units("out", weight), "batch"),
        "lstm": on_units("out", weight),
        "lstm/scale": near_one,
        "dense1": weight,
    }
    return RecurrentNet(2, WORDS, INPUTS, HIDDEN, posteriors=posteriors)


@pytest.fixture(scope="module")
def noisy():
    net = noisy_net()
    keys = {"params": random.key(0), "noise": random.key(1)}
    return net, net.init(keys, TOKENS)["params"]


def test_the_mean_path_is_the_net_whose_noise_is_silent(noisy):
    """Folded into points, groups and scales multiply what they did as noise."""
    net, params = noisy
    quiet = edits.scale_noise(1e-9)(params)
    key = {"noise": random.key(3)}
    expected = net.apply({"params": quiet}, TOKENS, rngs=key)
    close(net.apply({"params": edits.mean_only(params)}, TOKENS), expected)
    loud = net.apply({"params": params}, TOKENS, rngs=key)
    assert jnp.abs(loud - expected).max() > 0.01


@pytest.mark.parametrize("kind", [LSTM, GRU])
def test_a_scale_multiplies_state_and_output(kind):
    """As rows of the kernel and of whatever comes next."""
    layer = kind(HIDDEN, scale_posterior=near_one)
    keys = {"params": random.key(0), "noise": random.key(1)}
    params = layer.init(keys, X)["params"]
    scale = jnp.arange(1.0, HIDDEN + 1) / HIDDEN
    scaled = layer.apply({"params": {**params, "scale": Point(scale)}}, X)
    rows = jnp.concatenate([jnp.ones(INPUTS, jnp.float32), scale])
    folded = {"kernel": Point(rows[:, None] * params["kernel"].mean)}
    folded["bias"] = params["bias"]
    expected = kind(HIDDEN).apply({"params": folded}, X)
    close(scaled, expected * scale[None, None])


@pytest.mark.parametrize("per", ["example", "batch"])
def test_noise_on_words_is_one_draw(per):
    factory = on_units("in", gaussian(-20.0), per)
    layer = Embed(WORDS, INPUTS, factory)
    tokens = jnp.asarray([[1, 2, 1], [1, 1, 2]])
    keys = {"params": random.key(0), "noise": random.key(1)}
    params = layer.init(keys, tokens)["params"]
    rows = layer.apply({"params": params}, tokens, rngs={"noise": random.key(2)})
    close(rows[0, 0], rows[0, 2])
    close(rows[1, 0], rows[1, 1])
    same = bool(jnp.allclose(rows[0, 0], rows[1, 0], rtol=1e-4))
    assert same == (per == "batch")


@pytest.mark.parametrize("kind", [LSTM, GRU])
def test_a_carried_state_makes_one_sequence_of_two(kind):
    layer = kind(HIDDEN, carried=True)
    variables = dict(layer.init(random.key(0), X[:, :3]))
    assert every((part == 0).all() for part in jax.tree.leaves(variables[CARRY[0]]))
    first, held = layer.apply(variables, X[:, :3], mutable=list(CARRY[:1]))
    second, _ = layer.apply({**variables, **held}, X[:, 3:], mutable=[CARRY[0]])
    whole = kind(HIDDEN).apply({"params": variables["params"]}, X)
    close(jnp.concatenate([first, second], 1), whole)
    alone = layer.apply({"params": variables["params"]}, X)
    close(alone, whole)


def without(params, units):
    """The net with the noise of some units far above their mean."""

    def drown(place, node):
        if place.leaf != "lstm/scale":
            return node
        return node.replace(mean=node.mean.at[units].set(1e-9))

    return tree.change(drown, params)


def test_pruning_takes_groups_within_groups_and_hidden_units(noisy):
    _, params = noisy
    embed = params["embed"]["kernel"]
    words = embed.scale.replace(mean=embed.scale.mean.at[2].set(1e-9))
    columns = embed.weight.scale
    columns = columns.replace(mean=columns.mean.at[1].set(1e-9))
    inner = embed.weight.replace(scale=columns)
    drowned = {**params, "embed": {"kernel": embed.replace(scale=words, weight=inner)}}
    left = text.pruned(3.0)(without(drowned, 3))
    rows = left["embed"]["kernel"].mean
    assert (rows[2] == 0).all()
    assert (rows[:, 1] == 0).all()
    assert left["lstm"]["scale"].mean[3] == 0
    found = used(left)
    assert found["units/words"] == WORDS - 1
    assert found["units/columns"] == INPUTS - 1
    assert found["units/hidden"] == HIDDEN - 1


def test_weights_that_nothing_reads_are_not_counted():
    ones = {
        "embed": {"kernel": Point(jnp.ones((WORDS, INPUTS)))},
        "lstm": {
            "kernel": Point(jnp.ones((INPUTS + HIDDEN, 4 * HIDDEN))),
            "bias": jnp.zeros(4 * HIDDEN),
            "scale": Point(jnp.ones(HIDDEN).at[0].set(0)),
        },
        "dense1": {"kernel": Point(jnp.ones((HIDDEN, 2))), "bias": jnp.zeros(2)},
    }
    kernel = ones["lstm"]["kernel"].mean
    # Column 0 is read by no gate, gate 6 reads nothing.
    ones["lstm"]["kernel"] = Point(kernel.at[0].set(0).at[:, 6].set(0))
    found = used(ones)
    total = WORDS * INPUTS + (INPUTS + HIDDEN) * 4 * HIDDEN + HIDDEN * 2
    left = WORDS * (INPUTS - 1) + (INPUTS - 1 + HIDDEN - 1) * (4 * HIDDEN - 1)
    left += (HIDDEN - 1) * 2
    assert found["nonzero"] == left
    assert found["compression"] == total / left
    assert found["constant_gates"] == pytest.approx(1 / (4 * HIDDEN))
    counts = found["units/words"], found["units/columns"], found["units/hidden"]
    assert counts == (WORDS, INPUTS - 1, HIDDEN - 1)


def test_a_text_is_read_in_windows():
    stream = np.arange(41, dtype=np.int32)
    split = data.Split(stream[:-1], stream[1:])
    shuffled = Tokens(split, batch_size=2, length=5)
    [starts] = shuffled.chunks(random.key(0), 0, 3)
    assert starts.shape == (3, 2)
    assert len(set(np.ravel(starts) % 5)) == 1
    assert len(set(np.ravel(starts))) == 6
    batch = shuffled.batch(shuffled.arrays, starts[0], random.key(0))
    np.testing.assert_array_equal(batch["target"], batch["input"] + 1)
    [other] = shuffled.chunks(random.key(0), 1, 3)
    assert np.any(starts != other)
    ordered = Tokens(split, batch_size=2, length=5, ordered=True)
    [starts] = ordered.chunks(random.key(0), 3, 4)
    assert starts.tolist() == [[0, 20], [5, 25], [10, 30], [15, 35]]
    with pytest.raises(ValueError, match="40 tokens are too few for 20 windows of 5"):
        Tokens(split, batch_size=20, length=5)
    with pytest.raises(ValueError, match="at least 1, not 2, 0"):
        Tokens(split, batch_size=2, length=0)


def test_what_fills_the_last_sequence_does_not_count():
    stream = np.arange(8, dtype=np.int32)
    rows = language.in_rows(data.Split(stream[:-1], stream[1:]), 3)
    assert rows.inputs.shape == (3, 3)
    assert rows.mask.sum() == 7
    assert rows.target[rows.mask].tolist() == stream[1:].tolist()


def small(variant):
    config = rnn_language.get_config(f"{variant},quick")
    config.epochs, config.model.carried, config.dataset.ordered = 1, True, True
    return config


def test_an_epoch_begins_with_a_state_of_zero_and_a_test_has_its_own():
    kind = language.build(small("automaton_original"))
    params, collections = kind.init(random.key(0))
    loss = kind.loss()
    [item] = kind.source.chunks(random.key(0), 0, kind.source.steps_per_epoch)
    batch = kind.source.batch(kind.source.arrays, item[0], random.key(0))
    far = jax.tree.map(lambda h: h + 0.5, collections)
    values = {}
    for step in (0, 1, kind.source.steps_per_epoch):
        for name, held in {"zero": collections, "far": far}.items():
            state = ModelState(jnp.int32(step), held)
            values[step, name] = loss(params, state, batch, random.key(1))[0]
    assert values[0, "far"] == values[0, "zero"]
    assert values[kind.source.steps_per_epoch, "far"] == values[0, "zero"]
    assert values[1, "far"] != values[1, "zero"]
    tests = kind.columns("evals", ("det",), data.Split(*short_text()))
    found = [tests(params, held, random.key(0))["det"] for held in (collections, far)]
    assert found[0] == found[1]
    assert found[0]["perplexity"] == pytest.approx(math.exp(found[0]["nll"]))
    assert found[0]["bits"] == pytest.approx(found[0]["nll"] / math.log(2))


def short_text():
    loaded = data.load("automaton")
    return loaded.test.inputs[:2500], loaded.test.target[:2500]


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("per", [None, "in"])
def test_a_token_outside_the_vocabulary_makes_logits_that_are_no_numbers(per, every):
    """Not those of the last word, whose index it would be, or of padding."""
    noisy = {} if per is None else {"embed": group_normal_jeffreys(axis=per)}
    net = RecurrentNet(3, vocabulary=5, every=every, posteriors=noisy)
    rngs = {"params": random.key(0), "noise": random.key(1)}
    for token in (-1, 5):
        tokens = jnp.asarray([[1, 2, token], [1, 2, 4]])
        params = net.init(rngs, tokens)
        logits = net.apply(params, tokens, mode=TRAIN, rngs={"noise": random.key(2)})
        known = np.isfinite(logits).reshape(2, -1).all(1)
        assert known.tolist() == [False, True], token


def test_what_does_not_fit_is_refused():
    config = rnn_text.get_config("digits_w,quick")
    config.model = {"name": "mlp", "widths": (3,)}
    with pytest.raises(ConfigError, match=r"choose from.*recurrent"):
        core.build(config)
    config = small("automaton_w")
    config.dataset.name = "digits_8x8"
    with pytest.raises(ConfigError, match=r"choose from.*automaton"):
        core.build(config)
    config = rnn_text.get_config("digits_w,quick")
    config.evals.split = "tset"
    with pytest.raises(ConfigError, match="'probed', 'test'"):
        core.build(config)
    with pytest.raises(ValueError, match="layer 'embed'"):
        RecurrentNet(2, posteriors={"embed": gaussian()})
    with pytest.raises(ValueError, match="a plan if it classifies tokens"):
        compact.capture(RecurrentNet(2, 5, every=True), {"params": {}}, (3,))
