"""What a weight is: posterior nodes, which stand in the parameter tree in its place.

KL, sparsity, pruning and every test-time mode are walks over nodes (`vnets.tree`).

    base      what every node does, and the rules that walks ask it for
    weights   Point, Gaussian, Multiplicative, ZeroMean (a variance layer), Masked
    correlated  weights that vary together, as a walk or a curvature says
    units     Scaled, noise on the units of any weight: dropout of fixed or learned rate
    positive  noise on units that is never negative: truncated log-normal, horseshoe
"""

# ruff: noqa: F401

from vnets.nodes.base import (
    LOG_FLOOR,
    Factory,
    Posterior,
    check_factory,
    is_noisy,
    is_posterior,
    listed,
    log_alpha,
    node_type,
    other_axes,
    resolve,
    second_moment,
    static,
)
from vnets.nodes.correlated import Correlated, MatrixNormal
from vnets.nodes.positive import (
    Horseshoe,
    LogNormal,
    TruncatedLogNormal,
    group_horseshoe,
    group_normal_jeffreys,
    structured,
)
from vnets.nodes.units import (
    AdaptiveBinaryDropout,
    AdaptiveDropout,
    Axis,
    Drawn,
    Dropout,
    Per,
    Scaled,
    adaptive_binary_dropout,
    adaptive_dropout,
    dropout,
)
from vnets.nodes.weights import (
    ALPHA_SHAPES,
    Additive,
    Masked,
    Multiplicative,
    Point,
    Thresholded,
    ZeroMean,
    additive,
    around,
    fan_in_uniform,
    gaussian,
    masked,
    multiplicative,
    point,
    variance,
)
