"""Noisy weights of a small net, after Hinton and van Camp 1993.

    configs/noisy_weights.py:VARIANT[,SCALE]

Variants: linear and ridge (regressions), points and points_decay (a net of 4 units
whose weights have no noise), noisy_normal and noisy_mixture (noisy weights, and the
prior of them all: a normal one, or a mixture of five), and noisy_at_once (the mixture's
price in full from the start). A seed has data of its own. Scales: quick; short and
paper, the authors' five restarts and 100 updates in each stage.
"""

from ml_collections import ConfigDict

from configs import common

STAGES = (0.05, 0.1, 0.15, 0.2, *(k / 10 for k in range(3, 11)), 1.0)
ROWS = {
    "linear": {"method": "linear"},
    "ridge": {"method": "ridge"},
    "points": {"method": "points"},
    "points_decay": {"method": "points", "decays": (0.3, 1.0, 3.0, 10.0, 30.0)},
    "noisy_normal": {"components": 1},
    "noisy_mixture": {},
    "noisy_at_once": {"stages": (1.0,), "restarts": 5},
}
VARIANTS = tuple(ROWS)


def get_config(which: str = "noisy_mixture") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    config, small = common.start("noisy_weights", variant, scale), scale == "quick"
    config.dataset = {"name": "none"}
    config.made = {"train": 105, "test": 420, "inputs": 128, "factors": 4, "own": 0.3}
    config.made.update({"units": 4, "share": 0.1, "gain": 1.5, "noise": 0.3})
    config.method, config.width, config.components = "noisy", 4, 5
    config.decays, config.held_out = (0.0,), 35
    config.stages, config.updates = STAGES, 15 if small else 100
    config.iterations = 100 if small else 2000
    config.restarts = 2 if small else 5
    config.start = {"mean": 0.15, "std": 0.1, "reach": 0.24}
    config.update(ROWS[variant])
    return config
