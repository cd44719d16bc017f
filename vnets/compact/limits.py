"""What a compact file may ask for, so that a small one cannot take much of anything.

Numbers are bounded, and so is work: layers work in proportion to the weights that the
file holds and to the input, and steps without weights in proportion to the layers.
`SECURITY.md` says what is promised.
"""

import math
import re

from vnets.plan import (
    Activation,
    Conv,
    CustomStep,
    DepthToSpace,
    Depthwise,
    Kernel,
    LayerNorm,
    MaxPool,
    MeanPool,
    Plan,
    Residual,
    Shape,
    Standardize,
    Step,
    Window,
    pads,
    placed,
    shapes,
)
from vnets.plan.sequences import Recurrent

LARGEST_NUMBER = 2.0**24  # a step of a grid, and a constant that inputs are shifted by
SMALLEST_DIVISOR = 2.0**-24
# Operations of steps without weights, for each number that goes into the net, or into
# or out of a layer. A pooling of 3 x 3 takes 6, and an activation some 4.
WEIGHTLESS = 128
LOOPS = 2**15  # positions of all recurrent steps of a net together
ACTIVATION = 4  # operations that an activation counts as, tanh taken for all
# The path of a module, "block/conv1"; no part of it leads anywhere but down.
PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
NAME = re.compile(rf"(?=.{{1,64}}\Z){PART}(/{PART})*")


def check_name(name: object) -> None:
    """Refuses what cannot name a layer.

    Raises:
      ValueError: it is no path of letters, digits, "_", "." and "-", of 64 at most,
        each of whose parts begins with one of the first three.
    """
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise ValueError(f"{name!r} cannot name a layer")


def check_step_size(name: str, step: float) -> None:
    """Refuses a grid whose weights no net has.

    Raises:
      ValueError: a step that is not above 0 and at most `LARGEST_NUMBER`.
    """
    if not 0 < step <= LARGEST_NUMBER:
        raise ValueError(f"grid of {name!r} has the step {step}")


def check_epsilon(name: str, epsilon: float) -> None:
    """Refuses what a layer normalization cannot add to a variance.

    Raises:
      ValueError: no float above 0 and at most 1.
    """
    if not (isinstance(epsilon, float) and 0 < epsilon <= 1):
        raise ValueError(f"the epsilon of {name!r} is {epsilon}, not within 0 to 1")


def check_constants(step: Standardize) -> None:
    """Refuses constants that nothing is standardized by.

    Raises:
      ValueError: they are no floats, or beyond the bounds.
    """
    for name, values in (("mean", step.mean), ("std", step.std)):
        numbers = isinstance(values, tuple) and len(values) > 0
        if not (numbers and all(isinstance(v, float) for v in values)):
            raise ValueError(f"the {name} of a standardize step is a list of floats")
    if not all(SMALLEST_DIVISOR <= std <= LARGEST_NUMBER for std in step.std):
        raise ValueError(
            f"a standardize step divides by {step.std}, not by {SMALLEST_DIVISOR:g} to "
            f"{LARGEST_NUMBER:g}"
        )
    if not all(abs(mean) <= LARGEST_NUMBER for mean in step.mean):
        raise ValueError(
            f"a standardize step subtracts {step.mean}, more than {LARGEST_NUMBER:g}"
        )


def check_work(plan: Plan, shape: Shape) -> None:
    """Refuses a plan whose steps without weights take more than its layers account for.

    Args:
      plan: that fits the shape.
      shape: of one example.

    Raises:
      ValueError: many or large poolings, activations or sums for few layers, long
        sequences that attention reads, or recurrent steps of more than `LOOPS`
        positions together.
    """
    loops = sum(
        before[0]
        for step, before, _ in placed(plan, shape)
        if isinstance(step, Recurrent)
    )
    if loops > LOOPS:
        raise ValueError(f"its recurrent steps have {loops} positions, beyond {LOOPS}")
    layers = [
        math.prod(before) + math.prod(after)
        for step, before, after in placed(plan, shape)
        if isinstance(step, Kernel | LayerNorm)
    ]
    most = WEIGHTLESS * (math.prod(shape) + sum(layers))
    if _work(plan, shape) > most:
        raise ValueError(
            f"its poolings, attention, activations and sums take more than {most} "
            f"operations for an example, {WEIGHTLESS} for each number into the net and "
            "into and out of its layers"
        )


def _work(plan: Plan, shape: Shape) -> int:
    """Operations of the steps without weights, and of padding, for one example."""
    held = shapes(plan, shape)
    return sum(map(_operations, plan, held, held[1:]))


def _operations(step: Step, before: Shape, after: Shape) -> int:
    most = max(math.prod(before), math.prod(after))
    if isinstance(step, Residual):
        sides = _work(step.body, before) + _work(step.shortcut, before)
        return most + sides
    if isinstance(step, CustomStep):
        return step.operations(before)
    if isinstance(step, Conv | Depthwise):
        margins = pads(before[:2], step.kernel, step.strides, step.padding)
        sizes = (n + sum(margin) for n, margin in zip(before, margins, strict=False))
        return math.prod(sizes) * before[2]
    if isinstance(step, Window):
        return 2 * step.size * most
    each: dict[type, int] = {Activation: ACTIVATION, Standardize: 2, MaxPool: 1}
    return (each | {MeanPool: 1, DepthToSpace: 1}).get(type(step), 0) * most
