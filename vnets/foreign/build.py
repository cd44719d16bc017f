"""A plan and its arrays, one step after another, from weights in PyTorch's layout."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from vnets.compact.graph import Graph, Statistics, kernel_shapes
from vnets.plan import (
    POOL,
    Activation,
    Conv,
    Dense,
    Depthwise,
    Flatten,
    LayerNorm,
    MaxPool,
    MeanPool,
    Norm,
    Padding,
    Shape,
    Step,
    WindowMaxPool,
    WindowMeanPool,
    pads,
    shape_after,
)

Pairs = tuple[tuple[int, int], ...]
Ending = Literal["", "softmax", "log_softmax"]


@dataclasses.dataclass(frozen=True, eq=False)
class Foreign:
    """A net from elsewhere.

    Attributes:
      graph: its steps and arrays, still normalized.
      ending: what it does to its logits, which the graph leaves out.
    """

    graph: Graph
    ending: Ending = ""


def channels_last(x: np.ndarray) -> np.ndarray:
    """Inputs of PyTorch, [B, C, H, W] or [B, I], as ours, [B, H, W, C] or [B, I].

    Raises:
      ValueError: others, or what are no floats.
    """
    x = np.asarray(x)
    if x.ndim not in (2, 4) or not np.issubdtype(x.dtype, np.floating):
        raise ValueError(
            f"inputs are floats [B, C, H, W] or [B, I], as the net takes them, not "
            f"{x.dtype} {list(x.shape)}"
        )
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


class Builder:
    """Collects a chain; each method adds a step.

    Units of maps that were flattened are C H W in PyTorch and H W C here: what learns
    something of each unit is put into our order.

    Args:
      shape: of one example, [H, W, C] or [I].

    Raises:
      ValueError: from every method, where the step does not fit what is before it.
    """

    def __init__(self, shape: Shape):
        self.shape: Shape = tuple(shape)
        self._first = self.shape
        self._steps: list[Step] = []
        self._kernels: dict[str, np.ndarray] = {}
        self._biases: dict[str, np.ndarray] = {}
        self._norms: dict[str, Statistics] = {}
        self._order: np.ndarray | slice = slice(None)  # of units that were flattened

    def graph(self) -> Graph:
        """All steps.

        Raises:
          ValueError: they do not end with units in an order that both have.
        """
        if not isinstance(self._order, slice):
            raise ValueError("it ends with flattened maps, whose order is not ours")
        plan = tuple(self._steps)
        kernel_shapes(plan, self._first)
        return Graph(plan, self._first, self._kernels, self._biases, self._norms)

    def add(self, step: Step) -> None:
        """A step that has no arrays."""
        self.shape = shape_after(step, self.shape)
        self._steps.append(step)

    def convolution(
        self, name: str, weight, bias, strides, margins: Pairs, groups: int
    ) -> None:
        """[O, I / groups, kh, kw]; of one group, or of as many as channels."""
        outputs, inputs, *kernel = weight.shape
        channels = self._channels(name)
        around = self._padding(kernel, strides, margins)
        options: dict[str, Any] = {"strides": tuple(strides), "padding": around}
        options["kernel"] = tuple(kernel)
        if groups == 1 and inputs == channels:
            self.add(Conv(name, outputs, **options))
        elif groups == outputs == channels and inputs == 1:
            self.add(Depthwise(name, **options))
        else:
            raise ValueError(
                f"{name}: a kernel {list(weight.shape)} of {groups} groups on "
                f"{channels} channels; there is one group here, or one a channel"
            )
        self._hold(name, weight.transpose(2, 3, 1, 0), bias)

    def dense(self, name: str, weight, bias) -> None:
        """[O, I]."""
        if len(self.shape) != 1:
            raise ValueError(
                f"{name}: a dense layer of maps {list(self.shape)}; flatten"
            )
        if weight.shape[1] != self.shape[0]:
            raise ValueError(
                f"{name}: a weight {list(weight.shape)} on {self.shape[0]} units"
            )
        self.add(Dense(name, weight.shape[0]))
        self._hold(name, weight[:, self._order].T, bias)
        self._order = slice(None)

    def add_bias(self, name: str, bias) -> None:
        """To a layer that has none."""
        if np.size(bias) != self._biases[name].size:
            raise ValueError(f"{name}: a sum with {list(np.shape(bias))} is no bias")
        self._biases[name] = _float32(np.ravel(bias))

    def batch_norm(self, name: str, scale, bias, mean, var, epsilon: float) -> None:
        """Running statistics, and what was learned, [C] each."""
        self.add(Norm(name, epsilon=epsilon))
        mean, var, scale, bias = (
            np.asarray(self._units(name, one), np.float64)
            for one in (mean, var, scale, bias)
        )
        self._norms[name] = Statistics.of(mean, var, scale, bias, epsilon)

    def layer_norm(self, name: str, scale, bias, epsilon: float) -> None:
        """Of units, or of the channels of maps."""
        self.add(LayerNorm(name, epsilon))
        self._hold(name, self._units(name, scale)[None], self._units(name, bias))

    def activation(self, kind: str) -> None:
        """By its name in `plan.ACTIVATIONS`."""
        self.add(Activation(kind))

    def pool(self, kind: str, size, strides, margins: Pairs) -> None:
        """The "max" or the "mean" of windows; what pads a mean counts as zeros."""
        if len({*size}) > 1 or len({*strides}) > 1:
            raise ValueError(
                f"a {kind} pooling of {list(size)} by {list(strides)}; windows are "
                "squares here"
            )
        around = self._padding(size, strides, margins)
        window = int(size[0]), int(strides[0]), around
        plain = kind == "max" and window == (POOL, POOL, "VALID")
        made = WindowMaxPool if kind == "max" else WindowMeanPool
        self.add(MaxPool() if plain else made(*window))

    def global_mean(self) -> None:
        """Over all positions; the units that are left need no Flatten."""
        self.add(MeanPool())

    def flatten(self) -> None:
        """Maps, in PyTorch's order of units."""
        if len(self.shape) == 3:
            height, width, channels = self.shape
            units = np.arange(channels * height * width)
            if height * width > 1 and channels > 1:
                maps = units.reshape(channels, height, width)
                self._order = maps.transpose(1, 2, 0).ravel()
            self.add(Flatten())

    def _channels(self, name: str) -> int:
        if len(self.shape) != 3:
            raise ValueError(f"{name}: a convolution of {list(self.shape)}, no maps")
        return self.shape[-1]

    def _padding(self, kernel, strides, margins: Pairs) -> Padding:
        """By a name where it has one."""
        if not any(map(any, margins)):
            return "VALID"
        if len(self.shape) == 3:
            same = pads(self.shape[:2], kernel, strides, "SAME")
            if tuple(margins) == tuple(same):
                return "SAME"
        return tuple((int(low), int(high)) for low, high in margins)

    def _units(self, name: str, values) -> np.ndarray:
        """Numbers of each unit, in our order."""
        values = np.ravel(values)
        if values.size != self.shape[-1]:
            raise ValueError(
                f"{name}: {values.size} numbers for {self.shape[-1]} units"
            )
        return values[self._order] if len(self.shape) == 1 else values

    def _hold(self, name: str, kernel, bias) -> None:
        units = kernel.shape[-1]
        bias = np.zeros(units) if bias is None else np.ravel(bias)
        if bias.size != units:
            raise ValueError(f"{name}: a bias of {bias.size} for {units} units")
        self._kernels[name], self._biases[name] = _float32(kernel), _float32(bias)


def pairs(margins: Sequence[int]) -> Pairs:
    """(low, high) along H and W, of (top, left, bottom, right)."""
    top, left, bottom, right = margins
    return (top, bottom), (left, right)


def _float32(x) -> np.ndarray:
    return np.ascontiguousarray(x, np.float32)
