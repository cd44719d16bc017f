"""What a predictor knows about its own errors: uncertainty and diversity of samples.

Two stages. `summarize` turns the log probabilities of S samples, [S, B, K], or of
positions, [S, B, T, K] and so on, into a few numbers per input or position; it is pure
and belongs under jit. The measures of a whole data set
(`auroc`, `rejection_curve`, ...) take these numbers as NumPy arrays: they need a sort.

Entropies are in nats. The predictive entropy splits into the expected entropy of a
sample and the mutual information of prediction and sample, which is the samples'
disagreement in nats (Gal 2016, section 3.3.1; "BALD", Houlsby et al. 2011). Of a
prediction that is NaN all of them are NaN.
"""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from vnets.pytrees import pytree
from vnets.types import Array


@pytree
class Summary:
    """What is kept of S samples of a prediction, for each of B inputs.

    Attributes:
      log_p: log of the mean probabilities, [B, K].
      votes: fraction of samples whose most likely class is k, [B, K].
      entropy: of the mean prediction, nats, [B].
      expected_entropy: mean entropy of a sample, nats, [B].
      mutual_information: their difference, nats, [B].
      disagreement: fraction of pairs of samples with different classes, [B].
    """

    log_p: Array
    votes: Array
    entropy: Array
    expected_entropy: Array
    mutual_information: Array
    disagreement: Array


def summarize(log_p: Array) -> Summary:
    """The summary of samples given as log probabilities, [S, B, K]."""
    return Summary(
        log_p=log_mean(log_p),
        votes=votes(log_p),
        entropy=entropy(log_mean(log_p)),
        expected_entropy=expected_entropy(log_p),
        mutual_information=mutual_information(log_p),
        disagreement=disagreement(log_p),
    )


def log_mean(log_p: Array) -> Array:
    """Log of the mean probabilities, [S, B, K] -> [B, K]; of one sample, that one.

    Raises:
      ValueError: no samples, or predictions without an axis of them.
    """
    _check_samples(log_p)
    if log_p.shape[0] == 1:
        return log_p[0]
    return jax.nn.logsumexp(log_p, axis=0) - jnp.log(float(log_p.shape[0]))


def entropy(log_p: Array) -> Array:
    """-sum p log p in nats, [..., K] -> [...]; a class of probability 0 adds 0."""
    return -jnp.sum(_weighted(log_p, log_p), -1)


def expected_entropy(log_p: Array) -> Array:
    """Mean entropy of a sample, nats, [S, B, K] -> [B]: what more samples leave."""
    _check_samples(log_p)
    return jnp.mean(entropy(log_p), 0)


def mutual_information(log_p: Array) -> Array:
    """Mean KL from a sample to the mean prediction, nats, [S, B, K] -> [B].

    Equal to `entropy` of the mean less `expected_entropy`, without their cancellation;
    exactly 0 for one sample.
    """
    divergence = jnp.sum(_weighted(log_p, log_p - log_mean(log_p)[None]), -1)
    return jnp.mean(divergence, 0)


def _weighted(log_p: Array, value: Array) -> Array:
    """p * value, and 0 where p is 0, whatever the value."""
    p = jnp.exp(log_p)
    return jnp.where(p == 0, 0, p * value)


def votes(log_p: Array) -> Array:
    """Fraction of samples whose most likely class is k, [S, B, K] -> [B, K]."""
    _check_samples(log_p)
    chosen = jax.nn.one_hot(jnp.argmax(log_p, -1), log_p.shape[-1])
    unknown = jnp.any(jnp.isnan(log_p), -1, keepdims=True)
    return jnp.mean(jnp.where(unknown, jnp.nan, chosen), 0)


def disagreement(log_p: Array) -> Array:
    """Fraction of pairs of distinct samples that differ in class, [S, B, K] -> [B].

    One sample has no pairs: 0.
    """
    samples = log_p.shape[0]
    if samples == 1 and log_p.ndim > 2:
        return jnp.zeros(log_p.shape[1:-1], log_p.dtype)
    counts = votes(log_p) * samples
    agreeing = jnp.sum(counts * (counts - 1), -1)
    return 1 - agreeing / (samples * (samples - 1))


def _check_samples(log_p: Array) -> None:
    if log_p.ndim < 3 or not log_p.shape[0]:
        raise ValueError(
            f"samples are log probabilities [S, B, K], S at least 1, not {log_p.shape}"
        )


def auroc(negative: ArrayLike, positive: ArrayLike) -> float:
    """Chance that a positive's score is above a negative's; a tie counts one half.

    Args:
      negative: scores of the inputs not to be found (in distribution), [N].
      positive: scores of those to be found (out of distribution), [M].

    Raises:
      ValueError: no scores, or scores that are not finite.
    """
    negative, positive = _scores(negative), _scores(positive)
    negative = np.sort(negative)
    below = np.searchsorted(negative, positive, "left")
    not_above = np.searchsorted(negative, positive, "right")
    return float(np.mean(below + not_above) / (2 * len(negative)))


def fpr_at_tpr(negative: ArrayLike, positive: ArrayLike, tpr: float = 0.95) -> float:
    """Fraction of negatives found along with at least a fraction `tpr` of positives.

    The threshold is the highest score that finds as many. "FPR95" of papers that call
    the inputs in distribution positive is this with the arguments exchanged and signs
    changed; it differs.

    Args:
      negative: as in `auroc`, [N].
      positive: as in `auroc`, [M].
      tpr: the fraction, 0 < tpr <= 1.

    Raises:
      ValueError: no scores, scores that are not finite, or a tpr out of range.
    """
    negative, positive = _scores(negative), _scores(positive)
    if not 0 < tpr <= 1:
        raise ValueError(f"tpr must be in (0, 1], not {tpr}")
    # Rounded first: 0.95 * 20 must ask for 19, whatever binary makes of it.
    needed = int(np.ceil(round(tpr * len(positive), 9)))
    threshold = np.sort(positive)[len(positive) - needed]
    return float(np.mean(negative >= threshold))


def rejection_curve(correct: ArrayLike, score: ArrayLike, kept: ArrayLike):
    """Accuracy on the fraction of inputs that a predictor is most certain of.

    Args:
      correct: whether the prediction is right, [N].
      score: uncertainty of each input, [N]; the highest are rejected first. Among
        equal scores any are: the result is the mean over these choices.
      kept: fractions kept, each in (0, 1], [M]; rounded up to whole inputs.

    Returns:
      Accuracies [M], float64.

    Raises:
      ValueError: no inputs, unequal lengths, or values out of range.
    """
    score, kept = _scores(score), np.asarray(kept, np.float64)
    correct = np.asarray(correct, np.float64)
    if correct.shape != score.shape:
        raise ValueError(f"{correct.shape} answers with {score.shape} scores")
    if kept.size and not (kept.min() > 0 and kept.max() <= 1):
        raise ValueError(f"fractions kept must be in (0, 1], not {kept}")
    _, group, size = np.unique(score, return_inverse=True, return_counts=True)
    mean = np.bincount(group, correct) / size
    right = np.cumsum(np.repeat(mean, size))  # from the most certain to the least
    count = np.ceil(np.round(kept * len(score), 9)).astype(int)
    return right[count - 1] / count


def cdf(values: ArrayLike, grid: ArrayLike):
    """Fraction of values [N] that are at most each point of a grid [M], float64 [M].

    Raises:
      ValueError: no values, or values that are not finite.
    """
    values = np.sort(_scores(values))
    return np.searchsorted(values, np.asarray(grid), "right") / len(values)


def _scores(scores: ArrayLike) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 1 or not scores.size:
        raise ValueError(f"scores must be a list of at least one, not {scores.shape}")
    if not np.all(np.isfinite(scores)):
        raise ValueError("scores must be finite")
    return scores
