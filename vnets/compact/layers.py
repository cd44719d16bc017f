"""A layer's numbers as a file's streams have them, checked while they are read."""

import math
from collections.abc import Callable, Iterable

import numpy as np

from vnets.compact import limits, sequence_files
from vnets.compact.graph import kernel_shapes
from vnets.compact.quantize import (
    MOST_BIAS,
    MOST_DEVIATION,
    MOST_LEVEL,
    Compact,
    Quantized,
)
from vnets.plan import LayerNorm, every

Parts = Iterable[np.ndarray]
# A number in a file has at least two bits of it; the writer pads a file that has less.
NUMBERS_PER_BYTE = 4


def read_positions(parts: Parts, count: int, size: int) -> np.ndarray:
    """Positions in a kernel of `size` weights, int32 [count], from the gaps between.

    Raises:
      ValueError: one beyond the kernel.
    """
    found, at, last = np.empty(count, np.int32), 0, -1
    for gaps in parts:
        places = np.cumsum(gaps + 1) + last
        last = int(places[-1])
        if last >= size:
            raise ValueError("positions are not of their kernel")
        found[at : at + gaps.size] = places
        at += gaps.size
    return found


def read_levels(
    parts: Parts, count: int, most: int, kind: type, level: Callable
) -> np.ndarray:
    """Levels up to `most`, [count], in a type that just holds them.

    Raises:
      ValueError: one that is larger.
    """
    found, at = np.empty(count, kind), 0
    for numbers in parts:
        levels = level(numbers)
        if np.abs(levels).max() > most:
            raise ValueError(f"levels lie beyond {most}")
        found[at : at + levels.size] = levels
        at += levels.size
    return found


def check_numbers(numbers: int, file_size: int) -> None:
    """Refuses a file that speaks of more than it can hold."""
    if numbers > NUMBERS_PER_BYTE * file_size:
        raise ValueError("it speaks of more weights than it can hold")


def check(net: Compact) -> None:
    """Refuses what a file cannot hold, or must not.

    Raises:
      ValueError: the message says what.
    """
    shapes = kernel_shapes(net.plan, net.shape)
    if list(shapes) != list(net.layers):
        raise ValueError(f"the plan's layers are {list(shapes)}")
    sequence_files.check_noise(net.plan, net.layers)
    for step in every(net.plan):
        if isinstance(step, LayerNorm) and net.layers[step.name].deviations is not None:
            raise ValueError(f"the normalization {step.name!r} has noise")
    for name, layer in net.layers.items():
        _check_layer(name, layer, shapes[name])


def _check_layer(name: str, layer: Quantized, shape) -> None:
    size = math.prod(shape)
    _check_grid(name, layer.positions, layer.levels, size, MOST_LEVEL)
    _check_levels(name, layer.bias_levels, MOST_BIAS)
    if layer.bias_levels.shape != (shape[-1],):
        raise ValueError(f"layer {name!r} needs {shape[-1]} biases")
    steps = [layer.step, layer.bias_step]
    if layer.deviations is not None:
        noise = layer.deviations
        _check_grid(name, noise.positions, noise.levels, size, MOST_DEVIATION)
        if noise.levels.min(initial=1) < 0:
            raise ValueError(f"deviations of {name!r} are negative")
        steps.append(noise.step)
    for step in steps:
        limits.check_step_size(name, float(step))


def _check_grid(name: str, positions, levels, size: int, most: int) -> None:
    _check_levels(name, levels, most)
    if positions.size and not (
        positions[0] >= 0 and positions[-1] < size and (np.diff(positions) > 0).all()
    ):
        raise ValueError(f"positions of {name!r} are not of its kernel")
    if levels.shape != positions.shape or not levels.all():
        raise ValueError(f"layer {name!r} needs a level for each position, none zero")


def _check_levels(name: str, levels, most: int) -> None:
    if levels.size and max(abs(int(levels.min())), int(levels.max())) > most:
        raise ValueError(f"levels of {name!r} lie beyond {most}")
