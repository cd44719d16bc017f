"""One trainer for every model: `fit` over a loss and a source of batches.

    loss(params, state, batch, key) -> (value, (state, metrics))

A chunk of K steps is compiled as one `lax.scan`. Keys come from the seed, the step and
the name of their use, so a resumed run equals an uninterrupted one bit for bit on the
same machine. A step whose loss or gradient is not finite changes nothing, and neither
does any step after it: the state stays the last good one, and other seeds go on.
"""

import operator
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax import random

from vnets import backend, parallel, sources
from vnets.checkpoint import KEPT, check_workdir
from vnets.files import local
from vnets.train.early import EarlyStopping
from vnets.train.lanes import Options, never
from vnets.train.run import Preempted, Result, Run, divided
from vnets.train.task import Task
from vnets.types import Params


def fit(
    task: Task,
    *,
    epochs: int,
    seeds: Sequence[int],
    workdir: Callable[[int], Path | str] | Path | str | None = None,
    warm_start: Callable[[int], tuple[Params, dict]] | None = None,
    chunk_steps: int = 50,
    vectorize: bool | None = None,
    checkpoint_seconds: float = 60.0,
    keep_every: int = 0,
    probe_every: int = 1,
    tensorboard: bool = False,
    title: str = "training",
    show_progress: bool = True,
    stop: Callable[[], bool] | None = None,
    early_stopping: EarlyStopping | None = None,
    log: Callable[[int, dict], None] | None = None,
    profile: tuple[int, int] | None = None,
    mesh=None,
) -> list[Result]:
    """Trains a task for several seeds, resuming each from its checkpoints.

    A damaged checkpoint is removed, and the one before it taken, at worst the start;
    the log and the result's notes say so. Any batch size fits any number of devices.

    When `stop` says so, it saves the state, inside an epoch too, and the next call goes
    on from there. No batch is trained on twice. (`sources.Streamed` makes the earlier
    batches of the epoch again and drops them.)

    Args:
      task: what to train.
      epochs: in all, those of an earlier call included.
      seeds: one run each; a list, such as [0] or range(3).
      workdir: seed -> folder for checkpoints, metrics.jsonl and TensorBoard, another
        for each seed; or one folder, in which each seed has its own, seed0 and so on.
        Nothing is written without it.
      warm_start: seed -> (params, collections) that training starts from, in place of
        `task.init`; nodes may be of other types than there. What an edit pruned in it
        stays at zero, without noise (`pruning.keep_zeros`).
      chunk_steps: the most steps compiled as one; the largest divisor of an epoch's
        steps is taken.
      vectorize: seeds side by side under `vmap`, or in turn; None takes what is faster
        on this backend, and side by side on a mesh that splits seeds.
      checkpoint_seconds: the least time between checkpoints, taken at ends of epochs.
      keep_every: epochs between checkpoints that are kept for good, besides the newest
        two; 0 keeps no others.
      probe_every: epochs between probes; the last epoch always has one.
      tensorboard: also write TensorBoard files into the workdir.
      title: what stderr calls it: in a bar, or without a terminal in a line every 30
        seconds (`monitor.shown`), with steps, their rate and the time left.
      show_progress: False shows nothing.
      stop: asked after each chunk; True saves and raises `Preempted`. With it the host
        runs at most one chunk ahead of the device. If several processes train together,
        one that is told to stop stops all.
      early_stopping: ends a seed before its last epoch; its result has the state after
        its best epoch. None trains them all and takes the last.
      log: called with the seed and a row of its history after each epoch of this call,
        for a tracker of your own; by the first process only.
      profile: first and end (exclusive) of the steps, from 0 on, that `jax.profiler`
        traces into the workdir's folder `profile`, in whole chunks; seeds that are
        trained side by side have one trace, in the first one's workdir, and of several
        processes the first writes. None traces nothing.
      mesh: devices to use (`parallel.mesh`); all by default, along "data". With
        `parallel.mesh(seeds=2)` half of the seeds side by side are on each half.

    Returns:
      A result for each seed, in order. A seed that failed does not stop the others.

    Raises:
      WorkdirError: a workdir that cannot be written, or a full disk, before any step.
      Preempted: `stop` said so; without a workdir nothing was saved.
      ClusterError: processes that do not see the same checkpoints.
      ValueError: bad epochs, seeds that are no list, are none or come twice, a folder
        for several of them or the address of a bucket for one, a profile of steps that
        the run does not have, classes that the net has no outputs for; seeds that do
        not divide over the devices, a mesh that splits seeds which are trained in turn,
        or that leaves out a process; early stopping by what no probe measures; a
        checkpoint of another net.
      FileError: a metrics.jsonl that is needed, from before checkpoints had rows of
        their own, and is damaged.
    """
    seeds = _listed(seeds)
    folders = _folders(workdir, seeds)
    for name, value in {"warm_start": warm_start, "stop": stop, "log": log}.items():
        if value is not None and not callable(value):
            raise ValueError(f"{name} is a function, not {type(value).__name__}")
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, not {epochs}")
    if probe_every < 1:
        raise ValueError(f"probe_every must be at least 1, not {probe_every}")
    if keep_every < 0:
        raise ValueError(f"keep_every must be at least 0, not {keep_every}")
    if early_stopping is not None and task.probe is None:
        raise ValueError("early stopping needs a probe, and the task has none")
    if profile is not None:
        _check_profile(profile, epochs * task.source.steps_per_epoch, bool(folders))
    mesh = parallel.mesh() if mesh is None else mesh
    parallel.check_mesh(mesh)
    splits_seeds = mesh.shape[parallel.SEEDS] > 1
    if vectorize is None:
        vectorize = splits_seeds or backend.forms().seeds == "vmapped"
    if splits_seeds and not vectorize:
        raise ValueError(
            "seeds in turn cannot be split over a mesh: take vectorize=True, or "
            "parallel.mesh(seeds=1)"
        )
    if vectorize:
        parallel.check_seeds(mesh, len(seeds))
    groups = [seeds] if vectorize else [(seed,) for seed in seeds]
    if folders:
        like = jax.eval_shape(task.start, random.key(0))  # a warm start is as large
        kept = KEPT + divided(epochs, keep_every) + (stop is not None)
        kept += 0 if early_stopping is None else KEPT
        for folder in folders.values():
            parallel.once(lambda folder=folder: check_workdir(folder, like, kept))
    options = Options(
        epochs,
        sources.divisor(task.source.steps_per_epoch, chunk_steps),
        checkpoint_seconds,
        keep_every,
        probe_every,
        tensorboard,
        show_progress,
        never if stop is None else lambda: parallel.any_of(stop()),
        early_stopping,
        log,
        profile,
        mesh,
    )
    compiled: dict = {}
    results = []
    for number, group in enumerate(groups, start=1):
        name = f"{title} seed {', '.join(map(str, group))} ({number}/{len(groups)})"
        if options.stop():
            raise Preempted(f"{name}: stopped before it began")
        run = Run(task, group, folders, warm_start, options, compiled, name)
        try:
            results.extend(run.train())
        finally:
            run.close()
    return results


def _check_profile(profile: tuple[int, int], steps: int, has_folder: bool) -> None:
    """Refuses steps that this run does not have, and a trace without a place."""
    first, end = profile
    if not 0 <= first < end <= steps:
        raise ValueError(
            f"profile is (first, end), within the {steps} steps of this run, not "
            f"{profile}"
        )
    if not has_folder:
        raise ValueError("profile needs a workdir, which the trace is written into")


def _listed(seeds) -> tuple[int, ...]:
    """The seeds, if they are some integers, each once."""
    try:
        listed = tuple(map(operator.index, seeds))
    except TypeError:
        listed = ()
    if not listed or len(set(listed)) < len(listed):
        raise ValueError(
            "seeds are a list of different integers, one run each, such as [0] or "
            f"range(3), not {seeds!r}"
        )
    return listed


def _folders(workdir: Any, seeds: tuple[int, ...]) -> dict[int, Path]:
    """The folder of each seed; empty without a workdir."""
    if workdir is None:
        return {}
    if isinstance(workdir, str | os.PathLike):
        return {seed: local(workdir) / f"seed{seed}" for seed in seeds}
    if not callable(workdir):
        raise ValueError(f"workdir is a folder, or seed -> folder, not {workdir!r}")
    choose: Any = workdir
    folders = {seed: local(choose(seed)) for seed in seeds}
    if len({folder.resolve() for folder in folders.values()}) < len(seeds):
        raise ValueError(f"seeds need a folder each, not {sorted(folders.values())}")
    return folders
