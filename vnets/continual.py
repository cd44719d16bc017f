"""Tasks one after another: what one has left is the prior of the next.

    anchor = continual.start(params, scale=1.0)                 # before the first task
    anchor = continual.posterior(params)                        # VCL, after each
    anchor = continual.laplace(anchor, params, curvature)       # online Laplace
    anchor = continual.ewc(anchor, params, curvature)           # EWC
    rest, kept = continual.coreset(split, tasks, size)          # before them all
    copy = continual.rehearsed(predict, likelihood, params, kept, key)  # to predict

An anchor is a tree like the parameters with a normal node for each leaf: a prior of
independent weights. `priors.of_tree(anchor)` holds noisy weights to it, and `pull`
those without noise. The three methods are one loss with three ways to make the next
anchor. The curvature is one of the log likelihood of all examples of the task that
ended (`squared_scores`, `gauss_newton`).

EWC's penalties, one around the weights that each task has left, are a product of
normal laws, which is a normal law: they add up to one quadratic, of the summed
precision and around the mean that it weighs. Online Laplace has the same precision
around the newest weights. `vnets.kronecker` has it with factors in place of a diagonal.

A coreset is a few examples of each task that it does not learn from. Before a
prediction a copy of what was learned sees those of all tasks until then; what learns
the next task does not.

Sources: Nguyen, Li, Bui and Turner 2018 (VCL); Kirkpatrick et al. 2017 (EWC); Ritter,
Botev and Barber 2018 (online Laplace); Huszar 2018 (why the last two differ).
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import random

from vnets import kronecker, tree
from vnets.data import Split
from vnets.data.splits import stratified
from vnets.layers import shifted
from vnets.likelihoods import Likelihood, require_sum
from vnets.loss import ModelState, Predict, neg_elbo
from vnets.nodes import Additive, is_noisy, is_posterior
from vnets.priors import of_tree
from vnets.rng import stream
from vnets.types import Array, Key, Params


def start(params: Params, scale: float = math.inf) -> Params:
    """The anchor N(0, scale^2) of every weight.

    Args:
      params: whose shapes it has.
      scale: a standard deviation; infinite, it holds nothing, and noisy weights have
        no KL from it.

    Raises:
      ValueError: a scale that is not above 0.
    """
    if not scale > 0:
        raise ValueError(f"a prior's standard deviation must be positive, not {scale}")
    log_var = 2 * math.log(scale)

    def visit(place, leaf):
        del place
        shape = jnp.shape(_array(leaf))
        return Additive(jnp.zeros(shape), jnp.full(shape, log_var, jnp.float32))

    return tree.change(visit, params)


def posterior(params: Params) -> Params:
    """What was learned, as it is: the anchor of variational continual learning.

    Weights without noise have no width to be held by, and are free in the next task. A
    variance layer leaves N(0, scale^2), variational dropout N(mean, alpha mean^2), and
    a weight that was pruned 0, with no width: what is pruned then, too, has no KL from
    it.

    Raises:
      TypeError: a noisy node whose weights are no independent normal variables.
    """

    def visit(place, leaf):
        if not is_noisy(leaf):
            value = _array(leaf)
            return Additive(value, jnp.full(value.shape, jnp.inf, jnp.float32))
        if not leaf.is_normal:
            raise TypeError(
                f"the posterior of {place.name!r}, a {type(leaf).__name__} node with "
                f"{leaf.noise} noise, is no prior of independent normal weights; those "
                "of gaussian, variance and multiplicative nodes with normal noise are"
            )
        mean, var = leaf.moments()
        return Additive(jnp.zeros_like(var) if mean is None else mean, jnp.log(var))

    return tree.change(visit, params)


def laplace(anchor: Params, params: Params, curvature: Params) -> Params:
    """The anchor around the weights as they are, with the curvature added to its own.

    Args:
      anchor: what the task was held to.
      params: what the task has left, without noise.
      curvature: of each weight, from 0 on, in a tree like `params`; where a precision
        is below 0, the anchor is NaN.
    """
    return _product(anchor, params, curvature, lambda old, new, total: new[0])


def ewc(anchor: Params, params: Params, curvature: Params) -> Params:
    """The anchor times N(params, 1 / curvature): elastic weight consolidation.

    Args:
      anchor, params, curvature: as in `laplace`.
    """

    def between(old, new, total):
        mean = (old[0] * old[1] + new[0] * new[1]) / jnp.where(total > 0, total, 1)
        return jnp.where(total > 0, mean, new[0])

    return _product(anchor, params, curvature, between)


def _product(anchor: Params, params: Params, curvature: Params, center: Callable):
    """The precisions added; `center` of (mean, precision) before and now, and of their
    sum."""

    def visit(place, before, leaf, bent):
        del place
        old, new = (before.mean, jnp.exp(-before.log_var)), (_array(leaf), _array(bent))
        total = old[1] + jnp.where(new[1] >= 0, new[1], jnp.nan)
        return Additive(center(old, new, total), -jnp.log(total))

    return tree.change(visit, anchor, params, curvature)


def coreset(split: Split, tasks: int, size: int) -> tuple[Split, Split]:
    """What tasks learn from, and some examples of each that are kept from them.

    Args:
      split: of all tasks, equally many examples of each, in their order, with classes.
      tasks: T.
      size: examples of each task that are kept, every class in its share.

    Returns:
      Both in the order of the tasks.

    Raises:
      ValueError: tasks of unequal size, or no example that is kept, or left.
    """
    each, rest = divmod(len(split), tasks)
    if rest or not 0 < size < each:
        raise ValueError(
            f"a coreset of {size} needs tasks of equal size that are larger, not "
            f"{len(split)} examples of {tasks}"
        )
    kept = [
        task * each + stratified(split.target[task * each :][:each], size, task)
        for task in range(tasks)
    ]
    rows = np.concatenate(kept)
    return split.take(np.delete(np.arange(len(split)), rows)), split.take(rows)


def rehearsed(
    predict: Predict,
    likelihood: Likelihood,
    params: Params,
    batch: dict[str, Array],
    key: Key,
    *,
    updates: int = 100,
    learning_rate: float = 1e-3,
) -> Params:
    """The posterior of the parameters and of a coreset: a copy to predict with.

    Its prior is what was learned. Each of Adam's updates sees the whole coreset.

    Args:
      predict: as `loss.neg_elbo` takes it.
      likelihood: of the targets.
      params: what was learned, with noise.
      batch: "input" and "target" of the coreset, and perhaps "mask" [B], 1 where an
        example counts: of tasks until now. Where none counts nothing is learned.
      key: of the noise.
      updates: how many, from 0 on.
      learning_rate: Adam's.

    Raises:
      ValueError: fewer updates than none, or targets of several parts of which a
        likelihood takes the mean.
    """
    if updates < 0:
        raise ValueError(f"updates are at least 0, not {updates}")
    require_sum(likelihood, likelihood.shape(batch["target"]))
    count = len(batch["target"])
    seen = jnp.sum(batch.get("mask", jnp.ones(count, jnp.float32)))
    prior = of_tree(posterior(params))
    share = count / jnp.where(seen > 0, seen, 1)
    loss = neg_elbo(predict, likelihood, prior, count, lambda step: share)
    optimizer = optax.adam(learning_rate)

    def update(carry, number):
        params, state = carry
        model = ModelState(number, {})
        draw = stream(key, number)
        slope, _ = jax.grad(loss, has_aux=True)(params, model, batch, draw)
        changes, state = optimizer.update(slope, state)
        return (optax.apply_updates(params, changes), state), None

    steps = jnp.arange(updates, dtype=jnp.int32)
    (found, _), _ = jax.lax.scan(update, (params, optimizer.init(params)), steps)
    return found


def pull(params: Params, anchor: Params) -> Array:
    """-log p of the weights without noise, up to a constant, in nats; scalar.

    Noisy ones count nothing here: they have a KL.

    Args:
      params: a tree with nodes.
      anchor: of all its leaves.
    """
    total = jnp.zeros((), jnp.float32)
    held = {place.leaf: node for place, node in tree.nodes(anchor)}
    for place, leaf in tree.each(params):
        if not is_noisy(leaf):
            own: Any = held[place.leaf]
            gap = jnp.square(_array(leaf) - own.mean)
            total += 0.5 * jnp.sum(gap * jnp.exp(-own.log_var))
    return total


def squared_scores(
    model, params: Params, x: Array, key: Key, log_p: Callable = jax.nn.log_softmax
) -> Params:
    """Fisher's diagonal, by one class that the net itself draws for each input.

    The classes are no labels: squared gradients at these are another matrix, which is
    near 0 where a net knows them by heart.

    Args:
      model: of dense layers, with `apply` as in `predictor.Member`, run as in a test.
      params: without noise.
      x: inputs [B, ...].
      key: of the draws.
      log_p: outputs [B, K] -> log probabilities [B, K].

    Returns:
      Sums over the inputs, in a tree like `params`.

    Raises:
      ValueError: weights with noise, or that are no dense layer's.
    """

    def drawn(shifts):
        outputs, inputs = shifted(model, {"params": params}, x, shifts)
        logs = log_p(outputs)
        at = jax.vmap(random.categorical)(random.split(key, len(x)), logs)
        return jnp.sum(jnp.take_along_axis(logs, at[:, None], -1)), inputs

    scores, inputs = jax.grad(drawn, has_aux=True)(_no_shifts(params, len(x)))
    return _diagonal(params, inputs, {k: jnp.square(s) for k, s in scores.items()})


def gauss_newton(
    model, likelihood: Likelihood, params: Params, x: Array, target: Array
) -> Params:
    """The diagonal of J^T L J, L the Hessian of -log p in the outputs.

    Of classes it is Fisher's, summed over all that could be drawn.

    Args:
      model: as in `squared_scores`.
      likelihood: of the targets; that of classes has a Hessian that no label changes.
      params: without noise.
      x: inputs [B, ...].
      target: of each.

    Returns:
      Sums over the inputs, in a tree like `params`.

    Raises:
      ValueError: as in `squared_scores`.
    """

    def run(shifts):
        return shifted(model, {"params": params}, x, shifts)

    def cost(out, target):
        ones = jnp.ones(likelihood.shape(target[None]), jnp.float32)
        return likelihood.total_nll(out[None], target[None], ones)

    outputs, back, inputs = jax.vjp(run, _no_shifts(params, len(x)), has_aux=True)
    count, shape = outputs[0].size, outputs.shape
    hessian = jax.vmap(jax.hessian(cost))(outputs, target)
    hessian = hessian.reshape(len(x), count, count)
    each = jnp.eye(count)[:, None].repeat(len(x), 1).reshape(count, *shape)
    [jacobian] = jax.vmap(back)(each)  # by layer, [outputs, B, O]
    bent = {
        layer: jnp.einsum("bkl,kbo,lbo->bo", hessian, slope, slope)
        for layer, slope in jacobian.items()
    }
    return _diagonal(params, inputs, bent)


def _no_shifts(params: Params, batch: int) -> dict[str, Array]:
    """Of all layers, which must be dense and without noise, [B, O]."""
    sizes = {layer: w.shape[1] for layer, w in kronecker.matrices(params).items()}
    return {layer: jnp.zeros((batch, size)) for layer, size in sizes.items()}


def _diagonal(params: Params, inputs: dict, bent: dict) -> Params:
    """Of w_io the sum of x_i^2 bent_o, in a tree like `params`: a dense layer's slope
    in its weights is its inputs [B, I] times that in its outputs [B, O]."""

    def visit(place, leaf):
        x, own = jnp.square(inputs[place.layer]), bent[place.layer]
        found = x.T @ own if place.is_kernel else jnp.sum(own, 0)
        return jax.tree.map(lambda _: found, leaf)

    return tree.change(visit, params)


def _array(leaf) -> Array:
    """The weights of a leaf without noise; of one with noise any of their shape."""
    if not is_posterior(leaf):
        return leaf
    return jnp.zeros(leaf.shape) if leaf.noisy else leaf.sample(None)
