"""Training steps: net by method by precision, vnets beside PyTorch on one device.

Random images that lie on the device, Adam; compiled as `train.fit` compiles it, K steps
under one scan. The matrix products that the device's peak is measured with take turns
with the steps.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import random

from experiments.bench import compiling, matmul, timing, torch_nets, workloads
from experiments.bench.workloads import COMPILED, IN_TORCH, METHODS, WORKLOADS, Size
from vnets import likelihoods, parallel, priors, sources, train
from vnets.layers import Mode
from vnets.loss import forward, neg_elbo

UNIT = "ms per step"
FULL, HALF = "float32", "bfloat16"
PLAIN = "deterministic"
NOTES = (
    "Over: time over time.",
    "Of the peak: the multiplications and additions of the deterministic net, forward "
    "and twice that backward, whatever the method adds, over those of large square "
    "matrix products in the same precision (of XLA or PyTorch, the shortest of the "
    "run).",
    "With noise in every layer: LRT, a weight sample for each minibatch, and one for "
    "each example, which is drawn in blocks of bounded memory and again for the "
    "gradient. Each layer is noisy by itself, so all nets take all three.",
)


def label(method: str, precision: str = FULL, remat: bool = False) -> str:
    """The name of a case of vnets."""
    parts = [f"vnets {method}", precision * (precision != FULL), "remat" * remat]
    return ", ".join(part for part in parts if part)


def torch_label(method: str, form: str, precision: str = FULL) -> str:
    """The name of a case of PyTorch."""
    name = f"torch {method}, {form}"
    return name if precision == FULL else f"{name}, {precision}"


def ours(size: Size) -> Iterator[tuple[str, str, bool]]:
    """Method, precision and remat of each case of vnets."""
    yield from ((method, FULL, False) for method in size.methods)
    yield from ((method, HALF, False) for method in size.half)
    yield from ((method, FULL, True) for method in size.remat)


def theirs(size: Size) -> Iterator[tuple[str, str, str]]:
    """Method, form and precision of each case of PyTorch."""
    for method in (m for m in IN_TORCH if m in size.methods):
        for form in size.forms:
            if form == COMPILED and method not in size.compiled:
                continue
            yield method, form, FULL
            if size.torch_half and method in size.half:
                yield method, form, HALF


def precisions(size: Size) -> tuple[str, ...]:
    """Those that anything is measured in."""
    return (FULL, HALF) if size.half else (FULL,)


def cases(name: str, quick: bool) -> dict[str, timing.Case]:
    """vnets, PyTorch and the matrix products; `run` checks that PyTorch is there."""
    size = WORKLOADS[name].size(quick)
    made = {}
    for method, precision, remat in ours(size):
        steps = _steps(size, method)
        build_one = functools.partial(build, name, size, method, precision, remat)
        made[label(method, precision, remat)] = timing.Case(build_one, steps, warmup=1)
    for method, form, precision in theirs(size):
        build_one = functools.partial(_build_torch, name, size, method, form, precision)
        made[torch_label(method, form, precision)] = timing.Case(
            build_one, size.steps, ("torch",), warmup=1, optional=True
        )
    products = matmul.cases(quick, precisions(size), ("vnets",))
    theirs_too = precisions(size) if size.torch_half else (FULL,)
    return made | products | matmul.cases(quick, theirs_too, ("torch",))


def _steps(size: Size, method: str) -> int:
    """Steps of a call; one where each takes as long as many others."""
    return 1 if method == "per example" else size.steps


def _split(size: Size, steps: int):
    return workloads.random_split(size.batch * steps, size.shape, size.net.classes)


def build(
    name: str, size: Size, method: str, precision: str = FULL, remat: bool = False
) -> timing.Ready:
    """A compiled chunk of the net's training steps, ready to be called."""
    workload, steps = WORKLOADS[name], _steps(size, method)
    model = workload.net(size.net, method)
    mode = Mode(METHODS[method].estimator, "batch", precision, remat)
    source = sources.Resident(_split(size, steps), size.batch)

    example = jnp.zeros((1, *size.shape), jnp.float32)
    init = train.initializer(model, example, mode=mode)
    loss = neg_elbo(
        forward(model, mode),
        likelihoods.Categorical(),
        priors.log_uniform,
        workload.examples,
    )
    task = train.Task(init, loss, optax.adam(1e-3), source)
    mesh, key = parallel.mesh(jax.devices()[:1]), random.key(0)
    state = jax.jit(task.start)(key)
    item = next(source.chunks(key, 0, steps))
    compiled, seconds = compiling.compiled(
        functools.partial(train.train_chunk, task, mesh),
        *(state, source.arrays, item, key),
        donate_argnums=0,
    )

    def call():
        nonlocal state
        state, _ = compiled(state, source.arrays, item, key)
        jax.block_until_ready(state)

    return timing.Ready(call, seconds)


def _build_torch(
    name: str, size: Size, method: str, form: str, precision: str
) -> timing.Ready:
    workload = WORKLOADS[name]
    return torch_nets.build(
        size.net.plan,
        size.shape,
        workload.kinds(size.net, method),
        form,
        precision,
        _split(size, size.steps),
        size.batch,
        workload.examples,
    )


def run(name: str, quick: bool, rounds: int, say: timing.Say) -> dict[str, Any]:
    """Measures all cases; PyTorch's only if it is there."""
    size, chosen, notes = WORKLOADS[name].size(quick), cases(name, quick), list(NOTES)
    try:
        torch_nets.load()
    except timing.BenchError as error:
        say(str(error))
        notes.append(str(error))
        chosen = {n: case for n, case in chosen.items() if not n.startswith("torch")}
    steps = [case for case in chosen if "matmul" not in case]
    measured = timing.measure(
        name, chosen, rounds=rounds, quick=quick, say=say, memory_of=steps
    )
    best = _best(size, measured.times)
    if best:
        forms = ", ".join(best.values())
        notes.append(f"PyTorch is in the ratios with its fastest forms: {forms}.")
    ratios = timing.ratios(measured.times, _pairs(size, best))
    peaks = matmul.peaks(quick, measured.times, precisions(size))
    for case in steps:
        if case in measured.cases:
            _rates(case, measured.cases[case], size, peaks)
    return {
        "settings": _settings(size),
        "cases": {n: one for n, one in measured.cases.items() if n in steps},
        "overview": _overview(size, measured.cases, ratios, best),
        "ratios": ratios,
        "values": {
            "useful GFLOP of a step": size.flops / 1e9,
            **{
                f"peak of matrix products, {precision}, GFLOP/s": rate / 1e9
                for precision, rate in peaks.items()
            },
        },
        "notes": notes + measured.notes,
    }


def _settings(size: Size) -> dict[str, Any]:
    height, width, channels = size.shape
    return {
        "batch": size.batch,
        "images": f"{height} x {width} x {channels}",
        "weights": sum(w.size for w in _weights(size)),
        "steps_per_call": size.steps,
        "dtype": "float32 unless it says bfloat16",
    }


def _weights(size: Size):
    init = functools.partial(size.net.init, x=jnp.zeros((1, *size.shape)))
    return jax.tree.leaves(jax.eval_shape(init, random.key(0))["params"])


def _best(size: Size, times) -> dict[tuple[str, str], str]:
    """(method, precision) to the fastest case of PyTorch, of those measured."""
    found: dict[tuple[str, str], list[str]] = {}
    for method, form, precision in theirs(size):
        case = torch_label(method, form, precision)
        if case in times:
            found.setdefault((method, precision), []).append(case)
    return {key: timing.best(times, names) for key, names in found.items()}


def _pairs(size: Size, best) -> dict[str, tuple[str, str]]:
    """Pairs of cases whose times are compared, by the names of the ratios."""
    pairs = []
    for precision in precisions(size):
        plain = label(PLAIN, precision)
        methods = size.methods if precision == FULL else size.half
        pairs += [(label(m, precision), plain) for m in methods if m != PLAIN]
        pairs += [
            (best[m, precision], best[PLAIN, precision])
            for m in methods
            if m != PLAIN and {(m, precision), (PLAIN, precision)} <= set(best)
        ]
        pairs += [
            (label(m, precision), best[m, precision])
            for m in methods
            if (m, precision) in best
        ]
    pairs += [(label(m, HALF), label(m)) for m in size.half]
    pairs += [(label(m, remat=True), label(m)) for m in size.remat]
    return {f"{one} / {other}": (one, other) for one, other in pairs}


def _rates(case: str, summary: dict, size: Size, peaks: dict[str, float]) -> None:
    """Adds what a time amounts to."""
    per_second = 1e3 / summary["median"]
    peak = peaks[HALF if HALF in case else FULL]
    summary["images_per_second"] = size.batch * per_second
    summary["of_peak"] = size.flops * per_second / peak


def _overview(size: Size, found, ratios, best) -> dict[str, dict[str, float | None]]:
    """A row for each method and precision of vnets: what a reader asks first."""
    rows = {}
    for method, precision, remat in ours(size):
        case = label(method, precision, remat)
        if case not in found:
            continue
        compared = {
            "over deterministic": label(PLAIN, precision),
            "over float32": label(method) if precision != FULL else None,
            "over without remat": label(method) if remat else None,
            "over PyTorch": best.get((method, precision)),
        }
        rows[case.removeprefix("vnets ")] = {
            "ms per step": found[case]["median"],
            "images per second": found[case]["images_per_second"],
            "of the peak": found[case]["of_peak"],
            "peak MiB": found[case]["peak_mib"],
            **{
                column: ratios.get(f"{case} / {other}", {}).get("median")
                for column, other in compared.items()
            },
        }
    return rows


BENCHMARKS = {
    name: timing.Benchmark(
        f"Training step of {workload.title}",
        UNIT,
        workload.rounds,
        functools.partial(cases, name),
        functools.partial(run, name),
    )
    for name, workload in WORKLOADS.items()
}
