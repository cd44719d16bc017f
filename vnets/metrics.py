"""Metrics as sums over examples, divided once: exact for a short last batch.

A batch comes as log probabilities [B, K], labels [B] and weights [B] (1 for an
example, 0 for padding); or of positions, [B, T, K] and [B, T] twice, and so on.
"""

import jax
import jax.numpy as jnp
from flax import struct

from vnets import edits, tree
from vnets.labels import check_shape, of_label
from vnets.types import Array, Params

BINS = 15  # of the calibration error, as is usual (Guo et al. 2017)


@struct.dataclass
class Sums:
    """Running sums of a test set; add them with `+`, read them with `compute`.

    Attributes:
      count, correct, nll, brier: weighted sums over examples, or positions; scalars.
      bin_count, bin_confidence, bin_correct: sums per bin of confidence, [BINS].
    """

    count: Array
    correct: Array
    nll: Array
    brier: Array
    bin_count: Array
    bin_confidence: Array
    bin_correct: Array

    def __add__(self, other: "Sums") -> "Sums":
        return jax.tree.map(jnp.add, self, other)

    def compute(self) -> dict[str, float]:
        """Accuracy, NLL (nats), Brier score (0 to 2) and ECE as Python floats.

        Raises:
          ValueError: sums of nothing.
        """
        count = float(self.count)
        if not count:
            raise ValueError("there are no means of nothing: all weights are 0")
        gap = jnp.abs(self.bin_confidence - self.bin_correct)
        return {
            "accuracy": float(self.correct) / count,
            "nll": float(self.nll) / count,
            "brier": float(self.brier) / count,
            "ece": float(gap.sum()) / count,
        }


def sums(log_p: Array, labels: Array, weights: Array) -> Sums:
    """The sums of one batch from log probabilities [B, ..., K].

    Args:
      log_p: of the classes.
      labels: from 0 on, int [B, ...].
      weights: [B, ...].

    Raises:
      ValueError: other shapes, or labels that are no integers.
    """
    check_shape(log_p, labels)
    if jnp.shape(weights) != jnp.shape(labels):
        raise ValueError(
            f"labels {jnp.shape(labels)} need as many weights, not {jnp.shape(weights)}"
        )
    log_p = jnp.reshape(log_p, (-1, log_p.shape[-1]))
    labels, weights = jnp.ravel(labels), jnp.ravel(weights)
    p = jnp.exp(log_p)
    classes = p.shape[-1]
    hot = jax.nn.one_hot(labels, classes, dtype=p.dtype)
    confidence = jnp.max(p, -1)
    correct = (jnp.argmax(p, -1) == labels).astype(p.dtype)
    index = jnp.clip((confidence * BINS).astype(jnp.int32), 0, BINS - 1)
    in_bin = jax.nn.one_hot(index, BINS, dtype=p.dtype) * weights[:, None]
    # Where log p is -inf off the label, 0 * inf must not reach the sum.
    nll = -of_label(log_p, labels)
    return Sums(
        count=jnp.sum(weights),
        correct=jnp.sum(correct * weights),
        nll=jnp.sum(jnp.where(weights > 0, nll, 0) * weights),
        brier=jnp.sum(jnp.sum(jnp.square(p - hot), -1) * weights),
        bin_count=jnp.sum(in_bin, 0),
        bin_confidence=jnp.sum(in_bin * confidence[:, None], 0),
        bin_correct=jnp.sum(in_bin * correct[:, None], 0),
    )


def sparsity(params: Params) -> float:
    """Fraction of exact zeros among the means of all weight nodes; 0 without any."""
    counts = _counts(params).values()
    total = sum(size for _, size in counts)
    return sum(zeros for zeros, _ in counts) / total if total else 0.0


def sizes(params: Params) -> dict[str, float]:
    """How many weights are left, as the pruning papers count: biases do not.

    Returns:
      nonzero (count of non-zero means), compression (weights / non-zeros; all weights
      if none is left), sparsity (fraction of zeros), and sparsity/<layer> for each.
    """
    counts = _counts(params)
    total = sum(size for _, size in counts.values())
    nonzero = total - sum(zeros for zeros, _ in counts.values())
    layers = {f"sparsity/{name}": z / size for name, (z, size) in counts.items()}
    return {
        "nonzero": nonzero,
        "compression": total / max(nonzero, 1),
        "sparsity": sparsity(params),
        **layers,
    }


def _counts(params: Params) -> dict[str, tuple[int, int]]:
    """Zeros among the means and their number, for each layer whose weight is a node."""
    counts = {}
    for name, node in tree.weights(params):
        mean = edits.mean_of(node).mean
        counts[name] = int(jnp.sum(mean == 0)), mean.size
    return counts
