"""Tasks one after another, in one run.

`continual.of` says which they are: "permuted", the same pictures in several orders of
their pixels, or "split", some classes each. Of these each may have a head of its own
(`continual.heads`, "one" or "each"): the task of a picture is known then.

The anchor, to which a task's loss holds the weights, and the curvature that is summed
for the next one are a collection beside the weights: no parameters, and in checkpoints.
`continual.method`:

fine_tuning  nothing is held
vcl          to the posterior that the last task left; before the first to
             N(0, `continual.scale`^2), or in its place by `continual.first`, a prior as
             `config.prior` names them
ewc          to a product of normal laws, one of each task
ewc_online   to one normal law around what the last task left
laplace      the same, with another curvature, Gauss-Newton's
laplace_kronecker  the same, with Kronecker factors of each layer
joint        nothing: all tasks at once, each epoch

Curvature is measured in the last epoch of each task, at the weights as they are in it:
the learning rate must be 0 by then. `continual.strength` multiplies it.

With `continual.coreset` tasks leave out some pictures, and what predicts, also while
training, is a copy that has seen those of all tasks until then (of "vcl" alone).

Columns are means over the tasks, and "accuracy/task1" and so on are of each.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import datasets
from experiments import spec as parts
from experiments.kinds import classify
from vnets import backend, continual, data, kronecker, sources, tree
from vnets.columns import EvalSpec
from vnets.likelihoods import Heads, Likelihood
from vnets.loss import ModelState, forward, with_penalty
from vnets.predictor import Member
from vnets.priors import kl_of, of_tree
from vnets.rng import stream
from vnets.types import Array, Key, Params

ANCHOR = "anchor"  # the collection
TASKS = {"permuted": data.with_permuted_pixels, "split": data.with_split_classes}


class ByCurvature(NamedTuple):
    """How a curvature becomes what the next task is held to.

    Attributes:
      add: anchor, params, curvature -> the next anchor.
      measure: the kind, params, a batch, key -> its part of the curvature of a task.
      start: params -> the first anchor.
      pull: params, anchor -> nats.
      zero: params, anchor -> the curvature of nothing.
    """

    add: Callable
    measure: Callable
    start: Callable
    pull: Callable
    zero: Callable


def _scores(kind: "Continual", params, batch, key: Key) -> Params:
    """Fisher's diagonal, by classes that the net draws."""

    def log_p(logits) -> Array:
        if isinstance(kind.likelihood, Heads):
            logits = kind.likelihood.own(logits, batch["target"])
        return jax.nn.log_softmax(logits)

    found = continual.squared_scores(kind.model, params, batch["input"], key, log_p)
    return jax.tree.map(lambda a: kind.strength / kind.seen * a, found)


def _diagonal(kind: "Continual", params, batch, key: Key) -> Params:
    """Gauss-Newton's diagonal."""
    del key
    given = params, batch["input"], batch["target"]
    found = continual.gauss_newton(kind.model, kind.likelihood, *given)
    return jax.tree.map(lambda a: kind.strength / kind.seen * a, found)


def _factors(kind: "Continual", params, batch, key: Key) -> dict:
    """Gauss-Newton's matrix of each layer, in factors, whose product counts."""
    del key
    found, _ = kronecker.measured(
        *(kind.model, {"params": params}, batch["input"], batch["target"]),
        likelihood=kind.likelihood,
    )
    factor = kind.strength / kind.seen**2
    return {layer: one.times(factor) for layer, one in found.items()}


def _zeros(params, anchor) -> Params:
    del anchor
    return jax.tree.map(jnp.zeros_like, params)


def _no_factors(params, anchor) -> dict:
    del params
    each = {layer: held.precision for layer, held in anchor.items()}
    return jax.tree.map(jnp.zeros_like, each)


OF_WEIGHTS = continual.start, continual.pull, _zeros
BY_CURVATURE = {
    "ewc": ByCurvature(continual.ewc, _scores, *OF_WEIGHTS),
    "ewc_online": ByCurvature(continual.laplace, _scores, *OF_WEIGHTS),
    "laplace": ByCurvature(continual.laplace, _diagonal, *OF_WEIGHTS),
    "laplace_kronecker": ByCurvature(
        *(kronecker.laplace, _factors),
        *(kronecker.start, kronecker.pull, _no_factors),
    ),
}
HOLDING = ("vcl", *BY_CURVATURE)
METHODS = ("fine_tuning", *HOLDING, "joint")
CORESET = ("size", "updates", "learning_rate")
FREE = ("prior", "kl_weight", "kl_shares", "particles", "rate_gradient")
FREE += ("dataset.augment",)


def fields(config) -> tuple[str, ...]:
    """What this kind reads of a config."""
    known = set(classify.fields(config)) - set(FREE)
    own = {"vcl": ("scale", "first", *(f"coreset.{name}" for name in CORESET))}
    own |= dict.fromkeys(BY_CURVATURE, ("strength",))
    names = ("tasks", "method", "of", "heads", *own.get(config.continual.method, ()))
    return (*known, *(f"continual.{name}" for name in names))


@dataclasses.dataclass(frozen=True, eq=False)
class Continual(classify.Classify):
    """A classifier of several tasks, as a config describes it.

    Attributes:
      coreset: examples of all tasks that none learns from, in their order; None
        without one.
    """

    carried: ClassVar[tuple[str, ...]] = (ANCHOR,)
    coreset: data.Split | None = None

    @property
    def tasks(self) -> int:
        """T."""
        return self.config.continual.tasks

    @property
    def task_steps(self) -> int:
        """Updates of a task."""
        return self.total_steps // self.tasks

    @property
    def strength(self) -> float:
        """What a curvature of the mean log likelihood is multiplied by."""
        return self.config.continual.strength * self.source.n

    @property
    def seen(self) -> int:
        """Examples that the curvature of a task is measured at."""
        return self.source.steps_per_epoch * self.source.batch_size

    @property
    def likelihood(self) -> Likelihood:
        """Of the labels; where each task has a head, of those in it."""
        if self.config.continual.get("heads", "one") == "one":
            return super().likelihood
        return Heads(classes=self.dataset.classes // self.tasks)

    def loss(self, **options) -> Callable:
        """The bound of each task under what the tasks before it have left."""
        base, method = super().loss(**options), self.config.continual.method
        if method not in HOLDING:
            return base
        way, spec = BY_CURVATURE.get(method), self.config.continual
        first = parts.prior(spec.first) if "first" in spec else None

        @functools.wraps(base)  # with its `logits`
        def loss(params, state: ModelState, batch, key):
            held = self._held(params, state, batch, stream(key, "curvature"))
            anchor = held["prior"]
            prior = {} if way else of_tree(anchor)  # without noise there is no KL
            if first is not None:
                prior = _after(first, prior, params, held["task"] > 0)
            bound = super(Continual, dataclasses.replace(self, prior=prior)).loss(
                **options
            )
            if way:
                pull = functools.partial(way.pull, anchor=anchor)
                bound = with_penalty(bound, pull, self.source.n, 1.0)
            plain = state.replace(collections={})  # the net has none
            value, (new, metrics) = bound(params, plain, batch, key)
            return value, (new.replace(collections={ANCHOR: held}), metrics)

        return loss

    def _held(self, params, state: ModelState, batch, key: Key) -> dict:
        """The anchor of the task of an update, and the curvature until then."""
        params = jax.lax.stop_gradient(params)
        held = state.collections[ANCHOR]
        task, step = jnp.divmod(state.step, self.task_steps)
        starts = (step == 0) & (task > 0)

        def kept(new, old):
            return jax.tree.map(lambda a, b: jnp.where(starts, a, b), new, old)

        way = BY_CURVATURE.get(self.config.continual.method)
        if way is None:
            made = self._until(task, continual.posterior(params), held["prior"])
            return {"prior": kept(made, held["prior"]), "task": task}
        bent = held["curvature"]
        made = way.add(held["prior"], params, bent)
        zero = jax.tree.map(jnp.zeros_like, bent)
        found = jax.lax.cond(
            step >= self.task_steps - self.source.steps_per_epoch,
            lambda: way.measure(self, params, batch, key),
            lambda: zero,
        )
        bent = jax.tree.map(jnp.add, kept(zero, bent), found)
        return {"prior": kept(made, held["prior"]), "curvature": bent}

    def _until(self, task: Array, learned: Params, before: Params) -> Params:
        """What was learned, but heads of tasks from `task` on as they were before.

        They have seen nothing; their posterior is their prior, and not where they
        happened to start.
        """
        if not isinstance(self.likelihood, Heads):
            return learned
        [output] = self.model.layers[-1:]
        head = jnp.arange(self.dataset.classes) // self.likelihood.classes

        def visit(place: tree.Place, new, old):
            if place.layer != output:
                return new
            seen = jnp.broadcast_to(head < task, new.shape)
            return jax.tree.map(lambda a, b: jnp.where(seen, a, b), new, old)

        return tree.change(visit, learned, before)

    def columns(self, group, names, split=None):
        """See `Kind`; what is tested has seen the coreset of all tasks until then."""
        run = super().columns(group, names, split)
        if self.coreset is None:
            return run

        def columns(params, collections, key):
            task = collections[ANCHOR]["task"]
            copy = self._rehearsed(params, task, stream(key, "coreset"))
            return run(copy, collections, key)

        return columns

    @functools.cached_property
    def _rehearsed(self) -> Callable:
        """Compiled: (params, task, key) -> the copy that predicts."""
        kept, spec = self.coreset, self.config.continual.coreset
        task_of = np.repeat(np.arange(self.tasks), spec.size)
        inputs = datasets.prepare_of(kept)(jnp.asarray(kept.inputs))
        batch = {"input": inputs, "target": jnp.asarray(kept.target)}

        def run(params, task, key):
            mask = (task_of <= task).astype(jnp.float32)
            return continual.rehearsed(
                forward(self.model, dataclasses.replace(self.mode, norm="batch")),
                *(self.likelihood, params, {**batch, "mask": mask}, key),
                updates=spec.updates,
                learning_rate=spec.learning_rate,
            )

        return backend.jit(run)

    def tested(self, net: Member, spec: EvalSpec, split, key) -> dict[str, float]:
        """See `Kind`; the mean over all tasks, and the accuracy of each."""
        if self.config.continual.get("of", "permuted") == "split":
            task_of = split.target // (self.dataset.classes // self.tasks)
            rows = [np.flatnonzero(task_of == task) for task in range(self.tasks)]
        else:
            rows = np.arange(len(split)).reshape(self.tasks, -1)
        size = max(map(len, rows))
        each = [
            super(Continual, self).tested(net, spec, _filled(split, part, size), key)
            for part in rows
        ]
        found = {name: float(np.mean([one[name] for one in each])) for name in each[0]}
        return found | {
            f"accuracy/task{number}": one["accuracy"]
            for number, one in enumerate(each, start=1)
        }


def _filled(split: data.Split, rows: np.ndarray, size: int) -> data.Split:
    """These examples, and others that do not count up to a size: what tests one task
    is compiled for all."""
    counts = (np.arange(size) < len(rows)).astype(np.float32)
    return dataclasses.replace(split.take(np.resize(rows, size)), mask=counts)


def build(config) -> Continual:
    """The tasks that a config describes; see `configs/continual.py`.

    Raises:
      ConfigError: a value that does not fit; DataError: data that are not there.
    """
    spec = config.continual
    method = parts.pick("continual.method", spec.method, METHODS)
    tasks, epochs = spec.tasks, config.epochs
    loaded = datasets.load(config)
    if isinstance(loaded.train, data.Stream) or not loaded.classes:
        raise parts.ConfigError(
            f"config.dataset.name: {loaded.name} has no pictures with classes"
        )
    of = spec.get("of", "permuted")
    heads = parts.pick("continual.heads", spec.get("heads", "one"), ("one", "each"))
    if heads == "each" and of != "split":
        raise parts.ConfigError(
            f"config.continual.heads: {of!r} tasks share their classes, and one head"
        )
    dataset = parts.pick("continual.of", of, TASKS)(loaded, tasks)
    train, kept = dataset.train, None
    if "coreset" in spec:
        given = {"split": train, "tasks": tasks, "size": spec.coreset.size}
        train, kept = parts.call("continual.coreset", continual.coreset, given)
    if method == "joint":
        source = datasets.source(config, dataset)
    else:
        if epochs % tasks:
            raise parts.ConfigError(
                f"config.epochs is {epochs}, of {tasks} tasks: give a multiple"
            )
        given = {"split": train, "batch_size": config.batch_size}
        given |= {"tasks": tasks, "epochs": epochs // tasks}
        source = parts.call("batch_size", sources.InTurn, given)
    example = datasets.example(dataset)
    kind = classify.built(Continual, config, dataset, source, example, held=False)
    _check(kind)
    if method not in HOLDING:
        return kind
    return dataclasses.replace(kind, init=_anchored(kind.init, config), coreset=kept)


def _after(first, later: dict, params: Params, begun: Array) -> dict:
    """A prior by name that is `first` until `begun`, then that of `later`."""

    def of(place: tree.Place) -> Callable:
        def own(node) -> Array:
            return jnp.where(begun, *(kl_of(place, node, p) for p in (later, first)))

        return own

    return {place.name: of(place) for place, _ in tree.nodes(params)}


def _check(kind: Continual) -> None:
    """Refuses weights that a method has no anchor of, and a rate that is not over."""
    config, method = kind.config, kind.config.continual.method
    if jax.eval_shape(kind.init, jax.random.key(0))[1]:
        raise parts.ConfigError(
            "config.model: batch normalization has statistics that one task takes from "
            "another; choose a net without"
        )
    noisy = any(node.noisy for _, node in tree.nodes(kind.shapes))
    if noisy != (method == "vcl"):
        raise parts.ConfigError(
            f"config.model.posteriors: {method!r} is of weights "
            + ("with noise" if method == "vcl" else "without noise")
        )
    if method == "vcl" and len({"first", "scale"} & set(config.continual)) != 1:
        raise parts.ConfigError(
            "config.continual: before the first task there is N(0, scale^2) or the "
            "prior `first`; give one of the two"
        )
    if method in BY_CURVATURE:
        ends = parts.schedule(
            "optimizer.learning_rate", config.optimizer.learning_rate, kind.task_steps
        )
        begin = kind.task_steps - kind.source.steps_per_epoch
        if config.optimizer.get("restarts", 1) != kind.tasks or ends(begin) > 0:
            raise parts.ConfigError(
                f"config.optimizer: {method!r} measures curvature in the last epoch of "
                "each task; give restarts, as many as tasks, and a learning_rate that "
                "is 0 from there on"
            )


def _anchored(plain: Callable, config) -> Callable:
    """The start with the anchor of the first task among the collections."""
    way = BY_CURVATURE.get(config.continual.method)

    def init(key: Key) -> tuple[Params, dict]:
        params, collections = plain(key)
        if way is None:
            parts.call("model.posteriors", continual.posterior, {"params": params})
            # The scale of what another prior takes the place of says nothing.
            given = {"params": params, "scale": config.continual.get("scale", 1.0)}
            first = parts.call("continual.scale", continual.start, given)
            anchor = {"prior": first, "task": jnp.zeros((), jnp.int32)}
        else:
            first = parts.call("model", way.start, {"params": params})
            anchor = {"prior": first, "curvature": way.zero(params, first)}
        return params, {**collections, ANCHOR: anchor}

    return init
