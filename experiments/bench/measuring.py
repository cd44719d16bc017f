"""A benchmark: cases that take turns, and for each a process that has it alone.

One process cannot tell the peak memory of one case from another's, and compiles in the
second case what the first has warmed up. So a child (`suite`) builds each case first.
"""

import atexit
import dataclasses
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.bench import timing
from experiments.bench.timing import Ready

ROOT = Path(__file__).resolve().parents[2]
CHILD = "experiments.bench.suite"
NO_MEMORY = ("resource_exhausted", "out of memory", "outofmemory", "memoryerror")
KILLED = -9  # as Linux does when the machine's memory is at an end
Say = Callable[[str], None]
Numbers = dict[str, Any]


class BenchError(RuntimeError):
    """A case that could not be measured; says which and why."""


class NoMemoryError(BenchError):
    """A case that the device's memory is too small for."""


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
    warmup: int = 1
    optional: bool = False


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Cases that are measured together, and what is made of them.

    Attributes:
      title: for people.
      unit: of the times, "ms per ...".
      rounds: calls of each case.
      cases: by name.
      settings: what all cases have in common.
      pairs: cases whose times are compared, by the name of the ratio.
      overview: row and column to the case whose median stands there.
      memory_of: cases whose memory is measured; all by default.
      notes: what a reader must know.
      check: raises BenchError where optional cases cannot be measured.
      finish: (the parts of the report, ms per unit of each case by round) -> parts to
        add or to replace.
    """

    title: str
    unit: str
    rounds: int
    cases: Mapping[str, Case]
    settings: Mapping[str, Any]
    pairs: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    overview: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    memory_of: Iterable[str] | None = None
    notes: tuple[str, ...] = ()
    check: Callable[[], Any] | None = None
    finish: Callable[[Numbers, dict[str, list[float]]], Numbers] | None = None


def prepare() -> None:
    """Readies this process, and its children, to measure; before JAX starts."""
    timing.use_threads()
    # JAX would take most of a GPU's memory at once, from its children and from PyTorch.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    # What was compiled before would make the seconds of compiling look short.
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    if "jax" in sys.modules:  # imported, but not started: it has read its variables
        sys.modules["jax"].config.update("jax_enable_compilation_cache", False)
    folder = tempfile.mkdtemp(prefix="bench-torch-")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder  # a child's, then this process's
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


def measure(
    name: str, benchmark: Benchmark, *, rounds: int, quick: bool = False, say: Say
) -> Numbers:
    """The report's own parts: settings, cases, overview, ratios and notes.

    A case has its summary in ms per unit, "peak_mib" and "compile_seconds", None where
    not measured.

    Args:
      name: of the benchmark, for the children.
      benchmark: what to measure.
      rounds: calls of each case.
      quick: the memory of the first case only.
      say: takes a line before each part.

    Raises:
      BenchError: a case failed that is not optional.
    """
    cases, notes = dict(benchmark.cases), list(benchmark.notes)
    if benchmark.check is not None:
        try:
            benchmark.check()
        except BenchError as error:
            say(str(error))
            notes.append(str(error))
            cases = {n: case for n, case in cases.items() if not case.optional}

    def attempt(case: str, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except Exception as error:
            if not (cases[case].optional or isinstance(error, NoMemoryError)):
                raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            notes.append(f"{case} could not be measured: {reason}")
            say(notes[-1])
            return None

    asked = cases if benchmark.memory_of is None else benchmark.memory_of
    chosen = [case for case in asked if case in cases]
    chosen = chosen[:1] if quick else chosen
    say(f"{name}: memory and compiling of {len(chosen)} cases, each on its own")
    found = {one: attempt(one, lambda one=one: ask(name, one, quick)) for one in chosen}
    left = [case for case in cases if found.get(case, {}) is not None]
    say(f"{name}: compiling and warming up")
    built = {
        case: attempt(case, lambda case=case: warmed(cases[case])) for case in left
    }
    made = {case: one for case, one in built.items() if one is not None}
    say(f"{name}: {rounds} rounds of {len(made)} cases")
    raw = timing.interleave({case: one.call for case, one in made.items()}, rounds)
    times = {case: [t / cases[case].units for t in raw[case]] for case in made}
    summaries = {}
    for case, one in made.items():
        here = {"peak_mib": None, "compile_seconds": one.compile_seconds}
        summaries[case] = timing.summary(times[case]) | found.get(case, here)
    parts: Numbers = {"settings": dict(benchmark.settings), "cases": summaries}
    if benchmark.overview:
        parts["overview"] = {
            row: {
                column: summaries[case]["median"]
                for column, case in columns.items()
                if case in summaries
            }
            for row, columns in benchmark.overview.items()
        }
    parts["ratios"] = timing.ratios(times, benchmark.pairs)
    parts["notes"] = notes
    if benchmark.finish is not None:
        parts |= benchmark.finish(parts, times)
    return parts


def warmed(case: Case) -> Ready:
    """The case built and called as often as it needs to settle."""
    made = case.build()
    for _ in range(case.warmup):
        made.call()
    return made


def ask(benchmark: str, case: str, quick: bool) -> dict[str, float | None]:
    """What `alone` says of a case, in a process of its own.

    Raises:
      NoMemoryError: there is too little memory for it.
      BenchError: the child failed otherwise.
    """
    child = subprocess.run(
        [sys.executable, "-m", CHILD, benchmark, case] + ["--quick"] * quick,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        reason = (child.stderr.strip().splitlines() or ["no message"])[-1]
        text = child.stderr.lower()
        full = child.returncode == KILLED or any(word in text for word in NO_MEMORY)
        kind = NoMemoryError if full else BenchError
        raise kind(f"{benchmark}, case {case!r}: {reason}")
    return json.loads(child.stdout.splitlines()[-1])


def alone(case: Case) -> dict[str, float | None]:
    """ "peak_mib" and "compile_seconds" of a case.

    The peak is beyond that of the imports, in MiB, compilation included; on an
    accelerator it is the device's memory.
    """
    for module in case.imports:
        importlib.import_module(module)
    if "jax" in case.imports:
        sys.modules["jax"].numpy.zeros(1).block_until_ready()  # starts the backend
    before = max_rss()
    made = warmed(case)
    device = _device_peak(case)
    peak = (max_rss() - before if device is None else device) / timing.MIB
    return {"peak_mib": peak, "compile_seconds": made.compile_seconds}


def max_rss() -> int:
    """High-water mark of this process's memory, in bytes.

    Of the program that runs: Linux's `ru_maxrss` also counts the process that started
    it, whose memory may be the larger.
    """
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found:
            return 1024 * int(found[1])
    import resource  # here, since Windows has none

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _device_peak(case: Case) -> int | None:
    """Peak of the accelerator's memory in bytes; None if the case ran on a CPU."""
    if "torch" in case.imports:
        peak = sys.modules["torch"].cuda.max_memory_allocated  # 0 if it is not used
        return peak() or None
    stats = sys.modules["jax"].devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] if stats else None
