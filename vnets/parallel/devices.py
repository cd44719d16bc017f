"""The mesh of devices, and how batches, seeds and parameters lie on it.

Two axes: seeds that are trained side by side are laid over "seeds", each batch over
"data". Under `jit` XLA splits the one program along the shardings set here and puts in
the sums over devices, which is what `pmap` and `psum` did by hand. Draws do not depend
on the number of devices, and neither do batches on the number of processes: each makes
its rows of the same global batch.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

SEEDS, DATA = "seeds", "data"


def mesh(devices=None, *, seeds: int = 1) -> Mesh:
    """A mesh with the axes "seeds" and "data" over all devices or those given.

    Args:
      devices: in the order in which they fill the mesh, row by row; neighbours hold
        parts of the same batches. Those of all processes by default.
      seeds: devices along "seeds"; seeds of one `train.fit(vectorize=True)` are split
        over them. The others are along "data".

    Raises:
      ValueError: the devices cannot be laid out so; the message has what can be.
    """
    devices = np.asarray(jax.devices() if devices is None else devices)
    count = devices.size
    if seeds < 1 or count % seeds:
        valid = [n for n in range(1, count + 1) if count % n == 0]
        raise ValueError(
            f"{count} devices cannot be laid out with {seeds} along seeds; "
            f"try {_listed(valid)}"
        )
    return Mesh(devices.reshape(seeds, -1), (SEEDS, DATA))


def first_device() -> Mesh:
    """A mesh over one device: for nets so small that more of them only cost time."""
    return mesh(jax.devices()[:1])


def flat(on: Mesh) -> Mesh:
    """The same devices, all along "data"."""
    return mesh(on.devices.ravel())


def replicated(on: Mesh) -> NamedSharding:
    """The same values on each device: parameters, optimizer state, resident data."""
    return NamedSharding(on, PartitionSpec())


def here() -> SingleDeviceSharding:
    """On the device of this process that computations use where nothing is said."""
    return SingleDeviceSharding(jax.local_devices()[0])


def replicate(on: Mesh, tree):
    """A tree of arrays of this process, the same on all, on each device of the mesh."""
    return _put(tree, replicated(on))


def place_seeds(on: Mesh, tree):
    """A tree of [seeds, ...] arrays, the same on all processes, split over "seeds"."""
    return _put(tree, NamedSharding(on, PartitionSpec(SEEDS)))


def share(on: Mesh, seeds: int, batch_size: int) -> tuple[range, slice]:
    """What this process's devices hold of batches of several seeds, [seeds, B].

    Returns:
      The numbers of the seeds and the rows of a batch: the smallest ranges with
      everything in them. With one process they are all seeds and all rows, and all rows
      where they do not divide over "data".
    """
    split = NamedSharding(on, PartitionSpec(SEEDS, _along(on, batch_size)))
    held = split.addressable_devices_indices_map((seeds, batch_size))
    lanes, rows = zip(*held.values(), strict=True)
    return range(*_cover(lanes, seeds)), slice(*_cover(rows, batch_size))


def place_chunk(on: Mesh, chunk, batch_size: int, seeds: int | None = None):
    """A chunk of batches on the mesh, from the part of it that this process made.

    Args:
      on: the mesh.
      chunk: tree of arrays [K, rows, ...], where rows are those of `share`, or [K] for
        what belongs to a step and not to its examples; with `seeds`, each has another
        axis in front, of the seeds of `share`.
      batch_size: B of the whole batch.
      seeds: how many are trained side by side; None for one alone.

    Returns:
      The tree with arrays [K, B, ...] or [K], in front all seeds; seeds are split over
      "seeds", and B over "data". A B that does not divide is whole on each device:
      `shard_batch` splits it, inside jit.

    Raises:
      ValueError: the second axis is not as long as this process's rows.
    """
    lanes, rows = share(on, seeds or 1, batch_size)
    lead = () if seeds is None else (SEEDS,)
    axis = len(lead) + 1  # of the batch

    def place(x):
        whole, offset, spec = list(x.shape), [0] * x.ndim, lead
        if lead:
            whole[0], offset[0] = seeds, lanes.start
        if x.ndim > axis:
            if x.shape[axis] != rows.stop - rows.start:
                raise ValueError(
                    f"the source gave {x.shape[axis]} rows of a batch in place of "
                    f"{rows.stop - rows.start}, {rows.start} to {rows.stop - 1}"
                )
            whole[axis], offset[axis] = batch_size, rows.start
            spec = (*lead, None, _along(on, batch_size))
        sharding = NamedSharding(on, PartitionSpec(*spec))
        if sharding.is_fully_addressable:
            return jax.device_put(x, sharding)
        host = np.asarray(x)

        def part(index):
            cuts = zip(index, whole, offset, strict=True)
            ends = [(cut.indices(n), o) for cut, n, o in cuts]
            return host[tuple(slice(a - o, b - o) for (a, b, _), o in ends)]

        return jax.make_array_from_callback(tuple(whole), sharding, part)

    return jax.tree.map(place, chunk)


def shard_batch(on: Mesh, batch):
    """Inside jit: splits the leading axis of each array of a batch over "data".

    Args:
      on: the mesh.
      batch: tree of [B, ...] arrays; where B is no multiple of the devices along
        "data", XLA pads the last part.
    """
    if on.size == 1:
        return batch
    split = NamedSharding(on, PartitionSpec(DATA))
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, split), batch)


def vmap_seeds(on: Mesh, function: Callable, in_axes) -> Callable:
    """`jax.vmap` over seeds, whose axis is split over "seeds" in `shard_batch` too."""
    name = None if on.size == 1 else SEEDS
    return jax.vmap(function, in_axes=in_axes, spmd_axis_name=name)


def take(on: Mesh, tree, number: int):
    """One seed's part of a tree from `place_seeds`, on each device of the mesh."""
    if on.size == 1:
        return jax.tree.map(lambda x: x[number], tree)
    return _taker(on)(tree, np.int32(number))


def own(tree):
    """This process's copy of a replicated tree: ordinary arrays on one device of its.

    The copy shares memory with the tree, and is gone once that is donated.
    """

    def one(x):
        return x if len(x.sharding.device_set) == 1 else x.addressable_data(0)

    return jax.tree.map(one, tree)


def settled(on: Mesh, tree):
    """This process's copy of a replicated result, waited for if it is of many devices.

    Independent computations over fake devices of a CPU may each get a part of its
    threads and wait for one another for ever: one at a time.
    """
    copy = own(tree)
    return copy if on.size == 1 else jax.block_until_ready(copy)


def fetch(on: Mesh, x) -> np.ndarray:
    """The values of an array on the mesh, however it is split."""
    return np.asarray(own(jax.device_put(x, replicated(on))))


def check_seeds(on: Mesh, seeds: int) -> None:
    """Refuses seeds that cannot be split evenly, naming the numbers that can.

    Raises:
      ValueError: seeds is no multiple of the number of devices along "seeds".
    """
    parts = on.shape[SEEDS]
    if seeds % parts:
        raise ValueError(
            f"{seeds} seeds side by side cannot be split over {parts} devices; "
            f"try {_listed(_near(seeds, parts))} seeds, or another parallel.mesh(seeds)"
        )


def _along(on: Mesh, batch_size: int) -> str | None:
    """The axis over which a batch of this size is split outside of jit, if it is."""
    return None if batch_size % on.shape[DATA] else DATA


def _put(tree, sharding: NamedSharding):
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def one(x):
        if isinstance(x, jax.Array):
            if not x.is_fully_addressable:
                return jax.device_put(x, sharding)
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
                return jax.make_array_from_callback(x.shape, sharding, x.__getitem__)
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, host.__getitem__)

    return jax.tree.map(one, tree)


@functools.lru_cache(maxsize=8)
def _taker(on: Mesh) -> Callable[..., Any]:
    def one(tree, number):
        return jax.tree.map(lambda x: x[number], tree)

    return jax.jit(one, out_shardings=replicated(on))


def _cover(slices, size: int) -> tuple[int, int]:
    """The least start and the greatest end of some slices of an axis."""
    ends = [one.indices(size) for one in slices]
    return min(end[0] for end in ends), max(end[1] for end in ends)


def _near(size: int, parts: int) -> list[int]:
    """The multiples of `parts` below and above a size, but for zero."""
    lower = size // parts * parts
    return [near for near in (lower, lower + parts) if near]


def _listed(numbers) -> str:
    return " or ".join(map(str, numbers))
