"""Why the backend's forms are what they are: the LRT step of LeNet-5 with each undone.

On a CPU the chosen forms (`vnets.backend`) against XLA's own convolution,
`jax.random.normal`, a compiler that drops optimization barriers, and LLVM's highest
level of optimization, one change at a time; on an accelerator against the CPU's forms.
"""

import functools
from typing import Any

from experiments.bench import steps, timing, workloads
from vnets import backend

TITLE = "The forms of vnets.backend, LRT step of LeNet-5"
UNIT = "ms per step"
ROUNDS = 7  # XLA's convolution in a compiled loop takes seconds a call


def _without(name: str) -> dict[str, Any]:
    """All compiler options of a CPU but one."""
    kept = tuple(one for one in backend.CPU.compiler_options if one[0] != name)
    return {"compiler_options": kept}


CPU: dict[str, dict[str, Any]] = {
    "as chosen": {},
    "native convolution": {"convolution": "native"},
    "inverse-CDF normals": {"normal": "inverse_cdf"},
    "barriers dropped": _without("xla_disable_hlo_passes"),
    "all optimizations": _without("xla_backend_optimization_level"),
}
ACCELERATOR: dict[str, dict[str, Any]] = {
    "as chosen": {},
    "convolution of a CPU": {"convolution": "by_shape"},
    "Box-Muller normals": {"normal": "box_muller"},
}


def changes() -> dict[str, dict[str, Any]]:
    """What is changed on the device at hand."""
    return CPU if backend.forms() == backend.CPU else ACCELERATOR


def cases(quick: bool) -> dict[str, timing.Case]:
    """The step of `steps` with all layers LRT, under each change."""
    size = _size(quick)
    return {
        name: timing.Case(functools.partial(_build, change, size), size.steps, warmup=1)
        for name, change in changes().items()
    }


def _size(quick: bool) -> workloads.Size:
    return workloads.WORKLOADS["lenet5"].size(quick)


def _build(change: dict[str, Any], size: workloads.Size) -> timing.Ready:
    with backend.use(**change):
        return steps.build("lenet5", size, "LRT")


def run(quick: bool, rounds: int, say: timing.Say) -> dict[str, Any]:
    """Measures all cases."""
    measured = timing.measure(
        "forms", cases(quick), rounds=rounds, quick=quick, say=say
    )
    size = _size(quick)
    pairs = {
        f"{name} / as chosen": (name, "as chosen")
        for name, change in changes().items()
        if change
    }
    return {
        "settings": {
            "batch": size.batch,
            "steps_per_call": size.steps,
            "dtype": "float32",
        },
        "cases": measured.cases,
        "ratios": timing.ratios(measured.times, pairs),
        "notes": measured.notes,
    }


BENCHMARKS = {"forms": timing.Benchmark(TITLE, UNIT, ROUNDS, cases, run)}
