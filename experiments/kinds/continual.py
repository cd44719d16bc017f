"""Tasks one after another, in one run: the same pictures in several orders of pixels.

The anchor, to which a task's loss holds the weights, and the curvature that is summed
for the next one are a collection beside the weights: no parameters, and in checkpoints.
`continual.method`:

fine_tuning  nothing is held
vcl          to the posterior that the last task left; before the first to
             N(0, `continual.scale`^2)
ewc          to a product of normal laws, one of each task
laplace      to one normal law around what the last task left
joint        nothing: all tasks at once, each epoch

Curvature is measured in the last epoch of each task, at the weights as they are in it:
the learning rate must be 0 by then. `continual.strength` multiplies it.

Columns are means over the tasks, and "accuracy/task1" and so on are of each.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from experiments import datasets
from experiments import spec as parts
from experiments.kinds import classify
from vnets import continual, data, sources, tree
from vnets.columns import EvalSpec
from vnets.likelihoods import Categorical
from vnets.loss import ModelState, with_penalty
from vnets.predictor import Member
from vnets.priors import of_tree
from vnets.rng import stream
from vnets.types import Array, Key, Params

ANCHOR = "anchor"  # the collection
BY_CURVATURE = {"ewc": continual.ewc, "laplace": continual.laplace}
HOLDING = ("vcl", *BY_CURVATURE)
METHODS = ("fine_tuning", *HOLDING, "joint")
FREE = ("prior", "kl_weight", "kl_shares", "particles", "rate_gradient")
FREE += ("dataset.augment",)


def fields(config) -> tuple[str, ...]:
    """What this kind reads of a config."""
    known = set(classify.fields(config)) - set(FREE)
    own = {"vcl": ("scale",), **dict.fromkeys(BY_CURVATURE, ("strength",))}
    names = ("tasks", "method", *own.get(config.continual.method, ()))
    return (*known, *(f"continual.{name}" for name in names))


@dataclasses.dataclass(frozen=True, eq=False)
class Continual(classify.Classify):
    """A classifier of several tasks, as a config describes it."""

    carried: ClassVar[tuple[str, ...]] = (ANCHOR,)

    @property
    def tasks(self) -> int:
        """T."""
        return self.config.continual.tasks

    @property
    def task_steps(self) -> int:
        """Updates of a task."""
        return self.total_steps // self.tasks

    def loss(self, **options) -> Callable:
        """The bound of each task under what the tasks before it have left."""
        base = super().loss(**options)
        if self.config.continual.method not in HOLDING:
            return base

        @functools.wraps(base)  # with its `logits`
        def loss(params, state: ModelState, batch, key):
            held = self._held(params, state, batch, stream(key, "curvature"))
            prior = held["prior"]
            kind = dataclasses.replace(self, prior=of_tree(prior))
            bound = with_penalty(
                super(Continual, kind).loss(**options),
                lambda own: continual.pull(own, prior),
                self.source.n,
                1.0,
            )
            plain = state.replace(collections={})  # the net has none
            value, (new, metrics) = bound(params, plain, batch, key)
            return value, (new.replace(collections={ANCHOR: held}), metrics)

        return loss

    def _held(self, params, state: ModelState, batch, key: Key) -> dict:
        """The anchor of the task of an update, and the curvature until then."""
        params = jax.lax.stop_gradient(params)
        method = self.config.continual.method
        held = state.collections[ANCHOR]
        task, step = jnp.divmod(state.step, self.task_steps)
        starts = (step == 0) & (task > 0)

        def kept(new, old):
            return jax.tree.map(lambda a, b: jnp.where(starts, a, b), new, old)

        if method == "vcl":
            return {"prior": kept(continual.posterior(params), held["prior"])}
        bent = held["curvature"]
        made = BY_CURVATURE[method](held["prior"], params, bent)
        zero = jax.tree.map(jnp.zeros_like, bent)
        found = jax.lax.cond(
            step >= self.task_steps - self.source.steps_per_epoch,
            lambda: self._curvature(params, batch, key),
            lambda: zero,
        )
        bent = jax.tree.map(jnp.add, kept(zero, bent), found)
        return {"prior": kept(made, held["prior"]), "curvature": bent}

    def _curvature(self, params, batch, key: Key) -> Params:
        """A batch's part of the curvature of a task, times the strength."""

        def logits(params, x) -> Array:
            variables = {"params": params}
            return self.model.apply(variables, x, mode=self.mode, mutable=[])[0]

        x, target = batch["input"], batch["target"]
        if self.config.continual.method == "ewc":
            found = continual.squared_scores(
                lambda params, x: jax.nn.log_softmax(logits(params, x)), params, x, key
            )
        else:
            found = continual.gauss_newton(logits, Categorical(), params, x, target)
        seen = self.source.steps_per_epoch * self.source.batch_size
        factor = self.config.continual.strength * self.source.n / seen
        return jax.tree.map(lambda a: factor * a, found)

    def tested(self, net: Member, spec: EvalSpec, split, key) -> dict[str, float]:
        """See `Kind`; the mean over all tasks, and the accuracy of each."""
        rows = np.arange(len(split)).reshape(self.tasks, -1)
        each = [
            super(Continual, self).tested(net, spec, split.take(part), key)
            for part in rows
        ]
        found = {name: float(np.mean([one[name] for one in each])) for name in each[0]}
        return found | {
            f"accuracy/task{number}": one["accuracy"]
            for number, one in enumerate(each, start=1)
        }


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
    dataset = data.with_permuted_pixels(loaded, tasks)
    if method == "joint":
        source = datasets.source(config, dataset)
    else:
        if epochs % tasks:
            raise parts.ConfigError(
                f"config.epochs is {epochs}, of {tasks} tasks: give a multiple"
            )
        given = {"split": dataset.train, "batch_size": config.batch_size}
        given |= {"tasks": tasks, "epochs": epochs // tasks}
        source = parts.call("batch_size", sources.InTurn, given)
    example = datasets.example(dataset)
    kind = classify.built(Continual, config, dataset, source, example, held=False)
    _check(kind)
    if method not in HOLDING:
        return kind
    return dataclasses.replace(kind, init=_anchored(kind.init, config))


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
    scale = {"scale": config.continual.scale} if "scale" in config.continual else {}

    def init(key: Key) -> tuple[Params, dict]:
        params, collections = plain(key)
        first = parts.call(
            "continual.scale", continual.start, {"params": params, **scale}
        )
        anchor = {"prior": first}
        if config.continual.method in BY_CURVATURE:
            anchor["curvature"] = jax.tree.map(jnp.zeros_like, params)
        return params, {**collections, ANCHOR: anchor}

    return init
