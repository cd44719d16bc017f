"""The training of seeds: epochs, probes, checkpoints, and going on."""

import dataclasses
import functools
import time
from typing import Any

import jax
import numpy as np
from jax import random

from vnets import monitor, parallel
from vnets.checkpoint import Checkpoints
from vnets.rng import stream
from vnets.train import failures
from vnets.train.early import LAST, Best
from vnets.train.lanes import Lanes, Options, never
from vnets.train.resume import INSIDE, remove, resume
from vnets.train.task import TrainState
from vnets.train.trace import Trace
from vnets.types import brief


class Preempted(BaseException):
    """Training stopped before its end because it was asked to; says what was saved.

    It is no `Exception`, so that nothing on its way up takes it for a failed run.
    """


@dataclasses.dataclass
class Result:
    """The result of training one seed.

    Attributes:
      seed: the seed.
      state: after the last good step, or after the best epoch of a run with early
        stopping; on one device of this process.
      history: one row per epoch: epoch, means of the loss's metrics, probes, seconds.
      failed: None, or where and in which layer the loss ceased to be finite.
      compile_seconds: of the step, shared by all seeds of the call.
      notes: what happened to its workdir, such as a checkpoint that was damaged.
    """

    seed: int
    state: TrainState
    history: list[dict]
    failed: str | None
    compile_seconds: float
    notes: list[str] = dataclasses.field(default_factory=list)

    def __repr__(self) -> str:
        """One line: where training ended, not what it made."""
        row = self.history[-1] if self.history else {}
        shown = ("loss", "accuracy", "det", "stoch", "ens")
        numbers = "".join(f", {k}={row[k]:.4g}" for k in shown if k in row)
        failed = f", failed={self.failed!r}" if self.failed else ""
        return (
            f"Result(seed={self.seed}, epochs={row.get('epoch', 0)}{numbers}, "
            f"params={brief(self.state.params)}{failed})"
        )


def divided(epochs: int, every: int) -> int:
    """How many times `every` has passed; 0 is never."""
    return epochs // every if every else 0


class Run(Lanes):
    """The training of some seeds: epochs, probes, checkpoints, and going on."""

    def __init__(
        self, task, seeds, folders, warm_start, options: Options, compiled, title
    ):
        super().__init__(task, seeds, warm_start, options, compiled)
        self.title = title
        self.folders: list[Any] = [folders.get(seed) for seed in seeds]
        self.checkpoints: list[Any] = [
            Checkpoints(folder / LAST, options.keep_every) if folder else None
            for folder in self.folders
        ]
        self.inside: list[dict] = []  # metrics of the chunks behind us in an epoch,
        self.spent = 0.0  # and what these took, seconds
        self.past: list[list[dict]] = [[] for _ in seeds]  # rows, until there
        self.done = resume(self)
        self.logs = [
            monitor.Log(folder, rows, options.tensorboard)
            for folder, rows in zip(self.folders, self.past, strict=True)
        ]
        self.failed: list[str | None] = [None] * len(seeds)
        first = self.folders[0] if parallel.is_first() else None
        behind = self.done * task.source.steps_per_epoch
        behind += len(self.inside) * options.chunk
        self.trace = Trace(options.profile, first, options.chunk, behind)
        self.best = None
        if options.early is not None:
            self.best = Best(options.early, self.folders, self.done)
        self.progress = monitor.Progress(
            title,
            options.epochs,
            task.source.steps_per_epoch,
            done=behind,
            probed=self._probed,
            early=options.early is not None,
        )

    def train(self) -> list[Result]:
        if self.done == self.options.epochs or self._all_ended():
            return self._results()
        options, progress = self.options, self.progress
        enabled = options.show_progress and parallel.is_first()
        with monitor.shown(progress, enabled):
            with progress.during("compiling"):
                chunk = self.compile()
            saved = time.monotonic()
            for epoch in range(self.done, options.epochs):
                began = time.monotonic()
                with progress.during("training"):
                    metrics = self._epoch(chunk, epoch)
                alive = parallel.fetch(self.options.mesh, self.state.alive)
                alive = np.atleast_1d(alive)
                seconds = (time.monotonic() - began + self.spent) / len(self.seeds)
                self.inside, self.spent = [], 0.0
                with progress.during("evaluating" if self._probed(epoch + 1) else ""):
                    for number in range(len(self.seeds)):
                        if self._ended(number):
                            continue
                        if not alive[number]:
                            self.failed[number] = self._explain(number, epoch)
                            continue
                        row = {"epoch": epoch + 1, "seconds": seconds}
                        row |= {k: float(v[number]) for k, v in metrics.items()}
                        self._add(number, row)
                if all(self.failed):
                    break
                done, keep = epoch + 1, options.keep_every
                last = done == options.epochs or self._all_ended()
                kept = divided(done, keep) > divided(epoch, keep)
                due = time.monotonic() - saved >= options.checkpoint_seconds
                stopping = options.stop() and not last
                if last or kept or stopping or parallel.once(lambda due=due: due):
                    with progress.during("saving"):
                        self._save(done)
                    saved = time.monotonic()
                progress.text = _summary(self.logs)
                if stopping:
                    raise self._preempted(f"after epoch {done}")
                if last:
                    break
        return self._results()

    def _add(self, number: int, row: dict) -> None:
        """Evaluates a seed after an epoch, if it is due, and notes what came of it."""
        if self._probed(row["epoch"]):
            row |= self._probe(number, row["epoch"] - 1)
        self.logs[number].add(row)
        if self.options.log is not None and parallel.is_first():
            self.options.log(self.seeds[number], dict(row))
        if self.best is not None:
            rows, lane = self.logs[number].rows, self.lane
            self.best.see(number, rows, functools.partial(lane, number))

    def _probed(self, epoch: int) -> bool:
        """Whether the epoch of this number, from 1 on, ends in a probe."""
        last = epoch == self.options.epochs
        due = last or epoch % self.options.probe_every == 0
        return due and self.task.probe is not None

    def _epoch(self, chunk, epoch: int) -> dict[str, np.ndarray]:
        """Runs what is left of an epoch; means of the metrics per seed, [seeds]."""
        began, collected = time.monotonic(), list(self.inside)
        chunks = self.task.source.steps_per_epoch // self.options.chunk
        behind = epoch * self.task.source.steps_per_epoch
        for item in self.items(epoch, len(collected)):
            step = behind + len(collected) * self.options.chunk
            with self.trace.around(step, collected):
                self.state, metrics = chunk(self.state, self.arrays, item, self.key)
                collected.append(metrics)
            ready = [value.is_ready for value in metrics.values()]
            self.progress.sent(self.options.chunk, ready[0] if ready else never)
            if self.options.stop is not never:
                jax.block_until_ready(collected[-2:-1])  # the device has one to do
            if self.options.stop() and len(collected) < chunks:
                self.inside = jax.device_get(collected)
                self.spent += time.monotonic() - began
                self._save_inside(epoch)
                done = f"{len(collected)} of {chunks} chunks"
                raise self._preempted(f"in epoch {epoch + 1} after {done}")
        collected = jax.device_get(collected)
        self.progress.settled()
        return {
            name: np.mean(
                [np.atleast_2d(part[name]).mean(-1) for part in collected], axis=0
            )
            for name in collected[0]
        }

    def _ended(self, number: int) -> bool:
        """True of a seed that nothing is added to any more."""
        early, rows = self.options.early, self.logs[number].rows
        return bool(self.failed[number] or (early is not None and early.over(rows)))

    def _all_ended(self) -> bool:
        return all(self._ended(number) for number in range(len(self.seeds)))

    def _probe(self, number: int, epoch: int) -> dict[str, float]:
        began = time.monotonic()
        state = parallel.own(self.lane(number))
        key = stream(random.key(self.seeds[number]), "probe", epoch)
        values = self.task.probe(state.params, state.model.collections, key)
        return values | {"probe_seconds": time.monotonic() - began}

    def _explain(self, number: int, epoch: int) -> str:
        """Where and why a seed stopped, and what is left of it."""
        state = parallel.own(self.lane(number))
        seed, chunk = self.seeds[number], self.options.chunk
        message = failures.explain(self.task, state, seed, epoch, chunk)
        checkpoints = self.checkpoints[number]
        if checkpoints is None:
            return message
        kept = checkpoints.epochs()
        good = f"after epoch {kept[-1]}" if kept else "none yet"
        return f"{message}; last good checkpoint: {good} in {self.folders[number]}"

    def _save(self, epoch: int) -> None:
        for number, checkpoints in enumerate(self.checkpoints):
            if checkpoints is not None and not self.failed[number]:
                self._save_best(number)
                checkpoints.save(epoch, self.lane(number), self.logs[number].rows)
                remove(self.folders[number] / INSIDE)

    def _save_best(self, number: int) -> None:
        """First, so that no checkpoint comes after a best state that is not there."""
        if self.best is not None:
            self.best.save(number, self.logs[number].rows)

    def _save_inside(self, epoch: int) -> None:
        """Saves the state inside an epoch, and what its row of metrics needs."""
        done = len(self.inside) * self.options.chunk
        for number, folder in enumerate(self.folders):
            if folder is None or self.failed[number]:
                continue
            tree = {
                "metrics": {
                    name: np.concatenate(
                        [np.atleast_2d(part[name])[number] for part in self.inside]
                    )
                    for name in self.inside[0]
                },
                "seconds": np.asarray(self.spent, np.float32),
                "state": self.lane(number),
            }
            self._save_best(number)
            remove(folder / INSIDE)
            checkpoints = Checkpoints(folder / INSIDE)
            try:
                steps = epoch * self.task.source.steps_per_epoch + done
                checkpoints.save(steps, tree, self.logs[number].rows)
            finally:
                checkpoints.close()

    def _chosen(self, number: int) -> TrainState:
        """What a seed's training gave."""
        lane = self.lane(number)
        if self.best is None:
            return lane
        return self.best.state(number, self.logs[number].rows, lane)

    def _preempted(self, where: str) -> Preempted:
        folders = ", ".join(str(folder) for folder in self.folders if folder)
        saved = f"saved in {folders}" if folders else "nothing saved: no workdir"
        return Preempted(f"{self.title}: stopped {where}; {saved}")

    def close(self) -> None:
        """Closes the logs, and frees what writes checkpoints."""
        self.trace.close()
        for log, checkpoints in zip(self.logs, self.checkpoints, strict=True):
            log.close()
            if checkpoints is not None:
                checkpoints.close()
        if self.best is not None:
            self.best.close()

    def _results(self) -> list[Result]:
        return [
            Result(
                seed,
                parallel.own(self._chosen(number)),
                self.logs[number].rows,
                self.failed[number],
                self.compile_seconds,
                monitor.notes(self.folders[number]) if self.folders[number] else [],
            )
            for number, seed in enumerate(self.seeds)
        ]


def _summary(logs) -> str:
    rows = [log.rows[-1] for log in logs if log.rows]
    keys = ("loss", "det", "stoch", "ens")
    return " ".join(
        f"{key} {np.mean([row[key] for row in rows]):.4g}"
        for key in keys
        if rows and all(key in row for row in rows)
    )
