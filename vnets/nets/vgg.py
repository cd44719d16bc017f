"""The VGG-like net that the authors train on CIFAR, at any width and depth."""

import math

from vnets.nets.net import Net
from vnets.plan import (
    Activation,
    Conv,
    Dense,
    Flatten,
    MaxPool,
    Norm,
    check_counts,
    standardized,
)

BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
HIDDEN = 512
EPSILON = 1e-3  # of batch normalization, as in the authors' code


class VGG(Net):
    """Thirteen 3 x 3 convolutions in five blocks, 512 units; [B, H, W, C] -> [B, K].

    conv1 norm1 ReLU, ..., a pool after each block, dense1 norm14 ReLU, dense2. Layers
    that are normalized have no bias of their own. H and W are at least 2^blocks.

    After Molchanov et al. 2017 and Neklyudov et al. 2019, who scale all widths by k.
    Their dropout is no step of the net but a part of the posterior of the layer that
    follows it (`nodes.dropout`).

    Raises:
      ValueError: a width factor or an input's deviation that is not positive, classes
        below 1, or blocks that are not there.

    Attributes:
      classes: K.
      width: k, times which every number of maps and of hidden units is taken, rounded
        down to at least one.
      blocks: the first so many of the five blocks; fewer for small images.
      norm_affine: batch normalization has a learned bias and, if
      norm_scale: too, a learned scale.
      input_mean: subtracted from the pixels, which come in [0, 1]: one number, or one
        for each channel.
      input_std: divides what is left; 1/255 gives the raw pixels of 0 to 255.
    """

    classes: int = 10
    width: float = 1.0
    blocks: int = len(BLOCKS)
    norm_affine: bool = True
    norm_scale: bool = True
    input_mean: tuple[float, ...] = (0.0,)
    input_std: tuple[float, ...] = (1.0,)

    def __post_init__(self):
        self.input_mean, self.input_std = tuple(self.input_mean), tuple(self.input_std)
        standardized(self.input_mean, self.input_std)
        check_counts(classes=self.classes)
        if not 0 < self.width < math.inf:
            raise ValueError(f"width must be positive, not {self.width}")
        if not 1 <= self.blocks <= len(BLOCKS):
            raise ValueError(f"blocks must be 1 to {len(BLOCKS)}, not {self.blocks}")
        super().__post_init__()

    @property
    def plan(self):
        steps, number = [*standardized(self.input_mean, self.input_std)], 0
        for block in BLOCKS[: self.blocks]:
            for maps in block:
                number += 1
                conv = Conv(f"conv{number}", self._scaled(maps), (3, 3), bias=False)
                steps += [conv, self._norm(number), Activation()]
            steps.append(MaxPool())
        hidden = Dense("dense1", self._scaled(HIDDEN), bias=False)
        steps += [Flatten(), hidden, self._norm(number + 1), Activation()]
        return (*steps, Dense("dense2", self.classes))

    def _scaled(self, units: int) -> int:
        return max(1, int(self.width * units))

    def _norm(self, number: int) -> Norm:
        return Norm(f"norm{number}", self.norm_affine, EPSILON, self.norm_scale)
