"""Losses: the negative evidence lower bound per example, and its schedules.

The scale is stated once: loss = mean(nll) + beta kl / n_train, the negative ELBO
divided by the number of training examples. It is the same at any batch size.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jax import random

from vnets.layers import TRAIN, Mode, call_path, checked
from vnets.learned_dropout import Gradient, is_learned
from vnets.priors import kl
from vnets.rng import stream
from vnets.types import Array, brief

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


def cross_entropy(logits: Array, labels: Array) -> Array:
    """-log p(label) for each example, in nats: [B, K], int [B] -> [B]."""
    log_p = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]


def smoothed_cross_entropy(logits: Array, labels: Array, smoothing: float) -> Array:
    """The cross-entropy to labels of which a part is spread over all classes, [B].

    With probability `smoothing` a label counts as drawn uniformly from the K classes
    (Szegedy et al. 2016), as TensorFlow has it.
    """
    log_p = jax.nn.log_softmax(logits)
    uniform = -jnp.mean(log_p, axis=-1)
    return (1 - smoothing) * cross_entropy(logits, labels) + smoothing * uniform


def gaussian_nll(mean: Array, target: Array, std: float) -> Array:
    """-log N(target; mean, std^2) elementwise, in nats; std is the same for all."""
    squared = jnp.square((target - mean) / std)
    return 0.5 * squared + math.log(std) + 0.5 * math.log(2 * math.pi)


def neg_elbo(nll: Array, kl: Array, n_train: int, beta: float | Array = 1.0) -> Array:
    """mean(nll) + beta kl / n_train, in nats per example.

    Args:
      nll: -log likelihood of each example, [B].
      kl: KL of all weights, summed, in nats.
      n_train: size of the training set (not of the batch).
      beta: weight of the KL; 1 is the bound itself, less is a warm-up.
    """
    return jnp.mean(nll) + beta * kl / n_train


def classification_loss(
    model,
    prior,
    n_train: int,
    beta: Schedule | None = None,
    mode: Mode = TRAIN,
    samples: int = 1,
    label_smoothing: float = 0.0,
    rate_gradient: Gradient | None = None,
) -> Callable:
    """The loss of a classifier, in the form that `train.fit` takes.

    Args:
      model: has `apply(variables, image, mode=..., rngs=..., mutable=...)`, as what
        `layers.stochastic` and `layers.call` make.
      prior: a prior, or a mapping from layers to priors (`vnets.priors`).
      n_train: size of the training set.
      beta: weight of the KL as a function of the step; 1 by default.
      mode: how the net is run in training.
      samples: K draws whose predictions are averaged before the logarithm, so that the
        loss is that of an ensemble of K (the authors' `--train-ens`; Neklyudov et al.
        2019); from 2 on it is no longer the ELBO, but a tighter bound.
      label_smoothing: of the loss alone (`smoothed_cross_entropy`); the metrics nll,
        data_term and elbo are of the labels as they are.
      rate_gradient: of binary dropout whose rate is learned (`learned_dropout` has
        two); such a net needs one, and another has no use for it.

    Raises:
      ValueError: samples below 1, or above with a `rate_gradient`; a smoothing outside
        [0, 1); when called, a `rate_gradient` that is missing, does not fit, or is a
        score function's while examples share statistics (batch normalization).

    Returns:
      loss(params, state, batch, key) -> (loss, (state, metrics)), where batch has
      "image" [B, ...], or a tree of several inputs, and "label" [B], and metrics are
      scalars: loss, accuracy and nll per example; kl, data_term (-N nll) and elbo
      (data_term - kl) in nats for the whole training set.
    """

    model = checked(model)
    if samples < 1:
        raise ValueError(f"samples must be at least 1, not {samples}")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be in [0, 1), not {label_smoothing}")
    if rate_gradient is not None and samples > 1:
        raise ValueError("a rate_gradient is of one sample, not of an ensemble's loss")

    def loss(params, state: ModelState, batch, key):
        run, correct = params, None
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

        def one(key):
            return model.apply(
                {"params": run, **state.collections},
                batch["image"],
                mode=mode,
                rngs={"noise": key},
                mutable=list(state.collections),
            )

        if samples == 1:
            logits, collections = one(key)
        else:
            draws, each = jax.vmap(one)(random.split(key, samples))
            collections = jax.tree.map(_of_draws, each)
            logits = jax.nn.logsumexp(jax.nn.log_softmax(draws), 0)
        nll = cross_entropy(logits, batch["label"])
        divergence = kl(params, prior)
        cost = nll
        if label_smoothing:
            cost = smoothed_cross_entropy(logits, batch["label"], label_smoothing)
        value = neg_elbo(
            correct(cost) if correct else cost,
            divergence,
            n_train,
            1.0 if beta is None else beta(state.step),
        )
        data_term = -n_train * jnp.mean(nll)
        metrics = {
            "loss": value,
            "nll": jnp.mean(nll),
            "kl": divergence,
            "data_term": data_term,
            "elbo": data_term - divergence,
            "accuracy": jnp.mean(jnp.argmax(logits, -1) == batch["label"]),
        }
        return value, (ModelState(state.step, collections), metrics)

    return loss


def _of_draws(x: Array) -> Array:
    """What a collection keeps of K draws [K, ...]: their mean, of counts the first."""
    return jnp.mean(x, 0) if jnp.issubdtype(x.dtype, jnp.inexact) else x[0]


def with_penalty(
    loss: Callable,
    penalty: Callable[[Any], Array],
    n_train: int,
    weight: Schedule,
) -> Callable:
    """Adds weight(step) penalty(params) / n_train to a loss, and "penalty" to metrics.

    Args:
      loss: as `classification_loss` returns it.
      penalty: params -> nats for the whole training set, such as the negative log of a
        learned prior (`soft_sharing.penalty`).
      n_train: size of the training set.
      weight: of the penalty, as a function of the step.
    """

    def penalized(params, state: ModelState, batch, key):
        value, (new, metrics) = loss(params, state, batch, key)
        extra = penalty(params)
        value = value + weight(state.step) * extra / n_train
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
