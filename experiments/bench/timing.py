"""Fair times on a noisy machine: calls take turns, and ratios are by round.

Whatever else a machine does hits neighbouring calls alike. So the calls that are
compared take turns, and a ratio is that of two calls of the same round; the median over
rounds is reported, with quartiles and the minimum. Every study that measures time does
it with these functions.
"""

import dataclasses
import gc
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

MIB = 2**20
THREADS = 2
Thunk = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Ready:
    """A call that is ready to be timed.

    Attributes:
      call: does the work, and returns when the device is done with it.
      compile_seconds: what the compiler took to make it; None if nothing is compiled.
    """

    call: Thunk
    compile_seconds: float | None = None


def cores() -> int:
    """How many cores this process, and its children, may use."""
    return len(_cores()) or os.cpu_count() or 1


def _cores() -> list[int]:
    """Their numbers; none where the system knows no affinity (macOS)."""
    known = hasattr(os, "sched_getaffinity")
    return sorted(os.sched_getaffinity(0)) if known else []


def use_threads(count: int = THREADS) -> None:
    """Confines this process, and its children, to so many cores; before JAX starts.

    All of them are used where there are fewer, or where the system knows no affinity.
    """
    if _cores():
        os.sched_setaffinity(0, _cores()[:count])


def compiled(function: Callable, *arguments, **options) -> tuple[Any, float]:
    """The compiled function of JAX, and the seconds of tracing and compiling it.

    Args:
      function: to be compiled as the library compiles.
      *arguments: of the types that it will be called with.
      **options: of `jax.jit`.
    """
    from vnets import backend  # here, so that JAX is not needed to measure others

    began = time.perf_counter()
    made = backend.jit(function, **options).lower(*arguments).compile()
    return made, time.perf_counter() - began


def ready(function: Callable, *arguments) -> Ready:
    """Calls a function of JAX with the same arguments each time, to its end."""
    import jax

    made, seconds = compiled(function, *arguments)
    return Ready(lambda: jax.block_until_ready(made(*arguments)), seconds)


def interleave(
    thunks: Mapping[str, Thunk],
    rounds: int,
    warmup: int = 0,
    seconds: float | None = None,
    at_least: int = 1,
) -> dict[str, list[float]]:
    """Times every thunk once a round; returns milliseconds per call, by round.

    Every other round runs backwards, so that no thunk always follows the same one.

    Args:
      thunks: by name.
      rounds: calls of each.
      warmup: rounds before those, which do not count.
      seconds: no further round begins after them.
      at_least: rounds, whatever they take.
    """
    for thunk in list(thunks.values()) * warmup:
        thunk()
    times: dict[str, list[float]] = {name: [] for name in thunks}
    gc.collect()
    start = time.perf_counter()
    for number in range(rounds):
        late = seconds is not None and time.perf_counter() - start > seconds
        if late and number >= at_least:
            break
        for name in list(thunks)[:: -1 if number % 2 else 1]:
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
        if {one, other} <= set(times):
            by_round = [a / b for a, b in zip(times[one], times[other], strict=True)]
            of_minima = min(times[one]) / min(times[other])
            result[name] = {**summary(by_round), "of_minima": of_minima}
    return result


def ratio(times: Mapping[str, Sequence[float]], one: str, other: str) -> float:
    """The median of the ratios of two cases, round by round."""
    return ratios(times, {"": (one, other)})[""]["median"]


def best(times: Mapping[str, Sequence[float]], names: Sequence[str]) -> str:
    """Of several forms of one thing, the name of that with the smallest median."""
    return min(names, key=lambda name: statistics.median(times[name]))
