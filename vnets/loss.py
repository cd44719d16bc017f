"""The loss: the negative evidence lower bound per example, and its schedules.

    neg_elbo(forward(model), likelihood, prior, n_train)

The scale is stated once: loss = mean(nll) + beta kl / n_train, the negative ELBO
divided by the number of training examples. It is the same at any batch size.
"""

import dataclasses
import functools
import itertools
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import random

from vnets import gradients
from vnets.layers import TRAIN, Mode, checked
from vnets.learned_dropout import Correct, Gradient, is_learned
from vnets.likelihoods import Likelihood, examples, per_example, require_sum
from vnets.priors import kl, shared_draws
from vnets.pytrees import pytree
from vnets.rng import stream
from vnets.targets import are_classes, rows
from vnets.types import Array, brief, choose, in_float32

Schedule = Callable[[Array], Array]


@pytree
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
      ValueError: points that are not pairs of finite numbers, or whose times do not
        rise.
    """
    try:
        times, values = zip(*((float(t), float(v)) for t, v in points), strict=True)
    except (TypeError, ValueError):
        times, values = (), ()
    finite = all(map(math.isfinite, (*times, *values)))
    rising = all(a < b for a, b in itertools.pairwise(times))
    if not (times and finite and rising):
        raise ValueError(
            "a schedule is a list of finite (time, value) pairs with rising times, "
            f"not {points!r}"
        )
    xs = jnp.asarray(times, jnp.float32) * unit
    ys = jnp.asarray(values, jnp.float32)
    return lambda step: jnp.interp(jnp.asarray(step, jnp.float32), xs, ys)


def halving(steps: int) -> Schedule:
    """The weight of the KL in each batch of an epoch: half that of the one before.

    Batch i of M has the share pi_i = 2^(M - i) / (2^M - 1) of the KL (Blundell et al.
    2015): M pi_i, since a loss per example shares the KL out among M batches by itself.
    The shares add up to one, so that the epoch's losses add up to what they do under
    equal shares. After some 24 batches the rest of an epoch has no KL in float32.

    Args:
      steps: M, batches in an epoch, which begin with the first update.

    Raises:
      ValueError: no batch.
    """
    if steps < 1:
        raise ValueError(f"an epoch has at least 1 batch, not {steps}")
    # Not 2^M, which overflows: 2^-i / (1 - 2^-M).
    first = steps / -math.expm1(-steps * math.log(2))
    return lambda step: first * jnp.exp2(-1.0 - jnp.float32(step % steps))


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
            f"`loss.knots`, not {value!r}"
        )
    held = float(value)
    return lambda step: jnp.asarray(held, jnp.float32)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a net says of a training batch.

    Attributes:
      outputs: of K draws, [K, B, ...].
      collections: the model's, after the batch.
      latent_kl: KL of each example's own latent variables, nats, [B]; None without any.
      correct: what makes the gradient of the cost [B] that of binary masks, too.
    """

    outputs: Any
    collections: dict
    latent_kl: Array | None = None
    correct: Correct | None = None


# (params, state, batch, key) -> Prediction; what `forward` makes takes draws, too
Predict = Callable[..., Prediction]


def forward(
    model,
    mode: Mode = TRAIN,
    samples: int = 1,
    rate_gradient: Gradient | None = None,
    latent: bool = False,
) -> Predict:
    """What a net predicts in training: the first argument of `neg_elbo`.

    Args:
      model: has `apply(variables, input, mode=..., rngs=..., mutable=...)`, as what
        `layers.stochastic` and `layers.call` make.
      mode: how the net is run in training.
      samples: K draws for each step; what comes before the first noisy layer is
        computed once for all of them.
      rate_gradient: of binary dropout whose rate is learned (`learned_dropout` has
        two), a step before the net runs; such a net needs one, and another has no use
        for it.
      latent: the net gives two things, its outputs and the KL of each example's own
        latent variables, [B]; or a third, log q of their draw, [B], which makes the
        gradient that of the score function (`gradients.score`).

    Returns:
      predict(params, state, batch, key, drawn=None), where `drawn` are weights [K, ...]
      that the net runs with in the place of draws of its own.

    Raises:
      ValueError: samples below 1, or above with a `rate_gradient`; when called, a
        `rate_gradient` that is missing, does not fit, or is a score function's while
        examples share statistics (batch normalization) or have latent variables; the
        score function of latent variables with several samples, or with one example.
    """
    model = checked(model)
    if samples < 1:
        raise ValueError(f"samples must be at least 1, not {samples}")
    if rate_gradient is not None and samples > 1:
        raise ValueError("a rate_gradient is of one sample, not of an ensemble's loss")

    def predict(params, state: ModelState, batch, key, drawn=None) -> Prediction:
        run, correct = params, None
        if rate_gradient is not None:
            masks = stream(key, "masks")
            run, correct = rate_gradient(params, rows(batch["input"]), masks)
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
        if correct and latent:
            raise ValueError(
                "the score function knows nothing of the KL of latent variables: take "
                "the concrete gradient"
            )

        def one(key, weights):
            outputs, collections = model.apply(
                {"params": weights, **state.collections},
                batch["input"],
                mode=mode,
                rngs={"noise": key},
                mutable=list(state.collections),
            )
            return jax.tree.map(in_float32, outputs), collections

        if samples == 1:
            outputs, collections = one(key, run if drawn is None else _first(drawn))
            outputs = jax.tree.map(lambda x: x[None], outputs)
        else:
            weights, axis = (run, None) if drawn is None else (drawn, 0)
            keys = random.split(key, samples)
            outputs, each = jax.vmap(one, (0, axis))(keys, weights)
            collections = jax.tree.map(_of_draws, each)
        if not latent:
            return Prediction(outputs, collections, correct=correct)
        outputs, latent_kl, *log_q = outputs
        if log_q:
            correct = _by_score(log_q[0])
        return Prediction(outputs, collections, jnp.mean(latent_kl, 0), correct)

    if rate_gradient is None:  # draws of the weights may be given to it
        vars(predict).update(estimator=mode.estimator, samples=samples)
    return predict


def _first(tree):
    return jax.tree.map(lambda x: x[0], tree)


def _by_score(log_q: Array) -> Correct:
    """Corrects the cost of each example by log q of its one draw, [1, B]."""
    if len(log_q) > 1:
        raise ValueError(
            "the score function of latent variables is of one sample, not of an "
            "ensemble's loss"
        )
    return lambda cost: gradients.score(cost, log_q[0])


def _of_draws(x: Array) -> Array:
    """What a collection keeps of K draws [K, ...]: their mean, of counts the first."""
    return jnp.mean(x, 0) if jnp.issubdtype(x.dtype, jnp.inexact) else x[0]


def bound(nll: Array, kl: Array, n_train: int, beta: float | Array = 1.0) -> Array:
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


def neg_elbo(
    predict: Predict,
    likelihood: Likelihood,
    prior,
    n_train: int,
    beta: Schedule | float | None = None,
    average: Literal["predictions", "losses"] = "predictions",
    latent_beta: Schedule | float | None = None,
) -> Callable:
    """The loss in the form that `train.fit` takes.

    Args:
      predict: (params, state, batch, key) -> `Prediction`; `forward(model)` makes it.
      likelihood: of `vnets.likelihoods`.
      prior: a prior, or a mapping from layers to priors (`vnets.priors`).
      n_train: size of the training set; where the likelihood takes the mean over the
        parts of an example, the number of parts that count in it.
      beta: weight of the KL, a number or a function of the step; 1 by default.
      average: what is averaged over K draws. "predictions", before the logarithm: the
        loss is that of an ensemble of K (the authors' `--train-ens`; Neklyudov et al.
        2019), from 2 on no longer the ELBO, but a tighter bound. "losses": the ELBO,
        with less noise in its gradient.
      latent_beta: weight of the KL of latent variables, as beta; 1 by default. With
        classes as targets it is the beta of the information bottleneck (Alemi et al.
        2017), from 1 on a price that no information is worth.

    Raises:
      ValueError: no training set, an `average` that does not exist, a beta below 0;
        when called, targets that do not fit the outputs, draws whose average has no
        form of the likelihood's, a latent_beta where there are no latent variables, or
        these beside the mean over an example's parts (`likelihoods.require_sum`).

    Returns:
      loss(params, state, batch, key) -> (loss, (state, metrics)), where batch has
      "input", an array [B, ...] or a tree of several, and "target" [B, ...], and may
      have a "mask" (`likelihoods`); without a target the input itself is explained.
      Metrics are scalars: loss and nll per example, kl, data_term (-N nll) and elbo
      (data_term - kl) in nats for the whole training set, and what the likelihood
      shows; where a prediction has a latent_kl, that per example, and elbo is less N
      times it. `loss.logits`, where targets are classes, takes the same and gives
      logits [B, ..., K], by which `train.fit` knows their number.
    """
    if n_train < 1:
        raise ValueError(f"n_train must be at least 1, not {n_train}")
    choose("average", average, ("predictions", "losses"))
    weight = constant("beta", 1.0 if beta is None else beta)
    price = constant("latent_beta", 1.0 if latent_beta is None else latent_beta)

    def loss(params, state: ModelState, batch, key):
        # A prior that is a density is asked about the draws that the net runs with.
        how: Any = predict
        drawn = None
        if hasattr(how, "estimator"):
            drawn = shared_draws(params, prior, how.estimator, how.samples, key)
        own = {} if drawn is None else {"drawn": drawn}
        found = predict(params, state, batch, key, **own)
        given = batch.get("target", batch["input"]), batch.get("mask")
        draws = found.outputs
        if jax.tree.leaves(draws)[0].shape[0] == 1:
            outputs, apart = _first(draws), False
        elif average == "predictions":
            outputs, apart = likelihood.averaged(draws), False
        else:
            outputs, apart = draws, True

        def of_draws(function):
            """A function of the outputs; its mean over draws that are kept apart."""
            if not apart:
                return function(outputs, *given)
            each = jax.vmap(lambda one: function(one, *given))(outputs)
            return jax.tree.map(lambda x: jnp.mean(x, 0), each)

        nll, cost = of_draws(likelihood.nll), of_draws(likelihood.cost)
        if found.correct:
            cost = found.correct(cost)
        divergence = _kl(params, prior, stream(key, "kl"), drawn)
        data_term = -n_train * jnp.mean(nll)
        metrics = {
            "nll": jnp.mean(nll),
            "kl": divergence,
            "data_term": data_term,
            "elbo": data_term - divergence,
            **of_draws(likelihood.shown),
        }
        if found.latent_kl is not None:
            shape = likelihood.shape(given[0])
            require_sum(likelihood, shape)
            mask = None if given[1] is None else examples(jnp.asarray(given[1]))
            each = per_example(found.latent_kl, mask)
            latent = jnp.mean(each)
            cost = cost + price(state.step) * each
            metrics["latent_kl"] = latent
            metrics["elbo"] = metrics["elbo"] - n_train * latent
        elif latent_beta is not None:
            raise ValueError(
                "latent_beta weighs the KL of latent variables, and there are none"
            )
        value = bound(cost, divergence, n_train, weight(state.step))
        metrics = {"loss": value, **metrics}
        return value, (ModelState(state.step, found.collections), metrics)

    if are_classes(likelihood.kind):
        vars(loss)["logits"] = lambda *arguments: predict(*arguments).outputs[0]
    return loss


def _kl(params, prior, key, drawn) -> Array:
    """The KL, of a density the mean over the draws that the net ran with."""
    if drawn is None or rows(drawn) == 1:
        return kl(params, prior, key, None if drawn is None else _first(drawn))
    return jnp.mean(jax.vmap(lambda one: kl(params, prior, key, one))(drawn))


def with_penalty(
    loss: Callable,
    penalty: Callable[[Any], Array],
    n_train: int,
    weight: Schedule | float,
) -> Callable:
    """Adds weight(step) penalty(params) / n_train to a loss, and "penalty" to metrics.

    Args:
      loss: as `neg_elbo` returns it.
      penalty: params -> nats for the whole training set, such as the negative log of a
        learned prior (`soft_sharing.penalty`).
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
