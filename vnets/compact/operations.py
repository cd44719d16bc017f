"""Steps without weights, of arrays whose batch is last: [C, H, W, B] or [I, B]."""

import math

import numpy as np

from vnets.plan import (
    POOL,
    Shape,
    Standardize,
    Window,
    WindowMaxPool,
    WindowMeanPool,
    pads,
)

# Of erf, by Abramowitz and Stegun 1964, 7.1.26: off by 1.5e-7 at most.
ERF = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
ERF_SCALE = 0.3275911


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits, [B, K]."""
    likely = np.exp(logits - logits.max(axis=1, keepdims=True))
    return likely / likely.sum(axis=1, keepdims=True)


def as_it_is(x: np.ndarray) -> np.ndarray:
    """The array."""
    return x


def batch_last(x: np.ndarray) -> np.ndarray:
    """[B, H, W, C] -> [C, H, W, B], or [B, I] -> [I, B]."""
    return np.ascontiguousarray(x.transpose(3, 1, 2, 0) if x.ndim == 4 else x.T)


def chosen(live: np.ndarray | None, x: np.ndarray) -> np.ndarray:
    """[B, ...] -> [live inputs, B], a view; None stands for all."""
    flat = x.reshape(len(x), math.prod(x.shape[1:]))
    every = live is None or live.size == flat.shape[1]
    return (flat if every else flat[:, live]).T


def activated(kind: str, x: np.ndarray) -> np.ndarray:
    """An activation of `plan.ACTIVATIONS`, elementwise."""
    number = x.dtype.type
    if kind == "relu":
        return np.maximum(x, 0)
    if kind == "leaky_relu":
        return np.where(x >= 0, x, x * number(0.01))
    if kind == "softplus":
        return np.logaddexp(x, number(0))
    if kind == "gelu":
        inner = number(math.sqrt(2 / math.pi)) * (x + number(0.044715) * x**3)
        return number(0.5) * x * (1 + np.tanh(inner))
    if kind == "gelu_erf":
        return number(0.5) * x * (1 + erf(x * number(math.sqrt(0.5))))
    if kind in ("sigmoid", "silu"):
        share = number(0.5) * (1 + np.tanh(number(0.5) * x))
        return share if kind == "sigmoid" else x * share
    return {"tanh": np.tanh, "abs": np.abs}[kind](x)


def erf(x: np.ndarray) -> np.ndarray:
    """The error function, within 2e-7; SciPy's is not needed for it."""
    size = np.abs(x)
    t = 1 / (1 + x.dtype.type(ERF_SCALE) * size)
    polynomial = np.zeros_like(t)
    for factor in reversed(ERF):
        polynomial = (polynomial + x.dtype.type(factor)) * t
    return np.sign(x) * (1 - polynomial * np.exp(-size * size))


def layer_norm(epsilon: float, scale, bias, h: np.ndarray) -> np.ndarray:
    """Each position standardized over its channels, [C, ..., B]; scale and bias [C]."""
    centred = h - h.mean(axis=0)
    std = np.sqrt(np.square(centred).mean(axis=0) + h.dtype.type(epsilon))
    scale, bias = (one.reshape(-1, *(1,) * (h.ndim - 1)) for one in (scale, bias))
    return centred / std * scale + bias


def standardize(step: Standardize, h: np.ndarray) -> np.ndarray:
    """(h - mean) / std of each channel, [C, ..., B]."""
    mean, std = (
        np.asarray(values, h.dtype).reshape(-1, *(1,) * (h.ndim - 1))
        for values in (step.mean, step.std)
    )
    return (h - mean) / std


def flatten(h: np.ndarray) -> np.ndarray:
    """[C, H, W, B] -> [C H W, B]."""
    return h.reshape(math.prod(h.shape[:-1]), h.shape[-1])


def in_order(maps: Shape, h: np.ndarray) -> np.ndarray:
    """Flattened maps, [C H W, B], in the order of units, [H W C, B]."""
    height, width, channels = maps
    return h.reshape(channels, height * width, -1).swapaxes(0, 1).reshape(h.shape)


def depth_to_space(block: tuple[int, int], h: np.ndarray) -> np.ndarray:
    """[C, H, W, B] or [C, B], one position, -> [C / (h w), H h, W w, B]."""
    height, width = block
    _, *places, batch = h.shape
    down, across = places or (1, 1)
    h = h.reshape(height, width, -1, down, across, batch).transpose(2, 3, 0, 4, 1, 5)
    return h.reshape(-1, down * height, across * width, batch)


def mean_pool(h: np.ndarray) -> np.ndarray:
    """The mean over all positions, [C, B]."""
    return h.mean(axis=(1, 2))


def window_max_pool(step: WindowMaxPool, h: np.ndarray) -> np.ndarray:
    """The maximum over rows, then that over columns."""
    return _pooled(step, h, np.maximum, -np.inf)


def window_mean_pool(step: WindowMeanPool, h: np.ndarray) -> np.ndarray:
    """The sum over rows, then that over columns, by the size of a window."""
    return _pooled(step, h, np.add, 0.0) / h.dtype.type(step.size**2)


def _pooled(step: Window, h: np.ndarray, join: np.ufunc, start: float) -> np.ndarray:
    margins = pads(h.shape[1:3], step.kernel, step.strides, step.padding)
    for axis, margin in enumerate(margins, 1):
        h = _joined(step, h, axis, margin, join, start)
    return h


def _joined(step: Window, h: np.ndarray, axis: int, margin, join, start) -> np.ndarray:
    """Windows along an axis, each as one. Margins are counted, not made: of a small map
    in large windows they would be most."""
    (low, high), size, stride = margin, h.shape[axis], step.stride
    count = (low + size + high - step.size) // stride + 1
    found = np.full((*h.shape[:axis], count, *h.shape[axis + 1 :]), start, h.dtype)
    joined, seen = found.swapaxes(0, axis), h.swapaxes(0, axis)
    for place in range(-low, step.size - low):  # of the first window
        first = max(0, -(place // stride))  # of the windows that have it in the map
        last = min(count, -((place - size) // stride))
        if first < last:
            part = seen[first * stride + place : last * stride + place : stride]
            join(joined[first:last], part, out=joined[first:last])
    return found


def max_pool(h: np.ndarray) -> np.ndarray:
    """The maximum of each 2 x 2, without an odd last row or column."""
    height, width = (n // POOL * POOL for n in h.shape[1:3])
    corners = [h[:, i:height:POOL, j:width:POOL] for i in (0, 1) for j in (0, 1)]
    return np.maximum(np.maximum(*corners[:2]), np.maximum(*corners[2:]))
