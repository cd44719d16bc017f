"""Steps without weights, of arrays whose batch is last: [C, H, W, B] or [I, B]."""

import math

import numpy as np

from vnets.plan import POOL, Shape, Standardize, WindowMaxPool, pads


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits, [B, K]."""
    likely = np.exp(logits - logits.max(axis=1, keepdims=True))
    return likely / likely.sum(axis=1, keepdims=True)


def activated(kind: str, x: np.ndarray) -> np.ndarray:
    """An activation of `plan.ACTIVATIONS`, elementwise."""
    if kind == "relu":
        return np.maximum(x, 0)
    if kind == "leaky_relu":
        return np.where(x >= 0, x, x * x.dtype.type(0.01))
    if kind == "softplus":
        return np.logaddexp(x, x.dtype.type(0))
    if kind == "gelu":
        inner = x.dtype.type(math.sqrt(2 / math.pi)) * (
            x + x.dtype.type(0.044715) * x**3
        )
        return x.dtype.type(0.5) * x * (1 + np.tanh(inner))
    return {"tanh": np.tanh, "abs": np.abs}[kind](x)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), which no x overflows."""
    half = x.dtype.type(0.5)
    return half + half * np.tanh(half * x)


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


def mean_pool(h: np.ndarray) -> np.ndarray:
    """The mean over all positions, [C, B]."""
    return h.mean(axis=(1, 2))


def window_max_pool(step: WindowMaxPool, h: np.ndarray) -> np.ndarray:
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


def max_pool(h: np.ndarray) -> np.ndarray:
    """The maximum of each 2 x 2, without an odd last row or column."""
    height, width = (n // POOL * POOL for n in h.shape[1:3])
    corners = [h[:, i:height:POOL, j:width:POOL] for i in (0, 1) for j in (0, 1)]
    return np.maximum(np.maximum(*corners[:2]), np.maximum(*corners[2:]))
