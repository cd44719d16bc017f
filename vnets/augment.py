"""Random crops and flips of image batches, inside of the compiled step.

They take pixels as they are stored (uint8 too), before these are scaled.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax, random

from vnets.rng import stream
from vnets.types import Array, Key, choose

SHARING = ("example", "batch")
FLIPS = (False, True, "alternate")
MARGINS = {"black": "constant", "reflect": "reflect"}


@dataclasses.dataclass(frozen=True)
class CropAndFlip:
    """Pads, crops at a random place back to the size, and mirrors half of the images.

    `augment(images [B, H, W, C], key)` gives images of the same shape and type. Where
    flips alternate it also takes which are `mirrored` [B] (`sources.Resident` does).

    Neklyudov et al. 2019 train on CIFAR with 4 pixels and one crop and flip for a whole
    minibatch (their TensorFlow code); usual is one for each example.

    Attributes:
      pad: pixels added on each side, from which the place is drawn: up to `pad` pixels
        of shift in every direction.
      flip: mirrors left and right with probability 1/2; or "alternate": which images
        are mirrored is drawn for the first epoch, and from then on turns with each, so
        that two epochs show both sides of every image (Jordan 2024).
      per: the place and the flip are drawn for each "example", or once for a "batch".
      margin: the pixels added are "black", or "reflect" what is beside them.

    Raises:
      ValueError: a negative pad; a sharing, flip or margin that does not exist; flips
        that alternate for a batch; when called, a pad that is no smaller than what it
        reflects, or no word of which are mirrored.
    """

    pad: int = 4
    flip: bool | Literal["alternate"] = True
    per: Literal["example", "batch"] = "example"
    margin: Literal["black", "reflect"] = "black"

    def __post_init__(self):
        if self.pad < 0:
            raise ValueError(f"pad must be at least 0 pixels, not {self.pad}")
        choose("sharing of an augmentation", self.per, SHARING)
        if self.flip not in FLIPS:
            raise ValueError(f"flip must be one of {FLIPS}, not {self.flip!r}")
        choose("margin of an augmentation", self.margin, MARGINS)
        if self.flip == "alternate" and self.per == "batch":
            raise ValueError("flips alternate for each example, not for a batch")

    def __call__(self, images: Array, key: Key, mirrored: Array | None = None) -> Array:
        if (mirrored is None) == (self.flip == "alternate"):
            raise ValueError(
                "which images are mirrored is given if flips alternate, and only then"
            )
        if self.margin == "reflect" and self.pad >= min(images.shape[1:3]):
            raise ValueError(
                f"{list(images.shape[1:3])} pixels cannot be reflected {self.pad} wide"
            )
        n = len(images) if self.per == "example" else 1
        place, mirror = random.split(key)
        corners = random.randint(place, (n, 2), 0, 2 * self.pad + 1)
        if mirrored is None:
            mirrored = random.bernoulli(mirror, 0.5, (n,)) & bool(self.flip)
        margin = (self.pad, self.pad)
        padded = jnp.pad(images, ((0, 0), margin, margin, (0, 0)), MARGINS[self.margin])
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


@dataclasses.dataclass(frozen=True)
class Augmented:
    """A net that sees its images as an augmentation changes them, another way at each
    draw: in a test a noise to average over, as that of weights.

    Attributes:
      model: as a `predictor.Member` takes it.
      augment: of images [B, H, W, C].

    Raises:
      ValueError: flips that alternate, which go by the epochs of a training.
    """

    model: Any
    augment: CropAndFlip

    def __post_init__(self):
        if self.augment.flip == "alternate":
            raise ValueError("flips alternate from epoch to epoch, and a test has none")

    def apply(self, variables: dict, x: Array, *, rngs: dict, **kwargs):
        """The model's `apply`, of the images changed by the key "noise"."""
        changed = self.augment(x, stream(rngs["noise"], "augment"))
        return self.model.apply(variables, changed, rngs=rngs, **kwargs)
