"""A small convolutional net that learns CIFAR fast."""

from vnets.nets.net import Net
from vnets.plan import (
    Activation,
    Conv,
    Dense,
    Flatten,
    MaxPool,
    Norm,
    WindowMaxPool,
    check_counts,
    standardized,
)

PATCH = (2, 2)


class WhitenedCNN(Net):
    """Whitened patches, groups of two convolutions, dense1; [B, H, W, C] -> [B, K].

    whiten GELU, then for each group 3 x 3 conv - max pool - norm - GELU - 3 x 3 conv -
    norm - GELU, the maximum of the positions that are left, dense1 - norm - ReLU, and
    logits. Convolutions are numbered from conv1 on and have no bias, normalization has
    no scale.

    After Jordan 2024 ("94 % on CIFAR-10 in 3.29 seconds on a single GPU"), whose net
    has no hidden dense layer. Start `whiten` by `initializers.whitening`.

    Raises:
      ValueError: no groups, a count below 1, or an input's deviation that is not
        positive.

    Attributes:
      classes: K.
      channels: C of the images; `whiten` has a pair of filters for each of 4 C values.
      widths: maps of each group.
      hidden: units of dense1.
      input_mean: subtracted from the pixels, which come in [0, 1]: one number, or one
        for each channel.
      input_std: divides what is left.
      last_pool: edge and stride of the last pooling; 1 leaves it out.
    """

    classes: int = 10
    channels: int = 3
    widths: tuple[int, ...] = (64, 256, 256)
    hidden: int = 512
    input_mean: tuple[float, ...] = (0.0,)
    input_std: tuple[float, ...] = (1.0,)
    last_pool: int = 3

    def __post_init__(self):
        for name in ("widths", "input_mean", "input_std"):
            setattr(self, name, tuple(getattr(self, name)))
        counts = ("widths", "classes", "channels", "hidden", "last_pool")
        check_counts(**{field: getattr(self, field) for field in counts})
        if not self.widths:
            raise ValueError("widths must be one or more numbers of maps, not ()")
        standardized(self.input_mean, self.input_std)
        super().__post_init__()

    @property
    def plan(self):
        filters = 2 * PATCH[0] * PATCH[1] * self.channels
        steps = [
            *standardized(self.input_mean, self.input_std),
            Conv("whiten", filters, PATCH, padding="VALID"),
            Activation("gelu"),
        ]
        for group, maps in enumerate(self.widths):
            first, second = 2 * group + 1, 2 * group + 2
            steps += [
                Conv(f"conv{first}", maps, (3, 3), bias=False),
                MaxPool(),
                Norm(f"norm{first}", scale=False),
                Activation("gelu"),
                Conv(f"conv{second}", maps, (3, 3), bias=False),
                Norm(f"norm{second}", scale=False),
                Activation("gelu"),
            ]
        if self.last_pool > 1:
            steps.append(WindowMaxPool(self.last_pool, self.last_pool, "VALID"))
        hidden = Dense("dense1", self.hidden, bias=False)
        norm = Norm(f"norm{2 * len(self.widths) + 1}", scale=False)
        steps += [Flatten(), hidden, norm, Activation()]
        return (*steps, Dense("dense2", self.classes))
