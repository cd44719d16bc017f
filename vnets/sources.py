"""Where training batches come from: resident on the device, or streamed from the host.

A source hands out an epoch as chunks of K batches; `train.fit` compiles K steps as one.
For a resident set a chunk is K rows of indices into arrays that stay on the device; for
a streamed one it is the K batches themselves.

Among several processes each makes only some rows of a batch, those that its devices
hold: `chunks(key, epoch, steps, rows, first)`. Key and epoch alone decide what the
whole batches are, so they are the same however many processes there are, and wherever
in the epoch a resumed run begins (`first`).
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import random

from vnets import targets
from vnets.evaluate import on_device, to_float
from vnets.rng import stream
from vnets.types import Array, Key

ALL = slice(None)  # the rows of a batch that a single process makes


def divisor(steps: int, at_most: int) -> int:
    """The largest divisor of `steps` that is at most `at_most`: equal chunks only."""
    return max(k for k in range(1, min(steps, at_most) + 1) if steps % k == 0)


def _check(n: int, batch_size: int) -> None:
    if not 1 <= batch_size <= n:
        raise ValueError(f"batch_size must be between 1 and {n}, not {batch_size}")


class Resident:
    """A data set in device memory, in a new random order each epoch.

    Each device holds all of it and gathers its own rows of a batch.

    The examples beyond the last whole batch of an epoch are left out of it; which ones
    they are differs from epoch to epoch.
    """

    def __init__(
        self,
        split,
        batch_size: int,
        prepare: Callable[[Array], Array] = to_float,
        augment: Callable[..., Array] | None = None,
        target: str = "classes",
    ):
        """Keeps a split on the device.

        Args:
          split: a `data.Split`: inputs uint8 [N, H, W, C], or whatever `prepare` takes,
            perhaps a tree of arrays, with a target and a mask or without.
          batch_size: B.
          prepare: from these to what the net takes; runs inside the compiled step.
          augment: changes the pixels before (`augment.CropAndFlip`), in the step, too.
            One whose `flip` is "alternate" is told which images are mirrored.
          target: what it is, if there is one: "classes", numbered from 0; "positions",
            the same of positions, where they look like something else; "numbers",
            "probabilities" or "distributions" (`targets.check`).

        Raises:
          ValueError: a batch that is larger than the data set, or a target that is not
            what it is said to be.
        """
        self._largest = targets.check(split, target)
        self.n = self._rows = len(split)
        _check(self.n, batch_size)
        self.batch_size = batch_size
        self.steps_per_epoch = self.n // batch_size
        self.arrays = on_device(split)
        self._prepare, self._augment = prepare, augment
        self._alternates = getattr(augment, "flip", None) == "alternate"

    def chunks(
        self, key: Key, epoch: int, steps: int, rows: slice = ALL, first: int = 0
    ) -> Iterator[Any]:
        """The epoch's batches, `steps` at a time, in the form that `batch` takes.

        Args:
          key: of the order.
          epoch: from 0 on.
          steps: K.
          rows: of each batch, that are wanted here; all by default.
          first: the step to begin with, a multiple of K.
        """
        order = _permutation(key, epoch, self.n, self.batch_size)
        if self._alternates:  # n more than the index: it is mirrored in this epoch
            order = order + self.n * _mirrored(key, epoch, self.n)[order]
        for start in range(first, self.steps_per_epoch, steps):
            yield order[start : start + steps, rows]

    def batch(self, arrays, item, key: Key) -> dict[str, Array]:
        """Inside jit: one batch from the resident arrays and its row of indices."""
        index = item % self._rows
        rows = jax.tree.map(lambda x: x[index], arrays)
        if self._augment is not None:
            told = {"mirrored": item >= self.n} if self._alternates else {}
            rows["input"] = self._augment(rows["input"], key, **told)
        return {**rows, "input": self._prepare(rows["input"])}

    def check(self, classes: int, chunk: Any) -> None:
        """Refuses a class outside 0 to classes - 1, in this chunk as in any other.

        Raises:
          ValueError: there is one.
        """
        del chunk
        targets.check_range(self._largest, classes)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _permutation(key, epoch, n: int, batch_size: int) -> Array:
    """Row indices of an epoch, [steps, B]."""
    order = random.permutation(stream(key, "order", epoch), n)
    steps = n // batch_size
    return order[: steps * batch_size].reshape(steps, batch_size)


@functools.partial(jax.jit, static_argnums=2)
def _mirrored(key, epoch, n: int) -> Array:
    """Which examples are mirrored in an epoch, int32 [n]: the others in the next."""
    first = random.bernoulli(stream(key, "mirrored"), 0.5, (n,))
    return (first ^ (epoch % 2 == 1)).astype(jnp.int32)


class InTurn(Resident):
    """Tasks one after another: each its own examples, for as many epochs.

    `n` and an epoch are those of one task. What a task learns from, no other sees.
    """

    def __init__(
        self,
        split,
        batch_size: int,
        tasks: int,
        epochs: int,
        prepare: Callable[[Array], Array] = to_float,
    ):
        """Keeps all tasks on the device.

        Args:
          split: of all tasks, equally many examples of each, in their order.
          batch_size: B.
          tasks: T.
          epochs: of each task.
          prepare: as in `Resident`.

        Raises:
          ValueError: examples that are not T times as many, a batch that is larger than
            a task, no task or no epoch.
        """
        if tasks < 1 or epochs < 1 or len(split) % tasks:
            raise ValueError(
                f"{len(split)} examples are not {tasks} tasks of equal size, each for "
                f"{epochs} epochs"
            )
        super().__init__(split, batch_size, prepare)
        self.n = len(split) // tasks
        _check(self.n, batch_size)
        self.steps_per_epoch = self.n // batch_size
        self.tasks, self.epochs = tasks, epochs

    def chunks(
        self, key: Key, epoch: int, steps: int, rows: slice = ALL, first: int = 0
    ) -> Iterator[Any]:
        """See `Resident`.

        Raises:
          ValueError: an epoch after the last task.
        """
        task = epoch // self.epochs
        if task >= self.tasks:
            raise ValueError(
                f"{self.tasks} tasks of {self.epochs} epochs each are over in epoch "
                f"{epoch + 1}"
            )
        for item in super().chunks(key, epoch, steps, rows, first):
            yield item + task * self.n


class Whole:
    """A source of batches for `train.fit`: each is the whole data set.

    An epoch is a number of updates, no pass over the data: probes, checkpoints and the
    history count in epochs, and a pass would be one update.
    """

    def __init__(self, split, steps: int, copies: int = 1):
        """Keeps the split on the device.

        Args:
          split: a `data.Split` of N examples, its inputs as the net takes them.
          steps: updates in an epoch.
          copies: a batch holds each example that many times, so an update averages over
            as many draws of the noise; B = copies N.

        Raises:
          ValueError: less than one update or copy.
        """
        for name, value in (("steps", steps), ("copies", copies)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        self.n = len(split)
        self.batch_size = copies * self.n
        self.steps_per_epoch = steps
        self.arrays = jax.tree.map(
            lambda x: jnp.tile(x, (copies, *(1,) * (x.ndim - 1))), on_device(split)
        )

    def chunks(
        self, key: Key, epoch: int, steps: int, rows: slice = ALL, first: int = 0
    ) -> Iterator[Any]:
        """The epoch's updates, `steps` at a time from `first` on, by their numbers."""
        del key, epoch, rows  # nothing is shuffled, and a number has no rows
        for start in range(first, self.steps_per_epoch, steps):
            last = min(start + steps, self.steps_per_epoch)
            yield jnp.arange(start, last, dtype=jnp.int32)

    def batch(self, arrays, item, key: Key) -> dict[str, Array]:
        """Inside jit: all examples, whatever the number of the update."""
        del item, key
        return arrays


class Streamed:
    """Batches made on the host, for data that do not fit or are made on the fly."""

    arrays = ()

    def __init__(
        self,
        epochs: Callable[..., Iterator[dict[str, np.ndarray]]],
        n: int,
        batch_size: int,
    ):
        """Wraps a maker of batches; `Pictures` has one of its own.

        Args:
          epochs: (seed, epoch, rows) -> the batches of that epoch, n // batch_size
            dicts of equal shapes with "input" (as the net takes it), and perhaps
            "target" and "mask" as of a `data.Split`, all arrays [rows, ...]. Seed and
            epoch decide what the whole batches are: the same arguments must give the
            same batches, or a resumed run would differ, and `rows` (a slice with start
            and stop, all B with one process) must give these rows of them, or more
            processes would train on other data.
          n: examples in the data set, which scales the KL.
          batch_size: B.
        """
        _check(n, batch_size)
        self.n, self.batch_size = n, batch_size
        self.steps_per_epoch = n // batch_size
        self._epochs = epochs

    def chunks(
        self, key: Key, epoch: int, steps: int, rows: slice = ALL, first: int = 0
    ) -> Iterator[Any]:
        """The epoch's batches, or these rows of them, stacked `steps` at a time.

        Raises:
          ValueError: too few batches.
        """
        seed = int(random.bits(stream(key, "order")))
        start, stop, _ = rows.indices(self.batch_size)
        batches = self._batches(seed, epoch, slice(start, stop), first)
        for _ in range(first, self.steps_per_epoch, steps):
            group = [batch for _, batch in zip(range(steps), batches, strict=False)]
            if group and "image" in group[0]:  # for one release
                raise ValueError('a batch has "input" and "target", not "image"')
            if len(group) < steps:
                raise ValueError(
                    f"epoch {epoch} of the stream ended before {self.steps_per_epoch} "
                    "batches"
                )
            yield jax.tree.map(lambda *parts: np.stack(parts), *group)

    def _batches(self, seed: int, epoch: int, rows: slice, first: int) -> Iterator[Any]:
        """Those before `first` are made, too, and dropped."""
        return itertools.islice(self._epochs(seed, epoch, rows), first, None)

    def batch(self, arrays, item, key: Key) -> dict[str, Array]:
        """Inside jit: the item is the batch."""
        del arrays, key
        return item

    def check(self, classes: int, chunk: Any) -> None:
        """Refuses classes outside 0 to classes - 1 in a chunk.

        Raises:
          ValueError: there is one, or the targets are no integers.
        """
        found = targets.largest(chunk["target"], chunk.get("mask"))
        targets.check_range(found, classes)


class Pictures(Streamed):
    """Batches of a `data.Stream`, read and decoded by the host ahead of the steps."""

    def __init__(
        self, split, batch_size: int, prepare: Callable[[Array], Array] = to_float
    ):
        """Takes a split that is cut at random as it is read.

        Args:
          split: has `training_batches` and a length.
          batch_size: B.
          prepare: pixels to inputs; runs inside the compiled step, so that bytes and
            not floats go to the device.

        Raises:
          ValueError: a batch that is larger than the data set.
        """
        super().__init__(
            lambda *which: split.training_batches(batch_size, *which),
            len(split),
            batch_size,
        )
        self._prepare = prepare

    def _batches(self, seed: int, epoch: int, rows: slice, first: int) -> Iterator[Any]:
        return self._epochs(seed, epoch, rows, first)

    def batch(self, arrays, item, key: Key) -> dict[str, Array]:
        """Inside jit: the item is the batch, but for the scale of its pixels."""
        del arrays, key
        return {**item, "input": self._prepare(item["input"])}
