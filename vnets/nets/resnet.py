"""ResNet with bottleneck blocks, as on ImageNet (He et al. 2016), at any size."""

from vnets.nets.net import Net
from vnets.plan import (
    Activation,
    Conv,
    Dense,
    MeanPool,
    Norm,
    Residual,
    WindowMaxPool,
    check_counts,
    standardized,
)

STAGES = (3, 4, 6, 3)  # ResNet-50
EXPANSION = 4  # maps that leave a block for each within


class ResNet(Net):
    """ResNet-50 v1.5 by default, [B, H, W, C] -> [B, K].

    A 7 x 7 convolution of stride 2, 3 x 3 max pooling of stride 2, stages of bottleneck
    blocks, the mean over positions and a dense layer. A block is 1 x 1, 3 x 3 and 1 x 1
    convolutions, each normalized, whose sum with a shortcut goes through a ReLU. The
    first block of every stage but the first halves the edge, by the stride of its 3 x 3
    convolution (in v1.0 by that of its first 1 x 1), and the first of each has a 1 x 1
    convolution as its shortcut; elsewhere the shortcut is x itself.

    Layers: stem, stage1_block1_conv1 to _conv3, stage1_block1_shortcut, ..., dense1;
    the normalization after each convolution is named norm in place of conv, or
    _norm is appended. Where a stride meets an even size, "SAME" pads one less before
    than behind; PyTorch's nets and the TPU code that Gale et al. 2019 start from pad
    both sides equally.

    Raises:
      ValueError: no stages or an empty one, a width or classes below 1, or an input's
        deviation that is not positive.

    Attributes:
      classes: K.
      stages: blocks of each stage.
      width: maps of the stem and within the blocks of the first stage; each further
        stage has twice as many, and every block gives four times those within it.
      zero_last_scale: the last normalization of each block starts with scale 0, so that
        the block is its shortcut at first (Goyal et al. 2017; Gale et al. 2019).
      input_mean: subtracted from the pixels, which come in [0, 1]: one number, or one
        for each channel.
      input_std: divides what is left.
    """

    classes: int = 1000
    stages: tuple[int, ...] = STAGES
    width: int = 64
    zero_last_scale: bool = True
    input_mean: tuple[float, ...] = (0.0,)
    input_std: tuple[float, ...] = (1.0,)

    def __post_init__(self):
        self.stages = tuple(self.stages)
        self.input_mean, self.input_std = tuple(self.input_mean), tuple(self.input_std)
        check_counts(stages=self.stages, width=self.width, classes=self.classes)
        if not self.stages:
            raise ValueError("stages must be one or more numbers of blocks, not ()")
        standardized(self.input_mean, self.input_std)
        super().__post_init__()

    @property
    def plan(self):
        steps: list = [*standardized(self.input_mean, self.input_std)]
        stem = Conv("stem", self.width, (7, 7), (2, 2), bias=False)
        steps += [stem, Norm("stem_norm"), Activation(), WindowMaxPool()]
        for stage, blocks in enumerate(self.stages, start=1):
            for block in range(1, blocks + 1):
                steps += self._block(stage, block)
        return (*steps, MeanPool(), Dense("dense1", self.classes))

    def _block(self, stage: int, number: int) -> tuple[Residual, Activation]:
        name = f"stage{stage}_block{number}"
        maps = self.width * 2 ** (stage - 1)
        strides = (2, 2) if number == 1 and stage > 1 else (1, 1)
        out = EXPANSION * maps
        body = (
            Conv(f"{name}_conv1", maps, (1, 1), bias=False),
            Norm(f"{name}_norm1"),
            Activation(),
            Conv(f"{name}_conv2", maps, (3, 3), strides, bias=False),
            Norm(f"{name}_norm2"),
            Activation(),
            Conv(f"{name}_conv3", out, (1, 1), bias=False),
            Norm(f"{name}_norm3", zero=self.zero_last_scale),
        )
        shortcut = ()
        if number == 1:
            shortcut = (
                Conv(f"{name}_shortcut", out, (1, 1), strides, bias=False),
                Norm(f"{name}_shortcut_norm"),
            )
        return Residual(body, shortcut), Activation()
