"""A source of batches from one long text: windows of tokens, each with the next.

Windows are shuffled and start anywhere, or are read in order by parallel streams, for a
net that carries its state from one to the next (`layers.LSTM.carried`).
"""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
from jax import random

from vnets import targets
from vnets.evaluate import on_device
from vnets.rng import stream
from vnets.types import Array, Key


class Tokens:
    """A text on the device, read by windows of tokens: a source for `train.fit`.

    `n` is the number of tokens, which scales the KL where a loss is the mean over them.
    """

    def __init__(self, split, batch_size: int, length: int, ordered: bool = False):
        """Keeps a text on the device.

        Args:
          split: a `data.Split` of tokens and of those that follow them, int [L] both.
          batch_size: B, windows in a batch.
          length: T, tokens in a window.
          ordered: window k of stream b follows window k - 1 of it, in every epoch. Else
            an epoch's windows begin at a random place below T and are shuffled.

        Raises:
          ValueError: a text that is too short for a batch, or whose targets are none.
        """
        self._largest = targets.check(split)
        self.n, self.batch_size = len(split), batch_size
        self._length, self._ordered = length, ordered
        if batch_size < 1 or length < 1:
            raise ValueError(
                f"batch_size and length are at least 1, not {batch_size}, {length}"
            )
        room = self.n if ordered else self.n - length + 1
        self.steps_per_epoch = room // length // batch_size
        if not self.steps_per_epoch:
            raise ValueError(
                f"batch_size: {self.n} tokens are too few for {batch_size} windows of "
                f"{length}"
            )
        self.arrays = on_device(split)

    def chunks(
        self,
        key: Key,
        epoch: int,
        steps: int,
        rows: slice = slice(None),
        first: int = 0,
    ) -> Iterator[Array]:
        """Where the epoch's windows begin, [steps, B] at a time; see `Resident`."""
        shape = self.steps_per_epoch, self.batch_size
        count = shape[0] * shape[1]
        if self._ordered:
            streams = jnp.arange(self.batch_size, dtype=jnp.int32)
            windows = jnp.arange(self.steps_per_epoch, dtype=jnp.int32)
            starts = streams * (self.n // self.batch_size)
            starts = starts[None] + windows[:, None] * self._length
        else:
            own = stream(key, "order", epoch)
            begin = random.randint(own, (), 0, self._length, jnp.int32)
            room = (self.n - self._length + 1) // self._length
            order = random.permutation(stream(own, "windows"), room)[:count]
            starts = (begin + order * self._length).reshape(shape)
        for start in range(first, self.steps_per_epoch, steps):
            yield starts[start : start + steps, rows]

    def batch(self, arrays, item, key: Key) -> dict[str, Array]:
        """Inside jit: one batch from the text and the beginnings of its windows."""
        del key
        index = item[:, None] + jnp.arange(self._length, dtype=jnp.int32)[None]
        return {name: values[index] for name, values in arrays.items()}

    def check(self, classes: int, chunk: Any) -> None:
        """Refuses a token outside 0 to classes - 1.

        Raises:
          ValueError: there is one.
        """
        del chunk
        targets.check_range(self._largest, classes)
