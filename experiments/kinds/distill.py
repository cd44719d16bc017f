"""A student of other nets: a classifier that learns their averaged probabilities.

    E log p(t | x, student),  t from mean p(t | x, teachers)

The targets are what all draws of all teachers say on average (`Predictor.log_mean`), in
test mode and without temperature; true labels and log probabilities play no part. They
are made once, of the images that the student sees: those of the training set and, as
`distill.perturbed` says, as many copies of each with noise of `distill.deviation` on
the pixels in [0, 1]. They are a collection beside the weights, since each seed has
teachers of its own.

Columns are those of `classify`, of true labels.
"""

import dataclasses
from collections.abc import Callable
from functools import wraps
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from experiments import datasets
from experiments import spec as parts
from experiments.core import Net
from experiments.kinds import classify
from vnets import data, sources
from vnets.evaluate import to_float
from vnets.likelihoods import Categorical
from vnets.loss import ModelState
from vnets.predictor import Predictor
from vnets.rng import stream
from vnets.types import Array, Key, Params

TAUGHT = "taught"  # the collection
FREE = ("label_smoothing", "particles", "rate_gradient", "dataset.augment")
OWN = ("perturbed", "deviation", "samples")


def fields(config) -> tuple[str, ...]:
    """What this kind reads of a config."""
    known = set(classify.fields(config)) - set(FREE)
    return (*known, "nets.teacher", *(f"distill.{name}" for name in OWN))


@dataclasses.dataclass(frozen=True, eq=False)
class Distill(classify.Classify):
    """A student, as a config describes it.

    Attributes:
      seen: the images that it learns from, numbered by their targets.
    """

    carried: ClassVar[tuple[str, ...]] = (TAUGHT,)
    begun_by: ClassVar[str] = "teacher"
    seen: Any = None

    def loss(self, **options) -> Callable:
        """The bound, of soft targets."""
        base = super().loss(likelihood=Categorical(soft=True), **options)

        @wraps(base)
        def loss(params, state: ModelState, batch, key):
            taught = state.collections[TAUGHT]
            held = {k: v for k, v in state.collections.items() if k != TAUGHT}
            batch = {**batch, "target": taught["p"][batch["target"]]}
            state = state.replace(collections=held)
            value, (new, metrics) = base(params, state, batch, key)
            held = {**new.collections, TAUGHT: taught}
            return value, (new.replace(collections=held), metrics)

        return loss

    def begin(self, nets: list[Net], key: Key) -> tuple[Params, dict]:
        """See `Kind`; a start by the key, with what the nets say of the images."""
        params, collections = self.init(stream(key, "student"))
        teacher = Predictor(
            [net.member for net in nets], samples=self.config.distill.samples
        )
        p = said(teacher, self.seen.inputs, stream(key, "teacher"))
        return params, {**collections, TAUGHT: {"p": p}}


def said(teacher: Predictor, images, key: Key, batch_size: int = 500) -> Array:
    """The probabilities that all draws give on average, [N, K].

    Args:
      teacher: any nets.
      images: uint8 [N, ...].
      key: of the draws, which differ from batch to batch.
      batch_size: images at once.
    """
    run = jax.jit(lambda net, x, key: jnp.exp(net.log_mean(to_float(x), key)))
    size = min(batch_size, len(images))
    starts = [min(first, len(images) - size) for first in range(0, len(images), size)]
    found = [
        run(teacher, jnp.asarray(images[at : at + size]), stream(key, "batch", at))
        for at in starts
    ]
    last = len(images) - size * (len(starts) - 1)
    return jnp.concatenate([*found[:-1], found[-1][size - last :]])


def build(config) -> Distill:
    """The student that a config describes; see `configs/distillation.py`.

    Raises:
      ConfigError: a value that does not fit; DataError: data that are not there.
    """
    dataset, spec = datasets.load(config), config.distill
    if isinstance(dataset.train, data.Stream) or not dataset.classes:
        raise parts.ConfigError(
            f"config.dataset.name: {dataset.name} has no pictures with classes"
        )
    seen = parts.call(
        "distill",
        data.noisy_copies,
        {"images": dataset.train.inputs, "copies": spec.perturbed}
        | {"deviation": spec.deviation},
    )
    numbered = data.Split(seen, np.arange(len(seen), dtype=np.int32))
    source = parts.call(
        "batch_size",
        sources.Resident,
        {"split": numbered, "batch_size": config.batch_size},
    )
    kind = classify.built(Distill, config, dataset, source, datasets.example(dataset))
    return dataclasses.replace(
        kind, seen=numbered, init=_untaught(kind.init, len(seen), dataset.classes)
    )


def _untaught(plain: Callable, images: int, classes: int) -> Callable:
    """The start with a place for what the teachers say."""

    def init(key: Key) -> tuple[Params, dict]:
        params, collections = plain(key)
        empty = {"p": jnp.zeros((images, classes), jnp.float32)}
        return params, {**collections, TAUGHT: empty}

    return init
