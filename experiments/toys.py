"""What the toy problems share: points made on the fly, all of them in every batch."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp

from vnets.types import Array, Key


@dataclasses.dataclass(frozen=True, eq=False)
class Points:
    """Inputs with their labels; stands where a `vnets.data.Split` of images would.

    Attributes:
      image: float32 [N, I], as the net takes it.
      label: [N], classes (int32) or targets (float32).
    """

    image: Array
    label: Array

    def __len__(self) -> int:
        return len(self.label)


def as_is(x: Array) -> Array:
    """The `prepare` of inputs that need no preparation."""
    return x


class FullBatch:
    """A source of batches for `train.fit`: each is the whole data set.

    An epoch is a number of updates, no pass over the data: probes, checkpoints and the
    history count in epochs, and a pass would be one update.
    """

    def __init__(self, points: Points, steps: int, copies: int = 1):
        """Keeps the points on the device.

        Args:
          points: the data set, N examples.
          steps: updates in an epoch.
          copies: a batch holds each point that many times, so an update averages over
            as many draws of the noise; B = copies N.

        Raises:
          ValueError: less than one update or copy.
        """
        for name, value in (("steps", steps), ("copies", copies)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        self.n = len(points)
        self.batch_size = copies * self.n
        self.steps_per_epoch = steps
        self.arrays = {
            "image": jnp.tile(points.image, (copies, 1)),
            "label": jnp.tile(points.label, copies),
        }

    def chunks(
        self,
        key: Key,
        epoch: int,
        steps: int,
        rows: slice = slice(None),
        first: int = 0,
    ) -> Iterator[Any]:
        """The epoch's updates, `steps` at a time from `first` on, by their numbers."""
        del key, epoch, rows  # nothing is shuffled, and a number has no rows
        for start in range(first, self.steps_per_epoch, steps):
            last = min(start + steps, self.steps_per_epoch)
            yield jnp.arange(start, last, dtype=jnp.int32)

    def batch(self, arrays, item, key: Key) -> dict[str, Array]:
        """Inside jit: all points, whatever the number of the update."""
        del item, key
        return arrays
