"""Checkpoints of a run by Orbax: one folder per epoch, complete or absent.

Each folder holds SHA256SUMS, the checksum of every other file in it, and the rows of
the epochs behind it. They are verified before anything is restored. A folder without
SHA256SUMS is of an earlier version, or its writer was killed at the very end: it is
restored unverified, which the log says.
"""

import errno
import functools
import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from vnets import files, parallel

MARGIN = 16 * 2**20  # for records, logs and the file system itself
KEPT = 2
SAID = 400  # characters of an error of Orbax's, which may be pages
SUMS = "SHA256SUMS"  # in the folder of an epoch; `sha256sum -c` reads it
ROWS = "rows.jsonl"  # beside it: those of metrics.jsonl until then

logger = logging.getLogger(__name__)


class WorkdirError(OSError):
    """A work directory that cannot hold a run; the message says why."""


class DamagedError(ValueError):
    """A checkpoint whose files are not those that were written.

    Attributes:
      path: the folder of the checkpoint.
      why: which file is damaged, and how.
    """

    def __init__(self, path: Path, why: str):
        """Says what is damaged; both arguments are kept."""
        super().__init__(path, why)
        self.path, self.why = path, why

    def __str__(self) -> str:
        return f"checkpoint {self.path} is damaged, or of unknown origin: {self.why}"


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
        self.folder = Path(folder).absolute()
        self._verified: dict[int, bool] = {}  # those that are whole: have they sums?
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=KEPT,
                keep_period=keep_every or None,
                enable_async_checkpointing=False,
                lightweight_initialize=True,  # reads nothing that was not verified
            ),
        )

    def epochs(self) -> list[int]:
        """Epochs that can be restored, in rising order."""
        return sorted(self._manager.all_steps())

    def save(self, epoch: int, tree, rows: Sequence[dict] = ()) -> None:
        """Writes a tree of arrays as the state after `epoch` epochs.

        Args:
          epoch: names the checkpoint; nothing is written if a later one is there.
          tree: of arrays.
          rows: of metrics, of the epochs behind it; `rows` gives them back.
        """
        if self._manager.save(epoch, args=self._ocp.args.StandardSave(tree)):
            self._manager.wait_until_finished()
            self._verified.pop(epoch, None)
            parallel.once(lambda: _seal(self.folder / str(epoch), rows))

    def delete(self, epoch: int) -> None:
        """Removes one of `epochs()`."""
        self._manager.delete(epoch)
        self._verified.pop(epoch, None)

    def verify(self, epoch: int) -> bool:
        """Compares all files of a checkpoint with their checksums, once.

        Returns:
          False for a checkpoint that has none.

        Raises:
          DamagedError: they differ, or there is no such checkpoint.
          WorkdirError: a file cannot be read.
        """
        if epoch not in self._verified:
            path = self.folder / str(epoch)
            self._verified[epoch] = parallel.once(lambda: _verify(path))
            if not self._verified[epoch]:
                _say_unverified(self.folder)
        return self._verified[epoch]

    def rows(self, epoch: int) -> list[dict] | None:
        """The rows that were saved with a checkpoint; None where none were.

        Raises:
          DamagedError: see `verify`.
        """
        if not self.verify(epoch):
            return None
        text = (self.folder / str(epoch) / ROWS).read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def restore(self, epoch: int, like):
        """Reads a tree back.

        Args:
          epoch: one of `epochs()`.
          like: a tree of the same structure: arrays, which say on which devices the
            restored ones go, or shapes, for a device of this process; without it Orbax
            would return dictionaries in place of posterior nodes.

        Raises:
          DamagedError: a file of it is not as it was written; names the file.
          ValueError: it does not hold such a tree.
        """
        verified = self.verify(epoch)
        target = jax.tree.map(_abstract, like)
        wanted = self._ocp.args.StandardRestore(target)
        try:
            return self._manager.restore(epoch, args=wanted)
        except Exception as error:  # Orbax, TensorStore and JSON each raise their own
            path = self.folder / str(epoch)
            said = " ".join(str(error).split())[:SAID]
            if not verified and not self._readable(epoch):
                raise DamagedError(path, said) from error
            raise ValueError(
                f"checkpoint {path} is damaged, or of another net or optimizer: {said}"
            ) from error

    def _readable(self, epoch: int) -> bool:
        """Whether an unverified checkpoint holds any tree; several cannot tell."""
        if parallel.several():
            return True
        somehow = self._ocp.args.StandardRestore(fallback_sharding=parallel.here())
        try:
            self._manager.restore(epoch, args=somehow)
        except Exception:  # as above
            return False
        return True

    def close(self) -> None:
        """Waits for writes and frees Orbax's threads."""
        self._manager.close()


def _seal(path: Path, rows: Sequence[dict]) -> None:
    """Puts the rows and the checksums of all files into a checkpoint's folder."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (path / ROWS).write_text(text, encoding="utf-8")
    sums = {name: _digest(path / name) for name in _files(path)}
    lines = (f"{digest}  {name}\n" for name, digest in sums.items())
    files.write_text(path / SUMS, "".join(lines))


def _verify(path: Path) -> bool:
    """Whether a checkpoint's folder has checksums; raises if they do not match."""
    if not path.is_dir():
        raise DamagedError(path, "it is not there")
    found = _files(path)
    if SUMS not in found:
        if not found:
            raise DamagedError(path, "its folder is empty")
        return False
    found.remove(SUMS)
    try:
        *lines, end = files.read_text(path / SUMS).split("\n")
        if end:
            raise ValueError("cut")
        listed = {name: digest for digest, name in (x.split("  ", 1) for x in lines)}
    except (OSError, ValueError) as error:
        raise DamagedError(path, f"its file {SUMS} is damaged") from error
    for name in sorted({*listed, *found}):
        if name not in listed:
            raise DamagedError(path, f"its file {name} is not listed in {SUMS}")
        if name not in found:
            raise DamagedError(path, f"its file {name} is missing")
        if listed[name] != _digest(path / name):
            why = f"its file {name} does not match its checksum"
            raise DamagedError(path, why)
    return True


def _files(path: Path) -> list[str]:
    """What lies in a folder and below and is no folder, by relative name."""
    below = sorted(path.rglob("*"))
    return [x.relative_to(path).as_posix() for x in below if not x.is_dir()]


def _digest(path: Path) -> str | None:
    """The SHA-256 of a file, hex; None where it is none, or the disk fails."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        if error.errno == errno.EIO:
            return None
        raise WorkdirError(f"cannot read {path}: {error.strerror}") from error


@functools.cache
def _say_unverified(folder: Path) -> None:
    """Once a folder."""
    if parallel.is_first():
        logger.warning(
            "%s: a checkpoint without %s (of an earlier version, or its writer was "
            "killed): damage would not be noticed",
            folder,
            SUMS,
        )


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
