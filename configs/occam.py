"""Evidence by the size of a model: polynomials and nets.

    configs/occam.py:VARIANT[,SCALE]

Variants: monomials and legendre, polynomials of degree 1 to 9 of which the third is
true, with normal coefficients of 1, x, x^2, ... or of Legendre's; nets, of 1 to 50
hidden units of which 3 are true. A seed has data of its own. Scales: quick, whose nets
have 30 units at most; short and paper, more restarts and iterations of the nets.
"""

from ml_collections import ConfigDict

from configs import common

VARIANTS = ("monomials", "legendre", "nets")


def get_config(which: str = "monomials") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    config, small = common.start("occam", variant, scale), scale == "quick"
    config.dataset = {"name": "none"}
    config.models, config.prior_scale = variant, 1.0
    config.sizes = tuple(range(1, 10))
    config.made = {"size": 3, "train": 50, "noise": 0.2, "sets": 200, "last": 2.0}
    if variant == "nets":
        config.prior_scale = 2.0
        config.sizes = (1, 2, 3, 5, 10, 30) if small else (1, 2, 3, 5, 10, 20, 50)
        config.made = {"size": 3, "train": 80, "noise": 0.1, "test": 300, "inputs": 2}
        config.iterations = 300 if small else 3000
        config.restarts = 2 if small else 10
        config.draws = 50
    return config
