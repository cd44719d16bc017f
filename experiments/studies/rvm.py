"""The relevance vector machine as a linear classifier: one precision for each weight.

Tipping 2001 ("Sparse Bayesian Learning and the Relevance Vector Machine", JMLR 1):
w_i ~ N(0, 1 / a_i), the posterior of w by Laplace's method (section 3), the precisions
by type-II maximum likelihood. They are found one at a time, from an empty model
(Tipping and Faul 2003, "Fast Marginal Likelihood Maximisation for Sparse Bayesian
Models"): of all features, that one is added, re-estimated or deleted which raises the
evidence most. The basis functions are the features themselves, as in the reference that
Molchanov et al. 2016 compare with (`ClassificationARD` of sklearn-bayes).

A bias has a flat prior: it is neither shrunk nor counted.
"""

import dataclasses

import numpy as np
import scipy.linalg
from scipy.special import expit

NEWTON_STEPS, NEWTON_TOLERANCE = 50, 1e-10
GAIN = 1e-4  # of the log evidence, in nats, below which nothing is changed any more


@dataclasses.dataclass(frozen=True, eq=False)
class Binary:
    """A classifier of two classes after learning.

    Attributes:
      weight: posterior mode, [D]; zero where the precision is infinite.
      bias: of the logit.
      precision: a_i, [D].
      rounds: changes of the model.
      converged: no further change gains anything.
    """

    weight: np.ndarray
    bias: float
    precision: np.ndarray
    rounds: int
    converged: bool


def fit(x: np.ndarray, y: np.ndarray, rounds: int) -> Binary:
    """Learns one class against the rest.

    Args:
      x: features, [N, D].
      y: 1 for the class, 0 for the rest, [N].
      rounds: the most changes of the model.
    """
    precision = np.full(x.shape[1], np.inf)
    w = np.zeros(x.shape[1] + 1)  # the bias comes last
    ones = np.ones((len(x), 1))
    for number in range(rounds + 1):
        live = np.flatnonzero(np.isfinite(precision))
        inputs = np.concatenate([x[:, live], ones], axis=1)
        index = np.append(live, x.shape[1])
        prior = np.append(precision[live], 0.0)
        found, hessian = mode(inputs, y, prior, w[index])
        w = np.zeros_like(w)
        w[index] = found
        best, gain = improvements(x, y, inputs, found, hessian, precision)
        which = int(np.argmax(gain))
        converged = bool(gain[which] < GAIN)
        if converged or number == rounds:
            break
        precision[which] = best[which]
        if not np.isfinite(best[which]):
            w[which] = 0.0
    return Binary(w[:-1], float(w[-1]), precision, number, converged)


def improvements(
    x: np.ndarray,
    y: np.ndarray,
    inputs: np.ndarray,
    w: np.ndarray,
    hessian: np.ndarray,
    precision: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The best precision of each feature, the others fixed, and what it gains.

    Args:
      x: all features, [N, D].
      y: 0 or 1, [N].
      inputs: those of the model, with the bias, [N, M].
      w: their weights at the mode, [M].
      hessian: there, [M, M].
      precision: a_i of all features, inf of those that the model does without, [D].

    Returns:
      Precisions (inf: better without) and gains of the log evidence in nats, [D] each.
    """
    p = expit(inputs @ w)
    noise = p * (1 - p)
    shared = inputs.T @ (noise[:, None] * x)
    # Sparsity S and quality Q of each feature, given the model (equations 24 and 25).
    s = noise @ np.square(x) - np.sum(shared * _solve(hessian, shared), axis=0)
    q = x.T @ (y - p)
    s = np.maximum(s, 1e-12)
    kept = np.isfinite(precision)
    a = np.where(kept, precision, 1.0)
    # What they would be without the feature itself (equation 23).
    without = np.where(kept, a / np.maximum(a - s, 1e-12), 1.0)
    own_s, own_q = without * s, without * q
    excess = np.square(own_q) - own_s
    with np.errstate(divide="ignore"):
        best = np.where(excess > 0, np.square(own_s) / np.maximum(excess, 0), np.inf)
    return best, _evidence(best, own_s, own_q) - _evidence(
        np.where(kept, a, np.inf), own_s, own_q
    )


def _evidence(a: np.ndarray, s: np.ndarray, q: np.ndarray) -> np.ndarray:
    """What a feature adds to the log evidence (equation 18), 0 at a = inf."""
    return 0.5 * (np.square(q) / (a + s) - np.log1p(s / a))


def mode(
    x: np.ndarray, y: np.ndarray, precision: np.ndarray, start: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The most probable weights by damped Newton steps, and the Hessian there.

    Args:
      x: features, [N, M].
      y: 0 or 1, [N].
      precision: of each weight, 0 for a flat prior, [M].
      start: weights to begin with, [M].
    """
    w, value = start, _objective(x, y, precision, start)
    for _ in range(NEWTON_STEPS):
        p = expit(x @ w)
        gradient = x.T @ (p - y) + precision * w
        step = _solve(_hessian(x, p, precision), gradient)
        if gradient @ step < NEWTON_TOLERANCE:  # twice the decrease to be had
            break
        size = 1.0
        while size > 1e-8 and _objective(x, y, precision, w - size * step) > value:
            size /= 2
        w = w - size * step
        value = _objective(x, y, precision, w)
    return w, _hessian(x, expit(x @ w), precision)


def _solve(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    return scipy.linalg.solve(matrix, right, assume_a="pos", check_finite=False)


def _objective(x, y, precision, w) -> float:
    logit = x @ w
    nll = np.sum(np.logaddexp(0, logit) - y * logit)
    return float(nll + 0.5 * np.sum(precision * np.square(w)))


def _hessian(x, p, precision) -> np.ndarray:
    return (x.T * (p * (1 - p))) @ x + np.diag(precision)
