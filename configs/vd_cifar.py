"""The dropout family on CIFAR-10: strided convolutions and softplus, at many widths.

    configs/vd_cifar.py:METHOD_K[,SCALE]

After Kingma, Salimans and Welling 2015, figure 1(b): two convolutions of 32 k and 64 k
maps with stride 2, two hidden layers of 128 k units, softplus. METHOD is one of
`configs/vd_mnist.py`, which says how all of them train; noise of type A is on each
pixel of each map by itself. K is 1, 2, 3 or 4: how far the figure goes we do not know,
nor its kernels (ours are 5 x 5), dropout rates (ours: 0.2 for the pixels, 0.5 else),
numbers and lengths.

Pixels are standardized by the mean and deviation of each channel, there is no
augmentation, and 5,000 of the training images are held out to stop by. Short has at
most 8 epochs, paper 200. quick is on the digits in 8 x 8.
"""

from ml_collections import ConfigDict

from configs import common, vd_mnist

METHODS = vd_mnist.METHODS
WIDTHS = (1, 2, 3, 4)
VARIANTS = tuple(f"{method}_{k}" for k in WIDTHS for method in METHODS)
LAYERS = ("conv1", "conv2", "dense1", "dense2", "dense3")
RATES = dict(zip(LAYERS, (0.2, 0.5, 0.5, 0.5, 0.5), strict=True))
EPOCHS = {"quick": 20, "short": 8, "paper": 200}
HELD_OUT = {"quick": 237, "short": 5000, "paper": 5000}


def sweep(scale: str = "paper") -> tuple[str, ...]:
    """All at scale paper, elsewhere the narrowest nets."""
    return VARIANTS if scale == "paper" else VARIANTS[: len(METHODS)]


def get_config(which: str = "vd_a_1") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    method, _, k = variant.rpartition("_")
    config = common.classifier(variant, scale)
    config.dataset, pixels = common.cifar(scale)
    config.dataset.validation = HELD_OUT[scale]
    config.model = {"name": "strided_cnn", "width": int(k), **pixels, "posteriors": {}}
    config.epochs = EPOCHS[scale]
    vd_mnist.noisy(config, method, RATES)
    return config
