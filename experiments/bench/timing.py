"""Fair measurements on a noisy machine: interleaved rounds, and memory in children.

Whatever else a machine does hits neighbouring calls alike. So the cases of a benchmark
take turns, and a ratio is that of two calls of the same round; the median over rounds
is reported, with quartiles and the minimum.

One process cannot tell the peak memory of one case from another's, so each case has a
process of its own: `python -m experiments.bench.timing <benchmark> <case> [--quick]`.
"""

import dataclasses
import gc
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

THREADS = 2
ROOT = Path(__file__).resolve().parents[2]
MIB = 2**20
Thunk = Callable[[], None]


class BenchError(RuntimeError):
    """A case that could not be measured; says which and why."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing to measure.

    Attributes:
      build: makes the call to be timed: inputs made, compilation done.
      units: how much work a call does (steps, or draws), to divide its time by.
      imports: modules whose memory is not the case's own.
      warmup: calls before the first that counts.
    """

    build: Callable[[], Thunk]
    units: float = 1
    imports: tuple[str, ...] = ("jax",)
    warmup: int = 2


def use_threads(count: int = THREADS) -> int:
    """Confines this process, and its children, to some cores; before JAX starts.

    Returns:
      The number of cores that it may use: fewer where there are fewer, all of them
      where the system knows no affinity (macOS).
    """
    if not hasattr(os, "sched_setaffinity"):
        return os.cpu_count() or 1
    cores = sorted(os.sched_getaffinity(0))[:count]
    os.sched_setaffinity(0, cores)
    return len(cores)


def interleave(thunks: Mapping[str, Thunk], rounds: int) -> dict[str, list[float]]:
    """Times every thunk once a round; returns milliseconds per call, by round.

    Every other round runs backwards, so that no case always follows the same one.
    """
    times: dict[str, list[float]] = {name: [] for name in thunks}
    gc.collect()
    for number in range(rounds):
        names = list(thunks) if number % 2 == 0 else list(reversed(thunks))
        for name in names:
            began = time.perf_counter()
            thunks[name]()
            times[name].append(1e3 * (time.perf_counter() - began))
    return times


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, minimum and quartiles."""
    one = len(values) == 1
    low, middle, high = (
        (values[0],) * 3 if one else statistics.quantiles(values, method="inclusive")
    )
    return {"median": middle, "min": min(values), "q1": low, "q3": high}


def ratios(
    times: Mapping[str, Sequence[float]], pairs: Mapping[str, tuple[str, str]]
) -> dict[str, dict[str, float]]:
    """For each named pair of cases the ratio of their times.

    Returns:
      The summary of the ratios round by round, and "of_minima", the ratio of the two
      shortest times: what the machine does when nothing disturbs it.
    """
    result = {}
    for name, (one, other) in pairs.items():
        by_round = [a / b for a, b in zip(times[one], times[other], strict=True)]
        result[name] = {
            **summary(by_round),
            "of_minima": min(times[one]) / min(times[other]),
        }
    return result


def best(times: Mapping[str, Sequence[float]], names: Sequence[str]) -> str:
    """Of several forms of one thing, the name of that with the smallest median."""
    return min(names, key=lambda name: statistics.median(times[name]))


def measure(
    benchmark: str,
    cases: Mapping[str, Case],
    *,
    rounds: int,
    quick: bool = False,
    say: Callable[[str], None] = print,
) -> tuple[dict[str, dict[str, float | None]], dict[str, list[float]]]:
    """Time per unit and peak memory of every case.

    Args:
      benchmark: module of this package that defines the cases, for the children.
      cases: by name.
      rounds: calls of each case.
      quick: tiny sizes, and the memory of the first case only.
      say: takes a line before each part.

    Returns:
      For each case its summary in ms per unit with "peak_mib" (None: not measured),
      and its times by round.
    """
    say(f"{benchmark}: peak memory of {len(cases)} cases, in processes of their own")
    measured = list(cases)[:1] if quick else list(cases)
    peaks = {name: peak_mib(benchmark, name, quick) for name in measured}
    say(f"{benchmark}: compiling and warming up")
    thunks = {name: _warmed(case) for name, case in cases.items()}
    say(f"{benchmark}: {rounds} rounds")
    raw = interleave(thunks, rounds)
    times = {name: [t / cases[name].units for t in raw[name]] for name in cases}
    return (
        {name: {**summary(times[name]), "peak_mib": peaks.get(name)} for name in cases},
        times,
    )


def _warmed(case: Case) -> Thunk:
    thunk = case.build()
    for _ in range(case.warmup):
        thunk()
    return thunk


def peak_mib(benchmark: str, case: str, quick: bool) -> float:
    """Peak memory of a case beyond that of its imports, in MiB, compilation included.

    On an accelerator it is the device's memory.

    Raises:
      BenchError: the child failed.
    """
    command = [sys.executable, "-m", __spec__.name, benchmark, case]
    child = subprocess.run(
        command + ["--quick"] * quick,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        reason = (child.stderr.strip().splitlines() or ["no message"])[-1]
        raise BenchError(f"{benchmark}, case {case!r}: {reason}")
    return json.loads(child.stdout.splitlines()[-1])["peak_mib"]


def _child(benchmark: str, name: str, quick: bool) -> float:
    case = importlib.import_module(f"experiments.bench.{benchmark}").cases(quick)[name]
    for module in case.imports:
        importlib.import_module(module)
    if "jax" in case.imports:
        sys.modules["jax"].numpy.zeros(1).block_until_ready()  # starts the backend
    before = _max_rss()
    _warmed(case)
    device = _device_peak() if "jax" in case.imports else None
    return (_max_rss() - before if device is None else device) / MIB


def _max_rss() -> int:
    """High-water mark of this process's memory, in bytes."""
    import resource  # here, since Windows has none

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _device_peak() -> int | None:
    stats = sys.modules["jax"].devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] if stats else None


if __name__ == "__main__":
    arguments = [a for a in sys.argv[1:] if a != "--quick"]
    print(json.dumps({"peak_mib": _child(*arguments, "--quick" in sys.argv)}))
