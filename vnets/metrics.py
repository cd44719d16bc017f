"""Metrics as sums over examples, divided once: exact for a short last batch.

A batch comes as log probabilities [B, K], labels [B] and weights [B] (1 for an
example, 0 for padding).
"""

import jax
import jax.numpy as jnp
from flax import struct

from vnets import edits
from vnets.posteriors import is_posterior
from vnets.types import Array, Params

BINS = 15  # of the calibration error, as is usual (Guo et al. 2017)


@struct.dataclass
class Sums:
    """Running sums of a test set; add them with `+`, read them with `compute`.

    Attributes:
      count, correct, nll, brier: weighted sums over examples, scalars.
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
        """Accuracy, NLL (nats), Brier score (0 to 2) and ECE as Python floats."""
        count = float(self.count)
        gap = jnp.abs(self.bin_confidence - self.bin_correct)
        return {
            "accuracy": float(self.correct) / count,
            "nll": float(self.nll) / count,
            "brier": float(self.brier) / count,
            "ece": float(gap.sum()) / count,
        }


def sums(log_p: Array, labels: Array, weights: Array) -> Sums:
    """The sums of one batch from log probabilities [B, K]."""
    p = jnp.exp(log_p)
    classes = p.shape[-1]
    hot = jax.nn.one_hot(labels, classes, dtype=p.dtype)
    confidence = jnp.max(p, -1)
    correct = (jnp.argmax(p, -1) == labels).astype(p.dtype)
    index = jnp.clip((confidence * BINS).astype(jnp.int32), 0, BINS - 1)
    in_bin = jax.nn.one_hot(index, BINS, dtype=p.dtype) * weights[:, None]
    # Where log p is -inf off the label, 0 * inf must not reach the sum.
    nll = -jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]
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
    """Fraction of exact zeros among the means of all posterior nodes; 0 without any."""
    means = [
        edits.mean_of(node).mean
        for node in jax.tree.leaves(params, is_leaf=is_posterior)
        if is_posterior(node)
    ]
    total = sum(mean.size for mean in means)
    return sum(int(jnp.sum(mean == 0)) for mean in means) / total if total else 0.0
