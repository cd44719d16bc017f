"""Multilayer perceptrons."""

from collections.abc import Sequence

from flax import linen as nn

from vnets.layers import ACTIVATIONS, TEST, Dense, Mode
from vnets.nets.net import Net
from vnets.types import Array, choose


class MLP(Net):
    """Perceptron, [B, ...] -> logits [B, classes]; inputs are flattened.

    Layers are named dense1, dense2, ...

    Attributes:
      widths: units of each hidden layer; none makes a linear model.
      classes: K, or the number of outputs of a regression.
      activation: a name in `layers.ACTIVATIONS`.

    Raises:
      ValueError: an activation that does not exist.
    """

    widths: Sequence[int] = ()
    classes: int = 10
    activation: str = "relu"

    def __post_init__(self):
        choose("activation", self.activation, ACTIVATIONS)
        super().__post_init__()

    @property
    def layers(self):
        return [f"dense{i}" for i in range(1, len(self.widths) + 2)]

    @nn.compact
    def __call__(self, x: Array, mode: Mode = TEST) -> Array:
        x = x.reshape(x.shape[0], -1)
        for name, width in zip(self.layers, (*self.widths, self.classes), strict=True):
            if name != self.layers[0]:
                x = ACTIVATIONS[self.activation](x)
            x = Dense(width, self.posterior(name), name=name)(x, mode)
        return x


def lenet_300_100(classes: int = 10, posteriors=None) -> MLP:
    """LeNet-300-100 (LeCun et al. 1998): layers dense1, dense2 and dense3."""
    return MLP(widths=(300, 100), classes=classes, posteriors=posteriors or {})
