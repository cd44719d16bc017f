"""Where a run goes on: the newest state of all its seeds that is whole.

What is damaged is noted, removed, and the state before it taken up in its place, at
worst the start: from there all comes again, bit for bit.
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vnets import monitor, parallel
from vnets.checkpoint import Checkpoints, DamagedError, WorkdirError
from vnets.files import FileError
from vnets.train.early import BEST

INSIDE = "preempted"  # in a workdir: the state inside an epoch where a run was stopped


def remove(folder: Path) -> None:
    """Deletes a folder, if it is there; of several processes the first does."""
    parallel.once(lambda: shutil.rmtree(folder, ignore_errors=True))


def resume(run) -> int:
    """Gives a run (`Run`) its newest state and the rows until then.

    A state inside an epoch is left alone where the chunks were of another size.

    Returns:
      The epochs behind it.

    Raises:
      ValueError: a checkpoint that is whole, and of another net or optimizer.
      FileError: the rows of a checkpoint that has none of its own are not complete.
      ClusterError: processes that do not see the same checkpoints.
    """
    if run.checkpoints[0] is None:
        return 0
    size = run.task.source.steps_per_epoch
    while True:
        epoch = max(_common(run), default=0)
        parallel.same(
            "the epoch of their newest checkpoint",
            epoch,
            f"{run.folders[0]} must be on a disk that all of them share",
        )
        steps = 0
        run.past = [[] for _ in run.folders]
        try:
            with _inside(run) as inside:
                steps = _newest_inside(run, inside, epoch)
                if steps:
                    _take_rows(run, inside, steps, steps // size)
                    _take_inside(run, inside, steps)
                    return steps // size
            if epoch:
                _take_rows(run, run.checkpoints, epoch, epoch)
                run.put(
                    [
                        checkpoints.restore(epoch, run.lane(number))
                        for number, checkpoints in enumerate(run.checkpoints)
                    ]
                )
            return epoch
        except DamagedError as damaged:
            _give_up(run, epoch, steps > 0, damaged)


def _common(run) -> set[int]:
    """The epochs after which all seeds have a checkpoint."""
    common = set.intersection(*(set(c.epochs()) for c in run.checkpoints))
    return {epoch for epoch in common if epoch <= run.options.epochs}


@contextlib.contextmanager
def _inside(run) -> Iterator[list[Checkpoints]]:
    """The states inside an epoch, of all seeds or of none."""
    folders = [folder / INSIDE for folder in run.folders]
    there = all(folder.is_dir() for folder in folders)
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(contextlib.closing(Checkpoints(folder)))
            for folder in (folders if there else ())
        ]


def _newest_inside(run, inside: list[Checkpoints], epoch: int) -> int:
    """The steps at the newest state of all seeds after `epoch`; 0: there is none.

    Such a state is named by its steps since the start of the run.
    """
    if not inside:
        return 0
    size = run.task.source.steps_per_epoch
    low, high = epoch * size, run.options.epochs * size
    common = set.intersection(*(set(c.epochs()) for c in inside))
    fitting = (s for s in common if low < s < high and not s % run.options.chunk)
    return max(fitting, default=0)


def _take_rows(run, checkpoints: list[Checkpoints], name: int, epochs: int) -> None:
    """Reads the rows of the epochs behind a checkpoint, and proves their best state."""
    early = run.options.early
    for number, (one, folder) in enumerate(zip(checkpoints, run.folders, strict=True)):
        rows = one.rows(name)
        if rows is None:
            rows = _logged(folder, epochs, early)
        run.past[number] = rows
        if early is not None and (folder / BEST).is_dir():
            best = early.best(rows)
            if best is not None:
                with contextlib.closing(Checkpoints(folder / BEST)) as states:
                    states.verify(best["epoch"])


def _logged(folder: Path, epochs: int, early) -> list[dict]:
    """The rows of so many epochs from metrics.jsonl, where they lie nowhere else."""
    path = folder / monitor.METRICS
    rows = monitor.read(path, epochs) if epochs else []
    if len(rows) < epochs and not (early is not None and early.over(rows)):
        raise FileError(
            f"{path} has {len(rows)} rows of {epochs} epochs, and the checkpoint after "
            "them has no rows of its own: delete the workdir to train anew"
        )
    return rows


def _take_inside(run, inside: list[Checkpoints], steps: int) -> None:
    done, chunk = steps % run.task.source.steps_per_epoch, run.options.chunk
    like = {
        "metrics": {k: np.zeros(done, v.dtype) for k, v in run.metrics().items()},
        "seconds": np.zeros((), np.float32),
    }
    trees: list[Any] = [
        checkpoints.restore(steps, {**like, "state": run.lane(number)})
        for number, checkpoints in enumerate(inside)
    ]
    run.put([tree["state"] for tree in trees])
    metrics = jax.device_get(run.joined([tree["metrics"] for tree in trees]))
    run.inside = [
        {k: v[..., i : i + chunk] for k, v in metrics.items()}
        for i in range(0, done, chunk)
    ]
    run.spent = float(trees[0]["seconds"])


def _give_up(run, epoch: int, inside: bool, damaged: DamagedError) -> None:
    """Notes a damage, and removes the state that cannot be taken up because of it."""
    lost = damaged.path.relative_to(damaged.path.parents[1])
    before = epoch if inside else max(_common(run) - {epoch}, default=0)
    back = f"epoch {before}" if before else "the start"
    text = f"checkpoint {lost} is damaged: {damaged.why}; training goes on from {back}"
    owner = damaged.path.parents[1]
    for folder in run.folders:
        where = "" if folder.absolute() == owner else f"{owner.name}: "
        monitor.note(folder, where + text)
    if inside:
        for folder in run.folders:
            remove(folder / INSIDE)
            if (folder / INSIDE).exists():
                raise WorkdirError(f"cannot remove {folder / INSIDE}") from damaged
        return
    for checkpoints in run.checkpoints:
        if epoch in checkpoints.epochs():
            checkpoints.delete(epoch)
