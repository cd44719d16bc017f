"""Devices: the mesh and how batches and parameters lie on it.

This is the only file that knows how many devices there are. Everything else is written
for one big device; under `jit` XLA splits it along the shardings set here, which is
what `pmap` did by hand. Draws do not depend on the number of devices.
"""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

DATA = "data"


def mesh(devices=None) -> Mesh:
    """A one-axis mesh, named "data", over all devices or those given."""
    return Mesh(np.asarray(jax.devices() if devices is None else devices), (DATA,))


def replicated(on: Mesh) -> NamedSharding:
    """The same values on each device: parameters, optimizer state, resident data."""
    return NamedSharding(on, PartitionSpec())


def shard_batch(on: Mesh, batch):
    """Inside jit: splits the leading axis of each array of a batch over the mesh.

    Args:
      on: the mesh.
      batch: tree of [B, ...] arrays; B must be a multiple of the number of devices.
    """
    if on.size == 1:
        return batch
    split = NamedSharding(on, PartitionSpec(DATA))
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, split), batch)


def check_batch(on: Mesh, batch_size: int) -> None:
    """Refuses a batch that cannot be split evenly, naming the sizes that can.

    Raises:
      ValueError: batch_size is no multiple of the number of devices.
    """
    if batch_size % on.size:
        lower = batch_size // on.size * on.size
        near = [size for size in (lower, lower + on.size) if size]
        raise ValueError(
            f"a batch of {batch_size} cannot be split over {on.size} devices; "
            f"try {' or '.join(map(str, near))}"
        )
