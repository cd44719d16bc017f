"""Likelihoods of classes: one of K, or yes and no."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from vnets.likelihoods.base import (
    Likelihood,
    Parts,
    Sums,
    counted,
    per_example,
    require_shape,
)
from vnets.targets import check_classes
from vnets.types import Array

BINS = 15  # of the calibration error, as is usual (Guo et al. 2017)


def of_class(log_p: Array, target: Array) -> Array:
    """What predictions have at the class, [..., K] and int [...] -> [...].

    Raises:
      ValueError: see `targets.check_classes`.
    """
    check_classes(log_p, target)
    return jnp.take_along_axis(log_p, target[..., None], axis=-1)[..., 0]


@dataclasses.dataclass(frozen=True)
class Categorical(Likelihood):
    """One of K classes for each example or position, from logits [B, ..., K].

    Metrics: accuracy (0 to 1), nll (nats), brier (0 to 2), ece.

    Attributes:
      smoothing: with this probability a class counts, in `cost` alone, as drawn
        uniformly from all (Szegedy et al. 2016), as TensorFlow has it.
      soft: targets are probabilities [B, ..., K], such as a teacher's, and log p is
        their mean; else they are classes from 0 on, int [B, ...].
      parts: see `Likelihood`.

    Raises:
      ValueError: a smoothing outside [0, 1).
    """

    smoothing: float = 0.0
    soft: bool = False
    parts: Parts = "mean"

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing must be in [0, 1), not {self.smoothing}")

    @property
    def kind(self) -> str:
        return "distributions" if self.soft else "positions"

    def shape(self, target: Array) -> tuple[int, ...]:
        return jnp.shape(target)[:-1] if self.soft else jnp.shape(target)

    def log_p(self, outputs: Array, target: Array) -> Array:
        return self._at(jax.nn.log_softmax(outputs), target)

    def mean(self, outputs: Array) -> Array:
        return jax.nn.softmax(outputs)

    def cost(self, outputs: Array, target: Array, mask: Array | None = None) -> Array:
        if not self.smoothing:
            return self.nll(outputs, target, mask)
        log_p = jax.nn.log_softmax(outputs)
        each = -self._at(log_p, counted(target, mask))
        uniform = jnp.mean(log_p, axis=-1)
        each = (1 - self.smoothing) * each - self.smoothing * uniform
        return per_example(each, mask, self.parts)

    def averaged(self, draws: Array) -> Array:
        return jax.nn.logsumexp(jax.nn.log_softmax(draws), 0)

    def shown(self, outputs: Array, target: Array, mask: Array | None = None) -> dict:
        right = jnp.argmax(outputs, -1) == self._class(target)
        right = per_example(right.astype(jnp.float32), mask)
        return {"accuracy": jnp.mean(right)}

    def draw(self, outputs: Array, target: Array) -> tuple[dict, dict]:
        del target
        return {"log_p": jax.nn.log_softmax(outputs)}, {}

    def sums(self, logs: dict, values: dict, target: Array, weights: Array) -> Sums:
        del values
        log_p = logs["log_p"]
        nll, p = -self._at(log_p, target), jnp.exp(log_p)
        likely = target
        if not self.soft:
            likely = jax.nn.one_hot(target, p.shape[-1], dtype=p.dtype)
        confidence = jnp.max(p, -1)
        correct = (jnp.argmax(p, -1) == self._class(target)).astype(p.dtype)
        index = jnp.clip((confidence * BINS).astype(jnp.int32), 0, BINS - 1)
        in_bin = jax.nn.one_hot(index, BINS, dtype=p.dtype) * weights[..., None]
        over = tuple(range(confidence.ndim))
        return self.total(
            nll,
            weights,
            _classification,
            correct=jnp.sum(correct * weights),
            brier=jnp.sum(jnp.sum(jnp.square(p - likely), -1) * weights),
            bin_confidence=jnp.sum(in_bin * confidence[..., None], over),
            bin_correct=jnp.sum(in_bin * correct[..., None], over),
        )

    def _at(self, log_p: Array, target: Array) -> Array:
        if not self.soft:
            return of_class(log_p, target)
        require_shape("probabilities", target, jnp.shape(log_p))
        # A class of probability 0 adds 0, and what is no probability makes a NaN.
        each = jnp.where(target == 0, 0, target * log_p)
        return jnp.sum(jnp.where(target >= 0, each, jnp.nan), -1)

    def _class(self, target: Array) -> Array:
        return jnp.argmax(target, -1) if self.soft else target


@dataclasses.dataclass(frozen=True)
class Heads(Categorical):
    """Classes of several tasks with a head each: the task of an example is known.

    Logits [B, ..., K] are those of all heads, side by side. For each target those of
    its own head count, and the others have no probability.

    Attributes:
      classes: of a head; K is a multiple of it.

    Raises:
      ValueError: no class, or a smoothing or soft targets, which are of no one head.
    """

    classes: int = 2

    def __post_init__(self):
        super().__post_init__()
        if self.classes < 1 or self.smoothing or self.soft:
            raise ValueError(
                "heads have a class at least, no smoothing and hard targets"
            )

    def own(self, outputs: Array, target: Array) -> Array:
        """The logits, -inf for those that are no head's of the target.

        Raises:
          ValueError: logits that are no whole heads.
        """
        count = outputs.shape[-1]
        if count % self.classes:
            raise ValueError(f"{count} logits are no heads of {self.classes} classes")
        head = jnp.arange(count, dtype=jnp.int32) // self.classes
        head = head.reshape((1,) * jnp.ndim(target) + (count,))
        return jnp.where(head == (target // self.classes)[..., None], outputs, -jnp.inf)

    def log_p(self, outputs: Array, target: Array) -> Array:
        return super().log_p(self.own(outputs, target), target)

    def mean(self, outputs: Array) -> Array:
        raise ValueError("heads have no mean before the task is known")

    def averaged(self, draws: Array) -> Array:
        raise ValueError(
            'heads have no mean of draws before the task is known: average="losses"'
        )

    def shown(self, outputs: Array, target: Array, mask: Array | None = None) -> dict:
        return super().shown(self.own(outputs, target), target, mask)

    def draw(self, outputs: Array, target: Array) -> tuple[dict, dict]:
        return super().draw(self.own(outputs, target), target)


@dataclasses.dataclass(frozen=True)
class Bernoulli(Likelihood):
    """Yes or no for each of any number of labels or pixels, from logits [B, ...].

    Targets have the shape of the logits; they are 0 or 1, or probabilities. Metrics are
    those of `Categorical` with two classes, means over the labels; nll is of an example
    where `parts` is "sum".
    """

    parts: Parts = "sum"
    outputs: ClassVar[int] = 1  # of a net, for each label or pixel

    @property
    def kind(self) -> str:
        return "probabilities"

    def log_p(self, outputs: Array, target: Array) -> Array:
        require_shape("target", target, jnp.shape(outputs))
        yes = jnp.asarray(target, jnp.float32)
        # Of an impossible side that is not asked for, 0 * inf must not count.
        of_yes = jnp.where(yes > 0, yes * jax.nn.log_sigmoid(outputs), 0)
        of_no = jnp.where(yes < 1, (1 - yes) * jax.nn.log_sigmoid(-outputs), 0)
        return jnp.where((yes >= 0) & (yes <= 1), of_yes + of_no, jnp.nan)

    def mean(self, outputs: Array) -> Array:
        return jax.nn.sigmoid(outputs)

    def crossed(self, outputs: Array, targets: Array) -> Array:
        """See `Likelihood`; one product, for log p is linear in the targets.

        Sure logits, those that are infinite, cost nothing or all: further products
        find which, if there are any.
        """
        logits = outputs.reshape(len(outputs), -1)
        yes = jnp.asarray(targets, jnp.float32).reshape(len(targets), -1).T
        product = functools.partial(jnp.matmul, precision="highest")
        sure = jnp.isinf(logits)
        of_no = jnp.where(sure, 0, jax.nn.log_sigmoid(-logits))
        log_p = product(jnp.where(sure, 0, logits), yes)
        log_p = log_p + jnp.sum(of_no, -1, keepdims=True)

        def refuted(log_p):
            yes_for_no = product((sure & (logits < 0)).astype(yes.dtype), yes)
            no_for_yes = product((sure & (logits > 0)).astype(yes.dtype), 1 - yes)
            return jnp.where(yes_for_no + no_for_yes > 0, -jnp.inf, log_p)

        log_p = lax.cond(jnp.any(sure), refuted, lambda log_p: log_p, log_p)
        log_p = jnp.where(jnp.all((yes >= 0) & (yes <= 1), 0), log_p, jnp.nan)
        return log_p if self.parts == "sum" else log_p / len(yes)

    def averaged(self, draws: Array) -> Array:
        pairs = self._pairs.averaged(_two_logits(draws))
        return pairs[..., 1] - pairs[..., 0]

    def shown(self, outputs: Array, target: Array, mask: Array | None = None) -> dict:
        right = ((outputs > 0) == (target > 0.5)).astype(jnp.float32)
        return {"accuracy": jnp.mean(per_example(right, mask))}

    def draw(self, outputs: Array, target: Array) -> tuple[dict, dict]:
        return self._pairs.draw(_two_logits(outputs), target)

    def sums(self, logs: dict, values: dict, target: Array, weights: Array) -> Sums:
        pairs = _two_classes(logs["log_p"][..., 0], target)
        return self._pairs.sums(logs, values, pairs, weights)

    @property
    def _pairs(self) -> Categorical:
        return Categorical(soft=True, parts=self.parts)


def _two_logits(outputs: Array) -> Array:
    """log p of no and of yes, [..., 2]."""
    return jnp.stack([jax.nn.log_sigmoid(-outputs), jax.nn.log_sigmoid(outputs)], -1)


def _two_classes(outputs: Array, target: Array) -> Array:
    """Probabilities of no and of yes, [..., 2]."""
    require_shape("target", target, jnp.shape(outputs))
    yes = jnp.asarray(target, jnp.float32)
    return jnp.stack([1 - yes, yes], -1)


def _classification(totals: dict) -> dict:
    gap = jnp.abs(totals["bin_confidence"] - totals["bin_correct"])
    count = float(totals["count"])
    return {
        "accuracy": float(totals["correct"]) / count,
        "nll": float(totals["nll"]) / float(totals["of_nll"]),
        "brier": float(totals["brier"]) / count,
        "ece": float(gap.sum()) / count,
    }
