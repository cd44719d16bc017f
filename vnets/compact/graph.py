"""A trained net as NumPy arrays, dense: what is folded, shrunk and quantized."""

import collections
import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from vnets.plan import (
    Conv,
    Dense,
    Depthwise,
    Flatten,
    Kernel,
    LayerNorm,
    Linear,
    Norm,
    Plan,
    Shape,
    Step,
    Weighted,
    every,
    placed,
    replaced,
    shapes,
)
from vnets.plan.sequences import Embedding, Positions, embedding

LARGEST = 2**28  # weights of one layer, and units of one map of one example


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """Batch normalization with running statistics, y = slope x + shift, each [C]."""

    slope: np.ndarray
    shift: np.ndarray

    @classmethod
    def of(cls, mean, var, scale, bias, epsilon: float) -> "Statistics":
        """Those of what a normalization has seen and learned, [C] each."""
        slope = scale / np.sqrt(var + epsilon)
        return cls(slope, bias - mean * slope)


@dataclasses.dataclass(frozen=True, eq=False)
class Weights:
    """One layer by its nonzero weights.

    Attributes:
      shape: of the kernel, as in `Graph`.
      positions: of the nonzero weights in the flattened kernel, int64 [n], rising.
      values: float32 [n].
      bias: float32 [O].
      deviations: positions and values of the weights' deviations that are not zero;
        None: it has no noise.
    """

    shape: Shape
    positions: np.ndarray
    values: np.ndarray
    bias: np.ndarray
    deviations: tuple[np.ndarray, np.ndarray] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """A plan with dense arrays.

    Attributes:
      plan: the steps.
      shape: of one example, [H, W, C] or [I], of tokens [T].
      kernels: layer to [I, O] or [kh, kw, I, O], of a depthwise convolution to
        [kh, kw, 1, C], of a layer normalization to its scale, [1, C], or as a
        `Weighted` step says; float32.
      biases: layer to [O], float32; zero where a layer has none.
      norms: batch normalization to its slope and shift, and recurrent layer to the
        scale of its units, of no shift.
      deviations: noisy layer to the standard deviation of each weight, as its kernel;
        the noise is normal.
    """

    plan: Plan
    shape: Shape
    kernels: Mapping[str, np.ndarray]
    biases: Mapping[str, np.ndarray]
    norms: Mapping[str, Statistics] = dataclasses.field(default_factory=dict)
    deviations: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def linear(self, name: str) -> Weights:
        """A layer by its nonzero weights."""
        kernel, noise = self.kernels[name], self.deviations.get(name)
        return Weights(
            kernel.shape,
            *_nonzero(kernel),
            self.biases[name],
            None if noise is None else _nonzero(noise),
        )

    def nonzeros(self) -> dict[str, int]:
        """The number of nonzero weights of each layer."""
        return {name: int(np.count_nonzero(k)) for name, k in self.kernels.items()}

    def with_own_widths(self) -> "Graph":
        """The graph whose plan has as many units as the arrays."""

        def resized(step: Step) -> Step:
            if isinstance(step, Conv | Dense):
                units = self.biases[step.name].size
                return dataclasses.replace(step, features=units)
            if isinstance(step, Weighted):
                return step.with_outputs(self.biases[step.name].size)
            return step

        return dataclasses.replace(self, plan=replaced(self.plan, resized))

    def to_flax(self):
        """The dense net in Flax: `(model, variables)`, the same function.

        `model.apply(variables, x)` takes what a predictor takes, as floats or tokens.

        Raises:
          ValueError: a normalization; `fold_norms` comes first.
        """
        import jax.numpy as jnp

        from vnets.nets.chain import Chain
        from vnets.nodes import Additive, Point, ZeroMean

        def node(name: str):
            kernel = jnp.asarray(self.kernels[name])
            if name not in self.deviations:
                return Point(kernel)
            deviations = jnp.asarray(self.deviations[name])
            if not self.kernels[name].any():
                return ZeroMean(deviations)
            return Additive(kernel, 2 * jnp.log(deviations))  # log 0: no noise

        if self.norms:
            raise ValueError("fold the normalization first")
        params = {
            name: {"kernel": node(name), "bias": jnp.asarray(bias)}
            for name, bias in self.biases.items()
        }
        for step in every(self.plan):
            if isinstance(step, LayerNorm):
                scale = jnp.asarray(self.kernels[step.name].ravel())
                params[step.name] = {"scale": scale, "bias": params[step.name]["bias"]}
            elif isinstance(step, Embedding | Positions):  # whose rows have the bias
                rows = self.kernels[step.name] + self.biases[step.name]
                params[step.name] = {"kernel": Point(jnp.asarray(rows))}
        return Chain(steps=replaced(self.plan, biased)), {"params": params}


def _nonzero(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions in the flattened kernel, and values."""
    flat = kernel.ravel()
    positions = np.flatnonzero(flat)
    return positions, flat[positions]


def biased(step: Step) -> Step:
    """The step with a bias, if it is linear."""
    linear = isinstance(step, Linear)
    return dataclasses.replace(step, bias=True) if linear else step


def kernel_shapes(plan: Plan, shape: Shape) -> dict[str, Shape]:
    """The kernel's shape of each layer that a file has numbers of.

    Raises:
      ValueError: a plan with two steps of a name, that does not end in a vector or fit
        the shape, or whose arrays would be too large; or a shape of other axes.
    """
    if len(shape) not in (1, 3):
        raise ValueError(f"an example is [I] or [H, W, C], not {list(shape)}")
    states = embedding(plan) is not None
    names = collections.Counter(
        step.name for step in every(plan) if isinstance(step, Kernel | LayerNorm | Norm)
    )
    repeated = sorted(name for name, times in names.items() if times > 1)
    if repeated:
        raise ValueError(f"several steps have the names {repeated}")
    found = {}
    for step, before, after in placed(plan, shape):
        if isinstance(step, Dense):
            if len(before) != 1 and not (states and len(before) == 2):
                raise ValueError(f"layer {step.name!r} must come after Flatten")
            found[step.name] = (before[-1], step.features)
        elif isinstance(step, Conv):
            found[step.name] = (*step.kernel, before[-1], step.features)
        elif isinstance(step, Depthwise):
            found[step.name] = (*step.kernel, 1, before[-1])
        elif isinstance(step, LayerNorm):
            found[step.name] = (1, before[-1])
        elif isinstance(step, Weighted):
            found[step.name] = step.kernel(before)
        sizes = [before, after]
        if isinstance(step, Kernel):
            sizes.append(found[step.name])
        if max(map(math.prod, sizes)) > LARGEST:
            raise ValueError(f"{step} makes arrays of more than {LARGEST} numbers")
    if not found or len(shapes(plan, shape)[-1]) != 1:
        raise ValueError("a net needs a linear layer, and ends with a vector of units")
    return found


def without_flatten(plan: Plan) -> Plan:
    """The steps that compute; Flatten only renames units."""
    return tuple(step for step in plan if not isinstance(step, Flatten))
