"""The rate of large square matrix products: the device's peak, as it is measured."""

import functools

from jax import lax, random

from experiments.bench import compiling, torch_nets, workloads
from experiments.bench.timing import Case, Ready

# Edge of the matrices, and products in a call, one after another.
SIZES = {"quick": (32, 1), "cpu": (1024, 2), "accelerator": (8192, 8)}


def cases(quick: bool, precisions, libraries) -> dict[str, Case]:
    """A case for each precision and library, "vnets" (XLA) or "torch"."""
    edge, products = SIZES[workloads.device_kind(quick)]
    build = {"vnets": _build, "torch": torch_nets.build_matmul}
    return {
        name(library, precision): Case(
            functools.partial(build[library], edge, products, precision),
            imports=("torch",) if library == "torch" else ("jax",),
            optional=library == "torch",
        )
        for precision in precisions
        for library in libraries
    }


def name(library: str, precision: str) -> str:
    """The name of a case."""
    return f"{library} matmul, {precision}"


def _build(edge: int, products: int, precision: str) -> Ready:
    a, b = (
        random.normal(random.key(i), (edge, edge), precision) / edge**0.5
        for i in range(2)
    )

    def chain(a, b):
        for _ in range(products):
            a = lax.dot(a, b)
        return a

    return compiling.ready(chain, a, b)


def peaks(quick: bool, times, precisions) -> dict[str, float]:
    """Operations per second in each precision: of all libraries the best of all rounds.

    Args:
      quick: as in `cases`.
      times: ms by round of the cases that were measured.
      precisions: as in `cases`.
    """
    edge, products = SIZES[workloads.device_kind(quick)]
    flops = 2 * products * edge**3
    found = {}
    for precision in precisions:
        both = (name(library, precision) for library in ("vnets", "torch"))
        shortest = min(min(times[case]) for case in both if case in times)
        found[precision] = 1e3 * flops / shortest
    return found
