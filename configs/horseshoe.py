"""The horseshoe prior of 200 single weights, centred and not.

    configs/horseshoe.py:VARIANT[,SCALE]

Variants: centred, non_centred, and structured, whose weight knows its scale. A seed has
data of its own. Nothing is trained, and the scales are alike.
"""

from ml_collections import ConfigDict

from configs import common

VARIANTS = ("centred", "non_centred", "structured")


def get_config(which: str = "non_centred") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    config = common.start("horseshoe", variant, scale)
    config.dataset = {"name": "none"}
    config.form = variant
    config.sizes = {"all": 200, "large": 20, "scale": 5.0}
    # Standard deviations: of data that say much, as much as the prior, and little.
    config.noises = {"strong": 0.3, "middle": 1.0, "weak": 3.0}
    config.curve = {"range": (0.1, 10.0), "points": 7}
    return config
