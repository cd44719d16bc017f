"""The trainer: `fit` trains a `Task` for several seeds, and resumes what it finds.

    Task           what is trained: init, loss, optimizer, source of batches (task.py)
    fit            trains it, with checkpoints and probes (fit.py)
    Result         the state and history of one seed (run.py)
    EarlyStopping  ends a run before its last epoch (early.py)
    initializer    `Task.init` of a Flax model
    spaced         which nets of a run to keep

A `Run` (run.py) trains one seed, or several side by side (lanes.py). It resumes from
the newest of its checkpoints that is whole (resume.py).
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
