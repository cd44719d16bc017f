"""Targets of examples and positions: what fits counts, what does not is named."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax import random
from train_tasks import BATCH, fit, make_split, make_task

from vnets import (
    attacks,
    evaluate,
    layers,
    nets,
    nodes,
    sources,
    train,
    uncertainty,
)
from vnets.data import Split
from vnets.likelihoods import Categorical, Gaussian, per_example
from vnets.loss import bound, forward, neg_elbo, with_penalty
from vnets.predictor import Member, Predictor
from vnets.priors import log_uniform
from vnets.targets import check

K = 4
SHAPES = {"examples": (6,), "positions": (6, 5), "pixels": (6, 3, 2)}
LOSSES = {
    "plain": (Categorical().cost, 0.0),
    "smoothed": (Categorical(smoothing=0.2).cost, 0.2),
}
SUMS = jax.jit(lambda p, y, w: Categorical().sums({"log_p": p}, {}, y, w))


@pytest.fixture(scope="module", params=SHAPES)
def case(request):
    """Logits, labels and a mask in which positions count unequally often."""
    shape = SHAPES[request.param]
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (*shape, K)).astype(np.float32)
    return logits, rng.integers(0, K, shape), rng.random(shape) < 0.6


def by_hand(logits, labels, smoothing=0.0):
    """-sum_k q_k log p_k of each label, in float64."""
    log_p = np.asarray(jax.nn.log_softmax(logits), np.float64)
    q = (1 - smoothing) * np.eye(K)[labels] + smoothing / K
    return -(q * log_p).sum(-1)


@pytest.mark.parametrize("kind", LOSSES)
def test_the_loss_of_positions_is_the_mean_over_those_that_count(case, kind):
    logits, labels, mask = case
    loss, smoothing = LOSSES[kind]
    expected = by_hand(logits, labels, smoothing)
    each = loss(logits, labels)
    assert each.shape == (6,)
    means = expected.reshape(6, -1).mean(1)
    np.testing.assert_allclose(each, means, rtol=1e-5)
    # Padding is often of labels that no class has.
    padded = np.where(mask, labels, -100)
    masked = loss(logits, padded, mask=mask)
    assert masked.shape == (6,)
    assert float(masked.mean()) == pytest.approx(expected[mask].mean(), rel=1e-5)


def test_what_does_not_count_has_no_gradient(case):
    logits, labels, mask = case
    padded = np.where(mask, labels, -100)
    grad = jax.grad(lambda x: Categorical().nll(x, padded, mask).mean())(logits)
    assert np.all(np.asarray(grad)[~mask] == 0)
    assert np.all(np.any(np.asarray(grad)[mask] != 0, -1))
    nothing = Categorical().nll(logits, padded, np.zeros_like(mask))
    assert np.all(np.asarray(nothing) == 0)


def test_metrics_are_those_of_the_positions_that_count(case):
    logits, labels, mask = case
    log_p = jax.nn.log_softmax(logits)
    got = SUMS(log_p, labels, mask.astype(np.float32)).compute()
    flat = np.asarray(log_p)[mask], labels[mask], np.ones(mask.sum(), np.float32)
    assert got == pytest.approx(SUMS(*flat).compute(), rel=1e-5)
    assert got["nll"] == pytest.approx(by_hand(logits, labels)[mask].mean(), rel=1e-5)


LOGITS = jnp.zeros((6, 5, K))
SAMPLES = jnp.zeros((2, 6, K))


@pytest.mark.parametrize(
    "call", [Categorical().nll, *(loss for loss, _ in LOSSES.values())]
)
@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((6,), r"\(6, 5, 4\) need targets \(6, 5\); these are \(6,\)"),
        ((6, 5, 1), r"\(6, 5, 1\) are a column: give target\[..., 0\], \(6, 5\)"),
        ((6, 5, K), r"\(6, 5, 4\) are one-hot: give target.argmax\(-1\), \(6, 5\)"),
        ((5, 6), r"these are \(5, 6\)"),
        ((1, 5), r"these are \(1, 5\)"),
    ],
)
def test_labels_of_other_shapes_are_named(call, shape, words):
    with pytest.raises(ValueError, match=words):
        call(LOGITS, jnp.zeros(shape, jnp.int32))


BROADCASTS = {
    "gaussian": lambda: Gaussian(1.0).nll(jnp.zeros((6, 1)), jnp.zeros(6)),
    "gaussian-one": lambda: Gaussian(1.0).nll(jnp.zeros((6, 3)), jnp.zeros((1, 3))),
    "kl": lambda: bound(jnp.zeros(6), jnp.zeros(6), 10),
    "beta": lambda: bound(jnp.zeros(6), jnp.zeros(()), 10, jnp.zeros(6)),
    "mask": lambda: Categorical().nll(LOGITS, jnp.zeros((6, 5), int), jnp.ones((6, 1))),
    "weights": lambda: SUMS(LOGITS, jnp.zeros((6, 5), int), jnp.ones(6)),
    "attack": lambda: attacks.mean_cross_entropy(SAMPLES, jnp.zeros((6, 1), int)),
    "attack-one": lambda: attacks.cross_entropy_of_mean(SAMPLES, jnp.zeros(1, int)),
    "right": lambda: attacks.is_right(SAMPLES, jnp.zeros((2, 6), int)),
    "counted": lambda: attacks.success_rate(
        SAMPLES, jnp.zeros(6, int), jnp.ones((6, 1), bool)
    ),
    "samples": lambda: uncertainty.summarize(jnp.zeros((6, K))),
    "types": lambda: Categorical().nll(LOGITS, jnp.zeros((6, 5))),
}


@pytest.mark.parametrize("name", BROADCASTS)
def test_nothing_broadcasts_in_silence(name):
    with pytest.raises(ValueError, match=r"\(|integers"):
        BROADCASTS[name]()


def test_the_error_of_a_density_has_both_shapes():
    with pytest.raises(
        ValueError, match=r"mean \(6, 1\) must have the shape \(6,\); give \[..., 0\]"
    ):
        BROADCASTS["gaussian"]()
    with pytest.raises(ValueError, match="std is a number above 0"):
        Gaussian(0.0)


IMAGE = np.zeros((6, 2), np.float32)
HOT = np.eye(3)[[0, 1, 2, 0, 1, 2]]
WRONG = {
    "float": (np.zeros(6), "targets are float64; classes are integers"),
    "bool": (np.zeros(6, bool), "targets are bool"),
    "negative": (np.array([0, 1, -1, 0, 0, 2]), "class -1 is below 0"),
    "column": (np.zeros((6, 1), int), r"\(6, 1\) are a column: give target\[..., 0\]"),
    "one-hot": (HOT, r"\(6, 3\) are one-hot: give target.argmax\(-1\), \(6,\)"),
    "one-hot-of-two": (HOT[:, :2] + HOT[:, 2:] * [1, 0], r"\(6, 2\) are one-hot"),
    "one-hot-int": (HOT.astype(int), r"\(6, 3\) are one-hot.*target=\"positions\""),
    "fewer": (np.zeros(5, int), r"inputs \(6, 2\) and targets \(5,\) must be equally"),
    "number": (np.int32(3), "must be equally many"),
    "text": (np.array(list("abcabc")), "targets are <U1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_labels_that_are_no_classes_do_not_enter(name):
    label, words = WRONG[name]
    with pytest.raises(ValueError, match=words):
        sources.Resident(Split(IMAGE, label), 2, jnp.asarray)


def test_labels_may_be_said_to_be_what_they_look_unlike():
    split = Split(IMAGE, HOT.astype(int))
    assert sources.Resident(split, 2, target="positions").n == 6
    assert sources.Resident(Split(IMAGE, np.zeros(6)), 2, target="numbers").n == 6
    assert check(Split(IMAGE, np.arange(6) % 3)) == 2
    assert check(Split(IMAGE[:0], np.zeros(0, int))) == -1
    with pytest.raises(ValueError, match="choose from"):
        check(split, "hot")


THIRDS = np.full((6, 3), 1 / 3)
IMPOSSIBLE = {
    "numbers": {"finite": [np.nan, np.inf, -np.inf]},
    "probabilities": {"finite": [np.nan], "from 0 to 1": [-0.1, 1.1]},
    "distributions": {"from 0 to 1": [-0.1], "add up to 1, not to 1.167": [0.5]},
}


@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_targets_that_are_no_numbers_or_probabilities_do_not_enter(kind):
    """Unless they do not count."""
    good = sources.Resident(Split(IMAGE, THIRDS), 2, target=kind)
    assert good.n == 6
    for words, values in IMPOSSIBLE[kind].items():
        for value in values:
            target = THIRDS.copy()
            target[4, 1] = value
            with pytest.raises(ValueError, match=words):
                sources.Resident(Split(IMAGE, target), 2, target=kind)
            assert check(Split(IMAGE, target, np.arange(6) != 4), kind) == -1
    with pytest.raises(ValueError, match="no numbers"):
        check(Split(IMAGE, np.array(list("abcabc"))), kind)


@pytest.mark.parametrize(
    "mask", [np.ones((6, 2)), np.full(6, -1.0), np.full(6, np.nan)]
)
def test_a_mask_fits_its_labels(mask):
    with pytest.raises(ValueError, match="a mask"):
        check(Split(IMAGE, np.zeros(6, int), mask))


NET = nets.MLP((16,), 4)
SPLIT = make_split()  # labels 0 to 3
OUTSIDE = {
    "too many": (SPLIT.target + 1, "class 4 is outside 0 to 3: the net has 4 classes"),
    "negative": (SPLIT.target - 1, "class -1 is below 0"),
    "float": (SPLIT.target / 2, "targets are float"),
    "column": (SPLIT.target[:, None], r"1\) are a column"),
    "one-hot": (np.eye(4, dtype=int)[SPLIT.target], r"4\) are one-hot"),
}


@pytest.fixture(scope="module")
def variables():
    return jax.jit(NET.init)(random.key(0), jnp.zeros((1, 4, 4, 1)))


@pytest.fixture(params=OUTSIDE)
def outside(request):
    label, words = OUTSIDE[request.param]
    return Split(SPLIT.inputs, label), words


def test_no_test_takes_labels_that_the_net_has_no_outputs_for(
    variables, outside, one_device
):
    split, words = outside
    key, spec = random.key(0), evaluate.EvalSpec()
    with pytest.raises(ValueError, match=words):
        evaluate.evaluate(NET, variables, split, spec, key, mesh=one_device)
    with pytest.raises(ValueError, match=words):
        evaluate.elbo(NET, variables, split, log_uniform, key, mesh=one_device)


def test_no_training_begins_with_them(outside, one_device):
    split, words = outside
    image = split.inputs.astype(np.float32) / 255

    def epochs(seed, epoch, rows):
        for i in range(0, 40, BATCH):
            part = slice(i, i + BATCH)
            yield {"input": image[part][rows], "target": split.target[part][rows]}

    with pytest.raises(ValueError, match=words):
        fit(make_task(split), one_device)
    streamed = make_task(split, source=sources.Streamed(epochs, 40, BATCH))
    with pytest.raises(ValueError, match=words):
        fit(streamed, one_device, seeds=[0, 1], vectorize=True)


def test_a_loss_with_a_penalty_knows_its_classes(one_device):
    split = Split(SPLIT.inputs, SPLIT.target + 1)
    task = make_task(split)
    loss = with_penalty(task.loss, lambda params: 0.0, task.source.n, 1.0)
    with pytest.raises(ValueError, match="class 4 is outside 0 to 3"):
        fit(dataclasses.replace(task, loss=loss), one_device)


def test_a_loss_of_ones_own_that_is_nan_by_its_labels_shows_them(one_device):
    def loss(params, state, batch, key):
        logits = batch["input"].reshape(BATCH, -1) @ params["w"]
        value = Categorical().nll(logits, batch["target"]).mean()
        return value, (state, {"loss": value})

    task = train.Task(
        init=lambda key: ({"w": jnp.zeros((16, 4))}, {}),
        loss=loss,
        optimizer=optax.sgd(0.1),
        source=sources.Resident(Split(SPLIT.inputs, SPLIT.target + 1), BATCH),
    )
    [result] = fit(task, one_device, epochs=1)
    assert "the loss itself is not; targets of the batch are 1 to 4" in result.failed


class Tagger(nn.Module):
    """Classes of positions, [B, T, I] -> [B, T, K], as any Flax model has them."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(K, name="tags")(x)


def tags():
    """13 sequences of 5 positions, of which some have no label that counts."""
    rng = np.random.default_rng(1)
    image = rng.normal(size=(13, 5, 3)).astype(np.float32)
    mask = rng.random((13, 5)) < 0.6
    return Split(image, np.where(mask, rng.integers(0, K, (13, 5)), -1), mask)


@pytest.fixture(scope="module")
def tagger():
    model = layers.stochastic(Tagger(), {"tags": nodes.gaussian(-30.0)})
    return model, jax.jit(model.init)(random.key(0), jnp.zeros((1, 5, 3)))


def test_labels_of_positions_are_tested(tagger, one_device):
    model, variables = tagger
    split = tags()
    rngs = {"noise": random.key(0)}
    logits = jax.jit(model.apply)(variables, split.inputs, rngs=rngs)
    expected = by_hand(logits, np.where(split.mask, split.target, 0))[split.mask]
    right = (np.argmax(logits, -1) == split.target)[split.mask].mean()
    options = {"batch_size": 4, "prepare": jnp.asarray, "mesh": one_device}
    spec = evaluate.EvalSpec()
    got = evaluate.evaluate(model, variables, split, spec, random.key(0), **options)
    assert got["nll"] == pytest.approx(expected.mean(), rel=1e-5)
    assert got["accuracy"] == pytest.approx(right)
    bound = evaluate.elbo(
        model, variables, split, log_uniform, random.key(0), samples=2, **options
    )
    assert bound["data_term"] == pytest.approx(-expected.sum(), rel=1e-5)
    assert bound["accuracy"] == pytest.approx(right)


def test_labels_of_positions_are_learned(tagger, one_device):
    """A rule that one layer can have, from the labels that count alone."""
    model, _ = tagger
    image, label, mask = (getattr(tags(), n) for n in ("inputs", "target", "mask"))
    split = Split(image, np.where(mask, image.argmax(-1), -1), mask)
    source = sources.Resident(split, 13, jnp.asarray)
    task = train.Task(
        init=train.initializer(model, jnp.zeros((1, 5, 3))),
        loss=neg_elbo(
            forward(model), Categorical(), log_uniform, int(mask.sum()), beta=0.0
        ),
        optimizer=optax.adam(0.1),
        source=source,
    )
    [result] = fit(task, one_device, epochs=100)
    assert result.history[-1]["accuracy"] >= 0.95
    assert result.history[-1]["nll"] < 0.3
    assert Split(image, label, mask).take(np.arange(3)).mask.shape == (3, 5)


def test_empty_batches_have_empty_predictions(variables):
    x, label = jnp.zeros((0, 4, 4, 1)), jnp.zeros(0, jnp.int32)
    key, spec = random.key(0), evaluate.EvalSpec(samples=3)
    predictor = Predictor(Member(NET, variables), samples=3)
    assert jax.jit(predictor.log_mean)(x, key).shape == (0, 4)
    draws = jax.eval_shape(predictor, x, key)
    assert draws.shape == (3, 0, 4)
    log_p, draws = (jnp.zeros(shape) for shape in ((0, 4), draws.shape))
    summary = jax.eval_shape(uncertainty.summarize, draws)
    assert summary.mutual_information.shape == summary.disagreement.shape == (0,)
    for loss, _ in LOSSES.values():
        assert loss(log_p, label).shape == (0,)
    assert attacks.mean_cross_entropy(draws, label).shape == (0,)
    assert Gaussian(1.0).nll(label, label).shape == (0,)
    assert per_example(jnp.zeros((0, 5)), jnp.zeros((0, 5))).shape == (0,)
    nothing = SUMS(log_p, label, jnp.zeros(0))
    assert float(nothing.totals["count"]) == 0
    with pytest.raises(ValueError, match="no means of nothing"):
        nothing.compute()
    empty = Split(np.zeros((0, 4, 4, 1), np.uint8), np.zeros(0, np.int32))
    with pytest.raises(ValueError, match="a split without examples"):
        evaluate.evaluate(NET, variables, empty, spec, key)
