"""A net as data: the steps of a chain, their shapes and what they cost. No JAX here.

`nets.Net` runs a plan with posteriors and gradients, `compact` without either. Noise is
no step: it is a part of the posterior of a layer's weight.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

Shape = tuple[int, ...]
ACTIVATIONS = ("relu", "leaky_relu", "tanh", "abs")
POOL = 2  # edge and stride of max pooling; an odd last row or column is left out


@dataclasses.dataclass(frozen=True)
class Conv:
    """A 2-D convolution, [B, H, W, I] -> [B, H', W', features].

    Attributes:
      name: of the layer.
      features: O.
      kernel: kh, kw.
      strides: along H and W.
      padding: "SAME" or "VALID".
      bias: adds a bias [O].
    """

    name: str
    features: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: str = "SAME"
    bias: bool = True


@dataclasses.dataclass(frozen=True)
class Dense:
    """A dense layer on the last axis, [B, ..., I] -> [B, ..., features].

    Attributes:
      name: of the layer.
      features: O.
      bias: adds a bias [O].
    """

    name: str
    features: int
    bias: bool = True


@dataclasses.dataclass(frozen=True)
class Standardize:
    """(x - mean) / std of the inputs, with constants that are not trained.

    Attributes:
      mean: of each channel, or one for all.
      std: likewise; positive.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


@dataclasses.dataclass(frozen=True)
class Norm:
    """Batch normalization over the last axis.

    Attributes:
      name: of the module.
      affine: with a learned bias, and
      scale: a learned scale; counts only if affine.
      epsilon: added to the variance.
    """

    name: str
    affine: bool = True
    epsilon: float = 1e-5
    scale: bool = True


@dataclasses.dataclass(frozen=True)
class Activation:
    """A function of each unit; `kind` is one of `ACTIVATIONS`."""

    kind: str = "relu"


@dataclasses.dataclass(frozen=True)
class MaxPool:
    """2 x 2 max pooling, [B, H, W, C] -> [B, H // 2, W // 2, C]."""


@dataclasses.dataclass(frozen=True)
class Flatten:
    """[B, ...] -> [B, units], the last axis running fastest."""


Step = Conv | Dense | Norm | Activation | MaxPool | Flatten | Standardize
Plan = tuple[Step, ...]


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a linear layer takes for one example.

    Attributes:
      weights: number of weights, biases not counted.
      multiply_adds: of the linear map; twice as many floating point operations.
    """

    weights: int
    multiply_adds: int


def linear_layers(plan: Plan) -> tuple[str, ...]:
    """Names of the layers that have a weight, in order."""
    return tuple(step.name for step in plan if isinstance(step, Conv | Dense))


def pads(
    size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], padding: str
) -> tuple[tuple[int, int], ...]:
    """(low, high) for each axis, as XLA counts "SAME" and "VALID".

    Raises:
      ValueError: another padding.
    """
    if padding == "VALID":
        return tuple((0, 0) for _ in size)
    if padding != "SAME":
        raise ValueError(f"padding must be SAME or VALID, not {padding!r}")
    totals = (
        max((-(-n // stride) - 1) * stride + k - n, 0)
        for n, k, stride in zip(size, kernel, strides, strict=True)
    )
    return tuple((total // 2, total - total // 2) for total in totals)


def shape_after(step: Step, shape: Shape) -> Shape:
    """The shape of one example after a step, given that before it.

    Raises:
      ValueError: a step that does not fit the shape.
    """
    if isinstance(step, Norm | Activation):
        return shape
    if isinstance(step, Standardize):
        channels = shape[-1] if shape else 0
        if not {len(step.mean), len(step.std)} <= {1, channels}:
            raise ValueError(f"{step} does not fit {channels} channels")
        return shape
    if isinstance(step, Flatten):
        return (math.prod(shape),)
    if isinstance(step, Dense):
        if not shape:
            raise ValueError(f"layer {step.name!r} needs at least one axis of units")
        return (*shape[:-1], step.features)
    if len(shape) != 3:
        raise ValueError(f"{type(step).__name__} needs [H, W, C], not {list(shape)}")
    if isinstance(step, MaxPool):
        after = (shape[0] // POOL, shape[1] // POOL, shape[2])
    else:
        margins = pads(shape[:2], step.kernel, step.strides, step.padding)
        height, width = (
            (n + sum(margin) - k) // stride + 1
            for n, margin, k, stride in zip(
                shape[:2], margins, step.kernel, step.strides, strict=True
            )
        )
        after = (height, width, step.features)
    if min(after) < 1:
        raise ValueError(f"nothing is left of {list(shape)} after {step}")
    return after


def shapes(plan: Plan, shape: Shape) -> list[Shape]:
    """Shapes of one example: before the first step, and after each step."""
    held = [tuple(shape)]
    for step in plan:
        held.append(shape_after(step, held[-1]))
    return held


def costs(
    plan: Plan, shape: Shape, live: Mapping[str, tuple[int, int]] | None = None
) -> dict[str, Cost]:
    """Weights and multiply-adds of each linear layer, for one example.

    Args:
      plan: the steps.
      shape: of one example, [H, W, C] or [I].
      live: layer to its live (input, output) units, where units have been pruned; the
        rest of its units count as absent. A dense layer after Flatten has an input unit
        for each position of each map.

    Raises:
      ValueError: `live` names a layer that is not there, or more units than it has.
    """
    live = dict(live or {})
    unknown = sorted(set(live) - set(linear_layers(plan)))
    if unknown:
        raise ValueError(
            f"unknown layers {unknown}; choose from {list(linear_layers(plan))}"
        )
    held = shapes(plan, shape)
    found = {}
    for step, before, after in zip(plan, held, held[1:], strict=False):
        if not isinstance(step, Conv | Dense):
            continue
        inputs, outputs = live.get(step.name, (before[-1], after[-1]))
        if not (0 <= inputs <= before[-1] and 0 <= outputs <= after[-1]):
            raise ValueError(
                f"layer {step.name!r} has {before[-1]} input and {after[-1]} output "
                f"units, so not {inputs} and {outputs} live ones"
            )
        taps = math.prod(step.kernel) if isinstance(step, Conv) else 1
        weights = taps * inputs * outputs
        found[step.name] = Cost(weights, weights * math.prod(after[:-1]))
    return found
