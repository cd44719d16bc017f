"""Bits of the weights of the LeNet-5s of `configs/structured.py`.

    configs/bit_precision.py:METHOD[,SCALE]

METHOD: gnj, ghs (Bayesian compression), group_ard, sparse_vd; all have noise on their
weights, whose variance says how many bits each layer needs. Trains nothing but the nets
that are missing; `significands` are those that all layers are rounded to in turn.
"""

from ml_collections import ConfigDict

from configs import common, structured_speed

VARIANTS = ("gnj", "ghs", "group_ard", "sparse_vd")


def get_config(which: str = "gnj") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    config = structured_speed.base("bit_precision", f"lenet5_{variant}", scale)
    config.variant = variant
    config.significands = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
    return config
