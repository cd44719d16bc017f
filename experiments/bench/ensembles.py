"""What averaging the predictions of S draws costs, by S.

A `Predictor` on one batch, compiled. What comes before the first noisy layer is
computed once for all draws: most of the net where the last layers alone are noisy.
"""

import functools

import jax.numpy as jnp
from jax import random

from experiments.bench import timing, workloads
from experiments.bench.measuring import Benchmark, Case
from experiments.bench.workloads import WORKLOADS
from vnets.predictor import Member, Predictor

SAMPLES = (1, 2, 5, 10, 20, 50)
METHODS = ("variance", "LRT")
# Net to batch; S times as many images are in memory, up to `predictor.AT_ONCE`.
BATCHES = {
    "quick": {"lenet5": 2},
    "cpu": {"lenet5": 50, "vgg": 10},
    "accelerator": {"lenet5": 500, "vgg": 100},
}


def benchmark(quick: bool) -> Benchmark:
    """Each net and method at each number of draws; memory at the largest only."""
    batches = BATCHES[workloads.device_kind(quick)]
    samples = SAMPLES[:2] if quick else SAMPLES
    curves = [(net, method) for net in batches for method in METHODS]
    cases = {
        f"{net} {method}, S = {s}": Case(
            functools.partial(_build, net, method, batches[net], s, quick), batches[net]
        )
        for net, method in curves
        for s in samples
    }
    last, names = samples[-1], [f"{net} {method}" for net, method in curves]
    return Benchmark(
        title="Ensembles: predictions averaged over S draws",
        unit="ms per image",
        rounds=10,
        cases=cases,
        settings={
            **{f"batch of {net}": batch for net, batch in batches.items()},
            "dtype": "float32",
        },
        pairs={
            f"{name}: S = {last} / S = 1": (f"{name}, S = {last}", f"{name}, S = 1")
            for name in names
        },
        overview={
            f"S = {s}": {name: f"{name}, S = {s}" for name in names} for s in samples
        },
        memory_of=[f"{name}, S = {last}" for name in names],
        notes=(
            "variance: the layers of the papers' variance networks are noisy; LRT: all "
            "layers are. A batch is predicted at once, in milliseconds for each image.",
        ),
    )


def _build(net: str, method: str, batch: int, samples: int, quick: bool):
    workload = WORKLOADS[net]
    size, key = workload.size(quick), random.key(0)
    model = workload.net(size.net, method)
    x = random.uniform(key, (batch, *size.shape))
    keys = {"params": key, "noise": key}
    variables = model.init(keys, jnp.zeros((1, *size.shape), jnp.float32))

    def predict(variables, x, key):
        return Predictor(Member(model, variables), samples=samples).log_mean(x, key)

    return timing.ready(predict, variables, x, key)


BENCHMARKS = {"ensembles": benchmark}
