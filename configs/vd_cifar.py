"""The dropout family on CIFAR-10: strided convolutions and softplus, at many widths.

    configs/vd_cifar.py:METHOD_K[,SCALE]

After Kingma, Salimans and Welling 2015, figure 1(b): two convolutions of 32 k and 64 k
maps with stride 2, two hidden layers of 128 k units, softplus. METHOD is one of
`configs/vd_mnist.py`, which says how all of them train; noise of type A is on each
pixel of each map by itself. K is 1, 2, 3 or 4: how far the figure goes we do not know,
nor its kernels (ours are 5 x 5), dropout rates (ours: 0.2 for the pixels, 0.5 else),
numbers and lengths. vd_a2_once_1_long is vd_a2_1 whose KL counts once for each alpha,
not once for each weight, as in `configs/vd_mnist.py`.

Pixels are standardized by the mean and deviation of each channel, there is no
augmentation, and 5,000 of the training images are held out to stop by. Short has at
most 8 epochs, none_1_long and vd_a2_once_1_long 24, paper 200. quick is on the digits
in 8 x 8.
"""

from ml_collections import ConfigDict

from configs import common, vd_mnist

METHODS = vd_mnist.METHODS
WIDTHS = (1, 2, 3, 4)
ONCE = "vd_a2_once_1_long"
LONG = ("none_1_long", ONCE)
VARIANTS = (*(f"{method}_{k}" for k in WIDTHS for method in METHODS), *LONG)
LAYERS = ("conv1", "conv2", "dense1", "dense2", "dense3")
RATES = dict(zip(LAYERS, (0.2, 0.5, 0.5, 0.5, 0.5), strict=True))
# Weights that share an alpha in the narrowest net: of a convolution its kernels' places
# and maps, of a dense layer its outputs.
WEIGHTS = {"conv1": 25 * 32, "conv2": 25 * 64, "dense1": 128, "dense2": 128}
WEIGHTS["dense3"] = 10
EPOCHS = {"quick": 20, "short": 8, "paper": 200}
HELD_OUT = {"quick": 237, "short": 5000, "paper": 5000}


def sweep(scale: str = "paper") -> tuple[str, ...]:
    """The narrowest nets, at scale paper all; long runs where others are shorter."""
    plain = VARIANTS[: -len(LONG)]
    if scale == "paper":
        return (*plain, ONCE)
    return (*plain[: len(METHODS)], *(LONG if scale == "short" else ()))


def get_config(which: str = "vd_a_1") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    method, _, k = variant.removesuffix("_long").rpartition("_")
    config = common.classifier(variant, scale)
    config.dataset, pixels = common.cifar(scale)
    config.dataset.validation = HELD_OUT[scale]
    config.model = {"name": "strided_cnn", "width": int(k), **pixels, "posteriors": {}}
    config.epochs = EPOCHS[scale]
    if variant in LONG and scale == "short":
        config.epochs *= 3
    vd_mnist.noisy(config, method, RATES)
    if variant == ONCE:
        factors = {layer: 1 / count for layer, count in WEIGHTS.items()}
        with config.ignore_type():  # a name, or a name with arguments
            config.prior = {"kind": config.prior, "factors": factors}
    return config
