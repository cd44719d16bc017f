"""Checkpoints of a run by Orbax: one folder per epoch, complete or absent."""

import logging
import shutil
from pathlib import Path
from typing import Any

import jax

from vnets import parallel

MARGIN = 16 * 2**20  # for records, logs and the file system itself
KEPT = 2
SAID = 400  # characters of an error of Orbax's, which may be pages


class WorkdirError(OSError):
    """A work directory that cannot hold a run; the message says why."""


class Checkpoints:
    """The checkpoints under one folder; the newest two are kept, and others on demand.

    Orbax writes into a temporary folder and renames it, so a kill at any moment leaves
    the earlier ones whole. Several processes open, save and restore together, in a
    folder that all of them see; arrays then must lie on devices of all.
    """

    def __init__(self, folder: Path | str, keep_every: int = 0):
        """Opens a folder; each epoch that `keep_every` divides is kept for good."""
        import orbax.checkpoint as ocp  # takes a second: not with `import vnets`

        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells every step
        self._ocp = ocp
        self._manager = ocp.CheckpointManager(
            Path(folder).absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=KEPT,
                keep_period=keep_every or None,
                enable_async_checkpointing=False,
            ),
        )

    def epochs(self) -> list[int]:
        """Epochs that can be restored, in rising order."""
        return sorted(self._manager.all_steps())

    def save(self, epoch: int, tree) -> None:
        """Writes a tree of arrays as the state after `epoch` epochs."""
        self._manager.save(epoch, args=self._ocp.args.StandardSave(tree))
        self._manager.wait_until_finished()

    def delete(self, epoch: int) -> None:
        """Removes one of `epochs()`."""
        self._manager.delete(epoch)

    def restore(self, epoch: int, like):
        """Reads a tree back.

        Args:
          epoch: one of `epochs()`.
          like: a tree of the same structure: arrays, which say on which devices the
            restored ones go, or shapes, for a device of this process; without it Orbax
            would return dictionaries in place of posterior nodes.

        Raises:
          ValueError: the checkpoint is damaged, or does not hold such a tree.
        """
        target = jax.tree.map(_abstract, like)
        wanted = self._ocp.args.StandardRestore(target)
        try:
            return self._manager.restore(epoch, args=wanted)
        except Exception as error:  # Orbax, TensorStore and JSON each raise their own
            path = self._manager.directory / str(epoch)
            said = " ".join(str(error).split())[:SAID]
            raise ValueError(
                f"checkpoint {path} is damaged, or of another net or optimizer: {said}"
            ) from error

    def close(self) -> None:
        """Waits for writes and frees Orbax's threads."""
        self._manager.close()


def every(folder: Path | str, like) -> list[tuple[int, Any]]:
    """All checkpoints under a folder by epoch, as trees like `like`."""
    if not Path(folder).is_dir():
        return []
    # The newest alone stay if nothing is said of the others: keep all while reading.
    checkpoints = Checkpoints(folder, keep_every=1)
    try:
        return [(e, checkpoints.restore(e, like)) for e in checkpoints.epochs()]
    finally:
        checkpoints.close()


def latest(folder: Path | str, like):
    """The newest checkpoint under a folder, as a tree like `like` (see `restore`).

    Raises:
      WorkdirError: there is none.
    """
    if not Path(folder).is_dir():
        raise WorkdirError(f"no checkpoints in {folder}")
    checkpoints = Checkpoints(folder)
    try:
        epochs = checkpoints.epochs()
        if not epochs:
            raise WorkdirError(f"no checkpoints in {folder}")
        return checkpoints.restore(epochs[-1], like)
    finally:
        checkpoints.close()


def _abstract(leaf):
    # Not the devices that it was saved from: they may not be here.
    sharding = getattr(leaf, "sharding", None) or parallel.here()
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def check_workdir(folder: Path | str, tree, kept: int = KEPT) -> None:
    """Makes the folder and proves at the start that a run will fit in it.

    Args:
      folder: the work directory.
      tree: what a checkpoint will hold.
      kept: how many of them will lie there at once.

    Raises:
      WorkdirError: it cannot be made or written, or the disk is too full for the
        checkpoints that are kept at once.
    """
    folder = Path(folder)
    sizes = (leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
    need = (kept + 1) * sum(sizes) + MARGIN
    probe = folder / ".write-test"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"vnets")
        probe.unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise WorkdirError(f"cannot write into workdir {folder}: {error}") from error
    if free < need:
        raise WorkdirError(
            f"workdir {folder} has {free / 2**20:.0f} MiB free, a run needs "
            f"{need / 2**20:.0f} MiB for its checkpoints"
        )
