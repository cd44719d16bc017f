"""Likelihoods: how probable a target is by a net's outputs, in training and in tests.

    Categorical   classes of examples, positions or pixels; or probabilities of them
    Heads         classes of several tasks, of which each example's own counts
    Bernoulli     yes or no, for each of any number of labels or pixels
    Gaussian      numbers, with a deviation that is known or among the outputs
    Grey          grey values of pixels, each with a deviation of its own

Each has the negative log likelihood of an example (`nll`, what `loss.neg_elbo` takes)
and its metrics as sums over a test set, divided once (`sums`): exact for a short last
batch. A prediction of S draws is the mean of their distributions, so a test averages
probabilities: see `draw`.
"""

from vnets.likelihoods.base import (
    Likelihood,
    Sums,
    counted,
    examples,
    per_example,
    require_sum,
)
from vnets.likelihoods.classes import BINS, Bernoulli, Categorical, Heads, of_class
from vnets.likelihoods.gaussian import NORMAL_95, Gaussian, Grey, WithDeviation

__all__ = [
    "BINS",
    "NORMAL_95",
    "Bernoulli",
    "Categorical",
    "Gaussian",
    "Grey",
    "Heads",
    "Likelihood",
    "Sums",
    "WithDeviation",
    "counted",
    "examples",
    "of_class",
    "per_example",
    "require_sum",
]
