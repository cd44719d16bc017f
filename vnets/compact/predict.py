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

from vnets.compact import operations, sequences
from vnets.compact.codec import read
from vnets.compact.graph import Graph, Weights
from vnets.compact.quantize import Compact
from vnets.compact.taps import Taps
from vnets.plan import (
    Activation,
    Conv,
    Dense,
    DepthToSpace,
    Depthwise,
    Flatten,
    LayerNorm,
    MaxPool,
    MeanPool,
    Norm,
    Plan,
    Residual,
    Shape,
    Standardize,
    Step,
    WindowMaxPool,
    WindowMeanPool,
    pads,
    placed,
    shapes,
)
from vnets.plan.sequences import embedding

# A layer is sparse below this share of nonzeros among its live inputs times outputs: a
# sparse multiply-add takes some ten times as long as one of a dense matrix product.
SPARSE_BELOW = 0.1
AT_ONCE = 32  # images in a convolutional net: their patches stay in the cache
AT_ONCE_BYTES = 2**26  # of a layer's patches or outputs, but for those of one image
MONOTONE = ("relu", "leaky_relu", "tanh", "softplus", "sigmoid")
Form = Literal["auto", "sparse", "dense"]
Noise = np.random.Generator | None  # None: the means alone
Run = Callable[[np.ndarray, Noise], np.ndarray]


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
        self._tokens = embedding(net.plan) is not None
        if self._tokens:
            reader = self._reader(form)
            self._enter, self._steps = operations.as_it_is, [reader]
            self._at_once = reader.at_once
            return
        self._enter, plan = operations.batch_last, net.plan
        flat = isinstance(plan[0], Flatten)  # inputs are in the order of their units
        if flat:
            plan, self._enter = plan[1:], functools.partial(operations.chosen, None)
        shape = shapes(net.plan[: int(flat)], net.shape)[-1]
        self._steps: list[Run] = []
        if plan and isinstance(plan[0], Dense):
            # What no weight reads is left out before anything is copied.
            product = self._product(plan[0].name, form, _by_output)
            self._enter = functools.partial(operations.chosen, product.live)
            self._steps = [product]
            shape, plan = (plan[0].features,), plan[1:]
        self._steps += self._chain(plan, shape, form)
        self._at_once = _images_at_once(net.plan, net.shape)

    def __repr__(self) -> str:
        forms = ", ".join(f"{name} {form}" for name, form in self.forms.items())
        return f"Predictor of {self.net!r}\n  as {forms}"

    def __call__(self, x: np.ndarray, noise: Noise = None) -> np.ndarray:
        """Outputs [B, K] for inputs [B, *shape]; uint8 pixels are divided by 255.

        Args:
          x: inputs; of a net that reads tokens whole numbers.
          noise: what draws the noise of the weights, for each example anew, as a layer
            does by local reparameterization; None: the means predict alone.

        Raises:
          ValueError: inputs of another shape, or that are neither uint8 nor floats:
            whether other whole numbers are pixels cannot be told. Tokens that are no
            whole numbers, or not of the net.
        """
        x = np.asarray(x)
        if self._tokens and not np.issubdtype(x.dtype, np.integer):
            raise ValueError(f"inputs are {x.dtype}: the net reads tokens, as integers")
        floats = x.dtype == np.uint8 or np.issubdtype(x.dtype, np.floating)
        if not (self._tokens or floats):
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
        starts = range(0, max(len(x), 1), size)
        parts = [self._run(x[i : i + size], noise) for i in starts]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def ensemble(
        self, x: np.ndarray, samples: int, noise: np.random.Generator
    ) -> np.ndarray:
        """Class probabilities [B, K], averaged over draws of the noise.

        Raises:
          ValueError: no draws, or inputs as in a call.
        """
        if samples < 1:
            raise ValueError(f"an ensemble has at least one draw, not {samples}")
        draws = (operations.softmax(self(x, noise)) for _ in range(samples))
        return functools.reduce(np.add, draws) / np.float32(samples)

    def _run(self, x: np.ndarray, noise: Noise) -> np.ndarray:
        if x.dtype == np.uint8 and not self._tokens:
            x = x.astype(np.float32) / np.float32(255)
        kind = np.int64 if self._tokens else np.float32
        h = self._enter(x.astype(kind, copy=False))
        h = _in_turn(self._steps, h, noise)
        return np.ascontiguousarray(h.T)

    def _reader(self, form: Form) -> sequences.Reader:
        """What computes a net that reads tokens."""

        def product(name: str, linear: Weights) -> _Product:
            made = _Product(linear, form, _by_output)
            self.forms[name] = made.form
            return made

        net = self.net
        return sequences.Reader(net.plan, net.shape, net.linear, product)

    def _chain(self, plan: Plan, shape: Shape, form: Form) -> list[Run]:
        """What computes a plan, from units in their order to units in their order."""
        found: list[Run] = []
        maps = None  # [H, W, C] that the units at hand were flattened from, maps first
        held = shapes(plan, shape)
        for number, (step, before) in enumerate(zip(plan, held, strict=False)):
            last, after = plan[number - 1 : number], plan[number + 1 :]
            if isinstance(step, Conv):
                product = self._product(step.name, form, _by_output)
                found.append(_Convolution(step, before[-1], product))
            elif isinstance(step, Dense):
                order = functools.partial(_by_output, maps=maps)
                product = self._product(step.name, form, order)
                found.append(functools.partial(_dense, product))
                maps = None
            elif isinstance(step, Flatten):
                maps = before if len(before) == 3 else maps
                found.append(_quiet(operations.flatten))
            elif isinstance(step, Activation):
                pool = _pooling(after[0]) if _pools_first(step, after) else None
                act = functools.partial(operations.activated, step.kind)
                found += map(_quiet, [pool, act] if pool else [act])
            elif isinstance(step, MeanPool):
                found.append(_quiet(operations.mean_pool))
            elif isinstance(step, WindowMeanPool):
                pool = functools.partial(operations.window_mean_pool, step)
                found.append(_quiet(pool))
            elif isinstance(step, Depthwise):
                found.append(Taps(step, self.net.linear(step.name)))
                self.forms[step.name] = "sparse"
            elif isinstance(step, Standardize | Residual | LayerNorm | DepthToSpace):
                if maps:
                    found.append(_quiet(functools.partial(operations.in_order, maps)))
                    maps = None
                found.append(self._in_their_order(step, before, form))
            elif isinstance(step, Norm):
                raise ValueError("fold the Norm step first")
            elif not (last and _pools_first(last[0], (step,))):
                found.append(_quiet(_pooling(step)))
        last = [_quiet(functools.partial(operations.in_order, maps))] if maps else []
        return found + last

    def _in_their_order(
        self,
        step: Standardize | Residual | LayerNorm | DepthToSpace,
        shape: Shape,
        form: Form,
    ) -> Run:
        """What computes a step that takes units in their order alone."""
        if isinstance(step, DepthToSpace):
            return _quiet(functools.partial(operations.depth_to_space, step.block))
        if isinstance(step, LayerNorm):
            held = self.net.linear(step.name)
            scale = np.zeros(held.shape[-1], np.float32)
            scale[held.positions] = held.values
            run = functools.partial(
                operations.layer_norm, step.epsilon, scale, held.bias
            )
            return _quiet(run)
        if isinstance(step, Standardize):
            return _quiet(functools.partial(operations.standardize, step))
        sides = (self._chain(side, shape, form) for side in (step.body, step.shortcut))
        return functools.partial(_sum, *sides)

    def _product(self, name: str, form: Form, by_output) -> "_Product":
        """The product of a layer's weights with the inputs that it uses."""
        linear = self.net.linear(name)
        product = _Product(linear, form, by_output)
        self.forms[name] = product.form
        return product


class _Product:
    """Means, and variances if there are any, of a layer's outputs, bias included."""

    def __init__(self, linear: Weights, form: Form, by_output):
        outputs = linear.shape[-1]
        out, into = by_output(linear.positions, linear.shape)
        positions, deviations = linear.deviations or _nothing()
        noisy_out, noisy_into = by_output(positions, linear.shape)
        self.live = np.union1d(into, noisy_into)
        if form == "auto":
            numbers = max(out.size, noisy_out.size)
            sparse = numbers < SPARSE_BELOW * self.live.size * outputs
            sparse = sparse and importlib.util.find_spec("scipy") is not None
            form = "sparse" if sparse else "dense"
        self.form, self._bias = form, linear.bias[:, None]
        self._means = self._matrix(out, into, linear.values, outputs)
        self._vars = None
        if noisy_out.size:
            var = np.square(deviations)
            self._vars = self._matrix(noisy_out, noisy_into, var, outputs)

    def _matrix(self, out, into, values: np.ndarray, outputs: int):
        column = np.searchsorted(self.live, into)
        if self.form == "sparse":
            import scipy.sparse  # here, since NumPy alone is enough for dense ones

            entries = (values, (out, column))
            return scipy.sparse.csr_array(entries, (outputs, self.live.size))
        matrix = np.zeros((outputs, self.live.size), np.float32)
        matrix[out, column] = values
        return matrix

    def __call__(self, h: np.ndarray, noise: Noise = None) -> np.ndarray:
        """[live, N] -> [O, N]."""
        # BLAS takes a transposed view as it is, a sparse matrix needs whole rows.
        h = np.ascontiguousarray(h) if self.form == "sparse" else h
        y = self._means @ h
        y += self._bias
        if noise is not None and self._vars is not None:
            std = np.sqrt(self._vars @ np.square(h))
            y += std * noise.standard_normal(std.shape, np.float32)
        return y


def _nothing() -> tuple[np.ndarray, np.ndarray]:
    """Positions and values of a layer without noise."""
    return np.zeros(0, np.int64), np.zeros(0, np.float32)


def load(path: Path | str) -> Predictor:
    """The predictor of a .vnz file; needs NumPy, and uses SciPy if there.

    Raises:
      ValueError: the file is no .vnz, of a newer version, damaged or malformed.
    """
    return Predictor(read(path))


def _by_output(positions, shape: Shape, maps=None) -> tuple[np.ndarray, np.ndarray]:
    """Output and input of each weight; inputs in the order in which they arrive."""
    into, out = np.divmod(positions, shape[-1])
    if maps is not None:
        place, channel = np.divmod(into, maps[2])
        into = channel * (maps[0] * maps[1]) + place
    return out, into


def _pools_first(step: Step, after: Sequence[Step]) -> bool:
    """Pooling may come before a monotone activation: there are fewer numbers then."""
    monotone = isinstance(step, Activation) and step.kind in MONOTONE
    return monotone and bool(after) and isinstance(after[0], MaxPool | WindowMaxPool)


def _pooling(step: Step) -> Callable[[np.ndarray], np.ndarray]:
    if isinstance(step, WindowMaxPool):
        return functools.partial(operations.window_max_pool, step)
    return operations.max_pool


def _images_at_once(plan: Plan, shape: Shape) -> int | None:
    """How many images a net of convolutions takes in one go; None: all, without any."""
    sizes = [
        4 * math.prod(after[:2]) * max(_taps(step, before), after[-1])
        for step, before, after in placed(plan, shape)
        if isinstance(step, Conv | Depthwise)
    ]
    return min(AT_ONCE, max(1, AT_ONCE_BYTES // max(sizes))) if sizes else None


def _taps(step: Conv | Depthwise, before: Shape) -> int:
    """Numbers of the patch that an output is made of; each tap of its own is a view."""
    return math.prod(step.kernel) * before[-1] if isinstance(step, Conv) else 1


def _in_turn(steps: Sequence[Run], h: np.ndarray, noise: Noise) -> np.ndarray:
    for step in steps:
        h = step(h, noise)
    return h


def _quiet(run: Callable[[np.ndarray], np.ndarray]) -> Run:
    """A step without weights, which has no noise."""
    return lambda h, noise: run(h)


def _sum(body: Sequence[Run], shortcut: Sequence[Run], h, noise: Noise) -> np.ndarray:
    return _in_turn(body, h, noise) + _in_turn(shortcut, h, noise)


def _dense(product: _Product, h: np.ndarray, noise: Noise) -> np.ndarray:
    live = product.live
    return product(h if live.size == len(h) else h[live], noise)


class _Convolution:
    """A convolution of [I, H, W, B]: the product of its weights with live patches."""

    def __init__(self, step: Conv, channels: int, product: _Product):
        self._step, self._product = step, product
        self._live = np.unravel_index(product.live, (*step.kernel, channels))

    def __call__(self, h: np.ndarray, noise: Noise) -> np.ndarray:
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
            return self._of(windows, noise)
        y = np.empty((step.features, height, width, batch), h.dtype)
        for i in range(0, height, rows):
            for j in range(0, width, columns):
                places = np.s_[..., i : i + rows, j : j + columns, :]
                y[places] = self._of(windows[places], noise)
        return y

    def _of(self, windows: np.ndarray, noise: Noise) -> np.ndarray:
        """Outputs [O, H, W, B] of some windows [kh, kw, I, H, W, B]."""
        patches = windows[self._live]
        # Not -1: of a layer without weights no tap is live, and 0 has any quotient.
        flat = patches.reshape(len(patches), math.prod(patches.shape[1:]))
        y = self._product(flat, noise)
        return y.reshape(self._step.features, *patches.shape[1:])
