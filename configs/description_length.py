"""What weights and errors cost in bits: of labels of digits, and of numbers.

    configs/description_length.py:VARIANT[,SCALE]

Labels of digits, after Graves 2011; variants, as posterior and prior: likelihood
(points, nothing else), weight_decay (points, a normal prior of fixed scale),
weight_noise (one fixed deviation), adaptive (a deviation of each weight, the normal
prior at its best) and adaptive_laplace. The strengths of decay and of fixed noise are
those of the least NLL on 300 training digits held out. At short and paper it is MNIST,
and more units.

Numbers, after Hinton and van Camp 1993; variants: linear and ridge (regressions),
points and points_decay (a net of 4 units whose weights have no noise), noisy_normal and
noisy_mixture (noisy weights, and the prior of them all: a normal one, or a mixture of
five), and noisy_at_once (the mixture's price in full from the start). A seed has data
of its own. At short and paper there are the authors' five restarts and 100 updates in
each stage.
"""

from ml_collections import ConfigDict

from configs import common

# Posterior, its log variance at the start, prior, and the strength of weight decay.
LABELS = {
    "likelihood": {"noise": "none"},
    "weight_decay": {"noise": "none", "weight_decay": 0.3},
    "weight_noise": {"noise": "fixed", "log_var": -3.0},
    "adaptive": {},
    "adaptive_laplace": {"prior": "laplace"},
}
STAGES = (0.05, 0.1, 0.15, 0.2, *(k / 10 for k in range(3, 11)), 1.0)
NUMBERS = {
    "linear": {"method": "linear"},
    "ridge": {"method": "ridge"},
    "points": {"method": "points"},
    "points_decay": {"method": "points", "decays": (0.3, 1.0, 3.0, 10.0, 30.0)},
    "noisy_normal": {"components": 1},
    "noisy_mixture": {},
    "noisy_at_once": {"stages": (1.0,)},
}
VARIANTS = (*LABELS, *NUMBERS)


def get_config(which: str = "adaptive") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    return (_labels if variant in LABELS else _numbers)(variant, scale)


def _labels(variant: str, scale: str) -> ConfigDict:
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
    config.update(LABELS[variant])
    return config


def _numbers(variant: str, scale: str) -> ConfigDict:
    config, small = common.start("noisy_weights", variant, scale), scale == "quick"
    config.dataset = {"name": "none"}
    config.made = {"train": 105, "test": 420, "inputs": 128, "factors": 4, "own": 0.3}
    config.made.update({"units": 4, "share": 0.1, "gain": 1.5, "noise": 0.3})
    config.method, config.width, config.components = "noisy", 4, 5
    config.decays, config.held_out = (0.0,), 35
    config.stages, config.updates = STAGES, 15 if small else 100
    config.iterations = 100 if small else 2000
    config.restarts = 2 if small else 5
    if variant == "noisy_at_once":
        config.restarts = 5
    config.start = {"mean": 0.15, "std": 0.1, "reach": 0.24}
    config.update(NUMBERS[variant])
    return config
