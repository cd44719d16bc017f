"""Where training batches come from: resident on the device, or streamed from the host.

A source hands out an epoch as chunks of K batches; `train.fit` compiles K steps as one.
For a resident set a chunk is K rows of indices into arrays that stay on the device; for
a streamed one it is the K batches themselves.

Among several processes each makes only some rows of a batch, those that its devices
hold: `chunks(key, epoch, steps, rows)`. Key and epoch alone decide what the whole batch
is, so it is the same one however many processes there are.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import random

from vnets.evaluate import to_float
from vnets.rng import stream
from vnets.types import Array, Key


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
        augment: Callable[[Array, Key], Array] | None = None,
    ):
        """Keeps a split on the device.

        Args:
          split: has `image` uint8 [N, H, W, C] and `label` [N].
          batch_size: B.
          prepare: pixels to inputs; runs inside the compiled step.
          augment: changes the pixels before (`augment.CropAndFlip`), in the step, too.

        Raises:
          ValueError: a batch that is larger than the data set.
        """
        self.n = len(split.label)
        _check(self.n, batch_size)
        self.batch_size = batch_size
        self.steps_per_epoch = self.n // batch_size
        self.arrays = {
            "image": jnp.asarray(split.image),
            "label": jnp.asarray(split.label),
        }
        self._prepare, self._augment = prepare, augment

    def chunks(
        self, key: Key, epoch: int, steps: int, rows: slice = slice(None)
    ) -> Iterator[Any]:
        """The epoch's batches, `steps` at a time, in the form that `batch` takes.

        Args:
          key: of the order.
          epoch: from 0 on.
          steps: K.
          rows: of each batch, that are wanted here; all by default.
        """
        order = _permutation(key, epoch, self.n, self.batch_size)
        for first in range(0, self.steps_per_epoch, steps):
            yield order[first : first + steps, rows]

    def batch(self, arrays, item, key: Key) -> dict[str, Array]:
        """Inside jit: one batch from the resident arrays and its row of indices."""
        image = arrays["image"][item]
        if self._augment is not None:
            image = self._augment(image, key)
        return {"image": self._prepare(image), "label": arrays["label"][item]}


@functools.partial(jax.jit, static_argnums=(2, 3))
def _permutation(key, epoch, n: int, batch_size: int) -> Array:
    """Row indices of an epoch, [steps, B]."""
    order = random.permutation(stream(key, "order", epoch), n)
    steps = n // batch_size
    return order[: steps * batch_size].reshape(steps, batch_size)


class Streamed:
    """Batches made on the host, for data that do not fit or are made on the fly."""

    arrays = ()

    def __init__(
        self,
        epochs: Callable[[int, int, slice], Iterator[dict[str, np.ndarray]]],
        n: int,
        batch_size: int,
    ):
        """Wraps a maker of batches.

        Args:
          epochs: (seed, epoch, rows) -> the batches of that epoch, n // batch_size
            trees of equal shapes with "image" (as the net takes it) and "label", each
            array [rows, ...]. Seed and epoch decide what the whole batches are: the
            same arguments must give the same batches, or a resumed run would differ,
            and `rows` (a slice with start and stop, all B with one process) must give
            these rows of them, or more processes would train on other data.
          n: examples in the data set, which scales the KL.
          batch_size: B.
        """
        _check(n, batch_size)
        self.n, self.batch_size = n, batch_size
        self.steps_per_epoch = n // batch_size
        self._epochs = epochs

    def chunks(
        self, key: Key, epoch: int, steps: int, rows: slice = slice(None)
    ) -> Iterator[Any]:
        """The epoch's batches, or these rows of them, stacked `steps` at a time.

        Raises:
          ValueError: too few batches.
        """
        seed = int(random.bits(stream(key, "order")))
        start, stop, _ = rows.indices(self.batch_size)
        batches = iter(self._epochs(seed, epoch, slice(start, stop)))
        for _ in range(0, self.steps_per_epoch, steps):
            group = [batch for _, batch in zip(range(steps), batches, strict=False)]
            if len(group) < steps:
                raise ValueError(
                    f"epoch {epoch} of the stream ended before {self.steps_per_epoch} "
                    "batches"
                )
            yield jax.tree.map(lambda *parts: np.stack(parts), *group)

    def batch(self, arrays, item, key: Key) -> dict[str, Array]:
        """Inside jit: the item is the batch."""
        del arrays, key
        return item
