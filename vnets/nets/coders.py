"""The two halves of a convolutional autoencoder."""

from vnets.layers import TEST, Mode
from vnets.nets.net import Net
from vnets.plan import (
    Activation,
    Conv,
    Dense,
    DepthToSpace,
    Flatten,
    check_counts,
)
from vnets.pooling import ACTIVATIONS
from vnets.types import Array, choose

KERNEL, STRIDES = (3, 3), (2, 2)
SHRINKS = 4  # by which two strides of 2 divide height and width


class ConvEncoder(Net):
    """Two strided convolutions and a dense layer, pictures [B, H W] -> [B, K].

    conv1, conv2, dense1. Pictures have one channel, flat or not.

    Raises:
      ValueError: an activation that does not exist, sizes or widths that are no pairs,
        a size that 4 does not divide, or classes below 1; when called, pictures of
        another size.

    Attributes:
      size: H, W.
      widths: maps of conv1 and conv2.
      classes: K.
      activation: a name in `pooling.ACTIVATIONS`.
    """

    size: tuple[int, int] = (28, 28)
    widths: tuple[int, int] = (16, 32)
    classes: int = 10
    activation: str = "relu"

    def __post_init__(self):
        _check(self)
        super().__post_init__()

    @property
    def plan(self):
        steps = [Flatten(), DepthToSpace(self.size)]
        for number, maps in enumerate(self.widths, start=1):
            conv = Conv(f"conv{number}", maps, KERNEL, STRIDES)
            steps += [conv, Activation(self.activation)]
        return (*steps, Flatten(), Dense("dense1", self.classes))

    def __call__(self, x: Array, mode: Mode = TEST) -> Array:
        height, width = self.size
        if x.shape[1:] not in ((height * width,), (height, width, 1)):
            raise ValueError(
                f"pictures are [B, {height * width}] or [B, {height}, {width}, 1], not "
                f"{list(x.shape)}"
            )
        return super().__call__(x, mode)


class ConvDecoder(Net):
    """A dense layer and two convolutions whose maps grow, [B, Z] -> [B, H W].

    dense1, conv1, conv2: after each of the three, channels become positions. The maps
    have a quarter, a half and all of the height and width.

    Raises:
      ValueError: as of `ConvEncoder`; or other classes than pixels.

    Attributes:
      size: H, W.
      widths: maps that conv1 and conv2 read.
      classes: H W; a number for each pixel.
      activation: a name in `pooling.ACTIVATIONS`.
    """

    size: tuple[int, int] = (28, 28)
    widths: tuple[int, int] = (16, 16)
    classes: int = 784
    activation: str = "relu"

    def __post_init__(self):
        _check(self)
        height, width = self.size
        if self.classes != height * width:
            raise ValueError(
                f"a picture of {height} x {width} has {height * width} pixels, not "
                f"{self.classes}"
            )
        super().__post_init__()

    @property
    def plan(self):
        act, twice = Activation(self.activation), DepthToSpace(STRIDES)
        height, width = (n // SHRINKS for n in self.size)
        first, second = self.widths
        return (
            Dense("dense1", height * width * first),
            act,
            DepthToSpace((height, width)),
            Conv("conv1", 4 * second, KERNEL),
            act,
            twice,
            Conv("conv2", 4, KERNEL),
            twice,
            Flatten(),
        )


def _check(net: ConvEncoder | ConvDecoder) -> None:
    """Refuses fields that make no net, and makes tuples of its pairs."""
    check_counts(size=net.size, widths=net.widths, classes=net.classes)
    choose("activation", net.activation, ACTIVATIONS)
    for name in ("size", "widths"):
        held = getattr(net, name)
        if not isinstance(held, tuple | list) or len(held) != 2:
            raise ValueError(f"{name} must be two whole numbers, not {held!r}")
        setattr(net, name, tuple(held))
    if any(n % SHRINKS for n in net.size):
        raise ValueError(
            f"height and width must be multiples of {SHRINKS}, not {net.size}"
        )
