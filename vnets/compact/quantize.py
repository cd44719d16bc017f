"""Weights on a uniform grid for each layer, of as few bits as predictions allow."""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Mapping

import numpy as np

from vnets.compact.binary import shortened
from vnets.compact.graph import LARGEST, Graph, Weights, kernel_shapes
from vnets.compact.shrink import by_weights, shrink
from vnets.plan import Plan, Shape

MOST_BITS = 8  # of a weight, and of a deviation, which has no sign
BIAS_BITS = 16  # at most
MOST_LEVEL, MOST_BIAS = 2 ** (MOST_BITS - 1) - 1, 2 ** (BIAS_BITS - 1) - 1
MOST_DEVIATION = 2**MOST_BITS - 1
# The largest bias has so many times the levels of the largest weight at least, where
# the step of the weights, halved as often as a file can say, allows for it.
BIAS_FINER, MOST_HALVINGS = 8, 15
Scalar = str | int | float | bool


@dataclasses.dataclass(frozen=True, eq=False)
class Deviations:
    """Standard deviations of a layer's weights on their grid, step * level.

    Attributes:
      positions: of those that are not zero in the flattened kernel, whole [n], rising.
      levels: whole numbers [n], 1 to 255.
      step: of the grid, a float32.
    """

    positions: np.ndarray
    levels: np.ndarray
    step: np.float32


@dataclasses.dataclass(frozen=True, eq=False)
class Quantized:
    """One linear layer on its grid: weight = step * level, bias = bias_step * level.

    Attributes:
      positions: of the nonzero weights in the flattened kernel, whole [n], rising.
      levels: whole numbers [n], none of them zero.
      step: of the weights' grid, a float32.
      bias_levels: whole numbers [O].
      bias_step: of the biases' grid, a float32.
      deviations: of the weights' normal noise; None: there is none.
    """

    positions: np.ndarray
    levels: np.ndarray
    step: np.float32
    bias_levels: np.ndarray
    bias_step: np.float32
    deviations: Deviations | None = None

    def numbers(self) -> int:
        """How many a file has for it, positions not counted."""
        noise = 0 if self.deviations is None else self.deviations.positions.size
        return self.positions.size + noise + self.bias_levels.size


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
            layer = self.layers[name]
            left, noise = layer.levels.size, layer.deviations
            lines.append(f"  {name}: {list(shape)}, {left} of {math.prod(shape)} left")
            if noise is not None:
                lines[-1] += f", {noise.levels.size} noisy"
        return "\n".join([*lines, *(f"  {k}: {v}" for k, v in self.about.items())])

    def linear(self, name: str) -> Weights:
        """A layer by its nonzero weights."""
        held, noise = self.layers[name], self.layers[name].deviations
        return Weights(
            self._kernel_shapes[name],
            held.positions,
            held.step * held.levels.astype(np.float32),
            held.bias_step * held.bias_levels.astype(np.float32),
            noise and (noise.positions, noise.step * noise.levels.astype(np.float32)),
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
        layers = {name: self.linear(name) for name in self.layers}
        return Graph(
            self.plan,
            self.shape,
            {
                n: _dense(one.shape, one.positions, one.values)
                for n, one in layers.items()
            },
            {n: one.bias for n, one in layers.items()},
            deviations={
                n: _dense(one.shape, *one.deviations)
                for n, one in layers.items()
                if one.deviations is not None
            },
        )

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
    becomes zero. Deviations have a grid of 2^bits levels. The step of the biases is
    that of the weights, halved until they have enough levels.

    Args:
      graph: without normalization (`fold_norms`).
      bits: of each layer, or of all, 2 to 8.
      about: what the file shall say of the net.

    Raises:
      ValueError: bits that are not 2 to 8, or not of each layer.
    """
    if isinstance(bits, Mapping) and set(bits) != set(graph.kernels):
        raise ValueError(f"bits are of {sorted(graph.kernels)}, not {sorted(bits)}")
    widths, steps, kernels, noise_steps, deviations = {}, {}, {}, {}, {}
    for name, kernel in graph.kernels.items():
        width = bits[name] if isinstance(bits, Mapping) else operator.index(bits)
        if not 2 <= width <= MOST_BITS:
            raise ValueError(f"bits must be 2 to {MOST_BITS}, not {width}")
        widths[name] = width
        steps[name] = _step(kernel, 2 ** (width - 1) - 1)
        kernels[name] = _on_grid(kernel, steps[name])
        if name in graph.deviations:
            noise_steps[name] = _step(graph.deviations[name], 2**width - 1)
            deviations[name] = _on_grid(graph.deviations[name], noise_steps[name])
    graph = dataclasses.replace(graph, kernels=kernels, deviations=deviations)
    shrunk = by_weights(shrink(graph))
    layers = {}
    for name in shrunk.kernels:
        layer, noise = shrunk.linear(name), None
        bias_step = _bias_step(layer.bias, steps[name], widths[name])
        if layer.deviations is not None:
            positions, values = layer.deviations
            levels = _levels(values, noise_steps[name])
            noise = Deviations(positions, levels, noise_steps[name])
        layers[name] = Quantized(
            layer.positions,
            _levels(layer.values, steps[name]),
            steps[name],
            _levels(layer.bias, bias_step),
            bias_step,
            noise,
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


def _step(values: np.ndarray, levels: int) -> np.float32:
    """The step of a grid whose last level reaches the largest value; 1 for zeros."""
    largest = np.abs(values).max(initial=0.0)
    if not np.isfinite(largest):
        raise ValueError("weights and biases must be finite")
    step = np.float32(largest / levels)
    return shortened(step) if step > 0 else np.float32(1)


def _bias_step(bias: np.ndarray, step: np.float32, width: int) -> np.float32:
    """That of the weights, halved until the biases have enough levels."""
    if not bias.any():
        return step
    largest, levels = float(np.abs(bias).max()), BIAS_FINER * 2 ** (width - 1)
    for halvings in range(MOST_HALVINGS + 1):
        finer = step * np.float32(2.0**-halvings)
        if largest >= finer * levels:
            break
    return finer if largest <= finer * MOST_BIAS else _step(bias, MOST_BIAS)


def _on_grid(values: np.ndarray, step: np.float32) -> np.ndarray:
    return (step * np.rint(values / step)).astype(np.float32)


def _levels(values: np.ndarray, step: np.float32) -> np.ndarray:
    return np.rint(values / step).astype(np.int64)


def _dense(shape: Shape, positions: np.ndarray, values: np.ndarray) -> np.ndarray:
    found = np.zeros(shape, np.float32)
    found.ravel()[positions] = values
    return found
