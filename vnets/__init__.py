"""Variance networks, variational dropout and sparse Bayesian neural networks in JAX.

A stochastic net is an ordinary Flax model with posterior nodes as weights. Everything
else is a function of these nodes:

    nodes        what a weight is: a point, a Gaussian, a variance with no mean, ...
    estimators   how a layer with such a weight is sampled
    priors       the KL of the weights
    likelihoods  the probability of a target, and metrics
    loss         `neg_elbo`: the cost of the targets and the KL
    edits        changes before a test: mean_only, prune, permute_variance, ...
    layers, nets Flax modules; `layers.stochastic` converts a model of yours
    train, evaluate, data   training, tests and data sets
    predictor    members x draws of noise -> predictions [S, B, ...]
    summary      `vnets.summary(model, params)` prints what each weight became
    compact      small files of sparse nets, and predictions without JAX

Importing `vnets` loads nothing heavy: each submodule is loaded on first use.
"""

import importlib
import pkgutil

from vnets import renamed

__version__ = "0.2.0"

# All of them, so that none can be left out; finding their names imports nothing.
_SUBMODULES = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))

_FUNCTIONS = {"summary": "overview"}  # name to the submodule that has it

__all__ = ["__version__", *_SUBMODULES, *_FUNCTIONS]


def __getattr__(name):
    if name in _SUBMODULES:
        return importlib.import_module(f"vnets.{name}")
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(f"vnets.{_FUNCTIONS[name]}"), name)
    renamed.check("vnets", name)
    raise AttributeError(
        f"module 'vnets' has no attribute {name!r}; it has {', '.join(_SUBMODULES)}"
    )
