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
    """Says how a model is called: what its own flags are in a mode.

        model = layers.call(Net(), train=layers.training)
        model = layers.stochastic(model, {"logits": nodes.gaussian()})

    Args:
      model: a module of `flax.linen`, or one that `stochastic` made.
      rngs: random streams that the model draws from, training or not, besides
        "dropout" (which has keys in training, and with `Mode(dropout=True)`).
      unpack: the inputs of a batch (its "input") are a tuple or a dict of arrays, and
        each is an argument of the call by its place or its name.
      **arguments: of the model's call, or attributes of it: a constant, or a function
        mode -> value such as `training` (for `train`, `is_training`, `update_stats`)
        and `deterministic` (for `deterministic`, `use_running_average`). Functions of a
        module rather than lambdas, each of which is compiled anew.

    Returns:
      As `stochastic`; no layer is stochastic unless `stochastic` made it so.

    Raises:
      ValueError: what is no module of `flax.linen`, or arguments that it does not have.
    """
    if isinstance(rngs, str):
        raise ValueError(f"rngs is a list of streams, such as [{rngs!r}]")
    made = Stochastic.of(model)
    how = Call(FrozenDict(arguments), tuple(rngs), unpack)
    how.check(made.model)
    return dataclasses.replace(made, how=how)
