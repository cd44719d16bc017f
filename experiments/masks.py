"""Rates of binary dropout, and how much the gradients of learned ones vary.

The rates of a net are learned by one of the gradients of `vnets.learned_dropout`; both
are then drawn at the end of training, at the same parameters, for the same batch: what
varies is the masks alone. Variances are totals over the trained log alphas, divided by
their number, of the gradient of the loss.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from experiments import spec as parts
from experiments.kinds import Kind
from vnets import backend, learned_dropout, tree
from vnets.evaluate import to_float
from vnets.loss import ModelState
from vnets.rng import stream
from vnets.types import Array, Key, Params

# What is compared at the end of training.
COMPARED = {
    "score": learned_dropout.score_function(),
    "score_plain": learned_dropout.score_function("none"),
    "concrete": learned_dropout.concrete(),
}


def rate_gradient(config, shapes) -> learned_dropout.Gradient | None:
    """How rates are learned, if the net has any that are (`config.rate_gradient`)."""
    spec = dict(config.get("rate_gradient", {}))
    if bool(spec) != learned_dropout.is_learned(shapes):
        raise parts.ConfigError(
            "config.rate_gradient is for layers of kind adaptive_binary_dropout in "
            "config.model.posteriors: give both or neither"
        )
    if not spec:
        return None
    kind = spec.pop("kind", "")
    make = parts.pick("rate_gradient.kind", kind, learned_dropout.GRADIENTS)
    return parts.call("rate_gradient", make, spec)


def rates(params: Params) -> dict[str, float]:
    """The mean rate of each layer with binary dropout, learned or fixed."""
    found = {}
    for place, node in tree.nodes(params):
        rate = getattr(getattr(node, "scale", None), "drop_rate", None)
        if rate is not None:
            found[place.name] = float(jnp.mean(rate))
    return found


def variances(
    net: Kind, params: Params, state: ModelState, key: Key, draws: int
) -> dict[str, float]:
    """Variance over the masks of each way's gradient of log alpha, and their ratios."""
    size = net.config.batch_size
    batch = {
        "input": to_float(jnp.asarray(net.dataset.train.inputs[:size])),
        "target": jnp.asarray(net.dataset.train.target[:size]),
    }
    found = {}
    for name, way in COMPARED.items():
        spread = _spread(net.loss(rate_gradient=way), draws)
        found[name] = float(spread(params, state, batch, stream(key, name)))
    found["score_of_concrete"] = found["score"] / found["concrete"]
    found["plain_of_score"] = found["score_plain"] / found["score"]
    return found


def _spread(loss: Callable, draws: int) -> Callable:
    """(params, state, batch, key) -> the mean variance of the gradient's log alphas."""

    def run(params, state, batch, key):
        def one(params, number):
            return loss(params, state, batch, stream(key, number))[0]

        def add(sums, number):
            grads = _log_alphas(jax.grad(one)(params, number))
            return (sums[0] + grads, sums[1] + jnp.square(grads)), None

        zero = jnp.zeros_like(_log_alphas(params))
        numbers = jnp.arange(draws, dtype=jnp.int32)
        (first, second), _ = jax.lax.scan(add, (zero, zero), numbers)
        return jnp.mean(second - jnp.square(first) / draws) / (draws - 1)

    return backend.jit(run)


def _log_alphas(params: Params) -> Array:
    """All log alphas that are trained, as one vector."""
    scales = (learned_dropout.learned_scale(node) for _, node in tree.nodes(params))
    return jnp.concatenate([scale.log_alpha for scale in scales if scale is not None])
