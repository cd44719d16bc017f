"""The likelihood of numbers, and a net whose noise has a deviation that is learned."""

import dataclasses
import math
import statistics
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from vnets.likelihoods.base import (
    Likelihood,
    Parts,
    Sums,
    counted,
    per_example,
    require_shape,
)
from vnets.types import Array

NORMAL_95 = 1.959964  # of a standard normal, 95 % lie within this of zero
LOG_2PI = math.log(2 * math.pi)


@dataclasses.dataclass(frozen=True)
class Gaussian(Likelihood):
    """Numbers of any shape, [B, ...], with normal noise around a net's outputs.

    Metrics: rmse of the mean prediction, nll (nats), coverage, the fraction of targets
    in the interval that holds `level` of the normal distribution with the prediction's
    mean and variance.

    Attributes:
      std: the noise's standard deviation where it is known, and outputs are means of
        the targets' shape. None where it is among the outputs: they are [B, ..., 2],
        mean and log standard deviation; the net's own of each input, or one number that
        it learns (`WithDeviation`).
      parts: see `Likelihood`.
      level: of the interval, between 0 and 1.

    Raises:
      ValueError: a std that is not above 0, or another level.
    """

    std: float | None = None
    parts: Parts = "sum"
    level: float = 0.95

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.level < 1:
            raise ValueError(f"level is between 0 and 1, not {self.level}")
        if self.std is not None and not self.std > 0:
            raise ValueError(f"std is a number above 0, not {self.std}")

    def moments(self, outputs: Array) -> tuple[Array, Array | float]:
        """The mean and the log standard deviation of a target."""
        if self.std is not None:
            return outputs, math.log(self.std)
        if jnp.shape(outputs)[-1:] != (2,):
            raise ValueError(
                "without a std outputs are mean and log standard deviation, "
                f"[B, ..., 2], not {jnp.shape(outputs)}"
            )
        return outputs[..., 0], outputs[..., 1]

    def mean(self, outputs: Array) -> Array:
        return self.moments(outputs)[0]

    def log_p(self, outputs: Array, target: Array) -> Array:
        mean, log_std = self.moments(outputs)
        require_shape("mean", mean, jnp.shape(target))
        if self.std is None:
            residual = (target - mean) * jnp.exp(-log_std)
        else:
            residual = (target - mean) / self.std
        return -(0.5 * jnp.square(residual) + log_std + 0.5 * LOG_2PI)

    def shown(self, outputs: Array, target: Array, mask: Array | None = None) -> dict:
        squares = jnp.square(self.mean(outputs) - counted(target, mask))
        return {"rmse": jnp.sqrt(jnp.mean(per_example(squares, mask)))}

    def draw(self, outputs: Array, target: Array) -> tuple[dict, dict]:
        mean, log_std = self.moments(outputs)
        error = mean - target  # not the mean itself: its square would lose digits
        square = jnp.square(error) + jnp.exp(2 * log_std)
        values = {"error": error, "square": square}
        return {"log_p": self.log_p(outputs, target)}, values

    def sums(self, logs: dict, values: dict, target: Array, weights: Array) -> Sums:
        del target
        error = values["error"]
        var = values["square"] - jnp.square(error)
        half = statistics.NormalDist().inv_cdf((1 + self.level) / 2)
        covered = jnp.abs(error) <= half * jnp.sqrt(var)
        return self.total(
            -logs["log_p"],
            weights,
            _regression,
            squares=jnp.sum(jnp.square(error) * weights),
            covered=jnp.sum(covered * weights),
        )


@dataclasses.dataclass(frozen=True)
class Grey(Gaussian):
    """Grey values of pixels, between 0 and 1, [B, D], with normal noise of their own.

    Outputs are [B, 2 D]: the logits of all means, then the log standard deviations. So
    Kingma and Welling 2014 decode faces. What it gives are densities, whose logarithm
    may be above 0.

    Attributes:
      least: no standard deviation is below it, > 0; by default a step of 8 bits.

    Raises:
      ValueError: a std, which is among the outputs, or least that is not above 0.
    """

    least: float = 1 / 255
    outputs: ClassVar[int] = 2  # of a net, for each pixel

    def __post_init__(self):
        super().__post_init__()
        if self.std is not None or not self.least > 0:
            raise ValueError(
                "the std of grey values is among the outputs, and least is above 0: "
                f"not {self.std} and {self.least}"
            )

    def moments(self, outputs: Array) -> tuple[Array, Array]:
        """The mean and the log standard deviation of a pixel, [B, D] each."""
        logits, log_std = jnp.split(outputs, 2, axis=-1)
        return jax.nn.sigmoid(logits), jnp.maximum(log_std, math.log(self.least))


@dataclasses.dataclass(frozen=True)
class WithDeviation:
    """A net whose outputs have, beside them, a log standard deviation that is learned.

    It is one number for all targets, the parameter "log_std", and makes outputs
    [B, ..., 2] of the net's own [B, ...], as `Gaussian()` takes them.

    Attributes:
      model: has `init` and `apply` as what `layers.stochastic` makes.
      start: the standard deviation before training, > 0.
    """

    model: Any
    start: float = 1.0

    def init(self, rngs, x: Any, **kwargs) -> dict:
        """The net's `init`, with the parameter."""
        variables = dict(self.model.init(rngs, x, **kwargs))
        log_std = jnp.asarray(math.log(self.start), jnp.float32)
        return variables | {"params": {**variables["params"], "log_std": log_std}}

    def apply(self, variables, x: Any, **kwargs) -> Any:
        """The net's `apply`, with the deviation beside its outputs."""
        params = dict(variables["params"])
        log_std = params.pop("log_std")
        found = self.model.apply({**variables, "params": params}, x, **kwargs)
        mean, *rest = found if isinstance(found, tuple) else (found,)
        both = jnp.stack([mean, jnp.broadcast_to(log_std, mean.shape)], -1)
        return (both, *rest) if rest else both


def _regression(totals: dict) -> dict:
    count = float(totals["count"])
    return {
        "rmse": math.sqrt(float(totals["squares"]) / count),
        "nll": float(totals["nll"]) / float(totals["of_nll"]),
        "coverage": float(totals["covered"]) / count,
    }
