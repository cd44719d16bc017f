"""Laws of the metrics: NumPy's and scikit-learn's values, at any batch size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from claims import every
from jax import random
from sklearn import metrics as sk

from vnets import metrics
from vnets.edits import prune
from vnets.nodes import Point, Scaled, dropout, gaussian, variance

N, K = 203, 5


@pytest.fixture(scope="module")
def predictions():
    log_p = jax.nn.log_softmax(3 * random.normal(random.key(0), (N, K)))
    labels = random.categorical(random.key(1), log_p / 2)
    return np.asarray(log_p), np.asarray(labels)


def computed(log_p, labels, batch=N):
    """Sums over padded batches, as evaluate makes them."""
    total = None
    for start in range(0, len(labels), batch):
        rows = np.arange(start, start + batch)
        inside = (rows < len(labels)).astype(np.float32)
        rows = np.minimum(rows, len(labels) - 1)
        part = jax.jit(metrics.sums)(log_p[rows], labels[rows], inside)
        total = part if total is None else total + part
    return total.compute()


def plain_ece(p, labels, bins=metrics.BINS):
    """Guo et al. 2017: gap of mean confidence and accuracy, by share of the bin."""
    confidence, correct = p.max(axis=1), p.argmax(axis=1) == labels
    total = 0.0
    for low, high in zip(
        np.arange(bins) / bins, np.arange(1, bins + 1) / bins, strict=True
    ):
        inside = (confidence >= low) & ((confidence < high) | (high == 1))
        if inside.any():
            gap = confidence[inside].mean() - correct[inside].mean()
            total += inside.mean() * abs(gap)
    return total


def test_values(predictions):
    log_p, labels = predictions
    p = np.exp(log_p.astype(np.float64))
    p /= p.sum(axis=1, keepdims=True)
    got = computed(log_p, labels)
    assert got["accuracy"] == pytest.approx(sk.accuracy_score(labels, p.argmax(1)))
    assert got["nll"] == pytest.approx(
        sk.log_loss(labels, p, labels=range(K)), rel=1e-5
    )
    brier = np.mean(np.sum((p - np.eye(K)[labels]) ** 2, axis=1))
    assert got["brier"] == pytest.approx(brier, rel=1e-5)
    assert got["ece"] == pytest.approx(plain_ece(p, labels), rel=1e-4)
    assert got["ece"] > 0.01  # there is something to measure
    assert every(type(value) is float for value in got.values())


@pytest.mark.parametrize("batch", [1, 7, 50, 202, 500])
def test_a_short_last_batch_is_exact(batch, predictions):
    whole, parts = computed(*predictions), computed(*predictions, batch=batch)
    for name, value in whole.items():
        assert parts[name] == pytest.approx(value, rel=1e-5)


def test_a_sure_prediction_has_finite_scores():
    """log p = -inf off the label is a probability of zero, not a NaN."""
    log_p = np.full((4, 3), -np.inf, np.float32)
    log_p[:, 1] = 0.0
    got = computed(log_p, np.full(4, 1))
    assert got == {"accuracy": 1.0, "nll": 0.0, "brier": 0.0, "ece": 0.0}
    wrong = computed(log_p, np.full(4, 0))
    assert wrong == {"accuracy": 0.0, "nll": np.inf, "brier": 2.0, "ece": 1.0}


def test_padding_counts_for_nothing_even_when_impossible():
    log_p = np.log(np.asarray([[0.5, 0.5], [1.0, 1e-45]], np.float32))
    log_p[1, 1] = -np.inf
    got = metrics.sums(
        jnp.asarray(log_p), jnp.asarray([0, 1]), jnp.asarray([1.0, 0.0])
    ).compute()
    assert got["nll"] == pytest.approx(np.log(2), rel=1e-6)


def test_perfect_calibration_has_no_error():
    p = np.tile(np.asarray([[0.75, 0.25]], np.float32), (8, 1))
    labels = np.asarray([0, 0, 0, 1] * 2)
    assert computed(np.log(p), labels)["ece"] == pytest.approx(0, abs=1e-6)


def test_sparsity_counts_exact_zeros():
    weights = jnp.asarray([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]], jnp.float32)
    params = {
        "a": {"kernel": Point(weights), "bias": jnp.zeros(2, jnp.float32)},
        "b": {"kernel": Point(jnp.ones((3, 1), jnp.float32))},
    }
    assert metrics.sparsity(params) == pytest.approx(3 / 9)
    assert metrics.sparsity({"a": jnp.zeros(3, jnp.float32)}) == 0.0


def test_sparsity_after_pruning():
    key, shape = random.key(0), (10, 10)
    q = gaussian(-4.0)(key, shape)
    params = {
        "a": {"kernel": q},
        "b": {"kernel": dropout(0.5, lambda k, s: q)(key, shape)},
    }
    gone = np.mean(np.asarray(-4.0 - 2 * np.log(np.abs(q.mean))) > 3)
    assert 0 < gone < 1
    assert metrics.sparsity(params) == 0.0
    pruned = prune(3.0)(params)
    assert isinstance(pruned["b"]["kernel"], Scaled)
    assert metrics.sparsity(pruned) == pytest.approx(gone)
    assert metrics.sparsity({"a": {"kernel": variance()(key, shape)}}) == 1.0
