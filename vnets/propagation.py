"""Prediction without sampling: means and variances go through the net together.

Where the mean of the weights says nothing (a variance layer), the variance still does:
ReLU turns it into a mean. Units of a layer are taken as independent and Gaussian before
each nonlinearity; then every step has a closed form or a quadrature (`vnets.moments`).
The net's plan says which step follows which, so every net with a plan has moments.

What is neglected is the correlation between units of a layer: of pixels under a common
kernel, bias, scale or unit noise, of units behind a noisy layer, and of the two sides
of a residual step. With normal noise on the weights of the last hidden layer alone, and
that dense, the moments of the logits are therefore exact. Batch normalization takes its
running statistics, and is exact where its scale or bias are noisy, too.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vnets import ops, tree
from vnets import plan as steps
from vnets.layers import TEST, Mode, batch_norm, layer_norm
from vnets.likelihoods import Likelihood
from vnets.loss import ModelState, Predict, Prediction, neg_elbo
from vnets.moments import (
    Moments,
    activation,
    added,
    diagonal,
    joint,
    linear,
    log_expected_softmax,
    max_pool,
    over_units,
    points,
    require_independent,
    scaled,
    with_diagonal,
)
from vnets.nodes import Point, Posterior, is_posterior
from vnets.pooling import depth_to_space, window_mean_pool
from vnets.pytrees import pytree
from vnets.types import Array, Moment, Shape


@pytree
class Logits:
    """What a net says before the softmax.

    Attributes:
      mean: [B, K].
      cov: covariance, [B, K, K]; None stands for zero.
    """

    mean: Array
    cov: Moment = None

    @property
    def var(self) -> Moment:
        """Variance of each logit, [B, K]; None stands for zero."""
        return None if self.cov is None else diagonal(self.cov)


def moments(model, variables: dict, x: Array) -> Logits:
    """Mean and covariance of the logits over the noise of all weights.

    Args:
      model: a net with a plan (`vnets.nets`) that ends with a dense layer.
      variables: "params" with posterior nodes, and the model's other collections.
      x: inputs without noise, [B, ...].

    Raises:
      TypeError: a model without a plan.
      ValueError: a plan whose last step is not a dense layer, or weights that vary
        together.
    """
    plan = getattr(model, "plan", None)
    if plan is None:
        raise TypeError(
            f"{type(model).__name__} has no plan, so no moments: they are of the nets "
            "of vnets.nets, of which Chain takes any plan"
        )
    if not isinstance(plan[-1], steps.Dense):
        raise ValueError(f"moments are of plans that end with Dense, not {plan[-1]}")
    layers, last = Layers(variables), plan[-1].name
    hidden = layers.run(plan[:-1], Moments(x))
    mean, cov = joint(layers.kernel(last), hidden)
    h = Moments(mean, None if cov is None else diagonal(cov))
    y = layers.with_bias(last, h)
    return Logits(y.mean, cov if y.var is h.var else with_diagonal(cov, y.var))


def predict(model, variables: dict, x: Array) -> Array:
    """Log of the expected probabilities, [B, K], without a sample; see `moments`."""
    logits = moments(model, variables, x)
    return log_expected_softmax(logits.mean, logits.cov)


def by_moments(model) -> Predict:
    """What a net predicts in training without a draw: an argument of `neg_elbo`.

    Its outputs are points that have the mean and the covariance of the net's own
    (`moments.points`), in the place of draws; average losses over them.

    Args:
      model: as in `moments`.

    Raises:
      ValueError: when called, a net with batch normalization, whose running statistics
        nothing would move.
    """

    def predict(params, state: ModelState, batch, key) -> Prediction:
        del key
        if state.collections:
            raise ValueError(
                "moments take running statistics, which training by moments would "
                "leave as they start: a net without batch normalization, please"
            )
        logits = moments(model, {"params": params}, batch["input"])
        return Prediction(points(logits.mean, logits.cov), state.collections)

    return predict


def moment_loss(
    model, likelihood: Likelihood, prior, n_train: int, beta=None
) -> Callable:
    """The negative bound per example by moments in the place of draws.

    Wang and Manning 2013 ("Fast dropout training"), for all noise of weights and units:
    no variance in the gradient, and the correlation of units neglected.

    Args:
      model: as in `moments`.
      likelihood, prior, n_train, beta: as in `loss.neg_elbo`, whose form it has.

    Raises:
      ValueError: as in `by_moments` and `neg_elbo`.
    """
    return neg_elbo(by_moments(model), likelihood, prior, n_train, beta, "losses")


@dataclasses.dataclass(frozen=True)
class SamplingFree:
    """A net whose logits are `predict`: it can be tested by `evaluate.evaluate`.

    Attributes:
      model: as in `moments`.
    """

    model: Any

    def apply(
        self, variables, x: Array, mode: Mode = TEST, rngs=None, mutable: Any = False
    ):
        """The model's `apply`. It draws nothing, so `rngs` and the estimator are idle.

        Raises:
          ValueError: a mode that normalizes by the statistics of the batch.
        """
        del rngs
        if mode.norm != "running":
            raise ValueError(
                f"moments are propagated with norm='running', not {mode.norm!r}"
            )
        log_p = predict(self.model, variables, x)
        if mutable is False:
            return log_p
        return log_p, {k: v for k, v in variables.items() if k != "params"}


@dataclasses.dataclass(frozen=True)
class Layers:
    """The layers of a net by name, as maps of moments.

    Attributes:
      variables: of the net.
    """

    variables: dict

    def run(self, plan: steps.Plan, h: Moments) -> Moments:
        """The moments after the steps of a plan."""
        for step in _pools_first(plan):
            h = self._step(step, h)
        return h

    def _step(self, step: steps.Step, h: Moments) -> Moments:
        match step:
            case steps.Dense():
                return self._linear(step.name, ops.DENSE, h)
            case steps.Conv():
                channels = self.kernel(step.name).shape[-2:]
                places = h.mean.shape[1:3]
                op = ops.conv(places, step.kernel, channels, step.strides, step.padding)
                return self._linear(step.name, op, h)
            case steps.Depthwise():
                groups = h.mean.shape[-1]
                op = ops.GeneralConv(step.strides, step.padding, (1, 1), (1, 1), groups)
                return self._linear(step.name, op, h)
            case steps.LayerNorm():
                if h.var is not None:
                    raise ValueError(
                        f"{step.name!r}: layer normalization has no moments of noisy "
                        "inputs here; draw samples"
                    )
                params = {"params": self.variables["params"][step.name]}
                norm = layer_norm(step.name, TEST, step.epsilon).bind(params)
                return Moments(norm(h.mean))
            case steps.Norm():
                return self.norm(step.name, h, step.epsilon)
            case steps.Activation():
                return activation(step.kind, h)
            case steps.MaxPool():
                return max_pool(h)
            case steps.WindowMaxPool():
                return max_pool(h, step.size, step.stride, step.padding)
            case steps.WindowMeanPool():
                window, count = dataclasses.astuple(step), step.size**2
                h = jax.tree.map(lambda m: window_mean_pool(m, *window), h)
                return Moments(h.mean, None if h.var is None else h.var / count)
            case steps.MeanPool():
                positions = math.prod(h.mean.shape[1:3])
                h = jax.tree.map(lambda m: jnp.mean(m, axis=(1, 2)), h)
                return Moments(h.mean, None if h.var is None else h.var / positions)
            case steps.Flatten():
                flat: Shape = (h.mean.shape[0], math.prod(h.mean.shape[1:]))
                return jax.tree.map(lambda m: m.reshape(flat), h)
            case steps.DepthToSpace():
                return jax.tree.map(lambda m: depth_to_space(m, step), h)
            case steps.Standardize():
                steps.shape_after(step, h.mean.shape[1:])
                center, std = (
                    over_units(jnp.asarray(values, h.mean.dtype), h.mean)
                    for values in (step.mean, step.std)
                )
                var = None if h.var is None else h.var / jnp.square(std)
                return Moments((h.mean - center) / std, var)
            case steps.Residual():
                body, shortcut = self.run(step.body, h), self.run(step.shortcut, h)
                var = added(body.var, shortcut.var)
                return Moments(body.mean + shortcut.mean, var)
            case steps.CustomStep():
                raise ValueError(f"{step} has no moments here; draw samples")

    def kernel(self, name: str) -> Posterior:
        """The layer's posterior node."""
        return tree.weight(self.variables["params"], name)

    def with_bias(self, name: str, h: Moments) -> Moments:
        """The sum with the layer's bias, if it has one."""
        bias = self.variables["params"].get(name, {}).get("bias")
        if bias is None:
            return h
        mean, var = bias, None
        if is_posterior(bias):
            require_independent(bias)
            mean, var = bias.moments()
        if mean is not None:
            h = Moments(h.mean + over_units(mean, h.mean), h.var)
        if var is None:
            return h
        own = jnp.broadcast_to(over_units(var, h.mean), h.mean.shape)
        return Moments(h.mean, added(h.var, own))

    def norm(self, name: str, h: Moments, epsilon: float = 1e-5) -> Moments:
        """Batch normalization on running statistics: an affine map of each channel.

        Args:
          name: of the module.
          h: its inputs.
          epsilon: added to the variance, as the net has it.
        """
        statistics = self.variables["batch_stats"][name]
        params = self.variables["params"].get(name, {})
        if any(map(is_posterior, params.values())):
            return self._stochastic_norm(name, h, statistics, epsilon)
        has_bias, has_scale = "bias" in params, "scale" in params
        layer = batch_norm(name, TEST, bias=has_bias, scale=has_scale, epsilon=epsilon)
        bound = layer.bind({"params": params, "batch_stats": statistics})
        slope = jax.lax.rsqrt(statistics["var"] + layer.epsilon)
        if has_scale:
            slope = slope * params["scale"]
        factor = over_units(jnp.square(slope), h.mean)
        return Moments(bound(h.mean), None if h.var is None else h.var * factor)

    def _stochastic_norm(
        self, name: str, h: Moments, statistics, epsilon: float
    ) -> Moments:
        """`norm` where the scale or the bias is a node."""
        layer = batch_norm(name, TEST, bias=False, scale=False, epsilon=epsilon)
        slope = jnp.square(jax.lax.rsqrt(statistics["var"] + layer.epsilon))
        var = None if h.var is None else h.var * over_units(slope, h.mean)
        bound = layer.bind({"batch_stats": statistics})
        h = Moments(bound(h.mean), var)
        scale = self.variables["params"][name].get("scale")
        if scale is not None:
            h = scaled(h, scale if is_posterior(scale) else Point(jnp.asarray(scale)))
        return self.with_bias(name, h)

    def _linear(self, name: str, op, h: Moments) -> Moments:
        return self.with_bias(name, linear(op, self.kernel(name), h))


def _pools_first(plan: steps.Plan) -> list[steps.Step]:
    """The steps with each pool ahead of the ReLU before it, which changes no value.

    The maxima are then those of Gaussian units, and the ReLU has fewer of them.
    """
    order = list(plan)
    first = (steps.Activation("relu"), steps.Activation("leaky_relu"))
    for place, (step, after) in enumerate(itertools.pairwise(plan)):
        if step in first and isinstance(after, steps.MaxPool | steps.WindowMaxPool):
            order[place : place + 2] = after, step
    return order
