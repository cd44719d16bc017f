"""What batch normalization has seen, as a noise: the statistics of random batches.

    several = statistics.of_batches(model, variables, x, key, batch_size=50, draws=20)
    Predictor(Stack(model, several))

A net that was trained on statistics of small batches was trained with noise; drawn
again in a test, and averaged over, it is a noise like that of weights.

Source: Teye, Azizpour and Smith 2018.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax, random

from vnets.layers import TRAIN, Mode, checked
from vnets.rng import stream
from vnets.targets import rows
from vnets.types import Array, Key

SEEN = "batch_stats"  # the collection


def of_batches(
    model,
    variables: dict,
    inputs: Any,
    key: Key,
    *,
    batch_size: int,
    draws: int,
    mode: Mode = TRAIN,
) -> dict:
    """The variables of a net with the statistics of random batches in place of its own.

    Each is a batch without repetition, seen as in training: with the net's own noise.

    Args:
      model: as a `predictor.Stack` takes it.
      variables: with what batch normalization has seen, "batch_stats".
      inputs: of the training set, as the net takes them, an array [N, ...] or a tree.
      key: of the batches, and of the noise in each.
      batch_size: B, that of training.
      draws: S.
      mode: estimator and precision; its statistics are those of the batch.

    Returns:
      All variables with a first axis of S: those of a `predictor.Stack`.

    Raises:
      ValueError: a net without batch normalization, no draws, or a batch of no size or
        of more than there are.
    """
    model, n = checked(model), rows(inputs)
    if SEEN not in variables:
        raise ValueError(
            f"the net has no batch normalization: {sorted(variables)} are its variables"
        )
    if draws < 1 or not 1 <= batch_size <= n:
        raise ValueError(
            f"draws must be at least 1 and a batch from 1 to {n}, not {draws} and "
            f"{batch_size}"
        )
    mode = dataclasses.replace(mode, norm="batch")

    def after(start: Any, x, key: Key) -> Any:
        """The running statistics after one batch, from where they began."""
        given = {**variables, SEEN: start}
        noise = {"noise": key}
        _, new = model.apply(given, x, mode=mode, rngs=noise, mutable=[SEEN])
        return new[SEEN]

    def of_batch(number):
        own = stream(key, "batch", number)
        chosen = random.choice(own, n, (batch_size,), replace=False)
        x = jax.tree.map(lambda a: jnp.asarray(a)[chosen], inputs)
        # They move from s to m s + (1 - m) b: from 0 to first, and from there to
        # (1 + m) first, whatever m is and of whatever size b.
        noise = stream(own, "noise")
        first = after(jax.tree.map(jnp.zeros_like, variables[SEEN]), x, noise)
        second = after(first, x, noise)
        return jax.tree.map(_settled, first, second)

    seen = lax.map(of_batch, jnp.arange(draws, dtype=jnp.int32))
    rest = {name: one for name, one in variables.items() if name != SEEN}
    rest = jax.tree.map(lambda a: jnp.broadcast_to(a, (draws, *jnp.shape(a))), rest)
    return {**rest, SEEN: seen}


def _settled(first: Array, second: Array) -> Array:
    """b, of (1 - m) b and (1 + m) (1 - m) b."""
    moved = jnp.where(first == 0, 1, first)
    return first / (2 - jnp.where(first == 0, 1, second / moved))
