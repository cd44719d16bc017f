"""The trainer: `fit` (fit.py) of a `Task` (task.py), by a `Run` or more (run.py).

A run trains one seed, or several side by side (lanes.py).

A run goes on from the newest of its states that is whole (resume.py). `EarlyStopping`
(early.py) ends a run before its last epoch.
"""

from vnets.train.early import EarlyStopping, chosen
from vnets.train.failures import first_nonfinite_layer
from vnets.train.fit import fit
from vnets.train.resume import INSIDE
from vnets.train.run import Preempted, Result
from vnets.train.task import (
    Task,
    TrainState,
    initializer,
    spaced,
    step,
    train_chunk,
)

__all__ = [
    "INSIDE",
    "EarlyStopping",
    "Preempted",
    "Result",
    "Task",
    "TrainState",
    "chosen",
    "first_nonfinite_layer",
    "fit",
    "initializer",
    "spaced",
    "step",
    "train_chunk",
]
