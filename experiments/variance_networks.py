"""Stochastic, deterministic and ensemble accuracy of a classifier with noisy weights.

The question of Neklyudov et al. 2019 ("Variance Networks: When Expectation Does Not
Meet Your Expectations"): a net whose weights have no mean is at chance when its noise
is switched off, and as good as dropout when its predictions are averaged.
"""

from collections.abc import Mapping
from functools import partial

import jax

from experiments import build as parts
from experiments import classifier, mean_propagation, transition
from experiments.core import Experiment, Measured
from vnets import evaluate
from vnets.priors import learned_scales
from vnets.rng import stream

PROBED = ("det", "stoch", "ens")
TESTED = ("det", "stoch", "ens", "zero_mean", "permuted", "pruned")


def build(config) -> Experiment:
    """The experiment of a config; see `configs/lenet5_mnist.py` for its fields."""
    net = classifier.build(config)
    probed = classifier.chosen(
        "probe.columns",
        config.probe.get("columns", PROBED),
        evaluate.standard_evals(config.probe.samples, mode=net.mode),
    )
    tested = classifier.chosen(
        "evals.columns",
        config.evals.get("columns", TESTED),
        net.specs(config.evals.samples),
    )
    elbo_samples = config.evals.get("elbo_samples", 0)
    train_samples = config.get("train_samples", 1)
    parts.positive("train_samples", train_samples)
    average = config.get("train_average", "predictions")
    parts.pick("train_average", average, ("predictions", "losses"))
    layer = config.probe.get("channels", "")
    channels = transition.probe(net.model, layer, net.probed) if layer else None
    kappa = _kappa_probe(config, net) if config.probe.get("kappa") else None

    def probe(params, collections, key):
        measured = net.columns(params, collections, key, probed, split=net.probed)
        values = {name: column["accuracy"] for name, column in measured.items()}
        values |= classifier.log_alphas(params)
        if channels:
            values |= channels(params, collections, key)
        return values | (kappa(params, collections) if kappa else {})

    def evaluations(params, collections, key):
        measured = net.columns(params, collections, key, tested)
        if elbo_samples:
            measured["train"] = evaluate.elbo(
                net.model,
                {"params": params, **collections},
                net.dataset.train,
                net.prior,
                stream(key, "train"),
                samples=elbo_samples,
                batch_size=config.evals.batch_size,
                mode=net.mode,
            )
        cost = transition.substitution(params, layer) if layer else None
        measured |= {"substitution": cost} if cost else {}
        scales = learned_scales(params, net.prior)
        measured |= {"prior_scale": _floats(scales)} if scales else {}
        return Measured(measured)

    if layer:
        node = partial(transition.dense_node, layer=layer)
        parts.call(
            "probe.channels",
            lambda: jax.eval_shape(lambda p: node(p).moments(), net.shapes),
            {},
        )
    loss = net.loss(samples=train_samples, average=average)
    return net.experiment(probe, evaluations, loss=loss)


def _floats(values: Mapping) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def _kappa_probe(config, net: classifier.Classifier):
    """(params, collections) -> how many of a layer's weights need their noise."""
    spec, layer = config.probe.kappa, config.probe.get("channels", "")
    mean_propagation.check_kappa(spec, "probe.kappa")
    if not layer:
        raise parts.ConfigError(
            "config.probe.kappa needs config.probe.channels, the layer to measure"
        )

    def probe(params, collections) -> dict[str, float]:
        variables = {"params": params, **collections}
        kappa = mean_propagation.kappa_of(
            spec, net.model, variables, layer, net.dataset.train
        )
        found = mean_propagation.kappa_summary(kappa, 10**spec.threshold)
        return {f"kappa_{name}": value for name, value in found.items()}

    return probe
