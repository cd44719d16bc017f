"""What a predictor says of images, kept as a summary, and what that is worth."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments.core import Net
from vnets import backend, likelihoods, uncertainty
from vnets.predictor import Predictor
from vnets.rng import stream
from vnets.types import Key
from vnets.uncertainty import Summary

SCORES = ("entropy", "mutual_information")  # by which inputs are ranked
MEANS = (*SCORES, "expected_entropy", "disagreement")


def unit_range(images: np.ndarray) -> np.ndarray:
    """uint8 pixels as float32 in [0, 1]."""
    return images.astype(np.float32) / np.float32(255)


def summaries(
    nets: Sequence[Net], images: np.ndarray, samples: int, key: Key, **options
) -> Summary:
    """What is kept of the predictions for all images; see `summary_of`.

    Args:
      nets: the members of an ensemble; one for a single net.
      images: float32 in [0, 1], [N, H, W, C].
      samples: noise draws of each member.
      key: of the edits and of the draws.
      **options: batch_size, and of a `Predictor` edit and mode.
    """
    batch_size = options.pop("batch_size")
    predictor = Predictor([net.member for net in nets], samples=samples, **options)
    return summary_of(predictor, images, key, batch_size)


def summary_of(
    predictor: Predictor, images: np.ndarray, key: Key, batch_size: int
) -> Summary:
    """What is kept of the predictions for all images; its arrays are of NumPy.

    Args:
      predictor: its edit is made once, for all images.
      images: float32 in [0, 1], [N, H, W, C].
      key: of the edit and of the draws.
      batch_size: images at once; their predictions by all members and samples are in
        memory, and the draws of `predictor.AT_ONCE` images.
    """
    run = functools.partial(_batch_summary(backend.forms()), predictor.edited(key))
    return in_batches(run, (images,), key, batch_size)


def in_batches(run: Callable, arrays: Sequence[np.ndarray], key: Key, batch_size: int):
    """run(*batch, key) of all examples, a tree of arrays [N, ...] of NumPy.

    Args:
      run: compiled once, for batches of one size.
      arrays: each [N, ...].
      key: of all batches; each has its own.
      batch_size: examples at once.
    """
    count = len(arrays[0])
    size = min(batch_size, count)
    padded = [np.concatenate([array, array[: -count % size]]) for array in arrays]
    batches = [
        jax.device_get(run(*(a[i : i + size] for a in padded), stream(key, "batch", i)))
        for i in range(0, len(padded[0]), size)
    ]
    joined = jax.tree.map(lambda *batch: np.concatenate(batch), *batches)
    return jax.tree.map(lambda array: array[:count], joined)


@functools.lru_cache(maxsize=4)
def _batch_summary(forms: backend.Forms):
    """Compiled for the types of the parameters: edits that keep them share it."""
    del forms  # what is traced depends on them, so the cache must too
    return backend.jit(lambda nets, x, key: uncertainty.summarize(nets(x, key)))


def scores(summary: Summary, label: np.ndarray | None = None) -> dict[str, float]:
    """The means over images of what a summary has; with labels, also how right it is.

    Returns:
      entropy, mutual_information, expected_entropy (nats) and disagreement; with labels
      [N] also accuracy, nll, brier and ece of the mean prediction, and accuracy_one,
      the mean accuracy of a single sample.
    """
    means = {name: mean(getattr(summary, name)) for name in MEANS}
    if label is None:
        return means
    draws = jnp.asarray(summary.log_p)[None]
    right = likelihoods.Categorical().metrics(draws, jnp.asarray(label))
    one = np.take_along_axis(np.asarray(summary.votes), label[:, None], axis=1)
    return means | right | {"accuracy_one": mean(one)}


def mean(values) -> float:
    """Of numbers of any shape, summed in float64."""
    return float(np.mean(values, dtype=np.float64))


def detection(inside: Summary, outside: Summary) -> dict[str, float]:
    """How well each of SCORES tells the outside: auroc/<score> and fpr95/<score>."""
    found = {}
    for name in SCORES:
        pair = (np.asarray(getattr(each, name)) for each in (inside, outside))
        negative, positive = pair
        found[f"auroc/{name}"] = uncertainty.auroc(negative, positive)
        found[f"fpr95/{name}"] = uncertainty.fpr_at_tpr(negative, positive, 0.95)
    return found
