"""What is trained: the task, its state, and one compiled step after another."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from vnets import parallel
from vnets.layers import checked
from vnets.loss import ModelState
from vnets.projections import Projection, nothing
from vnets.pytrees import pytree
from vnets.rng import stream
from vnets.types import Array, Key, Params, brief


@pytree
class Collecting:
    """An optimizer's state, and the nets of `Task.collect`.

    Attributes:
      inner: the optimizer's own.
      nets: variables with a first axis of the updates named.
    """

    inner: Any
    nets: dict


@pytree
class TrainState:
    """Everything that training changes; what a checkpoint holds.

    Attributes:
      params: tree with posterior nodes.
      model: step counter and the model's other collections.
      opt_state: the optimizer's; where nets are collected, a `Collecting`.
      alive: False once a loss or gradient was not finite; bool scalar.
    """

    params: Params
    model: ModelState
    opt_state: Any
    alive: Array

    @property
    def collected(self) -> dict:
        """What the net was after the updates of `Task.collect`: the variables of a
        `predictor.Stack`, all arrays with a first axis of these.

        Raises:
          ValueError: none were.
        """
        if not isinstance(self.opt_state, Collecting):
            raise ValueError("no net was collected: give train.Task(collect=...)")
        return self.opt_state.nets

    def __repr__(self) -> str:
        held = f"params={brief(self.params)}, model={self.model}, alive={self.alive}"
        return f"TrainState({held})"


OPTIONAL = ("probe", "locate")  # functions of a task


@dataclasses.dataclass(frozen=True)
class Task:
    """What to train: initial weights, loss, optimizer and data, the same for all seeds.

    Attributes:
      init: key -> (params, collections).
      loss: (params, state, batch, key) -> (value, (state, scalar metrics)).
      optimizer: an optax transformation. If it draws (`vnets.samplers`), it gets a key
        at each update, `update(..., key=key)`.
      source: of batches, `sources.Resident` or `Streamed`.
      project: (params, step) -> params after each update (`vnets.projections`).
      probe: (params, collections, key) -> {name: float}, after each epoch; called by
        each process, with arrays on one device of its own.
      locate: (params, state, batch, key) -> the name of the first layer whose output is
        not finite, or None; for the message about a failed seed.
      collect: updates, counted from 1 and in rising order, after which a copy of the
        net is kept: a chain of samples, or snapshots (`spaced` makes them). The copies
        are in memory and in every checkpoint.

    Raises:
      ValueError: a function that is none, an optimizer that was not called, or updates
        that do not rise from 1 on.
    """

    init: Callable[[Key], tuple[Params, dict]]
    loss: Callable
    optimizer: optax.GradientTransformation
    source: Any
    project: Projection = nothing
    probe: Callable[[Params, dict, Key], dict[str, float]] | None = None
    locate: Callable[..., str | None] | None = None
    collect: tuple[int, ...] = ()

    def __post_init__(self):
        if any(a >= b for a, b in itertools.pairwise((0, *self.collect))):
            raise ValueError(
                f"collect is updates in rising order, from 1 on, not {self.collect}"
            )
        for name in ("init", "loss", "project", "probe", "locate"):
            value = getattr(self, name)
            if not callable(value) and not (value is None and name in OPTIONAL):
                raise ValueError(f"a task's {name} is a function, not {value!r}")
        if not hasattr(self.optimizer, "update"):
            raise ValueError(
                "a task's optimizer is an optax transformation, such as "
                f"optax.adam(1e-3), not {self.optimizer!r}"
            )

    def start(self, key: Key) -> TrainState:
        """The state before the first step."""
        return self.begin(*self.init(stream(key, "init")))

    def begin(self, params: Params, collections: dict) -> TrainState:
        """The state before the first step from given parameters."""
        opt_state, count = self.optimizer.init(params), len(self.collect)
        if count:
            nets = jax.tree.map(
                lambda x: jnp.broadcast_to(x, (count, *x.shape)),
                {"params": params, **collections},
            )
            opt_state = Collecting(opt_state, nets)
        return TrainState(
            params=params,
            model=ModelState(jnp.zeros((), jnp.int32), collections),
            opt_state=opt_state,
            alive=jnp.ones((), jnp.bool_),
        )


def initializer(
    model, example: Array, **kwargs
) -> Callable[[Key], tuple[Params, dict]]:
    """Makes `Task.init` of a Flax model, or of one that `layers.stochastic` made.

    Args:
      model: has `init(rngs, x, **kwargs)`.
      example: an input of any batch size, [B, ...], or a tree of several.
      **kwargs: what the model needs besides, such as a `mode` whose estimator fits its
        noise.

    Raises:
      ValueError: a Flax module that knows no mode (`layers.call`).
    """
    checked(model)

    def init(key: Key) -> tuple[Params, dict]:
        rngs = {"params": key, "noise": stream(key, "noise")}
        variables = dict(model.init(rngs, example, **kwargs))
        return variables.pop("params"), variables

    return init


def step(task: Task, mesh, state: TrainState, arrays, item, key: Key):
    """One update; returns the new state and the metrics of the batch."""
    key_batch = stream(key, "augment", state.model.step)
    batch = parallel.shard_batch(mesh, task.source.batch(arrays, item, key_batch))
    (value, (model, metrics)), grads = jax.value_and_grad(task.loss, has_aux=True)(
        state.params, state.model, batch, stream(key, "noise", state.model.step)
    )
    optimizer = optax.with_extra_args_support(task.optimizer)
    nets = state.collected if task.collect else None
    before: Any = state
    if task.collect:
        before = before.replace(opt_state=before.opt_state.inner)
    updates, opt_state = optimizer.update(
        *(grads, before.opt_state, state.params),
        key=stream(key, "update", state.model.step),
    )
    finite = jnp.isfinite(value) & jnp.isfinite(optax.tree.norm(grads))
    done = model.step + 1
    new = TrainState(
        params=task.project(optax.apply_updates(state.params, updates), done),
        model=model.replace(step=done),
        opt_state=opt_state,
        alive=state.alive & finite,
    )
    kept = jax.tree.map(functools.partial(jnp.where, new.alive), new, before)
    kept = kept.replace(alive=new.alive)
    if task.collect:
        nets = _with_net(task.collect, nets, kept)
        kept = kept.replace(opt_state=Collecting(kept.opt_state, nets))
    return kept, metrics


def _with_net(collect: tuple[int, ...], nets, state: TrainState):
    """What was collected, with the net of this state where it is due."""
    steps = jnp.asarray(collect, jnp.int32)
    slot = jnp.minimum(jnp.searchsorted(steps, state.model.step), len(collect) - 1)
    due = state.alive & (steps[slot] == state.model.step)
    net = {"params": state.params, **state.model.collections}
    # One slot is written at each step, and not the whole.
    return jax.tree.map(
        lambda all_, one: all_.at[slot].set(jnp.where(due, one, all_[slot])),
        *(nets, net),
    )


def spaced(
    steps: int, count: int, begin: float = 0.0, cycles: int = 1
) -> tuple[int, ...]:
    """Updates for `Task.collect`: the end of each cycle, and others evenly before.

    Args:
      steps: updates of the whole run, from which cycles of one length are cut.
      count: how many in each cycle, the last at its end.
      begin: the fraction of a cycle before the first of them.
      cycles: of the run; 1 where it has none.

    Raises:
      ValueError: more than there are updates, or a fraction outside of [0, 1).
    """
    if not (0 <= begin < 1 and count >= 1 and cycles >= 1):
        raise ValueError(
            "begin is a fraction in [0, 1), count and cycles are at least 1, not "
            f"{begin}, {count} and {cycles}"
        )
    length = steps // cycles
    gap = (length - int(length * begin)) // count
    if gap < 1:
        raise ValueError(
            f"{count} nets in each of {cycles} cycles do not fit in {steps} updates "
            f"of which the first {begin:.0%} of each cycle give none"
        )
    ends = (length * (cycle + 1) for cycle in range(cycles))
    return tuple(end - gap * back for end in ends for back in reversed(range(count)))


def train_chunk(task: Task, mesh, state: TrainState, arrays, items, key: Key):
    """K updates; items have a leading axis of K."""
    return lax.scan(
        lambda carry, item: step(task, mesh, carry, arrays, item, key), state, items
    )


def first_logits(task: Task, state: TrainState, arrays, items, key: Key) -> Array:
    """The logits, before any step, of the first of K batches; asked for their shape."""
    batch = task.source.batch(arrays, jax.tree.map(lambda x: x[0], items), key)
    loss: Any = task.loss  # one that has them
    return loss.logits(state.params, state.model, batch, key)
