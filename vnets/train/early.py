"""Early stopping: the states after the best epochs, and when to give up.

A seed that gave up is left where it is: the others go on beside it, and nothing that
they do reaches its rows or its state.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from vnets import checkpoint
from vnets.checkpoint import Checkpoints

LAST, BEST = "checkpoints", "best"  # in a workdir


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """Ends training once a probe stops improving; keeps its best state.

    Attributes:
      metric: what the probe measured on images held out of training; more is better.
      patience: a seed ends after so many epochs without a better value.

    Raises:
      ValueError: a patience below one.
    """

    metric: str
    patience: int

    def __post_init__(self):
        if self.patience < 1:
            raise ValueError(f"patience must be at least 1 epoch, not {self.patience}")

    def best(self, rows: Sequence[dict]) -> dict | None:
        """The first of the rows with the largest number; None if none has one.

        Raises:
          ValueError: the last row was probed, and not for the metric.
        """
        if rows and "probe_seconds" in rows[-1] and self.metric not in rows[-1]:
            raise ValueError(
                f"early stopping by {self.metric!r}, which the probe does not measure; "
                f"there are {sorted(rows[-1])}"
            )
        probed = [row for row in rows if not math.isnan(row.get(self.metric, math.nan))]
        return max(probed, key=lambda row: row[self.metric], default=None)

    def over(self, rows: Sequence[dict]) -> bool:
        """True once the patience is at its end."""
        best = self.best(rows)
        if best is None:
            return False
        return rows[-1]["epoch"] - best["epoch"] >= self.patience


class Best:
    """The best states of seeds that are trained together, in memory and on disk."""

    def __init__(self, early: EarlyStopping, folders: Sequence[Path | None], done: int):
        """Opens folders that may hold states from before; those after `done` go."""
        self.early = early
        self._states: list[Any] = [None] * len(folders)
        self._written = [True] * len(folders)
        self._disk: list[Any] = [Checkpoints(f / BEST) if f else None for f in folders]
        for disk in filter(None, self._disk):
            for epoch in disk.epochs():
                if epoch > done:
                    disk.delete(epoch)

    def see(self, number: int, rows: Sequence[dict], state: Callable[[], Any]) -> None:
        """Takes a copy of a seed's state if its newest row is its best."""
        if self.early.best(rows) is rows[-1]:
            self._states[number] = jax.tree.map(jnp.copy, state())
            self._written[number] = False

    def save(self, number: int, rows: Sequence[dict]) -> None:
        """Writes a seed's best state, unless it lies there already."""
        disk, best = self._disk[number], self.early.best(rows)
        if disk is None or best is None or self._written[number]:
            return
        disk.save(best["epoch"], self._states[number])
        self._written[number] = True

    def state(self, number: int, rows: Sequence[dict], otherwise) -> Any:
        """A seed's best state; `otherwise`, which is like it, where it has none."""
        best = self.early.best(rows)
        if self._states[number] is not None or best is None:
            return otherwise if best is None else self._states[number]
        return self._disk[number].restore(best["epoch"], otherwise)

    def close(self) -> None:
        """Frees what writes."""
        for disk in self._disk:
            if disk is not None:
                disk.close()


def chosen(folder: Path | str, like):
    """The state that a workdir's run gives: its best one, or else its newest.

    Args:
      folder: the workdir.
      like: see `Checkpoints.restore`.

    Raises:
      WorkdirError: it has no checkpoint.
    """
    best = Path(folder) / BEST
    return checkpoint.latest(best if best.is_dir() else Path(folder) / LAST, like)
