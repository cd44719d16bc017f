"""Variance of the gradient, by way of sampling: table 1 of Kingma et al. 2015.

    configs/gradient_variance.py:VARIANT[,SCALE]

net_10 and net_100 train the net, a perceptron under variational dropout with
independent weight noise (type B), for as many epochs; epochs_10 and epochs_100 train
nothing, but measure these. Adam's rate is constant, so that net_10 is net_100 after ten
epochs. Minibatches of 1000, in training and for the measurement (quick: 100).

The paper leaves open the net and how alpha is shared and starts. Ours: three hidden
layers of ReLUs, 1024 wide as its re-implementation reads it (short: 300), one alpha for
each weight, started at p / (1 - p) for the dropout rates of Srivastava et al. (0.2 of
the inputs, 0.5 of hidden units) and held at or below 1. On the digits, which are 40
times fewer than MNIST's training images, the KL counts 1/40, as if they were as many.
"""

import math

from ml_collections import ConfigDict

from configs import common

EPOCHS = {"10": 10, "100": 100}
NETS = tuple(f"net_{epochs}" for epochs in EPOCHS)
STUDIES = tuple(f"epochs_{epochs}" for epochs in EPOCHS)
VARIANTS = (*NETS, *STUDIES)
HIDDEN_LAYERS = 3
WIDTHS = {"quick": 64, "short": 300, "paper": 1024}
BATCHES = {"quick": 100, "short": 1000, "paper": 1000}
DROPOUT_RATES = (0.2, 0.5, 0.5, 0.5)  # of the inputs of each layer
# Sizes of minibatches, and how many single examples and minibatches are drawn.
SIZES = {"quick": (100,), "short": (10, 100, 1000), "paper": (10, 100, 1000)}
DRAWS = {"quick": (800, 60), "short": (20_000, 400), "paper": (60_000, 1000)}


def get_config(which: str = "epochs_10") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    kind, _, epochs = variant.partition("_")
    if kind == "net":
        config = net(variant, scale)
        config.epochs = EPOCHS[epochs]
        return config
    config = common.start("gradient_variance", variant, scale)
    config.dataset = common.mnist(scale)
    config.nets = {"net": {"run": f"configs/gradient_variance.py:net_{epochs}"}}
    examples, minibatches = DRAWS[scale]
    config.gradient = {"batch_sizes": SIZES[scale]}
    config.gradient.update({"examples": examples, "minibatches": minibatches})
    return config


def net(variant: str, scale: str) -> ConfigDict:
    """The perceptron under type B noise on every layer."""
    config = common.classifier(variant, scale)
    widths = (WIDTHS[scale],) * HIDDEN_LAYERS
    config.model = {"name": "mlp", "widths": widths, "posteriors": posteriors()}
    config.prior = "log_uniform_2015"
    config.kl_weight = ((0.0, 1 / 40 if scale == "quick" else 1.0),)
    config.batch_size = BATCHES[scale]
    config.optimizer.learning_rate = ((0.0, 1e-3),)
    config.evals.columns = ("det", "stoch", "ens")
    config.probe = {"every": 10, "samples": 1, "columns": ("det", "stoch")}
    return config


def posteriors() -> dict[str, dict]:
    """Independent noise, alpha of each weight from the dropout rate of its layer."""
    return {
        f"dense{number}": {
            "kind": "multiplicative",
            "per": "weight",
            "log_alpha": math.log(rate / (1 - rate)),
        }
        for number, rate in enumerate(DROPOUT_RATES, start=1)
    }
