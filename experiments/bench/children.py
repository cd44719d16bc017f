"""Peak memory and time of compiling of one case, in a process of its own.

One process cannot tell the peak memory of one case from another's, and compiles in the
second case what the first has warmed up:

    python -m experiments.bench.children <benchmark> <case> [--quick]
"""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

from experiments.bench import suite, timing

ROOT = Path(__file__).resolve().parents[2]
NO_MEMORY = ("resource_exhausted", "out of memory", "outofmemory", "memoryerror")
KILLED = -9  # as Linux does when the machine's memory is at an end


def ask(benchmark: str, case: str, quick: bool) -> dict[str, float | None]:
    """ "peak_mib" and "compile_seconds" of a case.

    The peak is beyond that of the imports, in MiB, compilation included; on an
    accelerator it is the device's memory.

    Raises:
      NoMemoryError: there is too little memory for it.
      BenchError: the child failed otherwise.
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
        text = child.stderr.lower()
        full = child.returncode == KILLED or any(word in text for word in NO_MEMORY)
        kind = timing.NoMemoryError if full else timing.BenchError
        raise kind(f"{benchmark}, case {case!r}: {reason}")
    return json.loads(child.stdout.splitlines()[-1])


def _answer(benchmark: str, name: str, quick: bool) -> dict[str, float | None]:
    case = suite.find(benchmark).cases(quick)[name]
    for module in case.imports:
        importlib.import_module(module)
    if "jax" in case.imports:
        sys.modules["jax"].numpy.zeros(1).block_until_ready()  # starts the backend
    before = _max_rss()
    ready = timing.warmed(case)
    device = _device_peak(case)
    peak = (_max_rss() - before if device is None else device) / timing.MIB
    return {"peak_mib": peak, "compile_seconds": ready.compile_seconds}


def _max_rss() -> int:
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


def _device_peak(case: timing.Case) -> int | None:
    """Peak of the accelerator's memory in bytes; None if the case ran on a CPU."""
    if "torch" in case.imports:
        peak = sys.modules["torch"].cuda.max_memory_allocated  # 0 if it is not used
        return peak() or None
    stats = sys.modules["jax"].devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] if stats else None


if __name__ == "__main__":
    arguments = [a for a in sys.argv[1:] if a != "--quick"]
    print(json.dumps(_answer(*arguments, "--quick" in sys.argv)))
