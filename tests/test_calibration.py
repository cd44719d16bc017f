"""Laws of the calibration kit: optima by their equations, coverage counted exactly."""

import jax.numpy as jnp
import numpy as np
import pytest

from vnets import calibration
from vnets.likelihoods import Categorical
from vnets.uncertainty import rejection_curve

N, K = 400, 6


@pytest.fixture(scope="module")
def predictions():
    """Log probabilities, and labels that are drawn from sharper ones."""
    draw = np.random.default_rng(0)
    log_p = calibration.tempered(2 * draw.normal(size=(N, K)), 1.0)
    p = np.exp(calibration.tempered(log_p, 0.6))
    labels = (p.cumsum(-1) < draw.random((N, 1))).sum(-1)
    return log_p, np.minimum(labels, K - 1)


def nll(log_p, labels):
    return -log_p[np.arange(len(labels)), labels].mean()


def test_a_temperature_solves_its_equation_and_undoes_a_scale(predictions):
    """At the optimum the mean logit of the labels is the one that is expected."""
    log_p, labels = predictions
    t = calibration.temperature(log_p, labels)
    scaled = calibration.tempered(log_p, t)
    own = log_p[np.arange(N), labels].mean()
    expected = (np.exp(scaled) * log_p).sum(-1).mean()
    assert own == pytest.approx(expected, rel=1e-8)
    for other in (0.99 * t, 1.01 * t, 1.0):
        assert nll(scaled, labels) < nll(calibration.tempered(log_p, other), labels)
    for factor in (1e-3, 0.3, 7.0, 1e4):
        assert calibration.temperature(factor * log_p, labels) == pytest.approx(
            factor * t, rel=1e-7
        )
    shifted = log_p + np.arange(N)[:, None]
    assert calibration.temperature(shifted, labels) == pytest.approx(t, rel=1e-7)


def test_a_temperature_finds_the_one_that_labels_were_drawn_at(predictions):
    """Within five standard errors by the Fisher information of 1 / T."""
    log_p, labels = predictions
    p = np.exp(calibration.tempered(log_p, 0.6))
    mean = (p * log_p).sum(-1, keepdims=True)
    information = (p * np.square(log_p - mean)).sum()
    found = 1 / calibration.temperature(log_p, labels)
    assert abs(found - 1 / 0.6) < 5 / np.sqrt(information)
    assert abs(found - 1) > 5 / np.sqrt(information)


def test_tempering_keeps_the_order_and_sums_to_one(predictions):
    log_p, _ = predictions
    softer = calibration.tempered(log_p, 3.0)
    np.testing.assert_array_equal(softer.argsort(-1), log_p.argsort(-1))
    np.testing.assert_allclose(np.exp(softer).sum(-1), 1, rtol=1e-12)
    np.testing.assert_allclose(calibration.tempered(softer, 1 / 3), log_p, atol=1e-12)


def test_a_class_of_probability_zero_stays_out_of_it(predictions):
    log_p, labels = predictions
    wider = np.concatenate([log_p, np.full((N, 1), -np.inf)], 1)
    t = calibration.temperature(wider, labels)
    assert t == pytest.approx(calibration.temperature(log_p, labels), rel=1e-8)
    assert np.all(calibration.tempered(wider, t)[:, -1] == -np.inf)


SCORES = ["likelihood", "cumulative"]


@pytest.mark.parametrize("coverage", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("score", SCORES)
def test_sets_hold_the_label_exactly_as_often_as_promised(score, coverage, predictions):
    """Each of N + 1 examples is the new one once, and all of these are as likely."""
    log_p, labels = (part[:41] for part in predictions)
    held = []
    for new in range(len(labels)):
        rest = np.delete(np.arange(len(labels)), new)
        sets = calibration.prediction_sets(
            log_p[[new]], log_p[rest], labels[rest], coverage, score
        )
        held.append(sets[0, labels[new]])
    assert sum(held) == np.ceil(round(len(held) * coverage, 9))


@pytest.mark.parametrize("score", SCORES)
def test_sets_grow_with_the_coverage_and_hold_the_likelier_first(score, predictions):
    log_p, labels = predictions
    before = np.zeros_like(log_p, bool)
    for coverage in (0.2, 0.5, 0.8, 0.95):
        sets = calibration.prediction_sets(log_p, log_p, labels, coverage, score)
        assert np.all(sets >= before)
        assert sets.sum() > before.sum()
        least = np.where(sets, log_p, np.inf).min(-1)
        most = np.where(sets, -np.inf, log_p).max(-1)
        assert np.all(least > most)
        before = sets
    few = calibration.prediction_sets(log_p, log_p[:8], labels[:8], 0.9, score)
    assert np.all(few)  # nine held-out examples are the least that can promise 0.9


@pytest.mark.parametrize("own_std", [False, True])
@pytest.mark.parametrize("coverage", [0.3, 0.9])
def test_intervals_hold_the_target_exactly_as_often_as_promised(coverage, own_std):
    draw = np.random.default_rng(1)
    mean, std = draw.normal(size=51), draw.uniform(0.1, 3, 51)
    target = mean + std * draw.standard_t(2, 51)
    held, width = [], []
    for new in range(51):
        rest = np.delete(np.arange(51), new)
        scale = (std[[new]], std[rest]) if own_std else ()
        low, high = calibration.prediction_intervals(
            mean[[new]], mean[rest], target[rest], coverage, *scale
        )
        held.append(low[0] <= target[new] <= high[0])
        width.append(high[0] - low[0])
    assert sum(held) == np.ceil(round(51 * coverage, 9))
    bounds = np.asarray(width) / (std if own_std else 1)
    assert len(np.unique(bounds.round(9))) == 2  # one place of the order, or the next


def test_reliability_has_the_calibration_error_of_the_metrics(predictions):
    log_p, labels = predictions
    shown = calibration.reliability(log_p, labels)
    draws = jnp.asarray(log_p, jnp.float32)[None]
    measured = Categorical().metrics(draws, jnp.asarray(labels))
    assert shown.ece == pytest.approx(measured["ece"], rel=1e-4)
    assert shown.count.sum() == N
    right = np.nansum(shown.accuracy * shown.count) / N
    assert right == pytest.approx(measured["accuracy"], rel=1e-5)
    sure = np.nansum(shown.confidence * shown.count) / N
    assert sure == pytest.approx(np.exp(log_p.max(-1)).mean(), rel=1e-9)
    assert np.all(np.isnan(shown.confidence) == (shown.count == 0))
    low = np.arange(calibration.BINS)[shown.count > 0] / calibration.BINS
    seen = shown.confidence[shown.count > 0]
    assert np.all((low <= seen) & (seen <= low + 1 / calibration.BINS))


def test_one_bin_is_the_gap_of_the_means(predictions):
    log_p, labels = predictions
    gap = np.exp(log_p.max(-1)).mean() - (log_p.argmax(-1) == labels).mean()
    shown = calibration.reliability(log_p, labels, bins=1)
    assert shown.ece == pytest.approx(abs(gap), rel=1e-9)


def test_temperature_scaling_mends_the_calibration_error(predictions):
    log_p, labels = predictions
    first, second = slice(None, N // 2), slice(N // 2, None)
    t = calibration.temperature(log_p[first], labels[first])
    better = calibration.reliability(
        calibration.tempered(log_p[second], t), labels[second]
    )
    assert better.ece < calibration.reliability(log_p[second], labels[second]).ece


def test_classes_that_are_alike_are_in_a_set_together():
    """Whatever their order is: each has the probability of all that are as likely."""
    p = np.asarray([[0.4, 0.2, 0.2, 0.2], [0.1, 0.4, 0.4, 0.1]])
    log_p = np.log(p)
    for coverage in np.linspace(0.05, 0.95, 19):
        sets = calibration.prediction_sets(
            *(log_p, np.log(np.eye(4)[[0] * 99] * 0.2 + 0.2), np.zeros(99, int)),
            *(coverage, "cumulative"),
        )
        for row, own in zip(p, sets, strict=True):
            for value in set(row):
                assert len(set(own[row == value])) == 1
    held = np.log(np.tile(p[1], (9, 1)))
    labels = np.full(9, 2)  # the second of two that are alike
    sets = calibration.prediction_sets(log_p, held, labels, 0.5, "cumulative")
    np.testing.assert_array_equal(sets[1], [False, True, True, False])


def test_aurc_is_the_area_over_the_rejection_curve():
    draw = np.random.default_rng(2)
    correct = draw.random(90) < 0.7
    score = draw.normal(size=90) - correct
    kept = np.arange(1, 91) / 90
    found = calibration.aurc(correct, score)
    area = 1 - rejection_curve(correct, score, kept)
    assert found.aurc == pytest.approx(area.mean(), rel=1e-12)
    assert calibration.aurc(correct, np.exp(score)).aurc == pytest.approx(found.aurc)
    order = np.argsort(score)
    wrong = np.cumsum(~correct[order]) / np.arange(1, 91)
    assert found.aurc == pytest.approx(wrong.mean(), rel=1e-12)
    assert 0 < found.excess < calibration.aurc(correct, -score).excess
    assert calibration.aurc(correct, ~correct).excess == pytest.approx(0, abs=1e-12)
    alike = calibration.aurc(correct, np.zeros(90))
    assert alike.aurc == pytest.approx(1 - correct.mean(), rel=1e-9)


P = calibration.tempered(np.eye(3), 1.0)
Y = np.asarray([0, 1, 0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: calibration.temperature(P, [0, 1, 2]), "the sharper the better"),
        (lambda: calibration.temperature(P, [1, 2, 0]), "no better than chance"),
        (lambda: calibration.temperature(P[:2], Y), r"\[N, K\]"),
        (lambda: calibration.temperature(P, Y + 0.0), "int"),
        (lambda: calibration.temperature(P, Y + 2), "from 0 to 2"),
        (lambda: calibration.temperature(P * np.nan, Y), "NaN"),
        (lambda: calibration.tempered(P, 0.0), "above 0"),
        (lambda: calibration.conformal_quantile([], 0.9), "at least one"),
        (lambda: calibration.conformal_quantile([1.0], 1.0), "between 0 and 1"),
        (lambda: calibration.prediction_sets(P[:, :2], P, Y), "same classes"),
        (
            lambda: calibration.prediction_sets(P, P, Y, score="best"),
            "likelihood or cumulative",
        ),
        (lambda: calibration.prediction_intervals(Y, Y, Y[:2]), r"\[M\] and \[N\]"),
        (lambda: calibration.prediction_intervals(Y, Y, Y, std=0.0), "above 0"),
        (
            lambda: calibration.prediction_intervals(Y, Y, Y, std=np.ones(3)),
            "std of both",
        ),
        (lambda: calibration.prediction_sets(P + np.nan, P, Y), "add up to 1"),
        (lambda: calibration.prediction_sets(np.eye(3), P, Y), "add up to 1"),
        (lambda: calibration.prediction_sets(P, np.eye(3), Y), "add up to 1"),
        (lambda: calibration.prediction_intervals(Y * np.nan, Y, Y), "NaN"),
        (lambda: calibration.prediction_intervals(Y, Y * np.nan, Y), "NaN"),
        (lambda: calibration.reliability(np.eye(3), Y), "add up to 1"),
        (lambda: calibration.reliability(P, Y, bins=0), "at least 1"),
        (lambda: calibration.aurc([], []), "at least one"),
        (lambda: calibration.aurc([True], [0.1, 0.2]), "answers with"),
    ],
)
def test_what_has_no_answer_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_label_of_probability_zero_is_refused():
    with pytest.raises(ValueError, match="probability 0"):
        calibration.temperature([[0.0, -np.inf]], [1])
