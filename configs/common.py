"""What configs share: scales, names, data, how a classifier is trained.

A config file is named by its place and has `get_config(which)` and VARIANTS; SCALES
where it lacks one of the three, and `sweep(scale)` where not all variants are worth
running at a scale. This one has none of these, and is no config.
"""

from collections.abc import Sequence

from ml_collections import ConfigDict

SCALES = ("quick", "short", "paper")
# Of CIFAR-10's training images, pixels in [0, 1].
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def split(
    which: str, variants: Sequence[str], scales: Sequence[str] = SCALES
) -> tuple[str, str]:
    """ "VARIANT[,SCALE]" as the two; both must be known."""
    variant, _, scale = which.partition(",")
    scale = scale or "paper"
    if variant not in variants:
        raise ValueError(f"unknown variant {variant!r}; choose from {tuple(variants)}")
    if scale not in scales:
        raise ValueError(f"unknown scale {scale!r}; choose from {tuple(scales)}")
    return variant, scale


def start(experiment: str, variant: str, scale: str) -> ConfigDict:
    """A config with the fields that all have, and no others."""
    fields = {"experiment": experiment, "variant": variant, "scale": scale, "seed": 0}
    return ConfigDict(fields)


def mnist(scale: str) -> dict:
    """MNIST, or at quick the embedded digits of its shape; nothing is held out."""
    name = "digits" if scale == "quick" else "mnist"
    return {"name": name, "labels": "", "validation": 0}


def cifar(scale: str, data: str = "cifar10", labels: str = "") -> tuple[dict, dict]:
    """The data and how a net standardizes them; at scale quick small digits instead."""
    if scale == "quick":
        dataset = {"name": "digits_8x8", "labels": "", "validation": 0}
        return dataset, {"input_mean": (0.3,), "input_std": (0.4,)}
    dataset = {"name": data, "labels": labels, "validation": 0}
    return dataset, {"input_mean": CIFAR_MEAN, "input_std": CIFAR_STD}


def classifier(variant: str, scale: str) -> ConfigDict:
    """How LeNet-5 is trained on MNIST, and much else; every layer is a point still.

    Adam from 1e-3 linearly to 0, batches of 200; quick, on the digits, takes batches of
    50 and Adam from 2e-3.
    """
    config = start("variance_networks", variant, scale)
    config.dataset = mnist(scale)
    config.model = {"name": "lenet5", "batch_norm": True, "posteriors": {}}
    config.prior = "log_uniform"
    # Schedules are (fraction of the run, value) knots.
    config.kl_weight = ((0.0, 1.0),)
    config.epochs = {"quick": 12, "short": 12, "paper": 200}[scale]
    config.batch_size = 200
    config.chunk_steps = 50
    config.precision = "float32"  # or bfloat16, with variances in float32
    config.remat = False  # compute again what a layer keeps for its gradient
    config.optimizer = {
        "name": "adam",
        "learning_rate": ((0.0, 1e-3), (1.0, 0.0)),
        "b1": 0.9,
        "log_alpha_rate": 1.0,
        "accumulate": 1,  # batches for one update
    }
    config.max_log_alpha = float("inf")
    config.evals = {"samples": 20, "batch_size": 500, "threshold": 3.0}
    config.probe = {"every": 1, "samples": 5}

    if scale == "quick":
        config.batch_size = 50
        config.optimizer.learning_rate = ((0.0, 2e-3), (1.0, 0.0))
        config.probe.every, config.probe.samples = 10, 20
    if scale == "paper":
        config.evals.samples = 100
        config.probe.samples = 20
    return config


def autoencoder(variant: str, scale: str, latent: int, epochs: int) -> ConfigDict:
    """A variational autoencoder of one hidden layer each way, of black or white pixels.

    Kingma and Welling 2014, but by Adam: 500 hidden units with tanh, on MNIST; at scale
    quick 100, on the digits.
    """
    config, small = start("autoencode", variant, scale), scale == "quick"
    config.dataset = mnist(scale) | {"binary": True}
    net = {"name": "mlp", "widths": (100 if small else 500,), "activation": "tanh"}
    decoder = {**net, "posteriors": {}}
    config.model = {"latent": latent, "encoder": net, "decoder": decoder}
    config.prior = "standard_normal"
    config.epochs, config.batch_size, config.chunk_steps = epochs, 100, 15
    config.optimizer = {
        "name": "adam",
        "learning_rate": ((0.0, 5e-3 if small else 1e-3), (0.5, 1e-3), (1.0, 0.0)),
    }
    config.evals = {"samples": 20}
    config.probe = {"every": epochs // 10, "samples": 1}
    return config
