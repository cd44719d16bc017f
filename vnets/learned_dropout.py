"""Two gradients of a binary dropout's rate, `nodes.adaptive_binary_dropout`.

A mask is 0 or 1, so that a draw has no gradient with respect to the rate p. Two ways
around it, for the loss of `loss.forward`:

    score_function  E[loss d log p(mask)]: unbiased (Williams 1992)
    concrete        masks between 0 and 1 that depend smoothly on p while training
                    (Maddison et al. 2017; Jang et al. 2017): biased, by the temperature

The objective is that of Gal, Hron and Kendall 2017 (concrete dropout) with a flat prior
of the weights, their length scale 0: the expected negative log likelihood, and for each
unit the KL of its mask from a coin (`priors.bernoulli`), which for a fair one is
ln 2 - H(p). Their prior of the weights would add the squared weights of a unit, divided
by 1 - p.

In tests masks are binary, whichever gradient trained them.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp

from vnets import gradients, renamed, tree
from vnets.edits import Edit, edit
from vnets.nodes import AdaptiveBinaryDropout, Drawn, Posterior
from vnets.types import Array, Key, Params, choose

# nll [B] -> the same values, with the gradient of the probability of what was drawn.
Correct = Callable[[Array], Array]
# (params, batch size, key) -> what the net runs with, and how its loss is corrected.
Gradient = Callable[[Params, int, Key], tuple[Params, Correct | None]]


def is_learned(params: Params) -> bool:
    """True if a layer has binary dropout of a learned rate."""
    return any(learned_scale(node) for _, node in tree.nodes(params))


def learned_scale(node: Posterior) -> AdaptiveBinaryDropout | None:
    """The scale of a layer with a learned rate; None of any other."""
    scale: Any = node.learned_dropout
    return scale if scale is not None and scale.noise == "binary" else None


def _on_learned(change: Callable[[AdaptiveBinaryDropout, str, Key], Posterior]) -> Edit:
    """Lifts a change of scales of a learned rate, (scale, per, key), to a tree."""

    def apply(node, key: Key) -> Posterior:
        scale = learned_scale(node)
        return (
            node if scale is None else node.replace(scale=change(scale, node.per, key))
        )

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
    choose("baseline", baseline, gradients.BASELINES)

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
            return gradients.score(nll, log_p, baseline)

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
    pairs = zip(tree.nodes(params), tree.nodes(drawn), strict=True)
    for (_, node), (_, other) in pairs:
        if scale := learned_scale(node):
            masks: Any = getattr(other, "scale", None)
            log_drop, log_keep = (x[None] for x in scale.log_probabilities())
            kept = masks.values > 0
            total += jnp.sum(jnp.where(kept, log_keep, log_drop), -1)
    return total


def _require(params: Params) -> None:
    if not is_learned(params):
        raise ValueError("no layer has binary dropout of a learned rate")


__getattr__ = renamed.getter("vnets.learned_dropout")
