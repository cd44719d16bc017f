"""A student of other nets: a classifier that learns their averaged probabilities.

    E log p(t | x, student),  t from mean p(t | x, teachers)

The targets are what all draws of all teachers say on average, in test mode and without
temperature; true labels and log probabilities play no part. With `distill.groups` it is
the average of a group of them, and another one's at each update: of as many groups as
draws, one net teaches at a time. Targets are made once, of the images that the student
sees: those of the training set and, as `distill.perturbed` says, as many copies of each
with noise of `distill.deviation` on the pixels in [0, 1], or moved by up to
`distill.shift` pixels. They are a collection beside the weights, since each seed has
teachers of its own. A run that kept nets along its way (`collect`) teaches by these.

Columns are those of `classify`, of true labels.
"""

import dataclasses
from collections.abc import Callable
from functools import wraps
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import random

from experiments import datasets
from experiments import spec as parts
from experiments.core import Net
from experiments.kinds import classify
from vnets import backend, data, sources
from vnets.evaluate import to_float
from vnets.likelihoods import Categorical
from vnets.loss import ModelState
from vnets.predictor import Predictor, Stack
from vnets.rng import stream
from vnets.types import Array, Key, Params

TAUGHT = "taught"  # the collection
FREE = ("label_smoothing", "particles", "rate_gradient", "dataset.augment")
OWN = ("perturbed", "deviation", "shift", "samples", "groups")


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

    @property
    def groups(self) -> int:
        """Of draws, by one of which an update is taught."""
        return self.config.distill.get("groups", 1)

    def loss(self, **options) -> Callable:
        """The bound, of soft targets."""
        base = super().loss(likelihood=Categorical(soft=True), **options)

        @wraps(base)
        def loss(params, state: ModelState, batch, key):
            taught = state.collections[TAUGHT]
            held = {k: v for k, v in state.collections.items() if k != TAUGHT}
            p = taught["p"]
            if self.groups > 1:
                p = p[random.randint(stream(key, "group"), (), 0, self.groups)]
            batch = {**batch, "target": p[batch["target"]]}
            state = state.replace(collections=held)
            value, (new, metrics) = base(params, state, batch, key)
            held = {**new.collections, TAUGHT: taught}
            return value, (new.replace(collections=held), metrics)

        return loss

    def begin(self, nets: list[Net], key: Key) -> tuple[Params, dict]:
        """See `Kind`; a start by the key, with what the nets say of the images."""
        params, collections = backend.jit(self.init)(stream(key, "student"))
        bag = [
            Stack(net.model, net.collected) if net.collected else net.member
            for net in nets
        ]
        teacher = Predictor(bag, samples=self.config.distill.samples)
        if len(teacher) % self.groups:
            raise parts.ConfigError(
                f"config.distill.groups is {self.groups}, of {len(teacher)} draws"
            )
        p = said(teacher, self.seen.inputs, stream(key, "teacher"), self.groups)
        return params, {**collections, TAUGHT: {"p": p}}


def said(
    teacher: Predictor, images, key: Key, groups: int = 1, batch_size: int = 500
) -> Array:
    """The probabilities that draws give on average, [N, K]; [G, N, K] of G groups.

    Args:
      teacher: any nets.
      images: uint8 [N, ...].
      key: of the draws, which differ from batch to batch.
      groups: G, of as many draws each, one after another.
      batch_size: images at once.
    """

    @backend.jit
    def run(net: Predictor, x: Array, key: Key) -> Array:
        if groups == 1:
            return jnp.exp(net.log_mean(to_float(x), key))
        p = jnp.exp(net(to_float(x), key))
        return jnp.mean(p.reshape(groups, -1, *p.shape[1:]), axis=1)

    size = min(batch_size, len(images))
    starts = [min(first, len(images) - size) for first in range(0, len(images), size)]
    found = [
        run(teacher, jnp.asarray(images[at : at + size]), stream(key, "batch", at))
        for at in starts
    ]
    last = len(images) - size * (len(starts) - 1)
    found[-1] = found[-1][..., size - last :, :]
    return jnp.concatenate(found, axis=-2)


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
        | {"deviation": spec.deviation, "shift": spec.get("shift", 0)},
    )
    numbered = data.Split(seen, np.arange(len(seen), dtype=np.int32))
    source = parts.call(
        "batch_size",
        sources.Resident,
        {"split": numbered, "batch_size": config.batch_size},
    )
    kind = classify.built(Distill, config, dataset, source, datasets.example(dataset))
    shape = len(seen), dataset.classes
    if kind.groups > 1:
        shape = kind.groups, *shape
    return dataclasses.replace(kind, seen=numbered, init=_untaught(kind.init, shape))


def _untaught(plain: Callable, shape: tuple[int, ...]) -> Callable:
    """The start with a place for what the teachers say."""

    def init(key: Key) -> tuple[Params, dict]:
        params, collections = plain(key)
        empty = {"p": jnp.zeros(shape, jnp.float32)}
        return params, {**collections, TAUGHT: empty}

    return init
