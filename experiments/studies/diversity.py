"""How different are the samples of a noisy net, and how much noise does it tolerate?

Samples of a predictor (noise draws, or the members of a deep ensemble) are compared by
their disagreement and by the split of the predictive entropy into the expected
entropy of a sample and the mutual information, inside and outside of the distribution.

Two questions of the slides on variance networks (Neklyudov et al.) go with it. A
variance layer followed by |.| gives |eps| sqrt(v), which has a mean again; does a
Gaussian of the mean and variance of |eps| (Gaussian dropout of multiplicative variance
pi / 2 - 1 = 0.571) serve as well? And does its deterministic pass work, as that of
dropout does? The slides give no numbers ("same performance").

Tolerance of noise: the deviation of all noise of a trained net is multiplied.
"""

import functools

import numpy as np

from experiments import spec as parts
from experiments.core import Measured, NetSpec, Study
from experiments.predictions import detection, scores, summaries, unit_range
from experiments.studies.uncertainty import evenly, shifted_images, test_images
from vnets import data, edits
from vnets.estimators import magnitude, magnitude_gaussian, magnitude_mean
from vnets.rng import stream
from vnets.types import Key
from vnets.uncertainty import Summary

FIELDS = (
    *("dataset", "nets.net", "samples", "images", "batch_size", "shift.name"),
    *("estimator", "deterministic", "noise.factors", "noise.images"),
)

MAGNITUDES = (magnitude, magnitude_gaussian, magnitude_mean)


def build(config) -> Study:
    """The study of a config; see `configs/diversity.py` for its fields."""
    spec = parts.call("nets.net", NetSpec, config.nets.net)
    mode = parts.mode(config.estimator)
    parts.mode(config.deterministic.estimator)
    parts.edit("deterministic", config.deterministic)
    for factor in config.noise.factors:
        parts.call("noise.factors", edits.scale_noise, {"factor": factor})
    if config.noise.factors and mode.estimator in MAGNITUDES:
        raise parts.ConfigError(
            f"config.noise.factors must be () with estimator {config.estimator!r}: a "
            "factor on the weights' deviation is one on the mean of the output too"
        )
    dataset, test = test_images(config)
    shifted = shifted_images(config, test)
    measure = functools.partial(_measure, config, test, shifted)
    return Study({"net": spec}, measure, dataset)


def _measure(config, test: data.Split, shifted, nets, key: Key) -> Measured:
    """All of it for one predictor, made of the members of "net"."""
    inputs, mode = unit_range(test.inputs), parts.mode(config.estimator)

    def summarized(images: np.ndarray, name: str, **options) -> Summary:
        arguments = {"samples": config.samples, "mode": mode} | options
        return summaries(
            nets["net"],
            images,
            key=stream(key, name),
            batch_size=config.batch_size,
            **arguments,
        )

    inside = summarized(inputs, "inside")
    outside = summarized(unit_range(shifted), "outside")
    quiet = summarized(
        inputs,
        "deterministic",
        samples=1,
        mode=parts.mode(config.deterministic.estimator),
        edit=parts.edit("deterministic", config.deterministic),
    )
    evals = {
        "inside": scores(inside, test.target),
        "outside": scores(outside) | detection(inside, outside),
        "deterministic": scores(quiet, test.target),
    }
    curves = {}
    if config.noise.factors:
        chosen = evenly(test, config.noise.images)
        pixels = unit_range(chosen.inputs)
        # One key for all: the factors differ in scale and not in the draws.
        tolerance = [
            scores(
                summarized(pixels, "tolerance", edit=edits.scale_noise(factor)),
                chosen.target,
            )
            for factor in config.noise.factors
        ]
        names = ("accuracy_one", "accuracy", "nll", "entropy", "disagreement")
        curves["noise_tolerance"] = {
            "factor": [float(factor) for factor in config.noise.factors],
            **{name: [one[name] for one in tolerance] for name in names},
        }
    return Measured(evals, curves)
