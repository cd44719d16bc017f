"""The states of seeds that are trained side by side, and the chunk that moves them."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import random

from vnets import backend, parallel
from vnets.pruning import has_pruned, keep_zeros
from vnets.train.early import EarlyStopping
from vnets.train.task import TrainState, first_logits, train_chunk
from vnets.types import Key


def never() -> bool:
    """The `stop` of a run that nobody stops."""
    return False


@dataclasses.dataclass(frozen=True)
class Options:
    """The arguments of `fit` that all its runs share; `chunk` is steps at once."""

    epochs: int
    chunk: int
    checkpoint_seconds: float
    keep_every: int
    probe_every: int
    tensorboard: bool
    show_progress: bool
    stop: Callable[[], bool]
    early: EarlyStopping | None
    log: Callable[[int, dict], None] | None
    profile: tuple[int, int] | None
    mesh: Any


class Lanes:
    """The states of seeds: of one, or of several under vmap, each in its lane.

    Attributes:
      state: of all seeds, laid over the mesh.
      done: epochs behind it.
      compile_seconds: what `compile` took.
    """

    def __init__(self, task, seeds, warm_start, options: Options, compiled: dict):
        self.task, self.seeds, self.options = task, seeds, options
        self.compiled, self.compile_seconds = compiled, 0.0
        self.done = 0
        self.classes: int | None = None  # of the net, where the loss knows them
        self.vmapped = len(seeds) > 1
        self.keeps_zeros = False
        keys = [random.key(seed) for seed in seeds]
        key = jnp.stack(keys) if self.vmapped else keys[0]
        self.state: Any = self._placed(self._start(warm_start, key))
        self.key = self._placed(key)
        self.arrays = parallel.replicate(options.mesh, task.source.arrays)
        self.lanes, self.rows = parallel.share(
            options.mesh, len(seeds), task.source.batch_size
        )

    def _placed(self, tree):
        """What each seed has one of, laid over the mesh."""
        place = parallel.place_seeds if self.vmapped else parallel.replicate
        return place(self.options.mesh, tree)

    def _start(self, warm_start, key: Key) -> TrainState:
        """The states of all seeds before the first step."""
        if warm_start is not None:
            # Copies: the step consumes its state, and these arrays are the caller's.
            given = [jax.tree.map(jnp.copy, warm_start(seed)) for seed in self.seeds]
            if any(has_pruned(params) for params, _ in given):
                self.keeps_zeros = True
                kept = keep_zeros(self.task.optimizer)
                self.task = dataclasses.replace(self.task, optimizer=kept)
            return self.joined([self.task.begin(*start) for start in given])
        start = jax.vmap(self.task.start) if self.vmapped else self.task.start
        return backend.jit(start)(key)

    def lane(self, number: int) -> TrainState:
        """One seed's state, on all devices."""
        if not self.vmapped:
            return self.state
        return parallel.take(self.options.mesh, self.state, number)

    def put(self, lanes) -> None:
        """Takes up a state for each seed."""
        self.state = self._placed(self.joined(lanes))

    def joined(self, trees):
        """One tree from one for each seed; the inverse of `lane`."""
        if not self.vmapped:
            return trees[0]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

    def compile(self) -> Callable:
        """The compiled chunk, shared by all groups of a size that all start pruned, or
        all do not."""
        size = len(self.seeds), self.keeps_zeros
        if size not in self.compiled:
            began = time.monotonic()
            example = next(self.items(self.done))
            classes = self._count_classes(example)
            # The state comes out as it goes in, the metrics for every process to read.
            placed = jax.tree.map(lambda x: x.sharding, self.state)
            jitted = backend.jit(
                self._one(),
                donate_argnums=0,
                out_shardings=(placed, parallel.replicated(self.options.mesh)),
            )
            lowered = jitted.lower(self.state, self.arrays, example, self.key)
            self.compiled[size] = lowered.compile(), classes
            parallel.barrier()  # the others may have been faster
            self.compile_seconds = time.monotonic() - began
        compiled, self.classes = self.compiled[size]
        return compiled

    def _count_classes(self, example) -> int | None:
        """The K of a loss that has `logits`, by their shape; nothing is computed.

        None where there is nothing to check by it: another loss, or another source.
        """
        task = self.task
        if not (hasattr(task.loss, "logits") and hasattr(task.source, "check")):
            return None
        run = functools.partial(first_logits, task)
        run = jax.vmap(run, in_axes=(0, None, 0, 0)) if self.vmapped else run
        logits = jax.eval_shape(run, self.state, self.arrays, example, self.key)
        return logits.shape[-1]

    def metrics(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes of what a chunk measures; nothing is computed."""
        example = next(self.items(0))
        return jax.eval_shape(self._one(), self.state, self.arrays, example, self.key)[
            1
        ]

    def _one(self) -> Callable:
        """A chunk of all seeds, to be compiled."""
        on = self.options.mesh
        one = functools.partial(train_chunk, self.task, on)
        if not self.vmapped:
            return one
        return parallel.vmap_seeds(on, one, in_axes=(0, None, 0, 0))

    def items(self, epoch: int, first: int = 0):
        """Chunks of an epoch, from chunk `first` on, stacked over the seeds.

        This process makes its part of them.
        """
        source, chunk = self.task.source, self.options.chunk
        chunks = [
            source.chunks(
                random.key(self.seeds[number]), epoch, chunk, self.rows, first * chunk
            )
            for number in self.lanes
        ]
        side_by_side = len(self.seeds) if self.vmapped else None
        for parts in zip(*chunks, strict=True):
            if self.classes is not None:
                for part in parts:
                    source.check(self.classes, part)
            yield parallel.place_chunk(
                self.options.mesh, self.joined(parts), source.batch_size, side_by_side
            )
