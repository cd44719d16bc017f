"""What is watched while training, and measured at its end, beside a kind's columns.

Each has a name. A config says which by `probes` and `measures`, or the experiment does
(`kinds.TRAININGS`); one that is about a field of the config does nothing without it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import bandits, kl_gradients, masks, removal, transition
from experiments import spec as parts
from experiments.core import Measured, Net
from experiments.kinds import Kind, text
from experiments.kinds.autoencode import Autoencode
from experiments.kinds.bandit import MEMORY, Bandit
from experiments.kinds.classify import Classify
from experiments.kinds.continual import Continual
from experiments.kinds.regress import Regress
from experiments.studies import (
    latents,
    mean_propagation,
    toy_four_classes,
    toy_regression,
)
from vnets import evaluate, latent, tree
from vnets.loss import ModelState
from vnets.nets.transformer import TextTransformer, weights_of_heads
from vnets.nodes import log_alpha
from vnets.priors import learned_scales
from vnets.rng import stream

LEFT = ("sparsity", "units/", "flops_ratio")  # of the last probed column


class Named(NamedTuple):
    """A probe or a measure.

    Attributes:
      make: kind -> what it finds, or None where the config has no use for it. A probe
        takes (params, collections, key, columns) and gives {name: number}; a measure
        takes (params, collections, key) and gives `Measured`.
      fields: of the config that it reads.
      of: the kinds that it can be of.
    """

    make: Callable[[Any], Callable | None]
    fields: tuple[str, ...] = ()
    of: type[Kind] = Kind


def always(find: Callable) -> Callable:
    """The `make` of what every config has a use for: find(kind, params, ...)."""
    return lambda kind: partial(find, kind)


def log_alphas(params) -> dict[str, float]:
    """The mean log alpha of each noisy layer that has one, as "log_alpha/<layer>".

    It is of the weight, or of noise on units that learns its rate.
    """
    means = {
        f"log_alpha/{place.name}": float(
            jnp.mean(log_alpha(node.learned_dropout or node))
        )
        for place, node in tree.nodes(params)
        if node.noisy
    }
    return {name: value for name, value in means.items() if jnp.isfinite(value)}


def _channels(kind: Classify):
    """The information in means and variances of the layer `probe.channels`."""
    layer = kind.config.probe.get("channels", "")
    if not layer:
        return None
    node = partial(transition.dense_node, layer=layer)
    parts.call(
        "probe.channels",
        lambda: jax.eval_shape(lambda p: node(p).moments(), kind.shapes),
        {},
    )
    run = transition.probe(kind.model, layer, kind.probed)
    return lambda params, collections, key, columns: run(params, collections, key)


def _kappa(kind: Classify):
    """How many weights of the layer `probe.channels` need their noise."""
    spec = kind.config.probe.get("kappa")
    if not spec:
        return None
    layer = kind.config.probe.get("channels", "")
    mean_propagation.check_kappa(spec, "probe.kappa")
    if not layer:
        raise parts.ConfigError(
            "config.probe.kappa needs config.probe.channels, the layer to measure"
        )

    def probe(params, collections, key, columns) -> dict[str, float]:
        variables = {"params": params, **collections}
        kappa = mean_propagation.kappa_of(
            spec, kind.model, variables, layer, kind.dataset.train
        )
        found = mean_propagation.kappa_summary(kappa, 10**spec.threshold)
        return {f"kappa_{name}": value for name, value in found.items()}

    return probe


def _left(kind: Kind, params, collections, key, columns):
    """What is left of the net in the last column."""
    last = list(columns.values())[-1:]
    return {k: v for one in last for k, v in one.items() if k.startswith(LEFT)}


def _rate(kind: Kind, params, collections, key, columns):
    """The mean rate of each layer with binary dropout."""
    return {f"rate/{name}": p for name, p in masks.rates(params).items()}


def _tasks(kind: Continual, params, collections, key, columns):
    """The accuracy of each task in the last column."""
    last = list(columns.values())[-1:]
    return {k: v for one in last for k, v in one.items() if k.startswith("accuracy/")}


def _regret_so_far(kind: Bandit, params, collections, key, columns):
    """What was paid until now; by mean rewards, too."""
    paid = collections[MEMORY]
    found = {"regret": paid.regret, "expected_regret": paid.expected}
    return {name: float(jnp.sum(values)) for name, values in found.items()}


PROBES = {
    "log_alpha": Named(lambda kind: lambda params, *rest: log_alphas(params)),
    "channels": Named(_channels, ("probe.channels",), Classify),
    "kappa": Named(_kappa, ("probe.kappa",), Classify),
    "left": Named(always(_left), of=Classify),
    "rate": Named(always(_rate)),
    "band": Named(toy_regression.band_probe, toy_regression.GRID_FIELDS, Regress),
    "tasks": Named(always(_tasks), of=Continual),
    "regret": Named(always(_regret_so_far), of=Bandit),
    "opposition": Named(toy_four_classes.opposition_probe, of=Classify),
}


def _elbo(kind: Classify):
    """The bound on the training set, by `evals.elbo_samples` draws."""
    samples = kind.config.evals.get("elbo_samples", 0)
    if not samples:
        return None

    def measure(params, collections, key):
        found = evaluate.elbo(
            kind.model,
            {"params": params, **collections},
            kind.dataset.train,
            kind.prior,
            stream(key, "train"),
            samples=samples,
            batch_size=kind.config.evals.batch_size,
            mode=kind.mode,
        )
        return Measured({"train": found})

    return measure


def _substitution(kind: Kind):
    """What it costs to drop the means of the layer `probe.channels`."""
    layer = kind.config.probe.get("channels", "")
    if not layer:
        return None

    def measure(params, collections, key):
        cost = transition.substitution(params, layer)
        return Measured({"substitution": cost} if cost else {})

    return measure


def _prior_scale(kind: Kind, params, collections, key):
    """The scales that the prior has learned."""
    scales = learned_scales(params, kind.prior)
    found = {name: float(value) for name, value in scales.items()}
    return Measured({"prior_scale": found} if found else {})


def _train_columns(kind: Classify):
    """The columns `evals.train_columns` on the training set."""
    names = kind.config.evals.get("train_columns", ())
    run = kind.columns("evals", names, kind.dataset.train)

    def measure(params, collections, key):
        found = run(params, collections, stream(key, "train"))
        return Measured({f"train_{name}": one for name, one in found.items()})

    return measure


def _rates(kind: Kind, params, collections, key):
    """The rates of binary dropout, and their mean over layers."""
    found = masks.rates(params)
    mean = float(np.mean(list(found.values())))
    return Measured({"rates": {**found, "mean": mean}})


def _gradients(kind: Classify):
    """How much the gradients of learned rates vary over `gradient.draws` masks."""
    if not kind.rate_gradient:
        return None
    draws = kind.config.gradient.draws
    parts.several("gradient.draws", draws)

    def measure(params, collections, key):
        at = params, ModelState(jnp.int32(kind.total_steps), collections)
        found = masks.variances(kind, *at, stream(key, "masks"), draws)
        return Measured({"gradients": found})

    return measure


def _regret(kind: Bandit, params, collections, key):
    """What all interactions cost, and the way there."""
    paid = collections[MEMORY]
    found = bandits.summary(paid, np.asarray(kind.edible))
    return Measured({"regret": found}, {"regret": bandits.curve(paid)})


def _heads(kind: text.Text):
    """The weights that are left of each head of each block."""
    net = text.inner(kind.model)
    if not isinstance(net, TextTransformer):
        raise parts.ConfigError(
            "config.measures: heads is of a Transformer; choose config.model.name "
            "'transformer', or leave it out"
        )
    pruned = kind.specs(1)["pruned"].edit

    def measure(params, collections, key):
        edited = pruned(params, stream(key, "edit"))
        left = {"head": [float(n + 1) for n in range(net.heads)]}
        for block, counts in weights_of_heads(net, edited).items():
            left[block] = [float(n) for n in counts]
        return Measured({}, {"heads": left})

    return measure


def _of_net(study, fields: tuple[str, ...], of: type[Kind]) -> Named:
    """What a study measures of each of its nets, of the net that was trained."""

    def make(kind: Kind):
        run = study.measure_of(kind.config.evals, kind.dataset)
        return lambda params, collections, key: run(
            Net(kind.model, params, collections), key
        )

    return Named(make, fields, of)


def _latents(kind: Autoencode):
    """Bounds, bits and codes, where latent variables are numbers."""
    if kind.model.latents.exact != latent.Normal():
        raise parts.ConfigError(
            "config.measures: latents is of numbers, and config.model.latents are "
            "bits; leave it out"
        )
    run = latents.measure_of(kind.config.evals, kind.dataset, kind.likelihood)
    return lambda params, collections, key: run(
        Net(kind.model, params, collections), key
    )


MEASURES = {
    "elbo": Named(_elbo, ("evals.elbo_samples",), Classify),
    "substitution": Named(_substitution, ("probe.channels",), Classify),
    "prior_scale": Named(always(_prior_scale)),
    "train_columns": Named(_train_columns, ("evals.train_columns",), Classify),
    "rates": Named(always(_rates)),
    "regret": Named(always(_regret), of=Bandit),
    "removal": Named(removal.measure_of, ("evals.removed",), Classify),
    "kl_gradients": Named(kl_gradients.measure_of, ("evals.kl_draws",), Classify),
    "heads": Named(_heads, of=text.Text),
    "gradients": Named(_gradients, ("gradient.draws",), Classify),
    "latents": Named(_latents, latents.FIELDS, Autoencode),
    "bands": _of_net(toy_regression, toy_regression.GRID_FIELDS, Regress),
    "four_classes": _of_net(toy_four_classes, toy_four_classes.DRAWN, Classify),
}
