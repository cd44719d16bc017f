"""Mushrooms to eat or to leave: which noise is worth data.

    configs/bandit.py:VARIANT[,SCALE]

A contextual bandit (Blundell et al. 2015): an edible one gives 5, a poisonous one -35
or 5, each in half of the cases, and leaving it 0. The agents choose by the larger of
two values that a perceptron with two hidden layers gives, and learn from a ring of what
they met last:

  bbb         Gaussian weights, one draw of them a choice (Thompson sampling)
  dropout     a mask a choice, rate 0.2 on hidden units
  variance    the second layer has no means; a draw a choice
  greedy      points, always the larger value
  epsilon_1   the same, 1 % of the choices at random
  epsilon_5   the same, 5 %

Scales: quick (the tumours of scikit-learn's breast_cancer, malignant ones being
poisonous; 500 interactions with 8 updates each, 50 hidden units, a ring of 256), short
and paper (UCI's mushrooms, 10,000 and 50,000 interactions with 64 updates each of
batches of 64, 100 hidden units and a ring of 4096, as in the paper but for the units,
which it does not say). A reward is normal with deviation 10 around its value, and the
whole KL of `bbb` counts, as with as many data as the ring holds. Of the KL's weight 1,
0.1 and 0.01 were tried at quick on seeds 100 and 101: regrets of 543, 563 and 1175.
Nothing else was tuned.
"""

from ml_collections import ConfigDict

from configs import common

DENSE = ("dense1", "dense2", "dense3")
GAUSSIAN, MASK = {"kind": "gaussian", "log_var": -6.0}, {"kind": "dropout", "rate": 0.2}
POSTERIORS = {
    "bbb": dict.fromkeys(DENSE, GAUSSIAN),
    "dropout": dict.fromkeys(DENSE[1:], MASK),
    "variance": {"dense2": {"kind": "variance", "noise": "normal"}},
    "greedy": {},
    "epsilon_1": {},
    "epsilon_5": {},
}
EPSILON = {"epsilon_1": 0.01, "epsilon_5": 0.05}
VARIANTS = tuple(POSTERIORS)


def get_config(which: str = "bbb") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    quick = scale == "quick"
    config = common.start("bandit", variant, scale)
    config.dataset = {"name": "mushroom", "labels": "", "validation": 0}
    if quick:
        config.dataset.name, config.dataset.standard = "breast_cancer", True
    units = 50 if quick else 100
    config.model = {"name": "mlp", "widths": (units, units)}
    config.model.posteriors = POSTERIORS[variant]
    config.prior = "standard_normal" if variant == "bbb" else "log_uniform"
    config.epochs = {"quick": 10, "short": 50, "paper": 100}[scale]
    config.chunk_steps = 400
    config.batch_size = 32 if quick else 64
    config.bandit = {
        "interactions": {"quick": 500, "short": 10_000, "paper": 50_000}[scale],
        "updates": 8 if quick else 64,
        "capacity": 256 if quick else 4096,
        "epsilon": EPSILON.get(variant, 0.0),
        "draws": 1,
        "noise": 10.0,
    }
    rate = 3e-3 if quick else 1e-3
    config.optimizer = {"name": "adam", "learning_rate": ((0.0, rate),)}
    config.evals = {"samples": 10}
    config.probe = {"every": 1}
    return config
