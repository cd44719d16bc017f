"""Fair measurements on a noisy machine: cases take turns, and ratios are by round.

Whatever else a machine does hits neighbouring calls alike. So the cases of a benchmark
take turns, and a ratio is that of two calls of the same round; the median over rounds
is reported, with quartiles and the minimum. Peak memory is `children`'s.
"""

import atexit
import dataclasses
import gc
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

MIB = 2**20
THREADS = 2
Thunk = Callable[[], None]
Say = Callable[[str], None]


class BenchError(RuntimeError):
    """A case that could not be measured; says which and why."""


class NoMemoryError(BenchError):
    """A case that the device's memory is too small for."""


@dataclasses.dataclass(frozen=True)
class Ready:
    """A case that is ready to be timed.

    Attributes:
      call: does the work, and returns when the device is done with it.
      compile_seconds: what making it took of the compiler; None if nothing is compiled.
    """

    call: Thunk
    compile_seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing to measure.

    Attributes:
      build: makes the call to be timed: inputs made, compilation done.
      units: how much work a call does (steps, or draws), to divide its time by.
      imports: modules whose memory is not the case's own.
      warmup: calls before the first that counts.
      optional: what keeps it from being measured is said in the notes, no error.
    """

    build: Callable[[], Ready]
    units: float = 1
    imports: tuple[str, ...] = ("jax",)
    warmup: int = 2
    optional: bool = False


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Cases that are measured together, and what is made of them.

    Attributes:
      title: for people.
      unit: of the times, "ms per ...".
      rounds: calls of each case.
      cases: quick -> the cases by name; the children build one of them.
      run: (quick, rounds, say) -> the report's own parts: settings, cases, ratios,
        notes, and if there are any values and an overview.
    """

    title: str
    unit: str
    rounds: int
    cases: Callable[[bool], dict[str, Case]]
    run: Callable[[bool, int, Say], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Measured:
    """What `measure` found.

    Attributes:
      cases: for each its summary in ms per unit with "peak_mib" and "compile_seconds",
        None where not measured.
      times: ms per unit by round.
      notes: which cases could not be measured, and why.
    """

    cases: dict[str, dict[str, float | None]]
    times: dict[str, list[float]]
    notes: list[str]


def prepare() -> None:
    """Readies this process, and its children, to measure; before JAX starts."""
    use_threads()
    # JAX would take most of a GPU's memory at once, from its children and from PyTorch.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    # What was compiled before would make the seconds of compiling look short.
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    if "jax" in sys.modules:  # imported, but not started: it has read its variables
        sys.modules["jax"].config.update("jax_enable_compilation_cache", False)
    folder = tempfile.mkdtemp(prefix="bench-torch-")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder  # a child's, then this process's
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


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
    """For each named pair of cases the ratio of their times, if both were measured.

    Returns:
      The summary of the ratios round by round, and "of_minima", the ratio of the two
      shortest times: what the machine does when nothing disturbs it.
    """
    result = {}
    for name, (one, other) in pairs.items():
        if not {one, other} <= set(times):
            continue
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
    say: Say = print,
    memory_of: Iterable[str] | None = None,
) -> Measured:
    """Time per unit, peak memory and time of compiling of every case.

    Args:
      benchmark: its name, for the children.
      cases: by name.
      rounds: calls of each case.
      quick: tiny sizes, and the memory of the first case only.
      say: takes a line before each part.
      memory_of: cases whose memory is measured; all by default.

    Raises:
      BenchError: a case failed that is not optional.
    """
    from experiments.bench import children

    notes: list[str] = []

    def attempt(name: str, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except Exception as error:
            if not (cases[name].optional or isinstance(error, NoMemoryError)):
                raise
            notes.append(f"{name} could not be measured: {_first_line(error)}")
            say(notes[-1])
            return None

    chosen = list(cases if memory_of is None else memory_of)
    chosen = chosen[:1] if quick else chosen
    say(f"{benchmark}: memory and compiling of {len(chosen)} cases, each on its own")
    alone = {
        name: attempt(name, lambda name=name: children.ask(benchmark, name, quick))
        for name in chosen
    }
    left = [name for name in cases if alone.get(name, {}) is not None]
    say(f"{benchmark}: compiling and warming up")
    made = {name: attempt(name, lambda name=name: warmed(cases[name])) for name in left}
    ready = {name: one for name, one in made.items() if one is not None}
    say(f"{benchmark}: {rounds} rounds of {len(ready)} cases")
    raw = interleave({name: one.call for name, one in ready.items()}, rounds)
    times = {name: [t / cases[name].units for t in raw[name]] for name in ready}
    found = {}
    for name, one in ready.items():
        here = {"peak_mib": None, "compile_seconds": one.compile_seconds}
        found[name] = {**summary(times[name]), **(alone.get(name) or here)}
    return Measured(found, times, notes)


def warmed(case: Case) -> Ready:
    """The case built and called as often as it needs to settle."""
    ready = case.build()
    for _ in range(case.warmup):
        ready.call()
    return ready


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
