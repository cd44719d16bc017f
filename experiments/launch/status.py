"""How far a sweep is: which runs are done, running, failed, stopped or not begun."""

import collections
import dataclasses
import datetime
import errno
import fcntl
import statistics
from collections.abc import Iterable
from pathlib import Path

from experiments import workdirs
from experiments.config_files import load_config
from experiments.launch.plan import Run
from vnets import monitor

STATES = ("done", "running", "failed", "stopped", "missing")
RECENT = 5  # epochs whose length those to come are expected to have


@dataclasses.dataclass(frozen=True)
class State:
    """Where a run is.

    Attributes:
      name: one of STATES; "stopped" was begun, and no process holds it.
      text: how far it is, or why it failed.
      left: seconds of training that are left; None if nothing tells.
    """

    name: str
    text: str = ""
    left: float | None = None


def states(runs: Iterable[Run], home: Path) -> dict[Run, State]:
    """Where each run is; one that was not begun takes as long as its other seeds took.

    Raises:
      FileError: a record, or the metrics of a run, that are damaged.
    """
    found: dict[Run, State] = {}
    took = collections.defaultdict(list)
    for run in dict.fromkeys(runs):
        config = load_config(run.which)
        record = workdirs.held_record(run.folder(home), config)
        if record is None:
            found[run] = _begun(run.folder(home), config.get("epochs", 0))
        elif record["status"] == "done":
            took[run.which].append(record["wall_seconds"]["total"])
            found[run] = State("done", left=0.0)
        else:
            found[run] = State("failed", record["status"]["failed"], 0.0)
    for run, state in found.items():
        if state.left is None and state.name == "missing" and took[run.which]:
            left = statistics.fmean(took[run.which])
            found[run] = dataclasses.replace(state, left=left)
    return found


def _begun(folder: Path, epochs: int) -> State:
    """Where a run without a record is, by its metrics and by who holds its workdir."""
    held, path = _held(folder), folder / monitor.METRICS
    rows = monitor.read(path) if path.exists() else []
    if not rows or not epochs:
        return State("running" if held else "stopped" if rows else "missing")
    recent = rows[-RECENT:]
    epoch = statistics.fmean(r["seconds"] + r.get("probe_seconds", 0) for r in recent)
    left = epoch * max(0, epochs - len(rows))
    text = f"epoch {len(rows)}/{epochs}, {_clock(left)} left"
    return State("running" if held else "stopped", text, left)


def _held(folder: Path) -> bool:
    """Whether a process holds a workdir (`workdirs.held`); asking takes nothing."""
    try:
        with folder.with_name(f".{folder.name}.lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in (errno.ENOENT, *workdirs.NO_LOCKS):
            raise
    return False


def show(runs: Iterable[Run], home: Path) -> int:
    """Prints a line for each run that is not done, and how many are of each state.

    Returns:
      The exit code: 1 if a run failed.
    """
    found = states(runs, home)
    width = max(map(len, map(str, found)), default=0)
    for run, state in found.items():
        if state.name != "done":
            print(f"{run!s:{width}}  {state.name:8} {state.text}".rstrip())
    print(summary(found))
    return int(any(state.name == "failed" for state in found.values()))


def summary(found: dict[Run, State]) -> str:
    """How many runs are of each state, and what is left of them."""
    counts = collections.Counter(state.name for state in found.values())
    told = ", ".join(f"{counts[name]} {name}" for name in STATES)
    lefts = [state.left for state in found.values()]
    unknown = lefts.count(None)
    sure = sum(left for left in lefts if left is not None)
    more = f", and {unknown} runs of unknown length" if unknown else ""
    return f"{told}; {_clock(sure)} of one run at a time left{more}"


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
