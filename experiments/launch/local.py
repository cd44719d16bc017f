"""Runs a plan on this machine: a process for each run, a bounded number at once."""

import contextlib
import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from experiments.config_files import ROOT
from experiments.launch.plan import Run, Todo, prepare
from experiments.preemption import REQUEUE, Preemption
from vnets import files

LOG = "log.txt"  # in the workdir; what the runs of several launches said
POLL_SECONDS = 0.1
GPU_MEMORY = 0.9  # of a GPU, for the processes that share it


@dataclasses.dataclass
class Tally:
    """What became of a plan's runs."""

    done: list[Run] = dataclasses.field(default_factory=list)
    failed: list[Run] = dataclasses.field(default_factory=list)
    left: list[Run] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{len(self.done)} done, {len(self.failed)} failed, {len(self.left)} left"
        )


@dataclasses.dataclass
class _Process:
    run: Run
    slot: int
    popen: subprocess.Popen
    log: Path
    began: float


def launch(plan: Todo, home: Path, processes: int | None, dry_run: bool) -> int:
    """Runs a plan, or prints the command of each of its runs.

    Args:
      plan: what is missing.
      home: folder of this machine's runs.
      processes: how many at once; None: `default_processes`.
      dry_run: print only.

    Returns:
      The exit code: 0; 1 if a run failed; `REQUEUE` if one was stopped from outside.

    Raises:
      Preempted: SIGTERM or Ctrl-C came, and all runs have saved; again, this process
        ends at once, and the runs as soon as they have saved.
      DataError, WorkdirError: see `plan.prepare`.
    """
    processes = min(processes or default_processes(), max(1, len(plan)))
    print(f"{len(plan)} runs are missing; {processes} at once", flush=True)
    if dry_run:
        for one in plan:
            print(shlex.join(command(one, home)))
        return 0
    with Preemption(signal.SIGTERM, signal.SIGINT) as stop:
        prepare(plan, home)
        with stop.deferred():
            outcome = run(plan, home, processes, stop)
            print(outcome, flush=True)
    if outcome.failed:
        return 1
    return REQUEUE if outcome.left else 0


def command(run: Run, home: Path) -> list[str]:
    """What runs it, in a process of its own."""
    return [
        sys.executable,
        str(ROOT / "scripts/train.py"),
        f"--config={ROOT / run.which}",
        f"--config.seed={run.seed}",
        f"--workdir={run.folder(home)}",
        f"--runs={home}",
    ]


def run(
    plan: Todo,
    home: Path,
    processes: int,
    stop: Callable[[], bool],
    command: Callable[[Run, Path], list[str]] = command,
) -> Tally:
    """Runs a plan to its end; a run that fails stops only those that need it.

    Cores (and GPUs, if there are some) are dealt out: process k of P has every P-th of
    them from the k-th on, so that processes do not stand in one another's way. Of fewer
    cores than processes each has all; a GPU may then have several processes, which
    share its memory.

    If this process is killed, its runs go on; a launch that wants the same waits for
    them (`workdirs.held`).

    Args:
      plan: what to run.
      home: folder of this machine's runs.
      processes: how many at once, P.
      stop: asked all the time; True passes SIGTERM on, once, and waits for the saves.
      command: (run, home) -> what to execute; `experiments.preemption.REQUEUE` as its
        exit code says that it goes on when it is called again.

    Returns:
      What is done, failed and left.
    """
    outcome, running = Tally(), []
    pending, told = dict(plan), False
    try:
        while pending or running:
            if stop() and not told:
                told = True
                outcome.left += pending
                pending = {}
                for process in running:
                    process.popen.terminate()
                print(f"stopping: {len(running)} runs save", flush=True)
            free = sorted(set(range(processes)) - {one.slot for one in running})
            for one, slot in zip(_ready(pending, outcome), free, strict=False):
                del pending[one]
                running.append(_start(one, slot, home, processes, command))
            for process in [one for one in running if one.popen.poll() is not None]:
                running.remove(process)
                _ended(process, outcome)
            _give_up(pending, outcome)
            time.sleep(POLL_SECONDS)
    finally:
        for process in running:  # an error of ours: theirs is to save
            process.popen.terminate()
    return outcome


def _ready(pending: Todo, outcome: Tally) -> list[Run]:
    return [one for one, needs in pending.items() if set(needs) <= set(outcome.done)]


def _give_up(pending: Todo, outcome: Tally) -> None:
    """Leaves what needs a run that did not end well."""
    lost = {*outcome.failed, *outcome.left}
    for one, needs in list(pending.items()):
        missed = [need for need in needs if need in lost]
        if missed:
            del pending[one]
            outcome.left.append(one)
            lost.add(one)
            print(f"left     {one}: it needs {missed[0]}", flush=True)


def _start(one: Run, slot: int, home: Path, processes: int, command) -> _Process:
    folder = one.folder(home)
    folder.mkdir(parents=True, exist_ok=True)
    words = command(one, home)
    log = folder / LOG
    with (
        open(log, "ab", opener=files.unlinked) as file,
        _on(share(_cores(), slot, processes)),
    ):
        file.write(f"$ {shlex.join(words)}\n".encode())
        file.flush()
        popen = subprocess.Popen(
            words,
            env={**os.environ, **_environment(slot, processes)},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            process_group=0,  # Ctrl-C is for the launcher, which passes it on
        )
    print(f"started  {one} (process {popen.pid}, {log})", flush=True)
    return _Process(one, slot, popen, log, time.monotonic())


def _ended(process: _Process, outcome: Tally) -> None:
    code, seconds = process.popen.returncode, time.monotonic() - process.began
    if code == 0:
        outcome.done.append(process.run)
        print(f"done     {process.run} ({seconds:.0f} s)", flush=True)
    elif code == REQUEUE:
        outcome.left.append(process.run)
        print(f"stopped  {process.run}: the next launch goes on", flush=True)
    else:
        outcome.failed.append(process.run)
        text = process.log.read_text(encoding="utf-8", errors="replace").splitlines()
        why = f"exit code {code}: {text[-1]}"
        print(f"failed   {process.run}: {why} ({process.log})", flush=True)


def default_processes() -> int:
    """One for each GPU; without any, one for every two cores."""
    return len(_gpus()) or max(1, len(_cores()) // 2)


def share(devices: list, slot: int, processes: int) -> list:
    """What process `slot` has of some devices: a part of its own, if there are enough.

    Otherwise one that it shares: cores are shared by all of them, see `run`.
    """
    return devices[slot::processes] if processes <= len(devices) else devices


def _environment(slot: int, processes: int) -> dict[str, str]:
    """Which GPUs a process sees, and how much of their memory it takes."""
    gpus = _gpus()
    if not gpus:
        return {}
    if processes <= len(gpus):
        return {"CUDA_VISIBLE_DEVICES": ",".join(share(gpus, slot, processes))}
    sharing = -(-processes // len(gpus))
    fraction = f"{GPU_MEMORY / sharing:.3f}"
    return {
        "CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)],
        "XLA_PYTHON_CLIENT_MEM_FRACTION": os.environ.get(
            "XLA_PYTHON_CLIENT_MEM_FRACTION", fraction
        ),
    }


def _gpus() -> list[str]:
    """NVIDIA GPUs, as CUDA_VISIBLE_DEVICES names them; JAX is not asked, it would take
    one."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return []
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [one for one in given.split(",") if one not in ("", "-1")]
    found = Path("/dev").glob("nvidia[0-9]*")
    return sorted((path.name.removeprefix("nvidia") for path in found), key=int)


def _cores() -> list[int]:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


@contextlib.contextmanager
def _on(cores: list[int]) -> Iterator[None]:
    """What is started inside inherits these cores, from its first instruction on, where
    the system knows affinity (macOS does not)."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)
