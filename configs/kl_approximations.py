"""Approximations of the KL to the log-uniform prior, held to the exact value.

    configs/kl_approximations.py:APPROXIMATION[,SCALE]

APPROXIMATION is a prior of `vnets.priors`: log_uniform_2015 (the polynomial of Kingma
et al., for alpha <= 1), log_uniform_2016 and log_uniform (the fits of Molchanov et
al.), log_uniform_rational (ours), or ard, the exact KL of another prior, which differs
from this one by up to 0.64 nats. Errors are on a grid of log alpha, [-10, 10]; the cost
is the time of value and gradient over a million weights, beside that of log_uniform in
the same run. Nothing is trained, and there are no data: the scales are alike.
"""

from ml_collections import ConfigDict

from configs import common

VARIANTS = (
    "log_uniform_2015",
    "log_uniform_2016",
    "log_uniform",
    "log_uniform_rational",
    "ard",
)


def get_config(which: str = "log_uniform_rational") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    config = common.start("kl_approximations", variant, scale)
    config.dataset = {"name": "none"}
    config.approximation = variant
    config.grid = {"range": (-10.0, 10.0), "points": 2001}
    config.grid.update({"weights": 2**20, "rounds": 40})
    return config
