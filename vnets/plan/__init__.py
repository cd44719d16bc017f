"""A net as data: its steps, their shapes and what they cost. No JAX here.

A plan is a chain of steps; a `Residual` step has two chains of its own. `nets.Net` runs
a plan with posteriors and gradients, `compact` without either. Noise is no step: it is
a part of the posterior of a layer's weight. `vnets.plan.sequences` has the steps of
nets that read sequences.
"""

# ruff: noqa: F401

from vnets.plan.pairs import pairs
from vnets.plan.shapes import (
    Cost,
    costs,
    pads,
    placed,
    shape_after,
    shapes,
)
from vnets.plan.steps import (
    ACTIVATIONS,
    POOL,
    Activation,
    Conv,
    CustomStep,
    Dense,
    DepthToSpace,
    Depthwise,
    Flatten,
    Kernel,
    LayerNorm,
    Linear,
    MaxPool,
    MeanPool,
    Norm,
    Padding,
    Plan,
    Residual,
    Shape,
    Standardize,
    Step,
    Weighted,
    Window,
    WindowMaxPool,
    WindowMeanPool,
    check,
    check_counts,
    check_padding,
    every,
    linear_layers,
    replaced,
    standardized,
    vectors,
)
