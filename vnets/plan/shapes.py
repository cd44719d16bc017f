"""Shapes before and after the steps of a plan, and what its layers cost."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

from vnets.plan.steps import (
    POOL,
    Activation,
    Conv,
    CustomStep,
    Dense,
    DepthToSpace,
    Depthwise,
    Flatten,
    LayerNorm,
    Linear,
    MaxPool,
    MeanPool,
    Norm,
    Padding,
    Plan,
    Residual,
    Shape,
    Standardize,
    Step,
    Weighted,
    check_padding,
    linear_layers,
)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a linear layer takes for one example.

    Attributes:
      weights: number of weights, biases not counted.
      multiply_adds: of the linear map; twice as many floating point operations.
    """

    weights: int
    multiply_adds: int


def pads(
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    padding: Padding,
) -> tuple[tuple[int, int], ...]:
    """(low, high) for each axis, as XLA counts "SAME" and "VALID".

    Raises:
      ValueError: another padding.
    """
    if padding == "VALID":
        return tuple((0, 0) for _ in size)
    if padding != "SAME":
        check_padding("windows", padding)
        # A checker cannot see that it is no name any more.
        return tuple(padding)  # type: ignore[arg-type]
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
    if isinstance(step, Norm | LayerNorm | Activation):
        return shape
    if isinstance(step, CustomStep):
        return step.after(shape)
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
    if isinstance(step, Residual):
        body, shortcut = (shapes(p, shape)[-1] for p in (step.body, step.shortcut))
        if body != shortcut:
            raise ValueError(
                f"a residual step adds {list(body)} to a shortcut of {list(shortcut)}"
            )
        return body
    if isinstance(step, DepthToSpace) and len(shape) == 1:
        shape = (1, 1, *shape)
    if len(shape) != 3:
        raise ValueError(f"{type(step).__name__} needs [H, W, C], not {list(shape)}")
    if isinstance(step, MeanPool):
        after = shape[2:]
    elif isinstance(step, DepthToSpace):
        (height, width), (down, across, channels) = step.block, shape
        after = (down * height, across * width, step.channels(channels))
    elif isinstance(step, MaxPool):
        after = (shape[0] // POOL, shape[1] // POOL, shape[2])
    else:
        places = _windows(shape[:2], step.kernel, step.strides, step.padding)
        channels = step.features if isinstance(step, Conv) else shape[2]
        after = (*places, channels)
    if min(after) < 1:
        raise ValueError(f"nothing is left of {list(shape)} after {step}")
    return after


def _windows(size: Shape, kernel: Shape, strides: Shape, padding: Padding) -> Shape:
    """How many windows fit along each axis."""
    margins = pads(size, kernel, strides, padding)
    return tuple(
        (n + sum(margin) - k) // stride + 1
        for n, margin, k, stride in zip(size, margins, kernel, strides, strict=True)
    )


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
    found = {}
    for step, before, after in placed(plan, shape):
        if isinstance(step, Weighted):
            if step.name in live:
                raise ValueError(f"live units are not of {step.name!r}, a {step}")
            weights = math.prod(step.kernel(before))
            found[step.name] = Cost(weights, step.multiply_adds(before))
        if not isinstance(step, Linear):
            continue
        inputs, outputs = live.get(step.name, (before[-1], after[-1]))
        if not (0 <= inputs <= before[-1] and 0 <= outputs <= after[-1]):
            raise ValueError(
                f"layer {step.name!r} has {before[-1]} input and {after[-1]} output "
                f"units, so not {inputs} and {outputs} live ones"
            )
        taps = 1 if isinstance(step, Dense) else math.prod(step.kernel)
        weights = taps * (1 if isinstance(step, Depthwise) else inputs) * outputs
        found[step.name] = Cost(weights, weights * math.prod(after[:-1]))
    return found


def placed(plan: Plan, shape: Shape) -> Iterator[tuple[Step, Shape, Shape]]:
    """The steps as `every` gives them, with the shapes before and after each."""
    held = shapes(plan, shape)
    for step, before, after in zip(plan, held, held[1:], strict=False):
        if isinstance(step, Residual):
            yield from placed(step.body, before)
            yield from placed(step.shortcut, before)
        elif isinstance(step, CustomStep):
            yield from step.placed(before)
        else:
            yield step, before, after
