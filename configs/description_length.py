"""What labels cost in bits: those of the weights, and those of the errors.

    configs/description_length.py:VARIANT[,SCALE]

After Graves 2011; variants, as posterior and prior: likelihood (points, nothing
else), weight_decay (points, a normal prior of fixed scale), weight_noise (one fixed
deviation), adaptive (a deviation of each weight, the normal prior at its best) and
adaptive_laplace. The strengths of decay and of fixed noise are those of the least NLL
on 300 training digits held out. Scales: quick, the digits in 8 x 8; short and paper,
MNIST and more units.
"""

from ml_collections import ConfigDict

from configs import common

# Posterior, its log variance at the start, prior, and the strength of weight decay.
ROWS = {
    "likelihood": {"noise": "none"},
    "weight_decay": {"noise": "none", "weight_decay": 0.3},
    "weight_noise": {"noise": "fixed", "log_var": -3.0},
    "adaptive": {},
    "adaptive_laplace": {"prior": "laplace"},
}
VARIANTS = tuple(ROWS)


def get_config(which: str = "adaptive") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    config, small = common.start("description_length", variant, scale), scale == "quick"
    config.dataset = common.mnist(scale)
    if small:
        config.dataset.name = "digits_8x8"
    config.width = 16 if small else 100
    config.noise, config.prior = "adaptive", "normal"
    config.log_var, config.weight_decay = -5.0, 0.0
    config.steps = {"quick": 500, "short": 10_000, "paper": 50_000}[scale]
    config.batch_size = 128
    config.learning_rate = 0.02 if small else 0.002
    config.evals = {"samples": 10, "finest": 12, "cuts": 50}
    config.probe = {"every": config.steps // 25}
    config.update(ROWS[variant])
    return config
