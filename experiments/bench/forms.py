"""Why the backend's forms are what they are: the LRT step of LeNet-5 with each undone.

The chosen forms (`vnets.backend`) against XLA's own convolution, `jax.random.normal`,
a compiler that drops optimization barriers, and LLVM's highest level of optimization,
one change at a time.
"""

import functools
from collections.abc import Callable
from typing import Any

from experiments.bench import lenet5, timing
from vnets import backend

TITLE = "The forms of vnets.backend, LRT step of LeNet-5"
UNIT = "ms per step"
ROUNDS = 7  # XLA's convolution in a compiled loop takes seconds a call


def _without(name: str) -> dict[str, Any]:
    """All compiler options of a CPU but one."""
    kept = tuple(one for one in backend.CPU.compiler_options if one[0] != name)
    return {"compiler_options": kept}


CHANGES: dict[str, dict[str, Any]] = {
    "as chosen": {},
    "native convolution": {"convolution": "native"},
    "inverse-CDF normals": {"normal": "inverse_cdf"},
    "barriers dropped": _without("xla_disable_hlo_passes"),
    "all optimizations": _without("xla_backend_optimization_level"),
}


def cases(quick: bool) -> dict[str, timing.Case]:
    """The step of `lenet5` with all layers LRT, under each change."""
    batch, steps = lenet5.sizes(quick)
    return {
        name: timing.Case(
            functools.partial(_build, changes, batch, steps), steps, warmup=1
        )
        for name, changes in CHANGES.items()
    }


def _build(changes: dict[str, Any], batch: int, steps: int) -> timing.Thunk:
    with backend.use(**changes):
        return lenet5.build("LRT", batch, steps)


def run(quick: bool, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Measures all cases."""
    batch, steps = lenet5.sizes(quick)
    chosen = cases(quick)
    summaries, times = timing.measure(
        "forms", chosen, rounds=rounds, quick=quick, say=say
    )
    pairs = {
        f"{name} / as chosen": (name, "as chosen") for name in CHANGES if CHANGES[name]
    }
    return {
        "settings": {"batch": batch, "steps_per_call": steps, "dtype": "float32"},
        "cases": summaries,
        "ratios": timing.ratios(times, pairs),
        "notes": [],
    }
