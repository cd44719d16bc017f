"""Training steps: net by method by precision, vnets beside PyTorch on one device.

Random images that lie on the device, Adam; compiled as `train.fit` compiles it, K steps
under one scan. The matrix products that the device's peak is measured with take turns
with the steps. PyTorch is measured in each precision in both memory layouts; ratios are
to its fastest form of the same precision, and to each layout.
"""

import functools

import jax
import jax.numpy as jnp
import optax
from jax import lax, random

from experiments.bench import timing, torch_nets, workloads
from experiments.bench.comparisons import (
    OURS,
    REMAT,
    THEIRS,
    Way,
    finish,
    product_label,
    ways,
)
from experiments.bench.measuring import Benchmark, Case
from experiments.bench.workloads import METHODS, WORKLOADS, Size
from vnets import likelihoods, parallel, priors, sources, train
from vnets.layers import Mode
from vnets.loss import forward, neg_elbo

# Edge of the matrices of a product, and products in a call, one after another.
PRODUCTS = {"quick": (32, 1), "cpu": (1024, 2), "accelerator": (8192, 8)}
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


def benchmark(name: str, quick: bool) -> Benchmark:
    """vnets, PyTorch and the matrix products on one net."""
    workload = WORKLOADS[name]
    size = workload.size(quick)
    edge, products = PRODUCTS[workloads.device_kind(quick)]
    needs = {
        OURS: {"imports": ("jax",)},
        THEIRS: {"imports": ("torch",), "optional": True},
    }
    cases, peaks = {}, {}
    for way in ways(size):
        build_one = {OURS: build, THEIRS: _build_torch}[way.library]
        calls = functools.partial(build_one, name, size, way)
        steps = steps_of(size, way.method)
        cases[str(way)] = Case(calls, steps, **needs[way.library])
    for precision in dict.fromkeys(way.precision for way in ways(size)):
        for library in (OURS, THEIRS):
            make = {OURS: _build_product, THEIRS: torch_nets.build_product}[library]
            calls = functools.partial(make, edge, products, precision)
            made = Case(calls, warmup=2, **needs[library])
            peaks[product_label(library, precision)] = made
    height, width, channels = size.shape
    return Benchmark(
        title=f"Training step of {workload.title}",
        unit="ms per step",
        rounds=workload.rounds,
        cases=cases | peaks,
        settings={
            "batch": size.batch,
            "images": f"{height} x {width} x {channels}",
            "weights": _weights(size),
            "steps_per_call": size.steps,
            "dtype": "float32 unless it says bfloat16",
        },
        memory_of=cases,
        notes=NOTES,
        check=torch_nets.load,
        finish=functools.partial(finish, size, 2 * products * edge**3),
    )


def steps_of(size: Size, method: str) -> int:
    """Steps of a call; one where each takes as long as many others."""
    return 1 if method == "per example" else size.steps


def _weights(size: Size) -> int:
    init = functools.partial(size.net.init, x=jnp.zeros((1, *size.shape)))
    params = jax.eval_shape(init, random.key(0))["params"]
    return sum(w.size for w in jax.tree.leaves(params))


def _build_product(edge: int, products: int, precision: str) -> timing.Ready:
    """A chain of square matrix products, whose sums are float32: the fastest form."""
    a, b = (
        random.normal(random.key(i), (edge, edge), precision) / edge**0.5
        for i in range(2)
    )

    def chain(a, b):
        for _ in range(products):
            a = lax.dot(a, b, preferred_element_type=jnp.float32).astype(precision)
        return a

    return timing.ready(chain, a, b)


def build(name: str, size: Size, way: Way) -> timing.Ready:
    """A compiled chunk of the net's training steps, ready to be called."""
    workload, steps = WORKLOADS[name], steps_of(size, way.method)
    model = workload.net(size.net, way.method)
    estimator = METHODS[way.method].estimator
    mode = Mode(estimator, "batch", way.precision, way.form == REMAT)
    source = sources.Resident(size.split(steps), size.batch)

    example = jnp.zeros((1, *size.shape), jnp.float32)
    init = train.initializer(model, example, mode=mode)
    loss = neg_elbo(
        forward(model, mode),
        likelihoods.Categorical(),
        priors.log_uniform,
        workload.examples,
    )
    return chunk(train.Task(init, loss, optax.adam(1e-3), source), steps)


def chunk(task: train.Task, steps: int) -> timing.Ready:
    """So many training steps of a task on one device, compiled, ready to be called."""
    mesh, key, source = parallel.mesh(jax.devices()[:1]), random.key(0), task.source
    state = jax.jit(task.start)(key)
    item = next(source.chunks(key, 0, steps))
    compiled, seconds = timing.compiled(
        functools.partial(train.train_chunk, task, mesh),
        *(state, source.arrays, item, key),
        donate_argnums=0,
    )

    def call():
        nonlocal state
        state, _ = compiled(state, source.arrays, item, key)
        jax.block_until_ready(state)

    return timing.Ready(call, seconds)


def _build_torch(name: str, size: Size, way: Way) -> timing.Ready:
    workload = WORKLOADS[name]
    return torch_nets.build(
        size.net.plan,
        size.shape,
        workload.kinds(size.net, way.method),
        way.form,
        way.precision,
        size.split(size.steps),
        size.batch,
        workload.examples,
    )


BENCHMARKS = {name: functools.partial(benchmark, name) for name in WORKLOADS}
