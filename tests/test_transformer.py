"""Laws of the Transformer for texts: noise on heads, what is counted, its file."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from configs import rnn_language, transformer_text
from experiments import core, probes
from experiments.config_files import ConfigError
from experiments.kinds import language, text
from experiments.kinds import transformer as kinds
from vnets import compact, data, edits, tree
from vnets.data import markers
from vnets.nets import TextTransformer, transformer
from vnets.nodes import Additive, Point, Scaled, gaussian, group_normal_jeffreys

WORDS, LENGTH, WIDTH, HEADS = 11, 6, 8, 2
TOKENS = np.random.default_rng(0).integers(0, WORDS, (9, LENGTH))
SPLIT = data.Split(TOKENS, np.zeros(len(TOKENS), np.int32))
ON_HEADS = group_normal_jeffreys(-6.0, axis="in", per="batch", weight=gaussian(-10.0))
NOISY = dict.fromkeys(
    ("embed", "place", "attention/query", "attention/out", "dense1", "head"),
    gaussian(-10.0),
) | {"attention/value": ON_HEADS}


@functools.cache
def net():
    """A net of two blocks, with its parameters: most weights idle, one head as well."""
    model = transformer(3, WORDS, WIDTH, HEADS, 12, posteriors=NOISY)
    keys = {"params": random.key(0), "noise": random.key(1)}
    like = jax.eval_shape(model.init, keys, TOKENS)["params"]
    draw = np.random.default_rng(3)

    def make(leaf):
        return draw.normal(size=leaf.shape).astype(np.float32)

    params = jax.tree.map(make, like)

    def idle(place, node):
        """Log alpha is 20 of two weights in three, and of the first head of block 2."""
        bare = node.bare if isinstance(node, Scaled) else node
        if not isinstance(bare, Additive):
            return node
        mean = jnp.asarray(bare.mean)
        there = draw.random(mean.shape) < 0.35
        log_var = 2 * jnp.log(jnp.abs(mean)) + jnp.where(there, -8.0, 20.0)
        made = Additive(mean, log_var)
        if not isinstance(node, Scaled):
            return made
        alive = jnp.asarray([place.name.startswith("block1"), True])
        scale = Additive(jnp.ones(HEADS), jnp.where(alive, -8.0, 20.0))
        return Scaled(scale, made, node.axis, node.per)

    return model, tree.change(idle, params)


def test_values_have_noise_on_heads():
    """One draw multiplies all that a head reads."""
    model, params = net()
    nodes = {place.name: node for place, node in tree.nodes(params)}
    node = nodes["block1/attention/value"]
    assert node.scale.shape == (HEADS,)
    assert node.shape == (WIDTH, HEADS, WIDTH // HEADS)
    quiet = Scaled(node.scale, Point(jnp.ones(node.shape)), node.axis, node.per)
    draw = quiet.sample(random.key(0))
    np.testing.assert_array_equal(draw, np.broadcast_to(draw[:1, :, :1], draw.shape))
    assert draw[0, 0, 0] != draw[0, 1, 0]
    run = jax.jit(
        lambda key: model.apply({"params": params}, TOKENS, rngs={"noise": key})
    )
    assert jnp.abs(run(random.key(1)) - run(random.key(2))).max() > 1e-3


@pytest.mark.slow
def test_the_file_predicts_what_the_pruned_net_does():
    model, params = net()
    pruned = text.pruned(3.0)(params, random.key(0))
    wanted = jax.jit(model.apply)({"params": pruned}, TOKENS)
    graph = compact.capture(model, {"params": pruned}, (LENGTH,))
    small = compact.shrink(compact.fold_norms(graph))
    scale = np.abs(wanted).max()
    for one in (graph, small):
        found = compact.Predictor(one)(TOKENS)
        np.testing.assert_allclose(found, wanted, atol=1e-5 * scale)
    attention = [step.body[1] for step in small.plan if hasattr(step, "body")][::2]
    assert [len(step.values) for step in attention] == [HEADS, HEADS - 1]
    held = compact.loads(compact.dumps(compact.quantize(small, 8)))
    assert held.plan == compact.quantize(small, 8).plan


def test_what_is_left_is_counted():
    model, params = net()
    kind = kinds.Transformer(
        config=transformer_text.get_config("markers_heads,quick"),
        model=model,
        init=lambda key: (params, {}),
        source=None,
        dataset=data.Dataset("made", SPLIT, SPLIT, SPLIT, 3, {}, "made here"),
        sized=True,
    )
    spec = kind.specs(1)["pruned"]
    left = kind._left({"params": params}, spec, random.key(0))
    assert left["units/block1/attention/heads"] == HEADS
    assert left["units/block2/attention/heads"] == HEADS - 1
    assert left["units/embed"] <= WORDS
    assert left["flops_ratio"] > 1
    curve = probes._heads(kind)(params, {}, random.key(0)).curves["heads"]
    assert curve["head"] == [1.0, 2.0]
    assert curve["block2"][0] == 0 < min(curve["block1"])


def test_a_language_model_reads_no_token_that_comes_later():
    """Changing token t changes logits from position t on, and no earlier ones."""
    model = transformer(WORDS, WORDS, WIDTH, HEADS, 12, every=True)
    params = model.init(random.key(0), TOKENS)["params"]
    run = jax.jit(lambda tokens: model.apply({"params": params}, tokens))
    before = run(TOKENS)
    assert before.shape == (*TOKENS.shape, WORDS)
    for place in range(LENGTH):
        others = TOKENS.copy()
        others[:, place] = (others[:, place] + 1) % WORDS  # 0 is a token as any other
        gap = np.abs(run(others) - before).max((0, 2))
        np.testing.assert_array_equal(gap[:place], 0)
        assert np.all(gap[place:] > 1e-5)
    with pytest.raises(ValueError, match="a language model has no plan"):
        compact.capture(model, {"params": params}, (LENGTH,))


def test_a_language_model_is_counted_and_measured():
    config = transformer_text.get_config("automaton_heads,quick")
    kind = dataclasses.replace(language.build(config), sized=True)
    params, _ = jax.jit(kind.init)(random.key(0))
    dead = tree.change(
        lambda place, node: (
            jax.tree.map(jnp.zeros_like, node)
            if place.name == "block2/attention/out"
            else node
        ),
        params,
    )
    spec = kind.specs(1)["pruned"]
    left = kind._left({"params": dead}, spec, random.key(0))
    assert left["units/block1/attention/heads"] == 4
    assert left["units/block2/attention/heads"] == 0
    assert 1 < left["compression"] < 1.2
    curve = probes._heads(kind)(dead, {}, random.key(0)).curves["heads"]
    assert not any(curve["block2"])
    assert min(curve["block1"]) > 0
    text_of = data.Split(kind.test.inputs[:150], kind.test.target[:150])
    found = kind.columns("evals", ("det",), text_of)(params, {}, random.key(0))["det"]
    assert 0.5 < found["excess"] < 3.0  # knows nothing yet
    assert found["perplexity"] == pytest.approx(np.exp(found["nll"]))


def test_positions_of_a_test_are_those_of_training():
    config = transformer_text.get_config("automaton_heads,quick")
    config.evals.length = 51
    with pytest.raises(ConfigError, match=r"take 50, as config\.dataset\.length"):
        core.build(config)
    config = rnn_language.get_config("automaton_w,quick")
    config.measures = ("heads",)
    with pytest.raises(ConfigError, match="heads is of a Transformer"):
        core.build(config)


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("token", [-1, 5])
def test_a_token_outside_the_vocabulary_makes_logits_that_are_no_numbers(token, every):
    """Not those of the last token, or of padding."""
    net = TextTransformer(3, 5, width=8, heads=2, hidden=8, blocks=1, every=every)
    tokens = jnp.asarray([[1, 2, token], [1, 2, 4]])
    params = net.init(random.key(0), tokens)
    known = np.isfinite(net.apply(params, tokens)).reshape(2, -1).all(1)
    assert known.tolist() == [False, True]


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="6 features are no multiple of 4 heads"):
        transformer(2, WORDS, 6, 4)
    with pytest.raises(
        ValueError, match=r"unknown layer 'dense3'; choose from .*place"
    ):
        transformer(2, WORDS, posteriors={"dense3": gaussian()})
    with pytest.raises(ValueError, match="vocabulary must be a whole number"):
        TextTransformer(2, 0)


def test_magnitude_prunes_every_layer_of_the_net():
    names = transformer_text.names()
    config = transformer_text.get_config("markers_magnitude,quick")
    kind = core.build(config)
    shapes = jax.eval_shape(kind.task.init, random.key(0))[0]
    assert {place.name for place, _ in tree.nodes(shapes)} == set(names)
    assert set(edits.noisy_layers(shapes)) == set()


def test_markers_say_the_class():
    arrays = markers.read("last_marker", None, False).arrays
    tokens, label = arrays["train_tokens"], arrays["train_label"]
    assert tokens.shape == (2400, markers.LONGEST)
    for row, own in zip(tokens[:200], label[:200], strict=True):
        seen = [token for token in row if 0 < token <= markers.MARKERS]
        assert seen[-1] == own + 1
        assert np.all(np.diff((row > 0).astype(int)) >= 0)  # padded in front
        assert (row > 0).sum() >= markers.SHORTEST
    assert np.bincount(label).min() > 700
    assert tokens.max() == markers.WORDS - 1


def test_another_net_is_refused():
    config = transformer_text.get_config("markers_original,quick")
    config.model = {"name": "mlp"}
    with pytest.raises(ConfigError, match=r"choose from.*transformer"):
        core.build(config)
