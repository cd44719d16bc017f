"""Binary dropout whose rate is learned: its node, its KL, and two gradients of a rate.

A mask is 0 or 1, so that a draw has no gradient with respect to the rate p. Two ways
around it, for the loss of `loss.forward`:

    score_function  E[loss d log p(mask)]: unbiased (Williams 1992)
    concrete        masks between 0 and 1 that depend smoothly on p while training
                    (Maddison et al. 2017; Jang et al. 2017): biased, by the temperature

The objective is that of Gal, Hron and Kendall 2017 (concrete dropout) with a flat prior
of the weights, their length scale 0: the expected negative log likelihood, and for each
unit the KL of its mask from a coin, which for a fair one is ln 2 - H(p). Their prior of
the weights would add the squared weights of a unit, divided by 1 - p.

In tests masks are binary, whichever gradient trained them.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax, random

from vnets.edits import Edit, edit
from vnets.posteriors import (
    AdaptiveDropout,
    Factory,
    Posterior,
    Scaled,
    adaptive_dropout,
    is_posterior,
    node_type,
    static,
)
from vnets.priors import Maker, Prior
from vnets.types import Array, Key, Params, Shape, choose

# nll [B] -> the same values, with the gradient of the probability of what was drawn.
Correct = Callable[[Array], Array]
# (params, batch size, key) -> what the net runs with, and how its loss is corrected.
Gradient = Callable[[Params, int, Key], tuple[Params, Correct | None]]


@node_type
class AdaptiveBinaryDropout(AdaptiveDropout):
    """A scale node of mean one: 0, or 1 / (1 - p), with a trained rate p of zeros.

    Its variance is alpha = p / (1 - p), whose log is what is trained: the logit of p.
    Moments are those of binary masks at every temperature.

    Attributes:
      temperature: 0 for binary masks, which give log alpha no right gradient by
        themselves; above 0 for concrete ones.
    """

    temperature: float = static(default=0.0)
    noise = "binary"

    def sample(self, key: Key, batch: Shape = ()) -> Array:
        log_alpha = jnp.broadcast_to(self.log_alpha, (self.units,))
        log_alpha = log_alpha.reshape((1,) * len(batch) + (self.units,))
        # P(logistic > log alpha) = 1 - p
        margin = random.logistic(key, (*batch, self.units), jnp.float32) - log_alpha
        if self.temperature:
            keep = jax.nn.sigmoid(margin / self.temperature)
        else:
            keep = (margin > 0).astype(jnp.float32)
        return keep * (1.0 + jnp.exp(log_alpha))  # 1 / (1 - p)


@node_type
class Drawn(Posterior):
    """A scale that was drawn before; it takes the place of the node that it is of.

    Attributes:
      values: one draw for each example, [B, units].
    """

    values: Array
    noise = "binary"

    def sample(self, key: Key, batch: Shape = ()) -> Array:
        """The values; raises ValueError where other than B draws are wanted."""
        del key
        if batch != self.values.shape[:-1]:
            raise ValueError(
                f"masks were drawn for {self.values.shape[:-1]}, one for each example, "
                f'not for {batch}: a convolution needs per="example"'
            )
        return self.values

    @property
    def shape(self) -> Shape:
        return self.values.shape[-1:]


def adaptive_binary_dropout(
    rate: float,
    alpha: Literal["unit", "layer"] = "unit",
    weight: Factory | None = None,
    axis: Literal["in", "out"] = "in",
    per: Literal["example", "position", "batch"] = "example",
) -> Factory:
    """Makes a weight with binary dropout of its units whose rate is learned.

    Args:
      rate: where the rate starts, 0 < rate < 1.
      alpha: a rate for each "unit", or one for the "layer".
      weight: factory of the weight itself; a point by default.
      axis: drop "in"put or "out"put units.
      per: see `Scaled`; score_function needs masks of each example's own.

    Raises:
      ValueError: a rate, sharing or axis that does not exist.
    """
    gaussian = adaptive_dropout(rate, alpha, weight, axis, per)

    def make(key: Key, shape: Shape) -> Scaled:
        node = gaussian(key, shape)
        scale = AdaptiveBinaryDropout(**vars(node.scale))
        return dataclasses.replace(node, scale=scale)

    return make


@Maker
def bernoulli(rate: float = 0.5) -> Prior:
    """KL of learned masks from independent coins, summed over units (not weights).

    p ln(p / rate) + (1 - p) ln((1 - p) / (1 - rate)); ln 2 - H(p) for a fair coin.

    Args:
      rate: probability of dropping a unit a priori, 0 < rate < 1.

    Raises:
      ValueError: another rate.
    """
    if not 0.0 < rate < 1.0:
        raise ValueError(f"a prior's dropout rate must be in (0, 1), not {rate}")

    def prior(node: Posterior) -> Array:
        if not isinstance(node, AdaptiveBinaryDropout):
            raise TypeError(
                f"prior bernoulli does not fit a {type(node).__name__} node; it takes "
                "AdaptiveBinaryDropout"
            )
        log_drop, log_keep = _log_probabilities(node)
        each = jnp.exp(log_drop) * (log_drop - math.log(rate))
        each += jnp.exp(log_keep) * (log_keep - math.log1p(-rate))
        return node.units / node.log_alpha.shape[-1] * jnp.sum(each)

    return prior


PRIORS = {"bernoulli": bernoulli}


def _log_probabilities(node: AdaptiveBinaryDropout) -> tuple[Array, Array]:
    """log p and log(1 - p), in the shape of log alpha."""
    return jax.nn.log_sigmoid(node.log_alpha), jax.nn.log_sigmoid(-node.log_alpha)


def is_learned(params: Params) -> bool:
    """True if a layer has binary dropout of a learned rate."""
    return any(map(_learned, jax.tree.leaves(params, is_leaf=is_posterior)))


def _learned(node) -> AdaptiveBinaryDropout | None:
    """The scale of a layer with a learned rate."""
    scale = node.scale if isinstance(node, Scaled) else None
    return scale if isinstance(scale, AdaptiveBinaryDropout) else None


def _on_learned(change: Callable[[AdaptiveBinaryDropout, str, Key], Posterior]) -> Edit:
    """Lifts a change of scales of a learned rate, (scale, per, key), to a tree."""

    def apply(node: Posterior, key: Key) -> Posterior:
        if not (isinstance(node, Scaled) and (scale := _learned(node))):
            return node
        return dataclasses.replace(node, scale=change(scale, node.per, key))

    return edit(apply)


def concrete(temperature: float = 0.1) -> Gradient:
    """The gradient of concrete masks: sigmoid((logistic - logit p) / temperature).

    Args:
      temperature: > 0; 0.1 is that of Gal et al. The smaller, the less the bias.

    Raises:
      ValueError: another temperature; when called, parameters without a learned rate.
    """
    if not temperature > 0:
        raise ValueError(f"the temperature must be positive, not {temperature}")

    @_on_learned
    def relaxed(scale: AdaptiveBinaryDropout, per: str, key: Key) -> Posterior:
        del per, key
        return dataclasses.replace(scale, temperature=float(temperature))

    def gradient(params: Params, batch_size: int, key: Key) -> tuple[Params, None]:
        del batch_size, key
        _require(params)
        return relaxed(params, None), None

    return gradient


BASELINES = ("others", "none")


def score_function(baseline: Literal["others", "none"] = "others") -> Gradient:
    """The gradient (nll - baseline) d log p(mask), with masks of each example's own.

    Args:
      baseline: "others", the mean nll of the other examples of the batch, which leaves
        the gradient unbiased, for their masks are independent of the example's own; or
        "none".

    Raises:
      ValueError: another baseline; when called, parameters without a learned rate,
        masks that examples share, or a single example with "others".
    """
    choose("baseline", baseline, BASELINES)

    def gradient(params: Params, batch_size: int, key: Key) -> tuple[Params, Correct]:
        _require(params)
        if baseline == "others" and batch_size < 2:
            raise ValueError('baseline "others" needs 2 examples in a batch')

        @_on_learned
        def draw(scale: AdaptiveBinaryDropout, per: str, key: Key) -> Posterior:
            if per == "batch":
                raise ValueError("score_function: examples must not share their masks")
            return Drawn(scale.sample(key, (batch_size,)))

        drawn = draw(params, key)
        log_p = log_probability(params, drawn)

        def correct(nll: Array) -> Array:
            gain = nll
            if baseline == "others":
                gain = nll - (jnp.sum(nll) - nll) / (batch_size - 1)
            return nll + lax.stop_gradient(gain) * (log_p - lax.stop_gradient(log_p))

        return drawn, correct

    return gradient


GRADIENTS: dict[str, Callable[..., Gradient]] = {
    "concrete": concrete,
    "score_function": score_function,
}


def log_probability(params: Params, drawn: Params) -> Array:
    """log p of each example's masks, [B].

    Args:
      params: as trained.
      drawn: the same tree with `Drawn` in the place of what was drawn.
    """
    total = jnp.zeros((), jnp.float32)
    leaves = (jax.tree.leaves(tree, is_leaf=is_posterior) for tree in (params, drawn))
    for node, values in zip(*leaves, strict=True):
        if scale := _learned(node):
            log_drop, log_keep = (x[None] for x in _log_probabilities(scale))
            kept = values.scale.values > 0
            total += jnp.sum(jnp.where(kept, log_keep, log_drop), -1)
    return total


def _require(params: Params) -> None:
    if not is_learned(params):
        raise ValueError("no layer has binary dropout of a learned rate")
