"""Predictive bands of a curve: y = x^3 + N(0, 9) from 20 points, and two sines.

    configs/toy_regression.py:VARIANT[,SCALE]

Variants: deterministic; ensemble (trains nothing of its own: five nets of
deterministic); and with noise in dense2: dropout (binary, 0.5), gaussian_dropout
(normal, of the same variance), vd (one learned alpha), gaussian (mean field, prior
N(0, 1)), variance. Scales: quick, short and paper differ in the number of updates;
nothing was published with numbers that these could be held to.

The net is 1-64-512-1 with ReLUs, for all of these. Noise cannot sit in dense1, at least
not without means: x eps and -x eps have the same law, so no function of it is odd. It
is wide because a variance layer averages its noise over the units: the spread of a sum
of 512 of them is some 7 % of its mean. Inputs and targets are standardized.

sines_gaussian and sines_deterministic are of the curve of Blundell et al. 2015, from
1000 points in [0, 1 / 2], by a net 1-100-100-100-1 with Gaussian weights in all layers
or in none, under the whole KL; the paper does not say how many points or units it has.
"""

from ml_collections import ConfigDict

from configs import common

POSTERIORS = {
    "deterministic": {},
    "variance": {"dense2": {"kind": "variance", "noise": "normal"}},
    "dropout": {"dense2": {"kind": "dropout", "rate": 0.5}},
    "gaussian_dropout": {"dense2": {"kind": "dropout", "rate": 0.5, "noise": "normal"}},
    "vd": {"dense2": {"kind": "multiplicative", "per": "layer", "log_alpha": -3.0}},
    "gaussian": {"dense2": {"kind": "gaussian", "log_var": -4.0}},
}
GAUSSIAN = {"kind": "gaussian", "log_var": -9.0}
SINES = {
    "sines_gaussian": dict.fromkeys(("dense1", "dense2", "dense3", "dense4"), GAUSSIAN),
    "sines_deterministic": {},
}
VARIANTS = (*POSTERIORS, "ensemble", *SINES)
EPOCHS = {"quick": 10, "short": 50, "paper": 200}


def get_config(which: str = "variance") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    config = base(variant, scale)
    if variant == "ensemble":
        run = "configs/toy_regression.py:deterministic"
        config.nets = {"net": {"run": run, "members": 5}}
        return config
    return training(config)


def base(variant: str, scale: str) -> ConfigDict:
    """The data and how nets are measured: all that every variant needs."""
    config = common.start("toy_regression", variant, scale)
    # The points are the same for all seeds of the net.
    config.dataset = {"name": "cubic", "seed": 0, "size": 20}
    if variant in SINES:
        config.dataset = {"name": "sines", "seed": 0, "size": 1000}
    config.evals = {"samples": 500, "test_points": 1000, "grid_points": 121}
    return config


def training(config: ConfigDict) -> ConfigDict:
    """Adds the net and its training."""
    sines = config.variant in SINES
    config.model = {
        "name": "mlp",
        "widths": (100, 100, 100) if sines else (64, 512),
        "activation": "relu",
        "posteriors": {**POSTERIORS, **SINES}[config.variant],
    }
    gaussian = config.variant in ("gaussian", "sines_gaussian")
    config.prior = "standard_normal" if gaussian else "log_uniform"
    config.epochs = EPOCHS[config.scale]
    config.steps = 100  # updates in an epoch, each on all points
    config.copies = 1 if sines else 8  # draws of the noise for each point in an update
    config.chunk_steps = 100
    config.optimizer = {
        "name": "adam",
        "learning_rate": ((0.0, 3e-3), (1.0, 0.0)),
        "log_alpha_rate": 1.0,
    }
    config.probe = {"every": 5}
    return config
