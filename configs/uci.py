"""Small regressions of the UCI repository, as Bayesian nets are compared by them.

    configs/uci.py:SET_METHOD[,SCALE]

Sets: boston, concrete, energy, kin8nm, naval, power, protein, wine and yacht, in their
twenty published splits (protein: five), each a file that one brings
(`vnets.data.uci`); and diabetes, which comes with scikit-learn, in splits of our own.
All nets of a row, of all its splits, are trained side by side.

Methods:

  one         a net without noise, which says a mean and a deviation for each input
  constant    one that learns a single deviation for all inputs
  ensemble    five such as `one` (Lakshminarayanan et al. 2017)
  dropout     Monte Carlo dropout, of a tenth of the hidden units
  gaussian    a Gaussian for each weight under N(0, 1), by local reparameterization
  variance    a layer without means between two without noise. It cannot be the only
              hidden one: sum_i x_i eps_i has the same law for x and -x
  horseshoe   a horseshoe scale on each hidden unit's incoming weights (the group
              horseshoe of Louizos et al. 2017), Gaussian weights in the last layer
  fourier     a Gaussian process of another one, by 50 random Fourier features each

One hidden layer of 50 ReLUs (protein: 100), 40 epochs, inputs and numbers standardized
by the training part of each split: the setting of Hernandez-Lobato and Adams 2015.
Adam from 1e-2 to 0, batches of 32, in the four large sets 100; log variances learn
three times as fast. None of this was tuned on any of the nine sets.

Scales: quick has 5 splits, short all that were published (protein: two), paper all.
"""

from ml_collections import ConfigDict

from configs import common

SETS = ("boston", "concrete", "energy", "kin8nm", "naval")
SETS += ("power", "protein", "wine", "yacht")
LARGE = ("kin8nm", "naval", "power", "protein")
GAUSSIAN = {"kind": "gaussian", "log_var": -6.0}
POSTERIORS = {
    "one": {},
    "constant": {},
    "ensemble": {},
    "dropout": {"dense2": {"kind": "dropout", "rate": 0.1, "per": "example"}},
    "gaussian": {"dense1": GAUSSIAN, "dense2": GAUSSIAN},
    "variance": {"dense2": {"kind": "variance"}},
    "horseshoe": {
        "dense1": {
            "kind": "group_horseshoe",
            "axis": "out",
            "log_var": -6.0,
            "scale_log_var": -6.0,
        },
        "dense2": GAUSSIAN,
    },
    "fourier": {
        "dense1": {**GAUSSIAN, "init": {"name": "normal", "stddev": 1.0}},
        "dense2": GAUSSIAN,
    },
}
PRIORS = {"horseshoe": "group_horseshoe"}
PRIORS |= dict.fromkeys(("gaussian", "fourier"), "standard_normal")
QUIET = ("one", "constant", "ensemble")  # no noise, one draw
METHODS = tuple(POSTERIORS)
VARIANTS = tuple(f"{name}_{m}" for name in ("diabetes", *SETS) for m in METHODS)


def sweep(scale: str = "paper") -> tuple[str, ...]:
    """At quick the set that needs no files, else the others."""
    wanted = "diabetes_"
    return tuple(v for v in VARIANTS if v.startswith(wanted) == (scale == "quick"))


def get_config(which: str = "boston_ensemble") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    name, method = variant.split("_")
    config = common.start("uci", variant, scale)
    splits = 5 if scale == "quick" or name == "protein" else 20
    if (name, scale) == ("protein", "short"):
        splits = 2
    config.dataset = {"name": name, "splits": splits}
    config.model = model(name, method)
    config.deviation = "one" if method == "constant" else "each"
    config.members = 5 if method == "ensemble" else 1
    config.samples = 1 if method in QUIET else 100
    config.prior = PRIORS.get(method, "log_uniform")
    config.kl_weight = ((0.0, 1.0),)
    config.epochs, config.batch_size = 40, 100 if name in LARGE else 32
    config.optimizer = {
        "name": "adam",
        "learning_rate": ((0.0, 1e-2), (1.0, 0.0)),
        "factors": {"*/log_var": 3.0},
    }
    return config


def model(name: str, method: str) -> dict:
    """The net of a set and a method."""
    hidden = 100 if name == "protein" else 50
    own = {"name": "mlp", "widths": (hidden,)}
    if method == "variance":
        own["widths"] = (hidden, 200)
    if method == "fourier":
        own = {"name": "deep_gp", "widths": (10,), "features": hidden}
    return {**own, "posteriors": POSTERIORS[method]}
