"""Active learning: which examples to label next, and the loop that asks for them.

An acquisition makes a score of the draws that a predictor has for each example without
a label, log probabilities [S, B, K] -> [B]; the examples of the highest scores are
labelled, and a net is trained on all that have a label, from scratch:

    bald             mutual information of the class and the net, nats
    entropy          of the mean prediction, nats
    variation_ratio  1 - the largest probability of the mean prediction
    mean_std         standard deviation over the draws, mean over classes
    random           none of these

After Gal, Islam and Ghahramani 2017; BALD is of Houlsby et al. 2011. Of a single draw,
and of draws that do not differ, `bald` and `mean_std` say nothing: scores are 0, and
`acquire`, which breaks ties at random, then chooses as `random` does.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax import random as jax_random
from jax.core import Tracer

from vnets import uncertainty
from vnets.evaluate import on_device, to_float
from vnets.rng import stream
from vnets.types import Array, Key

# (log probabilities [S, B, K], key) -> [B]
Acquisition = Callable[[Array, Key], Array]


def bald(log_p: Array, key: Key | None = None) -> Array:
    """Mutual information of the class and the draw, nats, [S, B, K] -> [B]."""
    del key
    return uncertainty.mutual_information(log_p)


def entropy(log_p: Array, key: Key | None = None) -> Array:
    """Entropy of the mean prediction, nats, [S, B, K] -> [B]."""
    del key
    return uncertainty.entropy(uncertainty.log_mean(log_p))


def variation_ratio(log_p: Array, key: Key | None = None) -> Array:
    """1 less the largest probability of the mean prediction, [S, B, K] -> [B]."""
    del key
    return -jnp.expm1(jnp.max(uncertainty.log_mean(log_p), -1))


def mean_std(log_p: Array, key: Key | None = None) -> Array:
    """Standard deviation of a class's probability over draws, mean over the classes,
    [S, B, K] -> [B]."""
    del key
    centred = jnp.exp(log_p) - jnp.exp(uncertainty.log_mean(log_p))[None]
    return jnp.mean(jnp.sqrt(jnp.mean(jnp.square(centred), 0)), -1)


def random(log_p: Array, key: Key) -> Array:
    """Uniform in [0, 1), whatever the draws say, [S, B, K] -> [B]."""
    return jax_random.uniform(key, log_p.shape[1:2], jnp.float32)


ACQUISITIONS: dict[str, Acquisition] = {
    "bald": bald,
    "entropy": entropy,
    "variation_ratio": variation_ratio,
    "mean_std": mean_std,
    "random": random,
}


def acquire(score: Array, labelled: Array, count: int, key: Key) -> Array:
    """The examples to label next: the highest scores of those without a label.

    Args:
      score: of all examples, [N].
      labelled: which have a label already, bool [N].
      count: C, how many to label; inside jit too many are not noticed.
      key: of the order of equal scores.

    Returns:
      Their places, int32 [C], the highest score first.

    Raises:
      ValueError: scores of other examples, or a count below 1 or above the number of
        examples without a label.
    """
    if jnp.ndim(score) != 1 or jnp.shape(score) != jnp.shape(labelled):
        raise ValueError(
            f"score and labelled are [N] each, not {jnp.shape(score)} and "
            f"{jnp.shape(labelled)}"
        )
    free = _free(labelled)
    if not 1 <= count <= free:
        raise ValueError(
            f"count must be from 1 to {free}, not {count}: no more to label"
        )
    tie = jax_random.uniform(key, score.shape, jnp.float32)
    # The last key counts first: without a label, then by score, then at random.
    order = jnp.lexsort((tie, -score, labelled))
    return order[:count].astype(jnp.int32)


def _free(labelled: Array) -> int:
    """How many examples have no label; of what is traced all, since nobody knows."""
    if isinstance(labelled, Tracer):
        return len(labelled)
    return int(np.sum(np.logical_not(labelled)))


def first(target: Array, per_class: int, classes: int, key: Key) -> Array:
    """The same number of examples of each class, at random, bool [N].

    Args:
      target: classes from 0 on, int [N].
      per_class: how many of each; inside jit too many are not noticed.
      classes: K.
      key: of the choice.

    Raises:
      ValueError: none, or more than some class has.
    """
    most = len(target) // classes
    if not isinstance(target, Tracer):
        most = int(np.bincount(target, minlength=classes).min())
    if not 1 <= per_class <= most:
        raise ValueError(f"per_class must be from 1 to {most}, not {per_class}")
    order = jax_random.uniform(key, target.shape, jnp.float32)
    own = target[None] == jnp.arange(classes, dtype=target.dtype)[:, None]  # [K, N]
    _, chosen = lax.top_k(jnp.where(own, order, -1.0), per_class)
    return jnp.zeros(target.shape, jnp.bool_).at[chosen.ravel()].set(True)


class Pool:
    """A source of batches drawn, with replacement, from the examples with a label.

    Its arrays are as long whatever has a label, so that one compiled step serves all
    rounds: `train.train_chunk` takes it as it takes `sources.Resident`.
    """

    def __init__(
        self, split, batch_size: int, prepare: Callable[[Array], Array] = to_float
    ):
        """Keeps the pool on the device.

        Args:
          split: a `data.Split` with classes, N examples; the targets of those without
            a label are not read, and may be any.
          batch_size: B.
          prepare: from its inputs to what the net takes.

        Raises:
          ValueError: less than one example in a batch.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self.n, self.batch_size, self.prepare = len(split), batch_size, prepare
        self.arrays = on_device(split)

    def labelled(self, arrays, labelled: Array) -> dict[str, Array]:
        """What a batch is drawn from, where these examples have a label, bool [N]."""
        share = jnp.cumsum(labelled) / jnp.sum(labelled)
        return {**arrays, "share": share}  # of the labelled ones, up to each place

    def batch(self, arrays, item, key: Key) -> dict[str, Array]:
        """Inside jit: B labelled examples, each as likely as another."""
        del item
        place = jax_random.uniform(key, (self.batch_size,), jnp.float32)
        row = jnp.searchsorted(arrays["share"], place, side="right")
        inputs = self.prepare(arrays["input"][row])
        return {"input": inputs, "target": arrays["target"][row]}


class Rounds(NamedTuple):
    """What R rounds found.

    Attributes:
      measured: what `look` measured, with a first axis of R.
      labels: how many examples had a label, int32 [R].
      chosen: places of the examples labelled after each round, int32 [R, C].
    """

    measured: Any
    labels: Array
    chosen: Array


def learn(
    train: Callable[[Array, Key], Any],
    look: Callable[[Any, Key], tuple[Array, Any]],
    acquisition: Acquisition,
    labelled: Array,
    key: Key,
    *,
    count: int,
    rounds: int,
) -> Rounds:
    """Trains, looks and labels in turn, in one loop that jit and vmap take.

    Args:
      train: (labelled bool [N], key) -> a net that learned from these alone, from
        scratch.
      look: (net, key) -> log probabilities of S draws for all examples, [S, N, K], and
        what was measured of the net, a tree of arrays.
      acquisition: of `ACQUISITIONS`, or another.
      labelled: which examples have a label at first, bool [N]; the others must be
        enough for all rounds, of which the last asks, too.
      key: of all that is random; under vmap each run has its own.
      count: C, examples labelled after a round.
      rounds: R, trainings.

    Raises:
      ValueError: no round, no example with a label, or more labels than there are
        examples.
    """
    free = _free(labelled)
    if not isinstance(labelled, Tracer) and free == len(labelled):
        raise ValueError(
            "no example has a label, and the first net needs some (`active.first`)"
        )
    if rounds < 1 or not 1 <= count * rounds <= free:
        raise ValueError(
            f"{rounds} rounds of {count} labels each do not fit the {free} examples "
            "without a label"
        )

    def one(labelled: Array, number: Array):
        own = stream(key, "round", number)
        net = train(labelled, stream(own, "train"))
        log_p, measured = look(net, stream(own, "look"))
        score = acquisition(log_p, stream(own, "score"))
        chosen = acquire(score, labelled, count, stream(own, "tie"))
        labels = jnp.sum(labelled, dtype=jnp.int32)
        return labelled.at[chosen].set(True), (measured, labels, chosen)

    _, made = lax.scan(one, labelled, jnp.arange(rounds, dtype=jnp.int32))
    return Rounds(*made)


def labels_until(level: float, labels, error) -> float:
    """The fewest labels at which an error was at most `level`; infinity where never.

    Args:
      level: of the error.
      labels: of each round, rising, [R].
      error: of each round's net, [R].
    """
    return next(
        (
            float(count)
            for count, one in zip(labels, error, strict=True)
            if one <= level
        ),
        float("inf"),
    )
