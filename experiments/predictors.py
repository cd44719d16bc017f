"""Trained nets as one predictor: members x noise draws, stacked along one axis.

What attacks and uncertainty measures see of a net, a stochastic net or an ensemble.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp

from experiments.core import Net
from vnets import edits, evaluate
from vnets.layers import TEST, Mode
from vnets.rng import stream
from vnets.types import Array, Key

# (x [B, H, W, C] in [0, 1], key) -> log probabilities [S, B, K].
LogP = Callable[[Array, Key], Array]


def log_p_function(
    nets: Sequence[Net],
    samples: int,
    edit: edits.Edit | None = None,
    mode: Mode = TEST,
) -> LogP:
    """The log probabilities of nets as a pure function, to be traced by the caller.

    Args:
      nets: the members of an ensemble; one for a single net.
      samples: noise draws of each member; a net without noise repeats itself.
      edit: applied to each member's parameters at every call; None leaves them.
      mode: estimator, and the statistics of batch normalization.

    Returns:
      f(x [B, H, W, C] float32 in [0, 1], key) -> [S, B, K] with S = members * samples,
      the draws of the first member first. Members draw independently.

    Raises:
      ValueError: no net, or fewer than one sample.
    """
    nets = tuple(nets)
    if not nets:
        raise ValueError("a predictor needs at least one net")
    if samples < 1:
        raise ValueError(f"samples must be at least 1, not {samples}")

    def log_p(x: Array, key: Key) -> Array:
        parts = []
        for member, net in enumerate(nets):
            own = stream(key, "member", member)
            params = net.params
            if edit is not None:
                params = edit(params, stream(own, "edit"))
            variables = {"params": params, **net.collections}
            parts.append(
                evaluate.sample_predictions(net.model, variables, x, samples, mode, own)
            )
        return jnp.concatenate(parts)

    return log_p
