"""Four classes through a variance layer of two units: how it passes information.

    configs/toy_four_classes.py:VARIANT[,SCALE]

Variants: variance; authors (the softmax that the authors' notebook applies twice);
solutions (trains nothing of its own: several seeds of variance, their kinds of
solution, and the activations of the extreme ones). Scales: short and paper train alike,
with the notebook's 21,000 updates of Adam at 1e-4, and differ in the number of nets
that solutions looks at; quick has 1,000 updates at 1e-3.

From the authors' notebook: the classes N(c, I) around (3, 3), (3, 10), (10, 3) and
(10, 10) with 500 points each for training and again for the test; the net
2-100-100-100-100, variance layer of 2, 100, 4 with leaky ReLUs; batches of all points;
101 samples. Biases start from zero, theirs from PyTorch's default.
"""

from ml_collections import ConfigDict

from configs import common

VARIANTS = ("variance", "authors", "solutions")
EPOCHS = {"quick": 10, "short": 210, "paper": 210}
MEMBERS = {"quick": 3, "short": 8, "paper": 20}


def get_config(which: str = "variance") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    config = base(variant, scale)
    if variant == "solutions":
        run = "configs/toy_four_classes.py:variance"
        config.nets = {"net": {"run": run, "members": MEMBERS[scale]}}
        return config
    return training(config)


def base(variant: str, scale: str) -> ConfigDict:
    """The data and how nets are measured: all that every variant needs."""
    config = common.start("toy_four_classes", variant, scale)
    # The points are the same for all seeds of the net.
    config.dataset = {"name": "four_classes", "seed": 0, "per_class": 500}
    # points: of each class, drawn in figures; draws: for each test point, half-normal.
    config.evals = {"samples": 101, "batch_size": 500, "points": 100, "draws": 25}
    return config


def training(config: ConfigDict) -> ConfigDict:
    """Adds the net and its training."""
    scale = config.scale
    config.model = {
        "name": "mlp",
        "widths": (100, 100, 100, 100, 2, 100),
        "activation": "leaky_relu",
        "posteriors": {"dense5": {"kind": "variance", "noise": "normal"}},
    }
    config.prior = "log_uniform"  # costs a variance layer nothing
    config.softmax_twice = config.variant == "authors"
    config.epochs = EPOCHS[scale]
    config.steps = 100  # updates in an epoch, each on all points
    config.chunk_steps = 100
    rate = 1e-3 if scale == "quick" else 1e-4
    config.optimizer = {"name": "adam", "learning_rate": ((0.0, rate),)}
    # As many samples as at the end share what was compiled for it.
    config.probe = {"every": 10, "samples": config.evals.samples}
    return config
