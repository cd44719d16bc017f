"""Weights on a uniform grid for each layer, of as few bits as predictions allow."""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Mapping

import numpy as np

from vnets.compact.graph import LARGEST, Graph, Linear, kernel_shapes
from vnets.compact.shrink import shrink
from vnets.plan import Plan, Shape

MOST_BITS = 8  # of a weight
BIAS_BITS = 16
Scalar = str | int | float | bool


@dataclasses.dataclass(frozen=True, eq=False)
class Quantized:
    """One linear layer on its grid: weight = step * level, bias = bias_step * level.

    Attributes:
      positions: of the nonzero weights in the flattened kernel, whole [n], rising.
      levels: whole numbers [n], none of them zero.
      step: of the weights' grid, a float32.
      bias_levels: whole numbers [O].
      bias_step: of the biases' grid, a float32.
    """

    positions: np.ndarray
    levels: np.ndarray
    step: np.float32
    bias_levels: np.ndarray
    bias_step: np.float32


@dataclasses.dataclass(frozen=True, eq=False)
class Compact:
    """A net as its file holds it.

    Attributes:
      plan: the steps; every linear layer has a bias, nothing is normalized.
      shape: of one example.
      layers: the linear layers by name.
      about: what else the file says of the net.
    """

    plan: Plan
    shape: Shape
    layers: Mapping[str, Quantized]
    about: Mapping[str, Scalar] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        """What one wants to know of a file at sight; the numbers are in `layers`."""
        lines = [f"Compact net of inputs [B, {', '.join(map(str, self.shape))}]"]
        for name, shape in kernel_shapes(self.plan, self.shape).items():
            left = self.layers[name].levels.size
            lines.append(f"  {name}: {list(shape)}, {left} of {math.prod(shape)} left")
        return "\n".join([*lines, *(f"  {k}: {v}" for k, v in self.about.items())])

    def linear(self, name: str) -> Linear:
        """A layer by its nonzero weights."""
        held = self.layers[name]
        return Linear(
            self._kernel_shapes[name],
            held.positions,
            held.step * held.levels.astype(np.float32),
            held.bias_step * held.bias_levels.astype(np.float32),
        )

    @functools.cached_property
    def _kernel_shapes(self) -> Mapping[str, Shape]:
        """Found once: a deep net's take as long as its layers."""
        return kernel_shapes(self.plan, self.shape)

    def nonzeros(self) -> dict[str, int]:
        """The number of nonzero weights of each layer."""
        return {name: layer.levels.size for name, layer in self.layers.items()}

    def graph(self) -> Graph:
        """The same net with dense arrays.

        Raises:
          ValueError: its kernels have more weights together than one layer may have: a
            small file can speak of many.
        """
        weights = sum(map(math.prod, self._kernel_shapes.values()))
        if weights > LARGEST:
            raise ValueError(
                f"dense, the net has {weights} weights, more than {LARGEST}; "
                "a Predictor takes those that are not zero"
            )
        kernels, biases = {}, {}
        for name in self.layers:
            layer = self.linear(name)
            kernel = np.zeros(layer.shape, np.float32)
            kernel.ravel()[layer.positions] = layer.values
            kernels[name], biases[name] = kernel, layer.bias
        return Graph(self.plan, self.shape, kernels, biases)

    def to_flax(self):
        """The dense net in Flax; see `Graph.to_flax`."""
        return self.graph().to_flax()


def quantize(
    graph: Graph,
    bits: int | Mapping[str, int],
    about: Mapping[str, Scalar] | None = None,
) -> Compact:
    """Puts the weights on grids of 2^bits - 1 levels and cuts out what that killed.

    The grid spans the layer's largest weight; a weight within half a step of zero
    becomes zero. Biases get 16 bits.

    Args:
      graph: without normalization (`fold_norms`).
      bits: of each layer, or of all, 2 to 8.
      about: what the file shall say of the net.

    Raises:
      ValueError: bits that are not 2 to 8, or not of each layer.
    """
    if isinstance(bits, Mapping) and set(bits) != set(graph.kernels):
        raise ValueError(f"bits are of {sorted(graph.kernels)}, not {sorted(bits)}")
    steps, kernels = {}, {}
    for name, kernel in graph.kernels.items():
        width = bits[name] if isinstance(bits, Mapping) else operator.index(bits)
        if not 2 <= width <= MOST_BITS:
            raise ValueError(f"bits must be 2 to {MOST_BITS}, not {width}")
        steps[name] = _step(kernel, width)
        levels = np.rint(kernel / steps[name])
        kernels[name] = (steps[name] * levels).astype(np.float32)
    shrunk = shrink(dataclasses.replace(graph, kernels=kernels))
    layers = {}
    for name in shrunk.kernels:
        layer = shrunk.linear(name)
        bias_step = _step(layer.bias, BIAS_BITS)
        layers[name] = Quantized(
            layer.positions,
            np.rint(layer.values / steps[name]).astype(np.int64),
            steps[name],
            np.rint(layer.bias / bias_step).astype(np.int64),
            bias_step,
        )
    return Compact(shrunk.plan, shrunk.shape, layers, dict(about or {}))


def fewest_bits(
    graph: Graph, changed: Callable[[Compact], float], tolerance: float
) -> dict[str, int]:
    """The bits of each layer, lowered in turn from 8, the layer of most weights first.

    Args:
      graph: shrunk.
      changed: the share of predictions that a quantized net changes, on examples that
        are not the test set's.
      tolerance: the most of it, all layers together. Where 8 bits exceed it already
        they are kept.
    """
    bits = dict.fromkeys(graph.kernels, MOST_BITS)
    nonzeros = graph.nonzeros()
    for name in sorted(bits, key=lambda name: -nonzeros[name]):
        while bits[name] > 2:
            fewer = bits | {name: bits[name] - 1}
            if changed(quantize(graph, fewer)) > tolerance:
                break
            bits = fewer
    return bits


def _step(values: np.ndarray, bits: int) -> np.float32:
    """The grid's step, so that the largest value is its last level; 1 for zeros."""
    largest = np.abs(values).max(initial=0.0)
    if not np.isfinite(largest):
        raise ValueError("weights and biases must be finite")
    step = np.float32(largest / (2 ** (bits - 1) - 1))
    return step if step > 0 else np.float32(1)
