"""Predictions of a compact net with NumPy, and with SciPy where it is installed.

Arrays inside are [C, H, W, B] or [I, B], the batch last: a row of a sparse matrix then
adds whole rows of the batch, and flattening a map is free. Convolutions multiply the
patches of those taps only that have a weight.
"""

import functools
import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from vnets.compact.codec import read
from vnets.compact.graph import Graph, Linear
from vnets.compact.quantize import Compact
from vnets.compact.shrink import activated
from vnets.plan import (
    POOL,
    Activation,
    Conv,
    Dense,
    Flatten,
    MaxPool,
    MeanPool,
    Norm,
    Plan,
    Residual,
    Shape,
    Standardize,
    Step,
    WindowMaxPool,
    pads,
    placed,
    shapes,
)

# A layer is sparse below this share of nonzeros among its live inputs times outputs: a
# sparse multiply-add takes some ten times as long as one of a dense matrix product.
SPARSE_BELOW = 0.1
AT_ONCE = 32  # images in a convolutional net: their patches stay in the cache
AT_ONCE_BYTES = 2**26  # of a layer's patches or outputs, but for those of one image
Form = Literal["auto", "sparse", "dense"]
Run = Callable[[np.ndarray], np.ndarray]


class Predictor:
    """A function from inputs to outputs, [B, *shape] -> [B, K] float32.

    Args:
      net: a compact net, or a graph without normalization.
      form: of the layers' weights: "sparse", "dense", or what is faster for each.
        Sparse matrices are SciPy's; "auto" is "dense" where it is not installed.

    Attributes:
      net: as given.
      forms: the form of each layer.

    Raises:
      ValueError: an unknown form, or a graph that is still normalized.
    """

    def __init__(self, net: Compact | Graph, form: Form = "auto"):
        if form not in ("auto", "sparse", "dense"):
            raise ValueError(f"unknown form {form!r}; choose auto, sparse or dense")
        self.net = net
        self.forms: dict[str, str] = {}
        self._enter, plan = _batch_last, net.plan
        flat = isinstance(plan[0], Flatten)  # inputs are in the order of their units
        if flat:
            plan, self._enter = plan[1:], functools.partial(_chosen, None)
        shape = shapes(net.plan[: int(flat)], net.shape)[-1]
        self._steps: list[Run] = []
        if plan and isinstance(plan[0], Dense):
            # What no weight reads is left out before anything is copied.
            live, product = self._product(plan[0].name, form, _by_output)
            self._enter = functools.partial(_chosen, live)
            self._steps = [product]
            shape, plan = (plan[0].features,), plan[1:]
        self._steps += self._chain(plan, shape, form)
        self._at_once = _images_at_once(net.plan, net.shape)

    def __repr__(self) -> str:
        forms = ", ".join(f"{name} {form}" for name, form in self.forms.items())
        return f"Predictor of {self.net!r}\n  as {forms}"

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Outputs [B, K] for inputs [B, *shape]; uint8 pixels are divided by 255.

        Raises:
          ValueError: inputs of another shape, or that are neither uint8 nor floats:
            whether other whole numbers are pixels cannot be told.
        """
        x = np.asarray(x)
        if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
            raise ValueError(
                f"inputs are {x.dtype}: give uint8 pixels, which are divided by 255, "
                "or floats as the net was trained on"
            )
        if x.shape[1:] != tuple(self.net.shape):
            wanted = f"[B, {', '.join(map(str, self.net.shape))}]"
            one = "; of a single example give x[None]"
            raise ValueError(
                f"inputs are {list(x.shape)}, the net takes {wanted}"
                f"{one if x.shape == tuple(self.net.shape) else ''}"
            )
        size = self._at_once or max(len(x), 1)
        parts = [self._run(x[i : i + size]) for i in range(0, max(len(x), 1), size)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _run(self, x: np.ndarray) -> np.ndarray:
        if x.dtype == np.uint8:
            x = x.astype(np.float32) / np.float32(255)
        h = _in_turn(self._steps, self._enter(x.astype(np.float32, copy=False)))
        return np.ascontiguousarray(h.T)

    def _chain(self, plan: Plan, shape: Shape, form: Form) -> list[Run]:
        """What computes a plan, from units in their order to units in their order."""
        found: list[Run] = []
        maps = None  # [H, W, C] that the units at hand were flattened from, maps first
        held = shapes(plan, shape)
        for number, (step, before) in enumerate(zip(plan, held, strict=False)):
            last, after = plan[number - 1 : number], plan[number + 1 :]
            if isinstance(step, Conv):
                multiply = self._product(step.name, form, _by_output)
                found.append(_Convolution(step, before[-1], *multiply))
            elif isinstance(step, Dense):
                order = functools.partial(_by_output, maps=maps)
                found.append(
                    functools.partial(_dense, *self._product(step.name, form, order))
                )
                maps = None
            elif isinstance(step, Flatten):
                maps = before if len(before) == 3 else maps
                found.append(_flatten)
            elif isinstance(step, Activation):
                pool = _pooling(after[0]) if _pools_first(step, after) else None
                act = functools.partial(activated, step.kind)
                found += [pool, act] if pool else [act]
            elif isinstance(step, MeanPool):
                found.append(_mean_pool)
            elif isinstance(step, Standardize | Residual):
                if maps:
                    found.append(functools.partial(_in_order, maps))
                    maps = None
                found.append(self._in_their_order(step, before, form))
            elif isinstance(step, Norm):
                raise ValueError("fold the Norm step first")
            elif not (last and _pools_first(last[0], (step,))):
                found.append(_pooling(step))
        return found + ([functools.partial(_in_order, maps)] if maps else [])

    def _in_their_order(
        self, step: Standardize | Residual, shape: Shape, form: Form
    ) -> Run:
        """What computes a step that takes units in their order alone."""
        if isinstance(step, Standardize):
            return functools.partial(_standardize, step)
        sides = (self._chain(side, shape, form) for side in (step.body, step.shortcut))
        return functools.partial(_sum, *sides)

    def _product(self, name: str, form: Form, by_output):
        """The inputs that a layer uses, and its product with them, bias included."""
        linear = self.net.linear(name)
        out, into = by_output(linear)
        outputs = linear.shape[-1]
        live = np.unique(into)
        if form == "auto":
            sparse = linear.values.size < SPARSE_BELOW * live.size * outputs
            sparse = sparse and importlib.util.find_spec("scipy") is not None
            form = "sparse" if sparse else "dense"
        self.forms[name] = form
        column = np.searchsorted(live, into)
        if form == "dense":
            matrix = np.zeros((outputs, live.size), np.float32)
            matrix[out, column] = linear.values
        else:
            import scipy.sparse  # here, since NumPy alone is enough for dense ones

            entries = (linear.values, (out, column))
            matrix = scipy.sparse.csr_array(entries, (outputs, live.size))
        bias = linear.bias[:, None]

        def product(h: np.ndarray) -> np.ndarray:
            # BLAS takes a transposed view as it is, a sparse matrix needs whole rows.
            y = matrix @ (np.ascontiguousarray(h) if form == "sparse" else h)
            y += bias
            return y

        return live, product


def load(path: Path | str) -> Predictor:
    """The predictor of a .vnz file; needs NumPy and constriction, SciPy if there.

    Raises:
      ValueError: the file is no .vnz, of a newer version, damaged or malformed.
    """
    return Predictor(read(path))


def _by_output(linear: Linear, maps=None) -> tuple[np.ndarray, np.ndarray]:
    """Output and input of each weight; inputs in the order in which they arrive."""
    into, out = np.divmod(linear.positions, linear.shape[-1])
    if maps is not None:
        place, channel = np.divmod(into, maps[2])
        into = channel * (maps[0] * maps[1]) + place
    return out, into


def _pools_first(step: Step, after: Sequence[Step]) -> bool:
    """Pooling may come before a monotone activation: there are fewer numbers then."""
    monotone = isinstance(step, Activation) and step.kind != "abs"
    return monotone and bool(after) and isinstance(after[0], MaxPool | WindowMaxPool)


def _pooling(step: Step) -> Run:
    if isinstance(step, WindowMaxPool):
        return functools.partial(_window_max_pool, step)
    return _max_pool


def _images_at_once(plan: Plan, shape: Shape) -> int | None:
    """How many images a net of convolutions takes in one go; None: all, without any."""
    sizes = [
        4 * math.prod(after[:2]) * max(math.prod(step.kernel) * before[-1], after[-1])
        for step, before, after in placed(plan, shape)
        if isinstance(step, Conv)
    ]
    return min(AT_ONCE, max(1, AT_ONCE_BYTES // max(sizes))) if sizes else None


def _in_turn(steps: Sequence[Run], h: np.ndarray) -> np.ndarray:
    for step in steps:
        h = step(h)
    return h


def _sum(body: Sequence[Run], shortcut: Sequence[Run], h: np.ndarray) -> np.ndarray:
    return _in_turn(body, h) + _in_turn(shortcut, h)


def _batch_last(x: np.ndarray) -> np.ndarray:
    """[B, H, W, C] -> [C, H, W, B], or [B, I] -> [I, B]."""
    return np.ascontiguousarray(x.transpose(3, 1, 2, 0) if x.ndim == 4 else x.T)


def _chosen(live: np.ndarray | None, x: np.ndarray) -> np.ndarray:
    """[B, ...] -> [live inputs, B], a view; None stands for all."""
    flat = x.reshape(len(x), math.prod(x.shape[1:]))
    every = live is None or live.size == flat.shape[1]
    return (flat if every else flat[:, live]).T


def _dense(live, product, h: np.ndarray) -> np.ndarray:
    return product(h if live.size == len(h) else h[live])


def _standardize(step: Standardize, h: np.ndarray) -> np.ndarray:
    """(h - mean) / std of each channel, [C, ..., B]."""
    mean, std = (
        np.asarray(values, h.dtype).reshape(-1, *(1,) * (h.ndim - 1))
        for values in (step.mean, step.std)
    )
    return (h - mean) / std


def _flatten(h: np.ndarray) -> np.ndarray:
    return h.reshape(math.prod(h.shape[:-1]), h.shape[-1])


def _in_order(maps: Shape, h: np.ndarray) -> np.ndarray:
    """Flattened maps, [C H W, B], in the order of units, [H W C, B]."""
    height, width, channels = maps
    return h.reshape(channels, height * width, -1).swapaxes(0, 1).reshape(h.shape)


def _mean_pool(h: np.ndarray) -> np.ndarray:
    return h.mean(axis=(1, 2))


def _window_max_pool(step: WindowMaxPool, h: np.ndarray) -> np.ndarray:
    """The maximum over rows, then that over columns."""
    margins = pads(h.shape[1:3], step.kernel, step.strides, step.padding)
    for axis, margin in enumerate(margins, 1):
        h = _highest(step, h, axis, margin)
    return h


def _highest(step: WindowMaxPool, h: np.ndarray, axis: int, margin) -> np.ndarray:
    """The maximum over windows along an axis. Margins are counted, not made: of a small
    map in large windows they would be most."""
    (low, high), size, stride = margin, h.shape[axis], step.stride
    count = (low + size + high - step.size) // stride + 1
    found = np.full((*h.shape[:axis], count, *h.shape[axis + 1 :]), -np.inf, h.dtype)
    highest, seen = found.swapaxes(0, axis), h.swapaxes(0, axis)
    for place in range(-low, step.size - low):  # of the first window
        first = max(0, -(place // stride))  # of the windows that have it in the map
        last = min(count, -((place - size) // stride))
        if first < last:
            part = seen[first * stride + place : last * stride + place : stride]
            np.maximum(highest[first:last], part, out=highest[first:last])
    return found


def _max_pool(h: np.ndarray) -> np.ndarray:
    height, width = (n // POOL * POOL for n in h.shape[1:3])
    corners = [h[:, i:height:POOL, j:width:POOL] for i in (0, 1) for j in (0, 1)]
    return np.maximum(np.maximum(*corners[:2]), np.maximum(*corners[2:]))


class _Convolution:
    """A convolution of [I, H, W, B]: the product of its weights with live patches."""

    def __init__(self, step: Conv, channels: int, live, product):
        self._step, self._product = step, product
        self._live = np.unravel_index(live, (*step.kernel, channels))

    def __call__(self, h: np.ndarray) -> np.ndarray:
        step = self._step
        margins = pads(h.shape[1:3], step.kernel, step.strides, step.padding)
        if any(map(any, margins)):
            h = np.pad(h, ((0, 0), *margins, (0, 0)))
        # NumPy's annotation knows one window length only, the function takes a pair.
        windows = sliding_window_view(h, step.kernel, (1, 2))  # type: ignore
        windows = windows[:, :: step.strides[0], :: step.strides[1]]
        windows = windows.transpose(4, 5, 0, 1, 2, 3)
        height, width, batch = windows.shape[3:]
        taps = max(1, self._live[0].size * batch)  # of an empty batch, too
        columns = min(width, max(1, AT_ONCE_BYTES // (4 * taps)))
        rows = min(height, max(1, AT_ONCE_BYTES // (4 * taps * columns)))
        if (rows, columns) == (height, width):
            return self._of(windows)
        y = np.empty((step.features, height, width, batch), h.dtype)
        for i in range(0, height, rows):
            for j in range(0, width, columns):
                places = np.s_[..., i : i + rows, j : j + columns, :]
                y[places] = self._of(windows[places])
        return y

    def _of(self, windows: np.ndarray) -> np.ndarray:
        """Outputs [O, H, W, B] of some windows [kh, kw, I, H, W, B]."""
        patches = windows[self._live]
        # Not -1: of a layer without weights no tap is live, and 0 has any quotient.
        y = self._product(patches.reshape(len(patches), math.prod(patches.shape[1:])))
        return y.reshape(self._step.features, *patches.shape[1:])
