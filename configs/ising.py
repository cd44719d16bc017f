"""Couplings of spins from samples of their states (Ingraham and Marks 2017).

    configs/ising.py:VARIANT[,SCALE]

Variants are SYSTEM_METHOD: ferromagnet or glass; mean_field, pseudo_likelihood,
non_centred or centred. Scales: quick, 16 spins, a square lattice or random pairs, 3
folds and 6 penalties; short and paper, 64 spins, a cubic lattice or random pairs, and
10 of both. A spin of the glass has 2 neighbours on average, as in the paper, whose
glass has 100 spins. A seed has a system and states of its own.

Of the authors' code are the start of the horseshoe, its 64 chains of 3 sweeps, b1 0.99
of Adam and the coupling 0.2. Their 1000 steps at a rate of 0.01 end before our bound is
near its top: ours are 1000 (short: 2000, paper: 4000) at 0.05, falling
linearly to 0.
"""

from ml_collections import ConfigDict

from configs import common

SYSTEMS = ("ferromagnet", "glass")
METHODS = ("mean_field", "pseudo_likelihood", "non_centred", "centred")
VARIANTS = tuple(f"{system}_{method}" for system in SYSTEMS for method in METHODS)


def get_config(which: str = "glass_non_centred") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    config, small = common.start("ising", variant, scale), scale == "quick"
    config.dataset = {"name": "none"}
    system, _, config.method = variant.partition("_")
    config.system = {"name": system, "side": 4, "dimensions": 2 if small else 3}
    if system == "ferromagnet":
        config.system.coupling = 0.2
    else:
        config.system.neighbours = 2.0
    config.samples, config.burn_in = (500, 1000, 2000), 100 if small else 300
    config.strengths, config.folds = (6, 3) if small else (10, 10)
    config.chains, config.sweeps = 64, 3
    config.iterations = {"quick": 1000, "short": 2000, "paper": 4000}[scale]
    config.learning_rate, config.memory = 0.05, 0.9
    config.start = {"log_scale": -1.0, "scale_std": 0.8, "weight_std": 0.05}
    return config
