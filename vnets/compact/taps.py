"""Depthwise convolutions, tap by tap."""

import numpy as np

from vnets.compact.graph import Weights
from vnets.plan import Depthwise, pads

# For each tap that has weights: its place, the channels that have one, their weights.
Live = list[tuple[tuple[int, int], np.ndarray | slice, np.ndarray]]


class Taps:
    """A depthwise convolution of [C, H, W, B].

    Each tap adds the channels that have a weight there, so that the work is that of the
    weights that are left.
    """

    def __init__(self, step: Depthwise, weights: Weights):
        self._step, self._bias = step, weights.bias[:, None, None, None]
        self._means = _live(step, weights, weights.positions, weights.values)
        self._vars: Live = []
        if weights.deviations is not None:
            positions, deviations = weights.deviations
            self._vars = _live(step, weights, positions, np.square(deviations))

    def __call__(self, h: np.ndarray, noise: np.random.Generator | None) -> np.ndarray:
        step = self._step
        margins = pads(h.shape[1:3], step.kernel, step.strides, step.padding)
        if any(map(any, margins)):
            h = np.pad(h, ((0, 0), *margins, (0, 0)))
        y = self._sum(self._means, h) + self._bias
        if noise is not None and self._vars:
            std = np.sqrt(self._sum(self._vars, np.square(h)))
            y += std * noise.standard_normal(std.shape, np.float32)
        return y

    def _sum(self, live: Live, h: np.ndarray) -> np.ndarray:
        (down, right), kernel = self._step.strides, self._step.kernel
        rows, columns = (
            (n - k) // stride + 1
            for n, k, stride in zip(
                h.shape[1:3], kernel, self._step.strides, strict=True
            )
        )
        y = np.zeros((len(h), rows, columns, h.shape[-1]), h.dtype)
        for (i, j), channels, weights in live:
            seen = h[:, i : i + rows * down : down, j : j + columns * right : right]
            seen = seen[:, :rows, :columns]
            y[channels] += weights[:, None, None, None] * seen[channels]
        return y


def _live(step: Depthwise, weights: Weights, positions, values) -> Live:
    channels = weights.shape[-1]
    tap, channel = np.divmod(positions, channels)
    starts = np.flatnonzero(np.diff(tap, prepend=-1)).tolist()  # positions rise
    ends = [*starts[1:], tap.size] if starts else []
    found: Live = []
    for start, end in zip(starts, ends, strict=True):
        place = divmod(int(tap[start]), step.kernel[1])
        here = slice(None) if end - start == channels else channel[start:end]
        found.append((place, here, values[start:end]))
    return found
