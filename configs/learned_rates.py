"""The rate of binary dropout on MNIST: learned in two ways, and on a grid.

    configs/learned_rates.py:VARIANT[,SCALE]

  fixed_P           rate P % for the hidden units of all layers
  concrete_SHARING  learned with concrete masks of temperature 0.1
  score_SHARING     learned by the score function, with the mean loss of a batch's other
                    examples as baseline; SHARING: one rate for a layer, or for a unit

The objective of learned rates is the expected negative log likelihood of the training
set plus, for each unit, the KL of its mask from a fair coin, ln 2 - H(p): that of Gal,
Hron and Kendall 2017 with a flat prior of the weights (`vnets.learned_dropout`). They
start from 0.2.

Three hidden layers of 250 ReLUs, no noise on the pixels. 10,000 of the 60,000 training
images are held out, and errors are of these: what a grid would be searched by. Adam
from 1e-3 linearly to 0, batches of 100, no early stopping. quick is on the digits with
100 units: the KL counts 1/40, since they are 40 times fewer, and rates learn 10 times
faster, since there are few updates.

At the end of a run with learned rates both gradients are drawn at its parameters,
`gradient.draws` times for the same batch.
"""

from ml_collections import ConfigDict

from configs import common

LAYERS = ("dense2", "dense3", "dense4")
GRID = (0, 10, 20, 30, 50, 70)
GRADIENTS = {
    "concrete": {"kind": "concrete", "temperature": 0.1},
    "score": {"kind": "score_function", "baseline": "others"},
}
VARIANTS = (
    *(f"fixed_{percent}" for percent in GRID),
    *(f"{name}_{sharing}" for name in GRADIENTS for sharing in ("layer", "unit")),
)
START = 0.2
WIDTHS = {"quick": 100, "short": 250, "paper": 250}
EPOCHS = {"quick": 20, "short": 30, "paper": 200}
HELD_OUT = {"quick": 237, "short": 10_000, "paper": 10_000}
DRAWS = {"quick": 100, "short": 1000, "paper": 1000}


def get_config(which: str = "concrete_layer") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    name, _, how = variant.partition("_")
    config = common.classifier(variant, scale)
    config.experiment = "learned_rates"
    config.dataset.validation = HELD_OUT[scale]
    noise = {"kind": "adaptive_binary_dropout", "rate": START, "alpha": how}
    if name == "fixed":
        noise = {"kind": "dropout", "rate": int(how) / 100, "per": "example"}
    else:
        config.rate_gradient = GRADIENTS[name]
        config.gradient = {"draws": DRAWS[scale]}
    config.model = {"name": "mlp", "widths": (WIDTHS[scale],) * 3}
    config.model.posteriors = dict.fromkeys(LAYERS, noise)
    config.prior = "bernoulli"
    config.epochs = EPOCHS[scale]
    config.batch_size = 100
    config.evals.columns = ("det", "ens")
    config.probe = {"every": 1, "samples": 1, "columns": ("det",)}
    if scale == "quick":
        config.batch_size = 50
        config.kl_weight = ((0.0, 1 / 40),)
        config.optimizer.log_alpha_rate = 10.0
    return config
