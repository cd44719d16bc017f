"""LeNet-5 in the form of Caffe's example, as the variance-network papers use it."""

from flax import linen as nn

from vnets.layers import (
    ACTIVATIONS,
    TEST,
    Conv,
    Dense,
    Mode,
    activate_max_pool,
    batch_norm,
)
from vnets.nets.net import Net
from vnets.types import Array, choose


class LeNet5(Net):
    """Valid 5 x 5 convolutions of 20 and 50 maps, 500 units; [B, 28, 28, 1] -> [B, K].

    conv1 (norm1) ReLU pool, conv2 (norm2) ReLU pool, dense1 (norm3) ReLU, dense2.

    Raises:
      ValueError: an activation that does not exist.

    Attributes:
      classes: K.
      batch_norm: normalizes after conv1, conv2 and dense1, as `lenet5-vn.py` of the
        authors does. A layer that is normalized has no bias of its own.
      norm_affine: batch normalization has a learned scale and bias.
      activation: a name in `layers.ACTIVATIONS`, in place of each ReLU.
    """

    classes: int = 10
    batch_norm: bool = False
    norm_affine: bool = True
    activation: str = "relu"

    def __post_init__(self):
        choose("activation", self.activation, ACTIVATIONS)
        super().__post_init__()

    @property
    def layers(self):
        return ("conv1", "conv2", "dense1", "dense2")

    @nn.compact
    def __call__(self, x: Array, mode: Mode = TEST) -> Array:
        def normalize(x: Array, number: int) -> Array:
            if not self.batch_norm:
                return x
            return batch_norm(f"norm{number}", mode, affine=self.norm_affine)(x)

        def options(name: str) -> dict:
            bias = not self.batch_norm or name == "dense2"
            return {
                "name": name,
                "posterior": self.posterior(name),
                "use_bias": bias,
            }

        for number, features in enumerate((20, 50), start=1):
            conv = Conv(features, (5, 5), padding="VALID", **options(f"conv{number}"))
            x = activate_max_pool(normalize(conv(x, mode), number), self.activation)
        x = x.reshape(x.shape[0], -1)
        x = normalize(Dense(500, **options("dense1"))(x, mode), 3)
        x = ACTIVATIONS[self.activation](x)
        return Dense(self.classes, **options("dense2"))(x, mode)
