"""Several processes, one program: how they find one another and stay in step.

Each process runs the same code and holds a part of the devices. What only one may do
(write a file) or decide (by its clock, or by what it finds on disk) goes through
`once`; everything else they do alike, since a computation on a mesh waits for all.
"""

import itertools
import os
import pickle
import socket
import sys
import threading
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

T = TypeVar("T")

CONNECT_SECONDS = 120.0
WAIT_SECONDS = 3600  # for a first process that downloads; a dead one is known sooner
_barriers = itertools.count()


class ClusterError(RuntimeError):
    """Processes that did not find one another; the message says who was missing."""


class _Launcher(NamedTuple):
    """What the environment tells; None is left to JAX to find out."""

    name: str
    processes: int | None
    process_id: int | None


def initialize(
    coordinator: str | None = None,
    processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: float = CONNECT_SECONDS,
) -> None:
    """Joins this process with the others, if there are others; else does nothing.

    To be called before anything that uses a device. What is not given comes from the
    environment of SLURM (`srun`), Open MPI (`mpirun`), an indexed job of Kubernetes or
    a TPU pod, as `jax.distributed.initialize` reads it. SLURM and Open MPI then give
    each process one GPU, that of its number on its host.

    Args:
      coordinator: "host:port" of process 0.
      processes: in all; 1 leaves this process alone, whatever the environment says.
      process_id: 0 to processes - 1.
      timeout: seconds within which all must be there.

    Raises:
      ValueError: arguments that do not fit together.
      ClusterError: not all processes were there in time, or their number is another
        than this process was told. It may not go on alone: it should end.
    """
    _check(coordinator, processes, process_id, timeout)
    if processes == 1:
        return
    launcher = _launcher()
    if launcher is None:
        missing = [
            name
            for name, value in (
                ("coordinator", coordinator),
                ("processes", processes),
                ("process_id", process_id),
            )
            if value is None
        ]
        if len(missing) == 3:
            return
        if missing:
            raise ValueError(
                f"no launcher of processes in this environment: {_and(missing)} must "
                "be given too"
            )
    else:
        processes = launcher.processes if processes is None else processes
        process_id = launcher.process_id if process_id is None else process_id
        if processes == 1:
            return
        _check(coordinator, processes, process_id, timeout)
    _connect(coordinator, processes, process_id, timeout, launcher)


def several() -> bool:
    """Is this one of several processes?"""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Is this the process that writes files and prints?"""
    return not several() or jax.process_index() == 0


def barrier() -> None:
    """Waits until all processes are here, for as long as the slowest needs.

    Collectives of the CPU give up after half a minute, so what one process does alone
    is followed by a barrier and not by a collective.
    """
    if not several():
        return
    from orbax.checkpoint import multihost  # takes a second

    wait = multihost.get_barrier_sync_fn()
    wait(key=f"vnets_{next(_barriers)}", timeout_ms=1000 * WAIT_SECONDS)


def once(action: Callable[[], T]) -> T:
    """Does something on the first process only; all must call it.

    Args:
      action: what it returns, or raises, must be what `pickle` takes.

    Returns:
      What the action returned, on each process; what it raised is raised on each.
    """
    if not several():
        return action()
    outcome = b""
    if is_first():
        try:
            outcome = pickle.dumps((True, action()))
        except Exception as error:
            outcome = pickle.dumps((False, error))
    barrier()
    good, value = pickle.loads(_broadcast(outcome))
    if good:
        return value
    raise value


def any_of(flag: bool) -> bool:
    """Whether any process says so; all must call it at the same point of their work."""
    if not several():
        return flag
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.bool_(flag)).any())


def after_first(action: Callable[[], T]) -> T:
    """Does something on the first process, and when that is done on all others.

    What the first leaves on a shared disk (downloaded data) the others find there.
    """
    held = []
    once(lambda: held.append(action()))
    return held[0] if held else action()


def same(what: str, value: int, hint: str) -> None:
    """Refuses a number that is not the same on all processes.

    Raises:
      ClusterError: it is not; the message has the number of each process.
    """
    if not several():
        return
    from jax.experimental import multihost_utils

    barrier()
    values = multihost_utils.process_allgather(np.int32(value)).ravel().tolist()
    if len(set(values)) > 1:
        each = ", ".join(map(str, values))
        raise ClusterError(f"processes differ in {what} ({each}): {hint}")


def abandon(code: int) -> None:
    """Ends a process that failed at once, if it is one of several.

    A normal end waits for all others, who may be waiting for this one.
    """
    if not jax.distributed.is_initialized():
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def check_mesh(on: Mesh) -> None:
    """Refuses a mesh that leaves a process without any device.

    Raises:
      ValueError: it does; the message names the processes.
    """
    held = {device.process_index for device in on.devices.flat}
    idle = sorted(set(range(jax.process_count())) - held)
    if idle:
        raise ValueError(
            f"the mesh has no device of process {_and(map(str, idle))}; each process "
            "must take part"
        )


def _check(coordinator, processes, process_id, timeout) -> None:
    if timeout <= 0:
        raise ValueError(f"timeout must be positive, not {timeout}")
    if processes is not None and processes < 1:
        raise ValueError(f"processes must be at least 1, not {processes}")
    if process_id is not None:
        last = "" if processes is None else f" and at most {processes - 1}"
        if process_id < 0 or (processes is not None and process_id >= processes):
            raise ValueError(f"process_id must be at least 0{last}, not {process_id}")
    if coordinator is not None:
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(f"coordinator must be host:port, not {coordinator!r}")


def _launcher() -> _Launcher | None:
    """The launcher of this process by its environment, in JAX's order."""
    env = os.environ
    if "OMPI_COMM_WORLD_SIZE" in env:
        size, rank = env["OMPI_COMM_WORLD_SIZE"], env["OMPI_COMM_WORLD_RANK"]
        return _Launcher("Open MPI", int(size), int(rank))
    if {"SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID"} <= env.keys():
        # In an interactive step SLURM_NTASKS is the job's, of which there is one here.
        size = env.get("SLURM_STEP_NUM_TASKS") or env["SLURM_NTASKS"]
        return _Launcher("SLURM", int(size), int(env["SLURM_PROCID"]))
    hosts = env.get("TPU_PROCESS_ADDRESSES") or env.get("TPU_WORKER_HOSTNAMES")
    if hosts:
        slices = int(env.get("MEGASCALE_NUM_SLICES") or 1)
        return _Launcher("TPU pod", len(hosts.split(",")) * slices, None)
    # JAX sets the first where it finds TPU chips, and the other where it finds none.
    if "TPU_ML_PLATFORM" in env and "TPU_SKIP_MDS_QUERY" not in env:
        return _Launcher("TPU pod", None, None)
    if {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= env.keys():
        return _Launcher("Kubernetes", None, None)
    return None


def _connect(coordinator, processes, process_id, timeout, launcher) -> None:
    """`jax.distributed.initialize`, with errors in place of its abort."""
    failures: list[Exception] = []

    def connect():
        try:
            jax.distributed.initialize(
                coordinator,
                processes,
                process_id,
                # JAX aborts the process at its timeout, and ours has passed by then.
                initialization_timeout=int(2 * timeout) + 60,
            )
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(timeout)
    who = f"process {process_id}" if process_id is not None else "this process"
    whom = "all" if processes is None else f"all {processes}"
    if launcher is not None:
        who += f" ({launcher.name})"
    if thread.is_alive():
        raise ClusterError(
            f"{who}: not {whom} processes were there after {timeout:g} seconds; "
            f"{_reach(coordinator, process_id)}"
        )
    if failures:
        alone = "" if launcher is None else "; with processes=1 it runs alone"
        raise ClusterError(f"{who} cannot join the others: {failures[0]}{alone}")
    count = jax.process_count()
    if processes is not None and count != processes:
        raise ClusterError(
            f"{who} was told of {processes} processes, there are {count}"
        )
    if count == 1:
        jax.distributed.shutdown()


def _reach(coordinator: str | None, process_id: int | None) -> str:
    """Why processes may have missed one another."""
    counts = "is their number right, and has each its own id from 0 on?"
    if coordinator is None:
        return counts
    if process_id == 0:
        return f"this one waited for the others at {coordinator}; {counts}"
    host, _, port = coordinator.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        return f"the coordinator {coordinator} is out of reach: {error}"
    return f"the coordinator {coordinator} answers; {counts}"


def _broadcast(content: bytes) -> bytes:
    """The first process's bytes, on each."""
    from jax.experimental import multihost_utils

    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    buffer = np.zeros(size, np.uint8)
    if is_first():
        buffer[:] = np.frombuffer(content, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(buffer)).tobytes()


def _and(names) -> str:
    return " and ".join(names)
