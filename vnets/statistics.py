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
from vnets.types import Key

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

    def after(start: float, x, key: Key) -> Any:
        """The running statistics after one batch, which began as a number."""
        held = jax.tree.map(lambda a: jnp.full_like(a, start), variables[SEEN])
        given = {**variables, SEEN: held}
        noise = {"noise": key}
        _, new = model.apply(given, x, mode=mode, rngs=noise, mutable=[SEEN])
        return new[SEEN]

    def of_batch(number):
        own = stream(key, "batch", number)
        chosen = random.choice(own, n, (batch_size,), replace=False)
        x = jax.tree.map(lambda a: jnp.asarray(a)[chosen], inputs)
        # They move from s to m s + (1 - m) b: from 0 and from 1, whatever m is.
        low, high = (after(start, x, stream(own, "noise")) for start in (0.0, 1.0))
        return jax.tree.map(lambda a, b: a / (1 - (b - a)), low, high)

    seen = lax.map(of_batch, jnp.arange(draws, dtype=jnp.int32))
    rest = {name: one for name, one in variables.items() if name != SEEN}
    rest = jax.tree.map(lambda a: jnp.broadcast_to(a, (draws, *jnp.shape(a))), rest)
    return {**rest, SEEN: seen}
