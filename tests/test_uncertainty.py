"""Laws of the uncertainty measures, and scikit-learn's word on those it has."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from sklearn import metrics as sklearn_metrics

from vnets import uncertainty

S, B, K = 7, 40, 5
NAMES = ("entropy", "expected_entropy", "mutual_information", "disagreement")


def samples(sharpness=3.0, seed=0, shape=(S, B, K)):
    """Random predictions, the first class often the winner."""
    logits = sharpness * random.normal(random.key(seed), shape)
    return jax.nn.log_softmax(logits.at[..., 0].add(1.0))


summarize = jax.jit(uncertainty.summarize)


def test_against_sums_over_probabilities():
    log_p = samples()
    summary = summarize(log_p)
    p = np.exp(np.asarray(log_p, np.float64))
    mean = p.mean(0)
    entropies = -(p * np.log(p)).sum(-1)
    total = -(mean * np.log(mean)).sum(-1)
    classes = p.argmax(-1)
    pairs = [
        classes[a] != classes[b] for a in range(S) for b in range(S) if a < b
    ]  # by their definition
    expected = {
        "log_p": np.log(mean),
        "entropy": total,
        "expected_entropy": entropies.mean(0),
        "mutual_information": total - entropies.mean(0),
        "disagreement": np.mean(pairs, 0),
        "votes": (classes[..., None] == np.arange(K)).mean(0),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(
            getattr(summary, name), value, rtol=1e-5, atol=1e-6, err_msg=name
        )
    assert np.mean(expected["disagreement"]) > 0.1  # the samples do differ


def test_bounds_and_the_chain_rule():
    """0 <= I <= H <= log K, I <= log S, H = E H + I."""
    summary = summarize(samples(sharpness=20.0))
    h, i = np.asarray(summary.entropy), np.asarray(summary.mutual_information)
    assert np.all(i >= -1e-6)
    assert np.all(i <= np.minimum(h, np.log(S)) + 1e-5)
    assert np.all(h <= np.log(K) + 1e-5)
    np.testing.assert_allclose(h, summary.expected_entropy + i, atol=1e-5)
    assert i.max() > 0.5  # sharp samples: most of the entropy is disagreement


def test_the_order_of_samples_does_not_matter():
    log_p = samples()
    ours, others = summarize(log_p), summarize(log_p[::-1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), ours, others)


def test_equal_samples_do_not_disagree():
    log_p = jnp.broadcast_to(samples()[:1], (S, B, K))
    summary = summarize(log_p)
    assert np.all(np.asarray(summary.disagreement) == 0)
    np.testing.assert_allclose(summary.mutual_information, 0, atol=1e-6)
    np.testing.assert_allclose(summary.entropy, summary.expected_entropy, atol=1e-5)


def test_one_sample_has_no_information_at_all_about_the_others():
    """Exactly none: a rounding error would rank inputs."""
    log_p = samples()[:1]
    summary = summarize(log_p)
    assert np.all(np.asarray(summary.mutual_information) == 0)
    assert np.all(np.asarray(summary.disagreement) == 0)
    np.testing.assert_array_equal(summary.log_p, log_p[0])


def test_certain_and_uniform_predictions():
    """Samples sure of different classes: all entropy is information, log K of it."""
    sure = jnp.where(jnp.eye(K, dtype=bool), 0.0, -jnp.inf)[:, None, :]
    summary = summarize(sure)
    for name in ("entropy", "mutual_information"):
        np.testing.assert_allclose(getattr(summary, name), np.log(K), rtol=1e-5)
    assert float(summary.expected_entropy[0]) == 0
    assert float(summary.disagreement[0]) == 1
    uniform = jnp.full((S, 1, K), -jnp.log(float(K)), jnp.float32)
    summary = summarize(uniform)
    np.testing.assert_allclose(summary.expected_entropy, np.log(K), rtol=1e-5)
    np.testing.assert_allclose(summary.mutual_information, 0, atol=1e-6)


def test_disagreement_is_unbiased(assert_mean):
    """Of independent voters it has mean 1 - sum p^2, whatever their number."""
    p = jnp.asarray([0.5, 0.3, 0.2, 0.0, 0.0], jnp.float32)
    for voters in (2, 5):
        classes = random.categorical(random.key(1), jnp.log(p), shape=(voters, 4000))
        log_p = jnp.log(jax.nn.one_hot(classes, K) * 0.9 + 0.02)
        draws = uncertainty.disagreement(log_p)
        assert_mean(draws, 1 - float(jnp.sum(p**2)))


# Scores of a whole data set.


def scores(seed, tied):
    rng = np.random.default_rng(seed)
    negative, positive = rng.normal(0, 1, 300), rng.normal(1, 1, 170)
    return (np.round(negative), np.round(positive)) if tied else (negative, positive)


def labelled(negative, positive):
    labels = np.r_[np.zeros(len(negative)), np.ones(len(positive))]
    return labels, np.r_[negative, positive]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_auroc_and_fpr_agree_with_scikit_learn(seed, tied):
    negative, positive = scores(seed, tied)
    labels, both = labelled(negative, positive)
    assert uncertainty.auroc(negative, positive) == pytest.approx(
        sklearn_metrics.roc_auc_score(labels, both), abs=1e-12
    )
    fpr, tpr, _ = sklearn_metrics.roc_curve(labels, both, drop_intermediate=False)
    for target in (0.5, 0.9, 0.95, 1.0):
        ours = uncertainty.fpr_at_tpr(negative, positive, target)
        assert ours == pytest.approx(fpr[np.argmax(tpr >= target - 1e-12)], abs=1e-12)


def test_auroc_sees_order_only_and_turns_around():
    negative, positive = scores(0, tied=True)
    value = uncertainty.auroc(negative, positive)
    assert uncertainty.auroc(np.exp(negative), np.exp(positive)) == value
    assert uncertainty.auroc(positive, negative) == pytest.approx(1 - value)
    assert uncertainty.auroc([0, 0, 0], [0, 0]) == 0.5
    assert uncertainty.auroc([0.1, 0.2], [0.3]) == 1.0
    assert uncertainty.fpr_at_tpr([0.1, 0.2], [0.3]) == 0.0


def test_nineteen_of_twenty_are_95_percent():
    """0.95 * 20 is 19 although binary has it a little off."""
    positive = np.arange(20.0)
    assert uncertainty.fpr_at_tpr([0.5, 1.0, 1.5], positive) == pytest.approx(2 / 3)


def test_seven_of_a_hundred_are_7_percent():
    """0.07 * 100 is above 7 in binary: without rounding it would be eight."""
    assert 0.07 * 100 > 7
    scores = np.arange(100.0)
    assert uncertainty.fpr_at_tpr([92.5], scores, 0.07) == 0.0
    correct = scores < 7
    curve = uncertainty.rejection_curve(correct, scores, [0.07, 0.071])
    np.testing.assert_array_equal(curve, [1, 7 / 8])


def test_rejection_of_what_is_uncertain():
    correct, score = [1, 0, 1, 0], [0.1, 0.9, 0.2, 0.8]
    curve = uncertainty.rejection_curve(correct, score, [0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(curve, [1, 1, 2 / 3, 1 / 2])


def test_rejection_by_scores_that_say_nothing_changes_nothing():
    """Equal scores give the accuracy at any fraction; random ones in the mean."""
    rng = np.random.default_rng(0)
    correct = rng.random(500) < 0.7
    kept = np.linspace(0.01, 1, 20)
    curve = uncertainty.rejection_curve(correct, np.zeros(500), kept)
    np.testing.assert_allclose(curve, correct.mean(), rtol=1e-12)
    curve = uncertainty.rejection_curve(correct, rng.random(500), [0.5, 1.0])
    assert curve[1] == correct.mean()
    # 250 of 500 without replacement.
    error = np.sqrt(correct.var() / 250 * 250 / 499)
    assert abs(curve[0] - curve[1]) < 5 * error


def test_rejection_with_ties_is_the_mean_over_orders():
    rng = np.random.default_rng(1)
    correct, score = rng.random(60) < 0.5, rng.integers(0, 4, 60)
    kept = np.asarray([0.1, 0.3, 0.55, 0.8, 1.0])
    shuffles = []
    for _ in range(2000):  # ties broken at random, as a sort would break them somehow
        order = np.lexsort((rng.random(60), score))
        hits = np.cumsum(correct[order])
        count = np.ceil(np.round(kept * 60, 9)).astype(int)
        shuffles.append(hits[count - 1] / count)
    error = np.std(shuffles, axis=0) / np.sqrt(len(shuffles))
    gap = np.mean(shuffles, axis=0) - uncertainty.rejection_curve(correct, score, kept)
    assert np.all(np.abs(gap) <= 5 * error + 1e-12)


def test_a_prediction_that_is_no_number_is_not_certain():
    log_p = np.log(np.full((3, 2, 4), 0.25, np.float32))
    log_p[1, 1, 2] = np.nan
    for name, value in vars(summarize(jnp.asarray(log_p))).items():
        known = np.isfinite(value).reshape(2, -1).all(1)
        assert known.tolist() == [True, False] or name == "log_p", name


def test_cdf():
    grid = [0.0, 1.0, 2.0, 3.0]
    np.testing.assert_allclose(
        uncertainty.cdf([1, 1, 2, 4], grid), [0, 0.5, 0.75, 0.75]
    )
    values = np.random.default_rng(0).random(1000)
    steps = uncertainty.cdf(values, np.linspace(0, 1, 50))
    assert np.all(np.diff(steps) >= 0)
    assert steps[-1] == 1
    # The area between two distribution functions is the gap of the means.
    fine = np.linspace(0, 3, 30001)
    gap = uncertainty.cdf(values, fine) - uncertainty.cdf(values + 0.5, fine)
    assert np.sum(gap) * (fine[1] - fine[0]) == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (functools.partial(uncertainty.auroc, [], [1.0]), "at least one"),
        (functools.partial(uncertainty.auroc, [1.0], [np.nan]), "finite"),
        (functools.partial(uncertainty.fpr_at_tpr, [1.0], [1.0], 0.0), r"\(0, 1\]"),
        (functools.partial(uncertainty.cdf, [[1.0]], [1.0]), "at least one"),
        (
            functools.partial(uncertainty.rejection_curve, [1], [0.1, 0.2], [1.0]),
            "answers",
        ),
        *(
            (
                functools.partial(uncertainty.rejection_curve, [1], [0.1], kept),
                "fractions kept",
            )
            for kept in ([0.0], [0.0, 0.5], [0.5, 1.5], [np.nan, 0.5])
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
