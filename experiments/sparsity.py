"""How few weights a classifier needs: error, sparsity of each layer, compression.

Trains whatever the config describes: sparse variational dropout (Molchanov, Ashukha and
Vetrov 2017), any other posterior that can be pruned, and the baselines that prune by
magnitude or share weights. Every evaluation says how many weights were left in it.
"""

import dataclasses

from experiments import build as parts
from experiments import classifier, structured
from experiments.core import Experiment, Measured
from vnets import edits, metrics, projections
from vnets.evaluate import EvalSpec
from vnets.objectives import with_penalty
from vnets.priors import soft_sharing
from vnets.rng import stream

PROBED = ("det", "pruned")
TESTED = ("det", "pruned")
LEFT = ("sparsity", "units/", "flops_ratio")  # of the last probed column


def build(config) -> Experiment:
    """The experiment of a config; see `configs/sparse_vd.py` for its fields."""
    net = classifier.build(config)
    if "cut" in config.evals:
        structured.check_cut(config.evals, net.shapes)
    probed, tested, trained = (
        classifier.chosen(field, names, _specs(net, samples))
        for field, names, samples in (
            (
                "probe.columns",
                config.probe.get("columns", PROBED),
                config.probe.samples,
            ),
            (
                "evals.columns",
                config.evals.get("columns", TESTED),
                config.evals.samples,
            ),
            (
                "evals.train_columns",
                config.evals.get("train_columns", ()),
                config.evals.samples,
            ),
        )
    )

    def measure(params, collections, key, specs, **on):
        measured = net.columns(params, collections, key, specs, **on)
        for name, spec in specs.items():
            edited = spec.edit(params, stream(stream(key, name), "edit"))
            measured[name] |= metrics.sizes(edited)
            if "cut" in net.config.evals:
                variables = {"params": edited, **collections}
                measured[name] |= structured.left(net.model, variables, net.test.shape)
        return measured

    def probe(params, collections, key):
        measured = measure(params, collections, key, probed, split=net.probed)
        values = {name: column["accuracy"] for name, column in measured.items()}
        for last in list(measured.values())[-1:]:
            values |= {k: v for k, v in last.items() if k.startswith(LEFT)}
        return values | classifier.log_alphas(params)

    def evaluations(params, collections, key):
        measured = measure(params, collections, key, tested)
        train = measure(
            params,
            collections,
            stream(key, "train"),
            trained,
            split=net.dataset.train,
        )
        return Measured(measured | {f"train_{k}": v for k, v in train.items()})

    loss, project = net.loss(), projections.nothing
    if "sharing" in config:
        net, loss = _with_mixture(net, loss)
    if "pruning" in config:
        project = parts.pruner(config.pruning, net.total_steps)
    return net.experiment(probe, evaluations, loss=loss, project=project)


def _specs(net: classifier.Classifier, samples: int) -> dict[str, EvalSpec]:
    """The standard columns, and what config.evals says besides.

    With sharing, "pruned" has components for weights; "cut" is what `evals.cut` says is
    pruned, units or weights (`structured.pruning`).
    """
    specs = net.specs(samples)
    if "sharing" in net.config:
        share = edits.chain(edits.mean_only, soft_sharing.share)
        specs["pruned"] = EvalSpec(share, 1, net.mode)
    if "cut" in net.config.evals:
        cut = structured.pruning(net.config.evals)
        specs["cut"] = EvalSpec(edits.chain(cut, edits.mean_only), 1, net.mode)
    return specs


def _with_mixture(net: classifier.Classifier, loss):
    """Puts the mixture of `config.sharing` into parameters and loss."""
    spec = dict(net.config.sharing)
    weight = parts.schedule("sharing.weight", spec.pop("weight"), net.total_steps)
    mixture = parts.call("sharing", soft_sharing.mixture, spec)

    plain = net.init

    def init(key):
        params, collections = plain(key)
        return {**params, soft_sharing.NAME: mixture}, collections

    net = dataclasses.replace(net, init=init)
    return net, with_penalty(loss, soft_sharing.penalty, net.source.n, weight)
