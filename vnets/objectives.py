"""Losses: the negative evidence lower bound per example, and its schedules.

The scale is stated once: loss = mean(nll) + beta kl / n_train, the negative ELBO
divided by the number of training examples. It is the same at any batch size.
"""

import functools
import itertools
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jax import random

from vnets.labels import counted, of_label, per_example
from vnets.layers import TRAIN, Mode, call_path, checked
from vnets.learned_dropout import Gradient, is_learned
from vnets.priors import kl, one_draw
from vnets.rng import stream
from vnets.types import Array, brief, choose, in_float32

Schedule = Callable[[Array], Array]


@struct.dataclass
class ModelState:
    """What a net carries beside its parameters.

    Attributes:
      step: updates so far, int32 scalar; schedules read it.
      collections: Flax collections that change in training (batch statistics).
    """

    step: Array
    collections: dict

    def __repr__(self) -> str:
        return f"ModelState(step={self.step}, collections={brief(self.collections)})"


def knots(points: Sequence[Sequence[float]], unit: int) -> Schedule:
    """A piecewise linear schedule through (time, value) points, constant outside.

    Args:
      points: (time, value), ... with rising times, e.g. ((0, 1e-3), (200, 0)).
      unit: updates in a unit of time: those of an epoch, or of the whole run if times
        are fractions of it.

    Raises:
      ValueError: points that are not pairs, or whose times do not rise.
    """
    try:
        times, values = zip(*((float(t), float(v)) for t, v in points), strict=True)
    except (TypeError, ValueError):
        times, values = (), ()
    if not times or any(a >= b for a, b in itertools.pairwise(times)):
        raise ValueError(
            "a schedule is a list of (time, value) pairs with rising times, "
            f"not {points!r}"
        )
    xs = jnp.asarray(times, jnp.float32) * unit
    ys = jnp.asarray(values, jnp.float32)
    return lambda step: jnp.interp(jnp.asarray(step, jnp.float32), xs, ys)


def constant(name: str, value: Schedule | float) -> Schedule:
    """A schedule as it is, or a number as one that never changes.

    Raises:
      ValueError: what is neither, or a number below 0.
    """
    if callable(value):
        return value
    number = isinstance(value, numbers.Real | jax.Array) and not jnp.shape(value)
    if not (number and float(value) >= 0):
        raise ValueError(
            f"{name} is a number from 0 on, or a function of the step such as "
            f"`objectives.knots`, not {value!r}"
        )
    held = float(value)
    return lambda step: jnp.asarray(held, jnp.float32)


def cross_entropy(logits: Array, labels: Array, mask: Array | None = None) -> Array:
    """-log p(label) for each example, in nats: [B, K], int [B] -> [B].

    Of positions, [B, T, K] and int [B, T] or [B, H, W, K] and int [B, H, W], it is the
    mean over those of an example, and with a mask so that its mean over the batch is
    that over all positions which count (`labels.per_example`).

    Args:
      logits: [B, ..., K].
      labels: classes from 0 on, [B, ...]; where they do not count, any numbers.
      mask: 1 where a label counts, 0 where not, [B, ...]; all count by default.

    Raises:
      ValueError: other shapes, or labels that are no integers.
    """
    return smoothed_cross_entropy(logits, labels, 0.0, mask)


def smoothed_cross_entropy(
    logits: Array, labels: Array, smoothing: float, mask: Array | None = None
) -> Array:
    """The cross-entropy to labels of which a part is spread over all classes, [B].

    With probability `smoothing` a label counts as drawn uniformly from the K classes
    (Szegedy et al. 2016), as TensorFlow has it. Shapes, mask and errors are those of
    `cross_entropy`.
    """
    log_p = jax.nn.log_softmax(logits)
    each = -of_label(log_p, counted(labels, mask))
    if smoothing:
        each = (1 - smoothing) * each - smoothing * jnp.mean(log_p, axis=-1)
    return per_example(each, mask)


def gaussian_nll(mean: Array, target: Array, std: float) -> Array:
    """-log N(target; mean, std^2) elementwise, in nats; std is the same for all.

    Args:
      mean: of any shape, or one number for all targets.
      target: of the same shape, or one number.
      std: one number, > 0.

    Raises:
      ValueError: shapes that differ (they would broadcast, [N, 1] and [N] to [N, N]),
        or another std.
    """
    shapes = jnp.shape(mean), jnp.shape(target)
    if shapes[0] != shapes[1] and all(shapes):
        wide = max(shapes, key=len)
        column = wide == (*min(shapes, key=len), 1)
        raise ValueError(
            f"mean {shapes[0]} and target {shapes[1]} must have one shape"
            + (f"; give [..., 0] of what is {wide}" if column else "")
        )
    if not std > 0:
        raise ValueError(f"std is a number above 0, not {std}")
    squared = jnp.square((target - mean) / std)
    return 0.5 * squared + math.log(std) + 0.5 * math.log(2 * math.pi)


def neg_elbo(nll: Array, kl: Array, n_train: int, beta: float | Array = 1.0) -> Array:
    """mean(nll) + beta kl / n_train, in nats per example.

    Args:
      nll: -log likelihood of each example, [B].
      kl: KL of all weights, summed, in nats.
      n_train: size of the training set (not of the batch).
      beta: weight of the KL; 1 is the bound itself, less is a warm-up.

    Raises:
      ValueError: a KL or a beta that is not one number.
    """
    for name, value in (("kl", kl), ("beta", beta)):
        if jnp.shape(value):
            raise ValueError(f"{name} is one number, not {jnp.shape(value)}")
    return jnp.mean(nll) + beta * kl / n_train


def classification_loss(
    model,
    prior,
    n_train: int,
    beta: Schedule | float | None = None,
    mode: Mode = TRAIN,
    samples: int = 1,
    average: Literal["predictions", "losses"] = "predictions",
    label_smoothing: float = 0.0,
    rate_gradient: Gradient | None = None,
) -> Callable:
    """The loss of a classifier, in the form that `train.fit` takes.

    Args:
      model: has `apply(variables, image, mode=..., rngs=..., mutable=...)`, as what
        `layers.stochastic` and `layers.call` make.
      prior: a prior, or a mapping from layers to priors (`vnets.priors`).
      n_train: size of the training set; where labels are of positions, the number of
        positions that count in it.
      beta: weight of the KL, a number or a function of the step; 1 by default.
      mode: how the net is run in training.
      samples: K draws for each step; what comes before the first noisy layer is
        computed once for all of them.
      average: what is averaged over the draws. "predictions", before the logarithm: the
        loss is that of an ensemble of K (the authors' `--train-ens`; Neklyudov et al.
        2019), from 2 on no longer the ELBO, but a tighter bound. "losses": the ELBO,
        with less noise in its gradient.
      label_smoothing: of the loss alone (`smoothed_cross_entropy`); the metrics nll,
        data_term and elbo are of the labels as they are.
      rate_gradient: of binary dropout whose rate is learned (`learned_dropout` has
        two); such a net needs one, and another has no use for it.

    Raises:
      ValueError: no training set, samples below 1, or above with a `rate_gradient`; an
        `average` that does not exist, a smoothing outside [0, 1), a beta below 0; when
        called, labels that do not fit the logits, a `rate_gradient` that is missing,
        does not fit, or is a score function's while examples share statistics (batch
        normalization).

    Returns:
      loss(params, state, batch, key) -> (loss, (state, metrics)), where batch has
      "image" [B, ...], or a tree of several inputs, and "label" [B], or [B, T] and so
      on of positions, and may have a "mask" of that shape (see `cross_entropy`), and
      metrics are scalars: loss, accuracy and nll per example; kl, data_term (-N nll)
      and elbo (data_term - kl) in nats for the whole training set. `loss.logits` takes
      the same and gives logits [B, ..., K], by which `train.fit` knows the number of
      classes.
    """

    model = checked(model)
    if n_train < 1:
        raise ValueError(f"n_train must be at least 1, not {n_train}")
    if samples < 1:
        raise ValueError(f"samples must be at least 1, not {samples}")
    choose("average", average, ("predictions", "losses"))
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be in [0, 1), not {label_smoothing}")
    if rate_gradient is not None and samples > 1:
        raise ValueError("a rate_gradient is of one sample, not of an ensemble's loss")
    weight = constant("beta", 1.0 if beta is None else beta)
    apart = samples > 1 and average == "losses"

    def forward(params, state: ModelState, batch, key):
        """Logits, the collections after the batch, and what corrects the cost."""
        run, correct, drawn = params, None, None
        if rate_gradient is not None:
            masks = stream(key, "masks")
            run, correct = rate_gradient(params, len(batch["label"]), masks)
        elif is_learned(params):
            raise ValueError(
                "binary dropout of a learned rate has no gradient of its own: give a "
                "rate_gradient (vnets.learned_dropout)"
            )
        if correct and state.collections:
            raise ValueError(
                "the score function takes each example's loss to depend on its own "
                "masks: no batch normalization, or the concrete gradient"
            )

        if samples == 1 and run is params:
            drawn = one_draw(params, prior, mode.estimator, key)
            run = params if drawn is None else drawn

        def one(key):
            logits, collections = model.apply(
                {"params": run, **state.collections},
                batch["image"],
                mode=mode,
                rngs={"noise": key},
                mutable=list(state.collections),
            )
            return in_float32(logits), collections

        if samples == 1:
            logits, collections = one(key)
        else:
            draws, each = jax.vmap(one)(random.split(key, samples))
            collections = jax.tree.map(_of_draws, each)
            logits = draws
            if not apart:
                logits = jax.nn.logsumexp(jax.nn.log_softmax(draws), 0)
        return logits, collections, correct, drawn

    def per_draw(function, logits: Array) -> Array:
        """A function of logits [B, ..., K]; its mean over draws that are kept apart."""
        if not apart:
            return function(logits)
        return jnp.mean(jax.vmap(function)(logits), 0)

    def loss(params, state: ModelState, batch, key):
        logits, collections, correct, drawn = forward(params, state, batch, key)
        label, mask = batch["label"], batch.get("mask")
        nll = per_draw(lambda one: cross_entropy(one, label, mask), logits)
        divergence = kl(params, prior, stream(key, "kl"), drawn)
        cost = nll
        if label_smoothing:

            def smoothed(one):
                return smoothed_cross_entropy(one, label, label_smoothing, mask)

            cost = per_draw(smoothed, logits)
        value = neg_elbo(
            correct(cost) if correct else cost,
            divergence,
            n_train,
            weight(state.step),
        )
        right = per_draw(
            lambda one: (jnp.argmax(one, -1) == label).astype(jnp.float32), logits
        )
        data_term = -n_train * jnp.mean(nll)
        metrics = {
            "loss": value,
            "nll": jnp.mean(nll),
            "kl": divergence,
            "data_term": data_term,
            "elbo": data_term - divergence,
            "accuracy": jnp.mean(per_example(right, mask)),
        }
        return value, (ModelState(state.step, collections), metrics)

    vars(loss)["logits"] = lambda *arguments: forward(*arguments)[0]
    return loss


def _of_draws(x: Array) -> Array:
    """What a collection keeps of K draws [K, ...]: their mean, of counts the first."""
    return jnp.mean(x, 0) if jnp.issubdtype(x.dtype, jnp.inexact) else x[0]


def with_penalty(
    loss: Callable,
    penalty: Callable[[Any], Array],
    n_train: int,
    weight: Schedule | float,
) -> Callable:
    """Adds weight(step) penalty(params) / n_train to a loss, and "penalty" to metrics.

    Args:
      loss: as `classification_loss` returns it.
      penalty: params -> nats for the whole training set, such as the negative log of a
        learned prior (`priors.soft_sharing.penalty`).
      n_train: size of the training set.
      weight: of the penalty, a number or a function of the step.

    Raises:
      ValueError: a weight that is neither, or below 0.
    """
    schedule = constant("weight", weight)

    @functools.wraps(loss)  # with its `logits`
    def penalized(params, state: ModelState, batch, key):
        value, (new, metrics) = loss(params, state, batch, key)
        extra = penalty(params)
        value = value + schedule(state.step) * extra / n_train
        return value, (new, metrics | {"loss": value, "penalty": extra})

    return penalized


def first_nonfinite_layer(model, mode: Mode = TRAIN) -> Callable[..., str | None]:
    """Finds where a forward pass ceases to be finite, for the message of a failed run.

    Args:
      model: as in `classification_loss`.
      mode: how the net was run in training.

    Returns:
      locate(params, state, batch, key) -> the path of the first layer, in order of
      execution, with a NaN or infinity in its output; None if there is none.
    """
    model = checked(model)

    def locate(params, state: ModelState, batch, key) -> str | None:
        names: list[str] = []

        def watch(call, args, kwargs, context):
            y = call(*args, **kwargs)
            path = call_path(context)
            if path:
                bad = [not jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(y)]
                names.extend([path] if any(bad) else [])
            return y

        with nn.intercept_methods(watch):
            model.apply(
                {"params": params, **state.collections},
                batch["image"],
                mode=mode,
                rngs={"noise": key},
                mutable=list(state.collections),
            )
        return names[0] if names else None

    return locate
