"""Mean propagation: noise is kept where the likelihood is curved, and nowhere else.

From the slides on variance networks (Neklyudov, Molchanov, Ashukha, Vetrov, 2018;
dropped from the ICLR version): weights whose kappa (`vnets.curvature`) is below a
threshold are replaced by their mean, or by zero. Before the phase transition of
variational dropout no weight is above the threshold; after it, some are, and the means
alone say nothing. Beside it, the prediction that propagates means and variances without
sampling (`vnets.propagation`), which does not need the means to say anything.
"""

import dataclasses
import functools
import math

import numpy as np

from experiments import spec as parts
from experiments.core import Measured, Net, NetSpec, Study
from experiments.datasets import load_data
from vnets import curvature, data, edits, evaluate
from vnets.propagation import SamplingFree
from vnets.rng import stream

FIELDS = ("dataset", "nets", "samples", "batch_size", "kappa")

TESTED = "net"  # the name of the net that is tested


def build(config) -> Study:
    """The study of a config; see `configs/mean_propagation.py` for its fields."""
    check_kappa(config.kappa, "kappa")
    bins = config.kappa.histogram
    if not bins.low < bins.high:
        raise parts.ConfigError(
            f"config.kappa.histogram: low {bins.low} must be below high {bins.high}"
        )
    for threshold in config.kappa.thresholds:
        if not math.isfinite(threshold):
            raise parts.ConfigError(
                f"config.kappa.thresholds are finite logarithms, not {threshold}"
            )
    nets = {
        name: parts.call(f"nets.{name}", NetSpec, spec)
        for name, spec in config.nets.items()
    }
    parts.pick("nets", TESTED, nets)
    for name, spec in nets.items():
        if spec.members != 1:
            raise parts.ConfigError(
                f"config.nets.{name}.members must be 1, not {spec.members}: kappa and "
                "moments are those of one net"
            )
    dataset = load_data(config.dataset)
    return Study(nets, functools.partial(_measure, config, dataset), dataset)


def check_kappa(spec, field: str) -> None:
    """Raises ConfigError if how kappa is measured, `config.<field>`, cannot be."""
    if not math.isfinite(spec.threshold):
        raise parts.ConfigError(
            f"config.{field}.threshold is a finite logarithm, not {spec.threshold}"
        )


def _measure(config, dataset: data.Dataset, nets: dict[str, list[Net]], key):
    net = nets[TESTED][0]
    test = dataset.validation or dataset.test

    def accuracy(spec: evaluate.EvalSpec, model=None) -> dict[str, float]:
        # One key for all: thresholds differ by what they keep, not by their draws.
        one = dataclasses.replace(net, model=model or net.model)
        own = stream(key, "test")
        return one.evaluate(test, spec, own, batch_size=config.batch_size)

    evals = {
        "det": accuracy(evaluate.EvalSpec(edit=edits.mean_only)),
        "moments": accuracy(evaluate.EvalSpec(), SamplingFree(net.model)),
        "stoch": accuracy(evaluate.EvalSpec()),
        "ens": accuracy(evaluate.EvalSpec(samples=config.samples)),
    }
    if not config.kappa.layer:
        return Measured(evals)

    kappas = {
        name: kappa_of(
            config.kappa,
            members[0].model,
            members[0].variables(),
            config.kappa.layer,
            dataset.train,
        )
        for name, members in nets.items()
    }
    for name, kappa in kappas.items():
        which = "kappa" if name == TESTED else f"kappa_{name}"
        evals[which] = kappa_summary(kappa, 10**config.kappa.threshold)

    # Without a mean there is nothing to choose: the mean is zero.
    node = curvature.dense_weight(net.params, config.kappa.layer)
    replacements = curvature.REPLACEMENTS[: 1 if node.moments()[0] is None else None]

    def at(log_threshold: float) -> dict[str, dict[str, float]]:
        """Accuracies by replacement, at a threshold."""
        measured = {
            replacement: accuracy(
                evaluate.EvalSpec(
                    edit=curvature.propagate_mean(
                        {config.kappa.layer: kappas[TESTED]},
                        10**log_threshold,
                        replacement,
                    )
                )
            )
            for replacement in replacements
        }
        return {r: measured.get(r, measured["mean"]) for r in curvature.REPLACEMENTS}

    evals |= {f"{r}_at": found for r, found in at(config.kappa.threshold).items()}
    grid = list(config.kappa.thresholds)
    swept = [at(threshold) for threshold in grid]
    sweep = {
        "log10_threshold": grid,
        **{
            replacement: [found[replacement]["accuracy"] for found in swept]
            for replacement in curvature.REPLACEMENTS
        },
        "stochastic": [
            curvature.stochastic_fraction(kappas[TESTED], 10**threshold)
            for threshold in grid
        ],
    }
    histogram = _histogram(config.kappa.histogram, kappas)
    return Measured(evals, {"thresholds": sweep, "histogram": histogram})


def kappa_of(spec, model, variables: dict, layer: str, train: data.Split):
    """Kappa of a layer, [I, O], from the first `spec.images` of the training images."""
    images = train.take(np.arange(min(spec.images, len(train))))
    return parts.call(
        "kappa.layer",
        curvature.kappa,
        {
            "model": model,
            "variables": variables,
            "layer": layer,
            "split": images,
            "n": len(train),
            "batch_size": spec.batch_size,
        },
    )


def kappa_summary(kappa, threshold: float) -> dict[str, float]:
    """How many weights are at or above a threshold, and what kappa is like.

    Returns:
      above: their number; stochastic: their fraction; positive: the fraction of weights
      whose kappa is; sum: of kappa.
    """
    kappa = np.asarray(kappa, np.float64)
    return {
        "above": int(np.sum(kappa >= threshold)),
        "stochastic": float(np.mean(kappa >= threshold)),
        "positive": float(np.mean(kappa > 0)),
        "sum": float(np.sum(kappa)),
    }


def _histogram(spec, kappas: dict) -> dict[str, list[float]]:
    """Fractions of all weights by log10 kappa; negative kappa is in no bin."""
    edges = np.linspace(spec.low, spec.high, spec.bins + 1)
    curve = {"log10_kappa": ((edges[1:] + edges[:-1]) / 2).tolist()}
    for name, kappa in kappas.items():
        kappa = np.asarray(kappa, np.float64)
        counts, _ = np.histogram(np.log10(kappa[kappa > 0]), edges)
        curve[name] = (counts / kappa.size).tolist()
    return curve
