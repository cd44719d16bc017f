"""Any kind of task, trained: its optimizer and projections, its start, what is watched.

What a config has beside the fields of its kind is read here, for all kinds alike.
"""

import dataclasses
import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax import random

from experiments import spec as parts
from experiments.core import Experiment, Measured, Net, NetSpec
from experiments.kinds import TRAININGS, Kind
from experiments.probes import MEASURES, PROBES
from vnets import backend, edits, projections, pruning, train
from vnets.loss import with_penalty
from vnets.priors import kl, soft_sharing
from vnets.types import Params

FIELDS = (
    *("epochs", "chunk_steps", "optimizer", "nets.start", "early_stopping", "collect"),
    *("max_log_alpha", "clip_log_alpha", "pruning", "projection", "sharing"),
    *("probes", "measures", "probe.every", "probe.columns"),
    *("evals.columns", "evals.split"),
)


def fields(config) -> tuple[str, ...]:
    """What is read of a config that trains."""
    probes, measures = _named(config)
    of_kind = _module(config).fields(config)
    of_named = [name for one in (*probes, *measures) for name in one.fields]
    return (*FIELDS, *of_kind, *of_named)


def _module(config):
    kind = TRAININGS[config.experiment].kind
    return importlib.import_module(f"experiments.kinds.{kind}")


def _named(config) -> tuple[list, list]:
    """The probes and the measures of a config."""
    row = TRAININGS[config.experiment]
    probes, measures = (
        [parts.pick(field, name, known) for name in config.get(field, names)]
        for field, names, known in (
            ("probes", row.probes, PROBES),
            ("measures", row.measures, MEASURES),
        )
    )
    return probes, measures


def _made(field: str, kind: Kind, named: list) -> list[Callable]:
    """The functions of probes or measures, without those that have nothing to do."""
    for one in named:
        if not isinstance(kind, one.of):
            raise parts.ConfigError(
                f"config.{field} has one of {one.of.__name__}, and experiment "
                f"{kind.config.experiment!r} is {type(kind).__name__}"
            )
    return [made for made in (one.make(kind) for one in named) if made]


def build(config) -> Experiment:
    """The experiment of a config that trains a net.

    Raises:
      ConfigError: a value that does not fit; DataError: data that are not there.
    """
    row = TRAININGS[config.experiment]
    kind = dataclasses.replace(_module(config).build(config), sized=row.sized)
    if "sharing" in config:
        kind = dataclasses.replace(kind, init=_with_mixture(kind))
    probes, measures = _named(config)
    columns = config.probe.get("columns", row.probed)
    early = parts.early_stopping(config, columns, kind.dataset)
    start, begin = _start(kind)
    return Experiment(
        task(kind, _probe(kind, columns, probes)),
        _evaluations(kind, config.evals.get("columns", row.tested), measures),
        kind.model,
        kind.recorded,
        start=start,
        begin=begin,
        carried=kind.carried,
        early_stopping=early,
    )


def task(kind: Kind, probe: Callable | None = None) -> train.Task:
    """What `train.fit` trains.

    Raises:
      ConfigError: a prior that does not fit the posteriors, factors of no parameter.
    """
    config, loss, shapes = kind.config, kind.loss(), kind.shapes
    if "sharing" in config:
        weight = parts.schedule(
            "sharing.weight", config.sharing.weight, kind.total_steps
        )
        loss = with_penalty(loss, soft_sharing.penalty, kind.source.n, weight)
    named = {"pruning": pruning.PRUNING, "projection": projections.PROJECTIONS}
    project = projections.chain(
        *(
            parts.scheduled(field, config[field], choices, kind.total_steps)
            for field, choices in named.items()
            if field in config
        )
    )
    bound = parts.projection(config.get("max_log_alpha"), config.get("prior"))
    clip = parts.clip(config.get("clip_log_alpha"))
    optimizer = parts.optimizer(config.optimizer, kind.total_steps, kind.source.n)
    if kind.prior is not None:
        divergence = partial(kl, prior=kind.prior, key=random.key(0))
        parts.call("prior", lambda: jax.eval_shape(divergence, shapes), {})
    jax.eval_shape(optimizer.init, shapes)
    return train.Task(
        init=kind.init,
        loss=loss,
        optimizer=optimizer,
        source=kind.source,
        project=projections.chain(bound, project, clip),
        probe=probe,
        locate=kind.locate,
        collect=parts.collect(config.get("collect"), kind.total_steps),
    )


def _probe(kind: Kind, names, probes) -> Callable[..., dict[str, float]]:
    """(params, collections, key) -> {name: number}, while training."""
    run = kind.columns("probe", names)
    made = _made("probes", kind, probes)

    def probe(params, collections, key):
        columns = run(params, collections, key)
        values = {name: column[kind.watched] for name, column in columns.items()}
        for one in made:
            values |= one(params, collections, key, columns)
        return values

    return probe


def _evaluations(kind: Kind, names, measures) -> Callable[..., Measured]:
    """(params, collections, key) -> what is measured at the end."""
    run = kind.columns("evals", names)
    made = _made("measures", kind, measures)

    def evaluations(params, collections, key):
        evals, curves = run(params, collections, key), {}
        for one in made:
            found = one(params, collections, key)
            evals, curves = evals | found.evals, curves | found.curves
        return Measured(evals, curves)

    return evaluations


def _with_mixture(kind: Kind) -> Callable:
    """The start with the mixture of `config.sharing` among the parameters."""
    spec = dict(kind.config.sharing)
    del spec["weight"]
    mixture = parts.call("sharing", soft_sharing.mixture, spec)
    plain = kind.init

    def init(key) -> tuple[Params, dict]:
        params, collections = plain(key)
        return {**params, soft_sharing.NAME: mixture}, collections

    return init


def _start(kind: Kind) -> tuple[NetSpec | None, Callable | None]:
    """The nets that training needs, and what it starts from by them; none, none."""
    nets = kind.config.get("nets", {})
    if kind.begun_by:
        spec: Any = parts.pick("nets", kind.begun_by, dict(nets))
        return NetSpec(spec.run, spec.get("members", 1)), kind.begin
    if "start" not in nets:
        return None, None
    init = backend.jit(kind.init)  # one operation after another takes seconds
    change = _start_edit(init, nets.start)

    def begin(nets: list[Net], key) -> tuple[Params, dict]:
        [net] = nets
        own = init(key)[1]  # what the other has not
        return change(net.params, key), {**own, **net.collections}

    return NetSpec(nets.start.run), begin


def _start_edit(init: Callable, spec) -> edits.Edit:
    """How the parameters of another net become those of this one."""

    def carry(params, key):
        return edits.carry_means(params, init(key)[0])

    def carry_balanced(params, key):
        return edits.balance(carry(params, key))

    ways = {"carry_means": carry, "carry_means_balanced": carry_balanced}
    return parts.edit("nets.start", spec, ways)
