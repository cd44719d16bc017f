"""Nets that choose their units by a horseshoe (Ghosh and Doshi-Velez 2017).

    configs/horseshoe_nets.py:VARIANT[,SCALE]

Variants: of 200 points of a curve, "sines", narrow (10 hidden units), wide (100),
horseshoe (100 with half-Cauchy scales by inverse gammas) and louizos (100 with those of
Louizos et al. 2017, by products of gammas and inverse gammas); of points of four
classes, classes (20 units) and classes_horseshoe. All weights and the hidden biases are
Gaussian a priori, N(0, 1) but for their scales, and in the posterior. Scales: quick,
short and paper differ in the number of updates.

In the paper the weights into a hidden unit and its bias share a scale. Behind a ReLU a
scale of these is one of the weights out of the unit, where it stands here: the prior of
the function is the same.
"""

from ml_collections import ConfigDict

from configs import common

HORSESHOES = {"horseshoe": "ghosh_horseshoe", "louizos": "group_horseshoe"}
CLASSES = ("classes", "classes_horseshoe")
VARIANTS = ("narrow", "wide", *HORSESHOES, *CLASSES)
UNITS = {"narrow": 10, **dict.fromkeys(CLASSES, 20)}
GAUSSIAN = {"kind": "gaussian", "log_var": -8.0}
SCALED = {"kind": "group_horseshoe", "axis": "in", "scale_log_var": -6.0}
NOTHING = float("inf")
EPOCHS = {"quick": 10, "short": 50, "paper": 200}


def get_config(which: str = "horseshoe") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    classes = variant in CLASSES
    config = common.start("sparsity" if classes else "regress", variant, scale)
    name = {"classes_horseshoe": "horseshoe"}.get(variant, variant)
    scaled = name in HORSESHOES
    # The points are the same for all seeds of the net.
    config.dataset = {"name": "sines", "seed": 0, "size": 200}
    if classes:
        config.dataset = {"name": "four_classes", "seed": 0, "per_class": 50}
    config.model = {
        "name": "mlp",
        "widths": (UNITS.get(variant, 100),),
        "activation": "relu",
        "posteriors": {
            "dense1": GAUSSIAN,
            "dense1/bias": GAUSSIAN,
            "dense2": SCALED | {"log_var": -8.0} if scaled else GAUSSIAN,
        },
    }
    config.prior = HORSESHOES.get(name, "standard_normal")
    config.epochs, config.steps, config.chunk_steps = EPOCHS[scale], 150, 150
    config.optimizer = {
        "name": "adam",
        "learning_rate": ((0.0, 1e-2), (0.5, 1e-2), (1.0, 0.0)),
        "factors": {"*/log_var": 3.0, "*/log_mean": 3.0},
    }
    config.evals = {"samples": 50, "batch_size": 1000, "columns": ("det", "ens", "cut")}
    # A unit goes if its scale has its mode below e^-2, or its weights are mostly noise.
    config.evals.cut = {"units": {"dense1": NOTHING, "dense2": 2.0 if scaled else 3.0}}
    config.probe = {"every": 1, "samples": 1, "columns": ("det",)}
    if not classes:
        config.copies, config.evals.test_points = 1, 1000
    return config
