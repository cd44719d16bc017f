"""Two pictures in numbers: a unit behind a ReLU, and two ways to fit a normal.

    configs/densities.py:VARIANT[,SCALE]

Variants: unit, the output of a unit without a mean; relu, the same behind a ReLU; coin,
its absolute value times a fair coin; reverse and forward, a normal fitted to two of
deviation 1 at +-3 by KL(q || p) and by KL(p || q). Nothing is trained, and there are no
data: the scales are alike.
"""

from ml_collections import ConfigDict

from configs import common

VARIANTS = ("unit", "relu", "coin", "reverse", "forward")


def get_config(which: str = "relu") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    config = common.start("densities", variant, scale)
    config.dataset = {"name": "none"}
    config.density = variant
    config.draws = 100_000
    config.gap = 3.0
    return config
