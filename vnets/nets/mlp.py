"""Multilayer perceptrons."""

from collections.abc import Sequence

from vnets.nets.net import Net
from vnets.plan import Activation, Dense, Flatten, Norm, check_counts
from vnets.pooling import ACTIVATIONS
from vnets.types import choose


class MLP(Net):
    """Perceptron, [B, ...] -> logits [B, classes]; inputs are flattened.

    Layers are named dense1, dense2, ...

    Attributes:
      widths: units of each hidden layer; none makes a linear model.
      classes: K, or the number of outputs of a regression.
      activation: a name in `pooling.ACTIVATIONS`.
      batch_norm: normalizes after each hidden layer (norm1, norm2, ...), which then has
        no bias of its own.

    Raises:
      ValueError: an activation that does not exist, or a width or classes below 1.
    """

    widths: Sequence[int] = ()
    classes: int = 10
    activation: str = "relu"
    batch_norm: bool = False

    def __post_init__(self):
        check_counts(widths=self.widths, classes=self.classes)
        choose("activation", self.activation, ACTIVATIONS)
        super().__post_init__()

    @property
    def plan(self):
        hidden = []
        for number, width in enumerate(self.widths, start=1):
            hidden.append(Dense(f"dense{number}", width, bias=not self.batch_norm))
            hidden += [Norm(f"norm{number}")] if self.batch_norm else []
            hidden.append(Activation(self.activation))
        last = Dense(f"dense{len(self.widths) + 1}", self.classes)
        return (Flatten(), *hidden, last)


def lenet_300_100(classes: int = 10, posteriors=None) -> MLP:
    """LeNet-300-100 (LeCun et al. 1998): layers dense1, dense2 and dense3."""
    return MLP(widths=(300, 100), classes=classes, posteriors=posteriors or {})
