"""Why the backend's forms are what they are: the LRT step of LeNet-5 with each undone.

On a CPU the chosen forms (`vnets.backend`) against XLA's own convolution and routines,
`jax.random.normal`, a compiler that drops optimization barriers, and LLVM's highest
level of optimization, one change at a time; on an accelerator against the CPU's forms.
"""

import functools
from typing import Any

import jax

from experiments.bench import steps, timing, workloads
from experiments.bench.comparisons import OURS, Way
from experiments.bench.measuring import Benchmark, Case
from vnets import backend


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
if backend.CPU.library != "xla":
    CPU["XLA's routines"] = {"library": "xla"}
ACCELERATOR: dict[str, dict[str, Any]] = {
    "as chosen": {},
    "convolution of a CPU": {"convolution": "by_shape"},
    "Box-Muller normals": {"normal": "box_muller"},
}


def benchmark(quick: bool) -> Benchmark:
    """The step of `steps` with all layers LRT, under each change."""
    size = workloads.WORKLOADS["lenet5"].size(quick)
    changes = CPU if jax.default_backend() == "cpu" else ACCELERATOR
    first, *others = changes
    return Benchmark(
        title="The forms of vnets.backend, LRT step of LeNet-5",
        unit="ms per step",
        rounds=7,  # XLA's convolution in a compiled loop takes seconds a call
        cases={
            name: Case(functools.partial(_build, change, size), size.steps)
            for name, change in changes.items()
        },
        settings={
            "batch": size.batch,
            "steps_per_call": size.steps,
            "dtype": "float32",
        },
        pairs={f"{name} / {first}": (name, first) for name in others},
    )


def _build(change: dict[str, Any], size: workloads.Size) -> timing.Ready:
    with backend.use(**change):
        return steps.build("lenet5", size, Way(OURS, "LRT"))


BENCHMARKS = {"forms": benchmark}
