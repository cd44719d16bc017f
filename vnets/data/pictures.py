"""Encoded pictures of any size, cut to squares of one: at random, or at the centre.

The laws are those of ImageNet's usual preprocessing (Szegedy et al. 2015; the TPU code
that Gale et al. 2019 start from): for training a random part of the picture, mirrored
half of the time, for tests the central 7/8 of the shorter edge, both scaled bicubically
to the size that the net takes. Pillow averages over what it scales down; TensorFlow,
as the authors had it, does not.
"""

import io
from typing import Any

import numpy as np

AREA = (0.08, 1.0)  # of the picture, uniform
RATIO = (3 / 4, 4 / 3)  # width to height, log-uniform
ATTEMPTS = 10  # at a part that fits, before it is the centre after all
CENTRE = 224 / 256  # scaled to 256 at the shorter edge, 224 of it are kept
DRAWS = 4 * ATTEMPTS + 1  # numbers that a random cut needs

Box = tuple[float, float, float, float]  # left, upper, right, lower
Picture = Any  # a `PIL.Image.Image`; Pillow is loaded with the first picture


def decode(encoded: bytes) -> Picture:
    """A picture of three colours; grey ones and those for print become such."""
    from PIL import Image

    return Image.open(io.BytesIO(encoded)).convert("RGB")


def uniform(*seed: int) -> np.ndarray:
    """`DRAWS` numbers in [0, 1), the same in every version of NumPy."""
    return np.random.PCG64(list(seed)).random_raw(DRAWS) / 2.0**64


def random_box(width: int, height: int, draws: np.ndarray) -> Box:
    """A part of random area, shape and place.

    Args:
      width: of the picture, in pixels, as
      height: is.
      draws: 4 `ATTEMPTS` numbers in [0, 1).
    """
    area, ratio, left, upper = np.asarray(draws).reshape(ATTEMPTS, 4).T
    area = (AREA[0] + area * (AREA[1] - AREA[0])) * width * height
    low, high = np.log(RATIO)
    ratio = np.exp(low + ratio * (high - low))
    wide, tall = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (wide >= 1) & (wide <= width) & (tall >= 1) & (tall <= height)
    if not fits.any():
        return centre_box(width, height)
    i = int(np.argmax(fits))
    x = float(np.floor(left[i] * (width - wide[i] + 1)))
    y = float(np.floor(upper[i] * (height - tall[i] + 1)))
    return x, y, x + float(wide[i]), y + float(tall[i])


def centre_box(width: int, height: int) -> Box:
    """The central square of `CENTRE` of the shorter edge."""
    edge = CENTRE * min(width, height)
    x, y = (width - edge) / 2, (height - edge) / 2
    return x, y, x + edge, y + edge


def cut(picture: Picture, box: Box, size: int, mirrored: bool) -> np.ndarray:
    """A part of a picture at another size, uint8 [size, size, 3]."""
    from PIL import Image

    small = picture.resize((size, size), Image.Resampling.BICUBIC, box=box)
    pixels = np.asarray(small)
    return np.ascontiguousarray(pixels[:, ::-1]) if mirrored else pixels


def random_cut(picture: Picture, size: int, draws: np.ndarray) -> np.ndarray:
    """A random part, mirrored half of the time, uint8 [size, size, 3]."""
    width, height = picture.size
    box = random_box(width, height, draws[:-1])
    return cut(picture, box, size, mirrored=bool(draws[-1] < 0.5))


def central_cut(picture: Picture, size: int) -> np.ndarray:
    """The centre, uint8 [size, size, 3]."""
    width, height = picture.size
    return cut(picture, centre_box(width, height), size, mirrored=False)
