"""`Mode`: how a net is run.

It holds switches that one `train` flag would tie together: how weights are sampled,
and which statistics batch normalization uses. It is hashable and static.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax

from vnets import estimators
from vnets.types import choose

PRECISIONS = ("float32", "bfloat16")


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Mode:
    """How a net is run.

    Attributes:
      estimator: a module-level function of `vnets.estimators`.
      norm: statistics of the "batch" (updating the running ones, if they are mutable)
        or the "running" ones.
      precision: of the activations and of the factors of products: "float32" or
        "bfloat16". Parameters, sums, statistics and logits are float32 always.
      remat: of each layer keep its input alone for the gradient, and compute patches,
        variances and draws again: less memory, more time, the same numbers.
      dropout: `nn.Dropout` of a Flax model's own, and that of its attention, on or off
        whatever its flags say; None leaves it to them. On in a test it is a noise to
        average over, as that of weights (MC dropout).
    """

    estimator: Callable = estimators.lrt
    norm: Literal["batch", "running"] = "running"
    precision: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False
    dropout: bool | None = None

    def __post_init__(self):
        choose("norm", self.norm, ("batch", "running"))
        choose("precision", self.precision, PRECISIONS)
        choose("remat", self.remat, (False, True))
        if self.dropout is not None:
            choose("dropout", self.dropout, (False, True))
        if not callable(self.estimator):
            raise TypeError(
                f"estimator must be a function of vnets.estimators, such as "
                f"{sorted(estimators.ESTIMATORS)}, not {self.estimator!r}"
            )


TRAIN = Mode(norm="batch")
TEST = Mode()
