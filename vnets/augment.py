"""Random crops and flips of image batches, inside of the compiled step.

They take pixels as they are stored (uint8 too), before these are scaled: what a shifted
image leaves free is black, as in the authors' code.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax, random

from vnets.types import Array, Key, choose

SHARING = ("example", "batch")


@dataclasses.dataclass(frozen=True)
class CropAndFlip:
    """Pads, crops at a random place back to the size, and mirrors half of the images.

    `augment(images [B, H, W, C], key)` gives images of the same shape and type.

    Neklyudov et al. 2019 train on CIFAR with 4 pixels and one crop and flip for a whole
    minibatch (their TensorFlow code); usual is one for each example.

    Attributes:
      pad: black pixels on each side, from which the place is drawn: up to `pad` pixels
        of shift in every direction.
      flip: mirrors left and right with probability 1/2.
      per: the place and the flip are drawn for each "example", or once for a "batch".

    Raises:
      ValueError: a negative pad, or a sharing that does not exist.
    """

    pad: int = 4
    flip: bool = True
    per: Literal["example", "batch"] = "example"

    def __post_init__(self):
        if self.pad < 0:
            raise ValueError(f"pad must be at least 0 pixels, not {self.pad}")
        choose("sharing of an augmentation", self.per, SHARING)

    def __call__(self, images: Array, key: Key) -> Array:
        n = len(images) if self.per == "example" else 1
        place, mirror = random.split(key)
        corners = random.randint(place, (n, 2), 0, 2 * self.pad + 1)
        mirrored = random.bernoulli(mirror, 0.5, (n,)) & self.flip
        margin = (self.pad, self.pad)
        padded = jnp.pad(images, ((0, 0), margin, margin, (0, 0)))
        size = images.shape[1:]
        if self.per == "batch":
            top, left = corners[0]
            zero = jnp.zeros((), top.dtype)
            cropped = lax.dynamic_slice(padded, (zero, top, left, zero), images.shape)
        else:

            def crop(image, corner):
                zero = jnp.zeros((), corner.dtype)
                return lax.dynamic_slice(image, (*corner, zero), size)

            cropped = jax.vmap(crop)(padded, corners)
        return jnp.where(mirrored[:, None, None, None], cropped[:, :, ::-1], cropped)
