"""What the weights are held to: functions node -> KL in nats, and densities.

base     `kl` of a tree, and what priors are made of
closed   of single weights: standard_normal, log_uniform, ard, student_t
fitted   with a scale fitted to the layer: empirical_normal, ...
units    of noise on units, and of groups of weights: group_ard, structured, ...
sampled  densities: E[log q - log p] by draws
soft_sharing  a learned mixture that weights gather around
coding   a learned mixture that weights with noise are coded by
"""

# ruff: noqa: F401

from vnets import renamed
from vnets.priors import closed, coding, fitted, sampled, soft_sharing, units
from vnets.priors.base import (
    VAR_FLOOR,
    AnyPrior,
    Density,
    Maker,
    Prior,
    ScaledPrior,
    WeightedPrior,
    kl,
    kl_of,
    parts,
)
from vnets.priors.closed import (
    ard,
    ard_kl,
    log_uniform,
    log_uniform_2015,
    log_uniform_2015_kl,
    log_uniform_2016,
    log_uniform_2016_kl,
    log_uniform_kl,
    log_uniform_rational,
    log_uniform_rational_kl,
    standard_normal,
    student_t,
)
from vnets.priors.fitted import (
    empirical_each,
    empirical_laplace,
    empirical_normal,
    hierarchical_normal,
    learned_scales,
)
from vnets.priors.sampled import (
    Sampled,
    has_density,
    horseshoe,
    laplace,
    log_normal_scale,
    of_tree,
    scale_mixture,
    shared_draws,
)
from vnets.priors.units import (
    bernoulli,
    gamma_kl,
    ghosh_half_cauchy,
    ghosh_horseshoe,
    group_ard,
    group_horseshoe,
    group_normal_jeffreys,
    half_cauchy,
    half_cauchy_bound,
    inverse_gamma_kl,
    structured,
    truncated_log_uniform,
)

PRIORS = {**closed.PRIORS, **fitted.PRIORS, **units.PRIORS, **sampled.PRIORS}

__getattr__ = renamed.getter("vnets.priors")
