"""Learned noise rates on MNIST: what shares an alpha, and what alpha <= 1 does.

    configs/adaptive_rates.py:TYPE_SHARING_BOUND[,SCALE]

After Kingma, Salimans and Welling 2015, who leave open what shares an alpha; slides of
Molchanov, 2016, on that paper report that one alpha for a layer saturates at 1 quickly.

  TYPE     b, noise on each weight by itself: one alpha for a layer, an input unit, an
           output unit or a weight. a, noise on the inputs of a layer, which correlates
           that of the weights: one alpha for a layer or a unit
  BOUND    bounded, alpha <= 1 by a projection after each update; free, without; and for
           a_unit and b_weight polynomial, bounded with the KL of 2015; for a_unit once,
           bounded with a KL that counts once for each alpha

bounded and free have the KL of 2017, which fits the log-uniform one at any alpha, so
that they differ in the bound alone. The polynomial of 2015 diverges beyond it. The KL
of a shared alpha counts once for each weight that shares it, but in once.

The net has three hidden layers of 250 ReLUs, and noise on all four layers. All alphas
start from a dropout rate of 0.1, log alpha -2.2: the usual rates of hidden units, 0.5,
would start at the bound. Adam from 1e-3 linearly to 0, batches of 100, no early
stopping: the net that is tested is the one whose alphas are shown. Of type A the mean
log alpha of dense1 is mostly that of pixels that are always black, whose noise costs
nothing.

quick is on the digits with 100 units: the KL counts 1/40, since they are 40 times
fewer, and alpha learns 10 times faster, since there are few updates.
"""

import math

from ml_collections import ConfigDict

from configs import common, vd_mnist

LAYERS = ("dense1", "dense2", "dense3", "dense4")
SHARINGS = {"a": ("layer", "unit"), "b": ("layer", "input", "output", "weight")}
VARIANTS = (
    *(
        f"{kind}_{sharing}_{bound}"
        for kind, sharings in SHARINGS.items()
        for sharing in sharings
        for bound in ("bounded", "free")
    ),
    "a_unit_polynomial",
    "b_weight_polynomial",
    "a_unit_once",
)
RATE = 0.1  # dropout rate that alpha starts from
WIDTHS = {"quick": 100, "short": 250, "paper": 250}
EPOCHS = {"quick": 20, "short": 30, "paper": 200}


def get_config(which: str = "b_layer_bounded") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    kind, sharing, bound = variant.split("_")
    config = common.classifier(variant, scale)
    posteriors = dict.fromkeys(LAYERS, noise(kind, sharing))
    config.model = {"name": "mlp", "widths": (WIDTHS[scale],) * 3}
    config.model.posteriors = posteriors
    config.prior = "log_uniform_2015" if bound == "polynomial" else "log_uniform"
    if bound in ("bounded", "once"):
        config.max_log_alpha = 0.0
    if bound == "once":
        factors = vd_mnist.once_per_alpha(config.model.widths)
        with config.ignore_type():  # a name, or a name with arguments
            config.prior = {"kind": config.prior, "factors": factors}
    config.epochs = EPOCHS[scale]
    config.batch_size = 100
    config.evals.columns = ("det", "ens")
    config.probe = {"every": 1, "samples": 1, "columns": ("det",)}
    if scale == "quick":
        config.batch_size = 50
        config.kl_weight = ((0.0, 1 / 40),)
        config.optimizer.log_alpha_rate = 10.0
    return config


def noise(kind: str, sharing: str) -> dict:
    """The posterior of every layer."""
    if kind == "a":
        return {"kind": "adaptive_dropout", "rate": RATE, "alpha": sharing}
    log_alpha = math.log(RATE / (1 - RATE))
    return {"kind": "multiplicative", "per": sharing, "log_alpha": log_alpha}
