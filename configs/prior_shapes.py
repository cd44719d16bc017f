"""Priors as scale mixtures: the law of l makes the prior of w ~ N(0, l^2).

    configs/prior_shapes.py:VARIANT[,SCALE]

Variants, and the law of l: normal (l = 1; ridge regression), laplace (l^2 exponential
of mean 2; the lasso), student (l^2 inverse gamma, 2 degrees of freedom; the relevance
vector machine), cauchy (1 degree of freedom), log_normal, horseshoe (half-Cauchy),
log_uniform (1 / l, improper) and spike_slab (1e-3 or 1e3, one half each). Nothing is
trained, and there are no data: the scales are alike.
"""

from ml_collections import ConfigDict

from configs import common

NU = {"student": 2.0, "cauchy": 1.0}
VARIANTS = ("normal", "laplace", *NU, "log_normal", "horseshoe", "log_uniform")
VARIANTS += ("spike_slab",)


def get_config(which: str = "horseshoe") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    config = common.start("prior_shapes", variant, scale)
    config.dataset = {"name": "none"}
    config.prior = "student" if variant in NU else variant
    config.nu = NU.get(variant, 2.0)
    config.spike, config.slab = 1e-3, 1e3
    config.points = 121  # of each curve
    config.effects = {"small": 0.5, "large": 6.0}
    config.average = {"draws": 100_000, "walks": 50}
    config.draws = 2000  # for the test of agreement
    config.cuts = (10.0, 100.0, 1e3, 1e4, 1e5, 1e6)  # logarithms
    return config
