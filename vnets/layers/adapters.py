"""`call` tells a Flax model what its own flags, inputs and random streams are."""

import dataclasses
from collections.abc import Sequence

from flax import linen as nn
from flax.core import FrozenDict

from vnets.layers.calls import Call
from vnets.layers.flax_models import Stochastic


def call(
    model: nn.Module | Stochastic,
    *,
    rngs: Sequence[str] = (),
    unpack: bool = False,
    **arguments,
) -> Stochastic:
    """Says what the flags of a model are, in training and in tests.

        model = layers.call(Net(), train=layers.training)
        model = layers.stochastic(model, {"logits": nodes.gaussian()})

    Args:
      model: a module of `flax.linen`, or one that `stochastic` made.
      rngs: random streams that the model draws from, besides "dropout". (Dropout has
        keys in training, and with `Mode(dropout=True)`.)
      unpack: True if the "input" of a batch is a tuple or a dict of arrays, each an
        argument of the call by its place or its name.
      **arguments: arguments of the model's call, or attributes of it. Each is a
        constant, or a function mode -> value such as `training` (for `train`,
        `is_training`, `update_stats`) and `deterministic` (for `deterministic`,
        `use_running_average`). Take a function of a module and not a lambda: each
        lambda is compiled anew.

    Returns:
      The model as `stochastic` returns it, without new noise.

    Raises:
      ValueError: the model is no module of `flax.linen`, or lacks an argument.
    """
    if isinstance(rngs, str):
        raise ValueError(f"rngs is a list of streams, such as [{rngs!r}]")
    made = Stochastic.of(model)
    how = Call(FrozenDict(arguments), tuple(rngs), unpack)
    how.check(made.model)
    return dataclasses.replace(made, how=how)
