"""Gaussian processes, plain and on what a net makes of their inputs.

    configs/deep_kernel.py:VARIANT[,SCALE]

Variants are data and a kernel, DATA_KERNEL. DATA: step (100 inputs in [-1, 1] and the
sign of each, with normal noise of standard deviation 0.1; a seed has data of its own)
or diabetes (442 patients of scikit-learn, of whom a fifth is the test; columns and
targets are standardized). KERNEL: plain (distances of the inputs) or deep (of two
features that a perceptron of two hidden layers makes of them). Both have one scale, and
have the most evidence after as many updates. The scales are alike; no setting was
tuned.
"""

from ml_collections import ConfigDict

from configs import common

DATA = {
    "step": {"name": "step", "points": 100, "noise": 0.1},
    "diabetes": {"name": "diabetes", "labels": "", "validation": 0, "standard": True},
}
WIDTHS = {"plain": (), "deep": (50, 50)}
VARIANTS = tuple(f"{data}_{kernel}" for data in DATA for kernel in WIDTHS)


def get_config(which: str = "step_deep") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    data, kernel = variant.split("_")
    config = common.start("deep_kernel", variant, scale)
    config.dataset = DATA[data]
    config.widths, config.features = WIDTHS[kernel], 2
    config.updates, config.learning_rate = 300, 2e-2
    config.points = 121  # of the curve
    return config
