"""Pictures made worse in five ways of five strengths: how a net fares off its data.

After the idea of Hendrycks and Dietterich 2019, with code and strengths of our own: it
is not their data set, and numbers on one are not to be compared with the other. In
units of the greatest pixel value and for a strength s of 0 to 5,

    noise       normal, of standard deviation 0.04 s, on each number
    impulses    a fraction 0.02 s of the pixels is black or white, all channels alike
    brightness  0.06 s is added
    contrast    all is drawn towards the mean of its picture, by 1 - 0.17 s
    blur        a Gaussian window of 0.3 + 0.15 s pixels' deviation, edges mirrored

rounded and clipped. Strength 0 changes nothing. Draws are made of raw bits, the same in
every version of NumPy, so a seed and the number of pictures name them: corrupt a set
as a whole, for a part of it has other draws.
"""

from collections.abc import Callable

import numpy as np

from vnets.data.changes import PIXEL_MAX, normal
from vnets.data.types import DataError

STRENGTHS = (1, 2, 3, 4, 5)


def corrupted(
    images: np.ndarray, kind: str, strength: int, seed: int = 0
) -> np.ndarray:
    """The same pictures, made worse.

    Args:
      images: uint8 [N, H, W, C].
      kind: a name in `CORRUPTIONS`.
      strength: 1 to 5; 0 for none.
      seed: of the draws, where there are any.

    Returns:
      uint8 [N, H, W, C].

    Raises:
      DataError: what are no pictures, another kind, or another strength.
    """
    if kind not in CORRUPTIONS:
        raise DataError(f"unknown corruption {kind!r}; choose from {[*CORRUPTIONS]}")
    if images.dtype != np.uint8 or images.ndim != 4:
        raise DataError(
            f"pictures are uint8 [N, H, W, C], not {images.dtype} {list(images.shape)}"
        )
    if strength not in (0, *STRENGTHS):
        raise DataError(f"a strength is 0, for none, to 5, not {strength}")
    if not strength or not images.size:
        return images.copy()
    changed = CORRUPTIONS[kind](images / PIXEL_MAX, strength, seed)
    return np.rint(PIXEL_MAX * changed).clip(0, PIXEL_MAX).astype(np.uint8)


def _noise(x: np.ndarray, strength: int, seed: int) -> np.ndarray:
    return x + 0.04 * strength * normal([seed, 0], x.shape)


def _impulses(x: np.ndarray, strength: int, seed: int) -> np.ndarray:
    shape = (*x.shape[:3], 1)
    bits = np.random.PCG64([seed, 1]).random_raw(int(np.prod(shape))).reshape(shape)
    hit = (bits >> np.uint64(1)) / 2.0**63 < 0.02 * strength
    return np.where(hit, (bits & np.uint64(1)).astype(float), x)


def _brightness(x: np.ndarray, strength: int, seed: int) -> np.ndarray:
    del seed
    return x + 0.06 * strength


def _contrast(x: np.ndarray, strength: int, seed: int) -> np.ndarray:
    del seed
    mean = x.mean((1, 2, 3), keepdims=True)
    return mean + (1 - 0.17 * strength) * (x - mean)


def _blur(x: np.ndarray, strength: int, seed: int) -> np.ndarray:
    del seed
    window = weights(strength)
    reach = len(window) // 2
    for axis in (1, 2):
        width = x.shape[axis]
        pad = [(reach, reach) if a == axis else (0, 0) for a in range(x.ndim)]
        wide = np.pad(x, pad, mode="symmetric")
        moved = [
            np.take(wide, np.arange(width) + at, axis) for at in range(len(window))
        ]
        x = np.tensordot(window, np.stack(moved), 1)
    return x


def weights(strength: int) -> np.ndarray:
    """The window of a blur along one axis; it sums to 1."""
    std = 0.3 + 0.15 * strength
    offset = np.arange(-4, 5)
    window = np.exp(-np.square(offset / std) / 2)
    return window / window.sum()


CORRUPTIONS: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "noise": _noise,
    "impulses": _impulses,
    "brightness": _brightness,
    "contrast": _contrast,
    "blur": _blur,
}
