"""Which form of an operation is the fastest on which backend: the one place that knows.

Every form computes the same function (tests compare them); they differ in speed.

CPU. The gradients of XLA's own convolution are many times slower inside a compiled
loop, so convolutions are written in one of two other forms, by their shape (`ops`). One
of them calls a library: oneDNN where it is installed, which is faster than XLA's and
has routines for bfloat16 on processors with AVX-512. With several devices it is XLA's,
which can be split among them.
Normals are made by Box and Muller's transform of 16-bit halves (`noise.py`), faster
than the inverse error function. XLA:CPU also drops optimization barriers before it
fuses, and then computes cheap-looking producers (random bits, transposed gradients)
again in each consumer; `jit` here asks it to keep them. LLVM's first level of
optimization is enough: matrix products are a library's, what is left are loops that the
higher levels compile for longer and make no faster.
results/bench has each of these but oneDNN undone in turn, measured (`forms`), and the
draws alone (`noise`). Seeds are trained in turn, a choice for convolutional nets on few
cores that no benchmark here measures; `train.fit(vectorize=True)` overrides it.

GPU and TPU. The compiler's own forms, and seeds side by side: not measured here yet.
"""

import contextlib
import dataclasses
import importlib.metadata
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import jax

from vnets.types import choose

ONEDNN = "onednn-cpu-gomp"  # the package that brings the library
# As Linux names them: of x86 and of ARM.
HALF_INSTRUCTIONS = frozenset(("avx512_bf16", "amx_bf16", "bf16"))


@dataclasses.dataclass(frozen=True)
class Forms:
    """The forms in use; see the module docstring for why each was chosen.

    Attributes:
      convolution: "by_shape" (what `ops.conv` finds the fastest on a CPU) or "native"
        (`lax.conv` and windows for pooling).
      library: whose routines "by_shape" calls, "xla" or, where it is installed,
        "onednn". Native convolutions are XLA's own.
      normal: "box_muller" (16-bit, tails end at 4.86 sigma) or "inverse_cdf"
        (`jax.random.normal`).
      half: products of bfloat16 operands, which are summed in float32, are computed in
        "bfloat16" or, where the processor has no instructions for them, in "float32".
      derivatives: "reverse" (the forms have gradients of their own, which can be
        differentiated again, but not the forms themselves in forward mode) or "any"
        (none of them is used; `derivatives.py`).
      seeds: train several seeds "in_turn" or "vmapped".
      compiler_options: given to `jax.jit` by `backend.jit`, but for those that the user
        has set in XLA_FLAGS.
    """

    convolution: Literal["by_shape", "native"]
    library: Literal["xla", "onednn"]
    normal: Literal["box_muller", "inverse_cdf"]
    half: Literal["bfloat16", "float32"]
    seeds: Literal["in_turn", "vmapped"]
    compiler_options: tuple[tuple[str, str], ...] = ()
    derivatives: Literal["reverse", "any"] = "reverse"

    def __post_init__(self):
        choose("convolution", self.convolution, ("by_shape", "native"))
        choose("library", self.library, ("xla", "onednn"))
        choose("normal", self.normal, ("box_muller", "inverse_cdf"))
        choose("half", self.half, ("bfloat16", "float32"))
        choose("seeds", self.seeds, ("in_turn", "vmapped"))
        choose("derivatives", self.derivatives, ("reverse", "any"))


def _library() -> Literal["xla", "onednn"]:
    """oneDNN where its package is installed (the extra "onednn")."""
    try:
        importlib.metadata.distribution(ONEDNN)
    except importlib.metadata.PackageNotFoundError:
        return "xla"
    return "onednn"


def _half(cpuinfo: Path = Path("/proc/cpuinfo")) -> Literal["bfloat16", "float32"]:
    """How this processor multiplies bfloat16 fastest; it must say that it can."""
    try:
        words = set(cpuinfo.read_text().split())
    except OSError:  # no Linux
        return "float32"
    return "bfloat16" if words & HALF_INSTRUCTIONS else "float32"


CPU = Forms(
    convolution="by_shape",
    library=_library(),
    normal="box_muller",
    half=_half(),
    seeds="in_turn",
    compiler_options=(
        ("xla_disable_hlo_passes", "cse_barrier_expander"),
        ("xla_backend_optimization_level", "1"),
    ),
)
# XLA cannot split a call of another library among devices.
DEVICES = dataclasses.replace(CPU, library="xla")
ACCELERATOR = Forms(
    convolution="native",
    library="xla",
    normal="inverse_cdf",
    half="bfloat16",
    seeds="vmapped",
)

_override: Forms | None = None


def forms() -> Forms:
    """The forms for JAX's default backend, or those set by `use`."""
    if _override is not None:
        return _override
    if jax.default_backend() != "cpu":
        return ACCELERATOR
    return CPU if jax.device_count() == 1 else DEVICES


@contextlib.contextmanager
def use(**changes):
    """Traces with other forms, to compare them or to differentiate in forward mode.

    The choice is made while a function is traced: jit inside the `with` block, and do
    not reuse a function that was compiled outside.

    Args:
      **changes: fields of `Forms` to replace, e.g. `convolution="native"`,
        or `derivatives="any"` for `jax.jvp` and `jax.jacfwd`.
    """
    global _override
    previous = _override
    _override = dataclasses.replace(forms(), **changes)
    try:
        yield _override
    finally:
        _override = previous


def jit(function: Callable, **kwargs) -> Callable:
    """`jax.jit` with the backend's compiler options; for outermost functions only."""
    given = os.environ.get("XLA_FLAGS", "")
    options = {
        name: value
        for name, value in forms().compiler_options
        if f"--{name}=" not in given
    }
    return jax.jit(function, compiler_options=options, **kwargs)
