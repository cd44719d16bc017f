"""What averaging the predictions of S draws costs, by S.

A `Predictor` on one batch, compiled. What comes before the first noisy layer is
computed once for all draws: most of the net where the last layers alone are noisy.
"""

import functools
from typing import Any

import jax.numpy as jnp
from jax import random

from experiments.bench import compiling, timing, workloads
from experiments.bench.workloads import WORKLOADS
from vnets.predictor import Member, Predictor

TITLE = "Ensembles: predictions averaged over S draws"
UNIT = "ms per image"
ROUNDS = 10
SAMPLES = (1, 2, 5, 10, 20, 50)
METHODS = ("variance", "LRT")
# Net to batch; S times as many images are in memory, up to `predictor.AT_ONCE`.
BATCHES = {
    "quick": {"lenet5": 2},
    "cpu": {"lenet5": 50, "vgg": 10},
    "accelerator": {"lenet5": 500, "vgg": 100},
}


def sizes(quick: bool) -> tuple[dict[str, int], tuple[int, ...]]:
    """Batch of each net, and numbers of draws."""
    return BATCHES[workloads.device_kind(quick)], SAMPLES[:2] if quick else SAMPLES


def label(net: str, method: str, samples: int) -> str:
    """The name of a case."""
    return f"{net} {method}, S = {samples}"


def cases(quick: bool) -> dict[str, timing.Case]:
    """Each net and method at each number of draws."""
    batches, samples = sizes(quick)
    return {
        label(net, method, s): timing.Case(
            functools.partial(_build, net, method, batch, s, quick), batch, warmup=1
        )
        for net, batch in batches.items()
        for method in METHODS
        for s in samples
    }


def _build(net: str, method: str, batch: int, samples: int, quick: bool):
    workload = WORKLOADS[net]
    size, key = workload.size(quick), random.key(0)
    model = workload.net(size.net, method)
    x = random.uniform(key, (batch, *size.shape))
    keys = {"params": key, "noise": key}
    variables = model.init(keys, jnp.zeros((1, *size.shape), jnp.float32))

    def predict(variables, x, key):
        return Predictor(Member(model, variables), samples=samples).log_mean(x, key)

    return compiling.ready(predict, variables, x, key)


def run(quick: bool, rounds: int, say: timing.Say) -> dict[str, Any]:
    """Measures all cases; the memory of the largest ensembles only."""
    batches, samples = sizes(quick)
    curves = [(net, method) for net in batches for method in METHODS]
    measured = timing.measure(
        "ensembles",
        cases(quick),
        rounds=rounds,
        quick=quick,
        say=say,
        memory_of=[label(*curve, samples[-1]) for curve in curves],
    )
    pairs = {
        f"{net} {method}: S = {s} / S = 1": (
            label(net, method, s),
            label(net, method, 1),
        )
        for net, method in curves
        for s in samples[-1:]
    }
    overview = {
        f"S = {s}": {
            f"{net} {method}": measured.cases[label(net, method, s)]["median"]
            for net, method in curves
            if label(net, method, s) in measured.cases
        }
        for s in samples
    }
    return {
        "settings": {
            **{f"batch of {net}": batch for net, batch in batches.items()},
            "dtype": "float32",
        },
        "cases": measured.cases,
        "overview": overview,
        "ratios": timing.ratios(measured.times, pairs),
        "notes": [
            "variance: the layers of the papers' variance networks are noisy; LRT: all "
            "layers are. A batch is predicted at once, in milliseconds for each image.",
            *measured.notes,
        ],
    }


BENCHMARKS = {"ensembles": timing.Benchmark(TITLE, UNIT, ROUNDS, cases, run)}
