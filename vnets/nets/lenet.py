"""LeNet-5 in the form of Caffe's example, as the variance-network papers use it."""

from vnets.nets.net import Net
from vnets.plan import Activation, Conv, Dense, Flatten, MaxPool, Norm, check_counts
from vnets.pooling import ACTIVATIONS
from vnets.types import choose


class LeNet5(Net):
    """Two valid 5 x 5 convolutions and a hidden layer; [B, 28, 28, 1] -> [B, K].

    conv1 (norm1) ReLU pool, conv2 (norm2) ReLU pool, dense1 (norm3) ReLU, dense2.

    Raises:
      ValueError: an activation that does not exist, or classes below 1.

    Attributes:
      classes: K.
      batch_norm: normalizes after conv1, conv2 and dense1, as `lenet5-vn.py` of the
        authors does. A layer that is normalized has no bias of its own.
      norm_affine: batch normalization has a learned scale and bias.
      activation: a name in `pooling.ACTIVATIONS`, in place of each ReLU.
      widths: maps of conv1 and conv2, units of dense1.
    """

    classes: int = 10
    batch_norm: bool = False
    norm_affine: bool = True
    activation: str = "relu"
    widths: tuple[int, int, int] = (20, 50, 500)

    def __post_init__(self):
        check_counts(classes=self.classes, widths=self.widths)
        if not isinstance(self.widths, tuple | list) or len(self.widths) != 3:
            raise ValueError(f"widths must be three whole numbers, not {self.widths!r}")
        choose("activation", self.activation, ACTIVATIONS)
        super().__post_init__()

    @property
    def plan(self):
        norm = self.batch_norm
        act = Activation(self.activation)
        maps = []
        for number, features in enumerate(self.widths[:2], start=1):
            conv = Conv(
                f"conv{number}", features, (5, 5), padding="VALID", bias=not norm
            )
            maps += [conv, *self._norm(number), act, MaxPool()]
        hidden = [Dense("dense1", self.widths[2], bias=not norm), *self._norm(3), act]
        return (*maps, Flatten(), *hidden, Dense("dense2", self.classes))

    def _norm(self, number: int) -> list[Norm]:
        return [Norm(f"norm{number}", self.norm_affine)] if self.batch_norm else []
