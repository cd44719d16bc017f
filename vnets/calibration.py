"""Calibration: what makes stated probabilities hold, and what shows whether they do.

Each is a function of predictions, whatever made them: log probabilities of N examples,
[N, K], or means of N targets, [N]. What is fitted is fitted on examples that nothing
else was chosen by, such as `validation` of `data.load`. All is NumPy, in float64.

    t = temperature(log_p, labels)              one number that softens or sharpens
    tempered(log_p, t)                          the same classes, other probabilities
    prediction_sets(log_p, held_out, labels)    hold the label as often as promised
    prediction_intervals(mean, held_out, y)     hold the target as often as promised
    reliability(log_p, labels)                  accuracy by confidence, and the ECE
    aurc(correct, score)                        what it costs to trust the most certain
"""

import dataclasses
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from vnets.targets import OFF_ONE
from vnets.uncertainty import rejection_curve

BINS = 15  # of confidence, as is usual (Guo et al. 2017)
PRECISION = 1e-10  # relative, of a temperature
STEPS = 200  # of Newton or bisection; some ten are taken
Score = Literal["likelihood", "cumulative"]


def temperature(log_p: ArrayLike, labels: ArrayLike) -> float:
    """The T > 0 at which softmax(log_p / T) has the least negative log likelihood.

    It is convex in 1 / T (Guo et al. 2017), so the T is the only one. Above 1 the
    predictions were too sure of themselves, below 1 not sure enough.

    Args:
      log_p: logits or log probabilities, [N, K].
      labels: classes from 0 on, int [N].

    Raises:
      ValueError: other shapes, a label of probability 0; or no T is the best: every
        label is the most likely class (the sharper the better), or the predictions are
        no better than chance (the softer the better).
    """
    log_p, labels = _checked(log_p, labels)
    z = log_p - log_p.max(-1, keepdims=True)
    own = z[np.arange(len(z)), labels]
    possible = np.isfinite(z)
    if not np.all(np.isfinite(own)):
        raise ValueError("a label has probability 0, which no temperature changes")
    if np.all(own == 0):
        raise ValueError(
            "every label is the most likely class, so no temperature is the best: the "
            "sharper the better; take examples that the net gets wrong, too"
        )
    known = np.where(possible, z, 0)
    if own.mean() <= np.mean(known.sum(-1) / possible.sum(-1)):
        raise ValueError(
            "the predictions are no better than chance, so no temperature is the best: "
            "the softer the better"
        )
    # The slope in 1 / T rises from below 0 to above: Newton, held between two ends.
    sharpness, low, high = 1 / np.abs(own).max(), 0.0, np.inf
    for _ in range(STEPS):
        p = np.exp(sharpness * z)
        p /= p.sum(-1, keepdims=True)
        mean = (p * known).sum(-1)
        slope = np.mean(mean - own)
        curvature = np.mean((p * np.square(known - mean[:, None])).sum(-1))
        low, high = (sharpness, high) if slope < 0 else (low, sharpness)
        middle = 2 * low if high == np.inf else (low + high) / 2
        following = sharpness - slope / curvature if curvature else middle
        following = following if low < following < high else middle
        done = abs(following - sharpness) <= PRECISION * sharpness
        sharpness = following
        if done:
            break
    return float(1 / sharpness)


def tempered(log_p: ArrayLike, temperature: float) -> np.ndarray:
    """log softmax(log_p / temperature), [..., K] -> [..., K], float64.

    Raises:
      ValueError: a temperature that is not above 0.
    """
    if not 0 < temperature < np.inf:
        raise ValueError(f"a temperature is a number above 0, not {temperature}")
    z = np.asarray(log_p, np.float64) / temperature
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def conformal_quantile(scores: ArrayLike, coverage: float) -> float:
    """The bound that a new score keeps with probability `coverage` or more.

    It is the ceil((N + 1) coverage)-th smallest of N scores, infinity where N is too
    small for one (Vovk et al. 2005). The promise holds on average over sets of N and
    a new example, if their order says nothing, whatever the scores are; of distinct
    scores it is kept by less than 1 / (N + 1) too often.

    Raises:
      ValueError: no scores, scores that are NaN, or a coverage outside (0, 1).
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 1 or not scores.size or np.any(np.isnan(scores)):
        raise ValueError(
            f"scores are a list of at least one number and no NaN, not {scores.shape}"
        )
    if not 0 < coverage < 1:
        raise ValueError(f"a coverage is between 0 and 1, not {coverage}")
    # Rounded first: 0.9 * 10 must ask for 9, whatever binary makes of it.
    rank = int(np.ceil(round((len(scores) + 1) * coverage, 9)))
    if rank > len(scores):
        return float(np.inf)
    return float(np.partition(scores, rank - 1)[rank - 1])


def prediction_sets(
    log_p: ArrayLike,
    held_out: ArrayLike,
    labels: ArrayLike,
    coverage: float = 0.9,
    score: Score = "likelihood",
) -> np.ndarray:
    """Sets of classes that hold the label with probability `coverage` or more.

    Split conformal prediction; see `conformal_quantile` for what is promised.

    Args:
      log_p: log probabilities of new examples, [M, K].
      held_out: those of held-out examples, [N, K].
      labels: classes of the held-out examples, int [N].
      coverage: how often the label is to be in the set.
      score: by which classes join. "likelihood", -log p: the smallest sets on average
        (Sadinle et al. 2019), of which some may be empty. "cumulative", the
        probability of all classes that are at least as likely: small where the net is
        sure and large where it is not (Romano et al. 2020, without randomization).

    Returns:
      Which classes are in the set, bool [M, K].

    Raises:
      ValueError: other shapes, what are no log probabilities, another score, or a
        coverage outside (0, 1).
    """
    held_out, labels = _checked(held_out, labels)
    log_p = np.asarray(log_p, np.float64)
    if log_p.ndim != 2 or log_p.shape[1] != held_out.shape[1]:
        raise ValueError(
            f"new examples {log_p.shape} and held-out ones {held_out.shape} must have "
            "the same classes, [M, K] and [N, K]"
        )
    for given in (log_p, held_out):
        _check_normalized(given)
    own = _scores(held_out, score)[np.arange(len(labels)), labels]
    return _scores(log_p, score) <= conformal_quantile(own, coverage)


def _scores(log_p: np.ndarray, score: Score) -> np.ndarray:
    """How little each class conforms, [N, K]."""
    if score == "likelihood":
        return -log_p
    if score != "cumulative":
        raise ValueError(f"unknown score {score!r}; choose likelihood or cumulative")
    p = np.exp(log_p)
    order = np.argsort(-p, -1, kind="stable")
    p = np.take_along_axis(p, order, -1)
    # Of classes that are alike each has the sum of all.
    last = np.append(p[:, :-1] > p[:, 1:], np.ones_like(p[:, :1], bool), -1)
    total = np.where(last, np.cumsum(p, -1), np.inf)
    total = np.minimum.accumulate(total[:, ::-1], -1)[:, ::-1]
    found = np.empty_like(p)
    np.put_along_axis(found, order, total, -1)
    return found


def prediction_intervals(
    mean: ArrayLike,
    held_out: ArrayLike,
    targets: ArrayLike,
    coverage: float = 0.9,
    std: ArrayLike = 1.0,
    held_out_std: ArrayLike = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Intervals that hold the target with probability `coverage` or more.

    Split conformal prediction by |target - mean| / std (Lei et al. 2018, sections 2.2
    and 5.2); see `conformal_quantile` for what is promised. With a std of each example
    the interval is wide where the net says so.

    Args:
      mean: predictions for new examples, [M].
      held_out: predictions for held-out examples, [N].
      targets: targets of the held-out examples, [N].
      coverage: how often the target is to be in the interval.
      std: of the new predictions, [M], or one number.
      held_out_std: of the held-out ones, [N], or the same number.

    Returns:
      The lower and the upper ends, [M] each.

    Raises:
      ValueError: other shapes, a mean that is NaN, a std that is not above 0, or a
        coverage outside (0, 1).
    """
    mean, held_out, targets, std, held_out_std = (
        np.asarray(x, np.float64) for x in (mean, held_out, targets, std, held_out_std)
    )
    if mean.ndim != 1 or held_out.ndim != 1 or held_out.shape != targets.shape:
        raise ValueError(
            f"predictions are [M] and [N], and targets [N], not {mean.shape}, "
            f"{held_out.shape} and {targets.shape}"
        )
    if np.any(np.isnan(mean)):
        raise ValueError("a prediction is NaN")
    for values, shape in ((std, mean.shape), (held_out_std, held_out.shape)):
        if values.shape not in ((), shape) or not np.all(values > 0):
            raise ValueError(
                f"a std is one number above 0, or {shape} of them, not {values.shape}"
            )
    if std.ndim != held_out_std.ndim:
        raise ValueError("give a std of both, the new and the held-out examples")
    bound = conformal_quantile(np.abs(targets - held_out) / held_out_std, coverage)
    return mean - bound * std, mean + bound * std


@dataclasses.dataclass(frozen=True)
class Reliability:
    """What a reliability diagram shows: accuracy by confidence.

    Attributes:
      count: examples of each bin of confidence, [bins].
      confidence: their mean confidence, NaN in an empty bin, [bins].
      accuracy: the fraction of them that are right, NaN in an empty bin, [bins].
    """

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def ece(self) -> float:
        """The expected calibration error: the mean gap, weighted by the examples."""
        gaps = np.abs(self.confidence - self.accuracy)
        return float(np.nansum(gaps * self.count) / self.count.sum())


def reliability(log_p: ArrayLike, labels: ArrayLike, bins: int = BINS) -> Reliability:
    """The reliability diagram of predictions [N, K] with labels int [N].

    Args:
      log_p: log probabilities, [N, K].
      labels: classes from 0 on, int [N].
      bins: of equal width, over confidences from 0 to 1.

    Raises:
      ValueError: other shapes, what are no log probabilities, or no bins.
    """
    log_p, labels = _checked(log_p, labels)
    _check_normalized(log_p)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}")
    confidence = np.exp(log_p.max(-1))
    index = np.clip((confidence * bins).astype(int), 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 in an empty bin
        right = log_p.argmax(-1) == labels
        return Reliability(
            count,
            np.bincount(index, confidence, bins) / count,
            np.bincount(index, right, bins) / count,
        )


class Risk(NamedTuple):
    """The area under a risk-coverage curve, and what a perfect score would leave."""

    aurc: float
    best: float

    @property
    def excess(self) -> float:
        """What the order of the scores costs (E-AURC of Geifman et al. 2019)."""
        return self.aurc - self.best


def aurc(correct: ArrayLike, score: ArrayLike) -> Risk:
    """The mean error rate on the n most certain inputs, over n from 1 to N.

    Args:
      correct: whether the prediction is right, [N].
      score: uncertainty of each input, [N]. Among equal scores any come first: the
        result is the mean over these choices.

    Raises:
      ValueError: no inputs, unequal lengths, or scores that are not finite.
    """
    correct = np.asarray(correct, np.float64)
    kept = np.arange(1, correct.size + 1) / max(correct.size, 1)
    areas = [
        float(np.mean(1 - rejection_curve(correct, by, kept)))
        for by in (score, 1 - correct)
    ]
    return Risk(*areas)


def _checked(log_p: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Predictions [N, K] and their labels [N], if they are."""
    log_p, labels = np.asarray(log_p, np.float64), np.asarray(labels)
    fits = log_p.ndim == 2 and log_p.size and labels.shape == log_p.shape[:1]
    if not fits or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            "predictions are [N, K] and labels int [N], N at least 1, not "
            f"{log_p.shape} and {labels.dtype} {labels.shape}"
        )
    if not 0 <= labels.min() <= labels.max() < log_p.shape[1]:
        raise ValueError(
            f"labels are from 0 to {log_p.shape[1] - 1}, not from {labels.min()} to "
            f"{labels.max()}"
        )
    if np.any(np.isnan(log_p)):
        raise ValueError("a prediction is NaN")
    return log_p, labels


def _check_normalized(log_p: np.ndarray) -> None:
    """Refuses logits, which say nothing of how sure a prediction is."""
    with np.errstate(invalid="ignore"):  # a NaN is refused as well
        totals = np.logaddexp.reduce(log_p, -1)
    if not np.all(np.abs(totals) <= OFF_ONE):
        raise ValueError(
            "log probabilities are asked for, whose exponentials add up to 1: of "
            "logits give their log softmax, such as tempered(logits, 1)"
        )
