"""A small convolutional net without pooling, of Kingma et al. 2015 for CIFAR-10."""

from vnets.nets.net import Net
from vnets.plan import Activation, Conv, Dense, Flatten, check_counts, standardized

KERNEL, STRIDES = (5, 5), (2, 2)


class StridedCNN(Net):
    """Two strided convolutions, two hidden layers, softplus; [B, H, W, C] -> [B, K].

    conv1 and conv2 of 32 k and 64 k maps with stride 2, dense1 and dense2 of 128 k
    units, dense3. After Kingma, Salimans and Welling 2015, figure 1(b); that kernels
    are 5 x 5 is our choice, we could not read theirs.

    Raises:
      ValueError: a width or classes below 1, or an input's deviation that is not
        positive.

    Attributes:
      classes: K.
      width: k.
      input_mean: subtracted from the pixels, which come in [0, 1]: one number, or one
        for each channel.
      input_std: divides what is left.
    """

    classes: int = 10
    width: int = 1
    input_mean: tuple[float, ...] = (0.0,)
    input_std: tuple[float, ...] = (1.0,)

    def __post_init__(self):
        self.input_mean, self.input_std = tuple(self.input_mean), tuple(self.input_std)
        standardized(self.input_mean, self.input_std)
        check_counts(width=self.width, classes=self.classes)
        super().__post_init__()

    @property
    def plan(self):
        k, act = self.width, Activation("softplus")
        steps = [*standardized(self.input_mean, self.input_std)]
        for number, maps in enumerate((32 * k, 64 * k), start=1):
            steps += [Conv(f"conv{number}", maps, KERNEL, STRIDES), act]
        steps.append(Flatten())
        for number in (1, 2):
            steps += [Dense(f"dense{number}", 128 * k), act]
        return (*steps, Dense("dense3", self.classes))
