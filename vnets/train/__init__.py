"""The trainer: `fit` (fit.py) of a `Task` (task.py), by a `Run` or more (run.py)."""

from vnets.train.fit import fit
from vnets.train.run import INSIDE, Preempted, Result
from vnets.train.task import Task, TrainState, initializer, step, train_chunk

__all__ = [
    "INSIDE",
    "Preempted",
    "Result",
    "Task",
    "TrainState",
    "fit",
    "initializer",
    "step",
    "train_chunk",
]
