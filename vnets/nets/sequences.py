"""How a net runs the steps of `vnets.plan.sequences`."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from vnets.layers import GRU, LSTM, Dense, Embed, Mode
from vnets.nodes import point
from vnets.plan import CustomStep, Plan
from vnets.plan import sequences as steps
from vnets.types import Array


def positions(plan: Plan, x: Array) -> Array | None:
    """Which tokens count, [B, T] bool; None for a net that reads no tokens."""
    step = steps.embedding(plan)
    if step is None:
        return None
    return jnp.full(x.shape, True) if step.padding is None else x != step.padding


def run(net, step: CustomStep, x: Array, mask: Array | None, mode: Mode) -> Array:
    """One step, its modules named within the net that calls this.

    Args:
      net: a `Net`, whose posteriors are those of the step's layers.
      step: of a plan.
      x: tokens [B, T], states [B, T, I].
      mask: of `positions`.
      mode: how the net is run.

    Raises:
      ValueError: a step of a net that reads no tokens.
    """
    if mask is None:
        raise ValueError(f"{step} needs an Embedding at the start of its plan")
    name = getattr(step, "name", "")
    factory = net.posteriors.get(name)
    own: dict[str, Any] = {"name": name}
    own |= {} if factory is None else {"posterior": factory}
    match step:
        case steps.Embedding():
            return Embed(step.vocabulary, step.features, **own)(x, mode)
        case steps.Positions():
            places = jnp.arange(x.shape[1], dtype=jnp.int32)[None]
            rows = Embed(x.shape[1], x.shape[2], **own)(places, mode)
            return x + rows.astype(x.dtype)
        case steps.LSTM():
            return LSTM(step.features, **own)(x, mask, mode)
        case steps.GRU():
            return GRU(step.features, **own)(x, mask, mode)
        case steps.Attention():
            return _attention(net, step, x, mask, mode)
        case steps.MeanPositions():
            return mean(x, mask)
        case steps.Last():
            return x[:, -1]
    raise ValueError(f"{step} cannot be run")


def mean(x: Array, mask: Array) -> Array:
    """The mean over positions, [B, T, I] -> [B, I]; over all where none counts."""
    counts = (mask | ~mask.any(1, keepdims=True))[..., None]
    return jnp.sum(jnp.where(counts, x, 0), 1) / jnp.sum(counts, 1).astype(x.dtype)


def _attention(net, step: steps.Attention, x: Array, mask: Array, mode: Mode) -> Array:
    def layer(one, x):
        factory = net.posteriors.get(one.name, point())
        return Dense(one.features, factory, name=one.name)(x, mode)

    *ins, out = step.layers
    queries, keys, values = (layer(one, x) for one in ins)
    heads = (
        jnp.split(units, _ends(widths), -1)
        for units, widths in (
            (queries, step.keys),
            (keys, step.keys),
            (values, step.values),
        )
    )
    mixed = []
    for q, k, v in zip(*heads, strict=True):
        scores = jnp.einsum("bqu,bku->bqk", q, k).astype(jnp.float32)
        scores = scores / math.sqrt(step.width)
        lowest = jnp.finfo(jnp.float32).min
        likely = jax.nn.softmax(jnp.where(mask[:, None], scores, lowest))
        mixed.append(jnp.einsum("bqk,bku->bqu", likely.astype(v.dtype), v))
    return layer(out, jnp.concatenate(mixed, -1))


def _ends(units: tuple[int, ...]) -> list[int]:
    """Where each head but the last ends."""
    return [sum(units[:n]) for n in range(1, len(units))]
