"""Local reparameterization against a weight sample per example, on one dense layer.

1000 units in and out and a minibatch of 1000, as in section 2.2 of Kingma, Salimans and
Welling 2015: LRT draws 10^6 numbers, a sample per example 10^9, which is 4 GB of draws
if all were held at once. The bare draws of as many weights, in the same blocks, tell
how much of the time of a sample per example is spent on anything but drawing.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax, random

from experiments.bench import compiling, timing
from vnets import nodes, noise, ops
from vnets.estimators import lrt, per_example_sampling

TITLE = "A dense layer: LRT and a weight sample per example"
UNIT = "ms per call"
ROUNDS = 2  # each takes a minute
BATCH, UNITS = 1000, 1000
ESTIMATORS = {"LRT": lrt, "per example": per_example_sampling}
DRAWS = {"jax.random.normal": random.normal, "vnets.noise.normal": noise.normal}


def sizes(quick: bool) -> tuple[int, int]:
    """Batch size and units in and out."""
    return (3, 8) if quick else (BATCH, UNITS)


def cases(quick: bool) -> dict[str, timing.Case]:
    """Forward and gradient of both estimators, and the draws alone."""
    batch, units = sizes(quick)
    chosen = {}
    for name, estimator in ESTIMATORS.items():
        forward = functools.partial(_forward, estimator)
        for part, function in {
            "forward": forward,
            "gradient": _gradient(forward),
        }.items():
            chosen[f"{name}, {part}"] = timing.Case(
                functools.partial(_build, function, batch, units), warmup=1
            )
    for name, draw in DRAWS.items():
        bare = functools.partial(_bare_draws, draw)
        chosen[f"draws alone, {name}"] = timing.Case(
            functools.partial(_build, bare, batch, units), warmup=1
        )
    return chosen


def _forward(estimator, node, x, key):
    return estimator(ops.DENSE, node, x, key)


def _gradient(forward):
    """Of a loss that depends on the output, so that nothing can be left out."""

    def loss(node, x, key):
        return 0.5 * jnp.sum(jnp.square(forward(node, x, key)))

    return jax.grad(loss, argnums=(0, 1))


def _bare_draws(draw, node, x, key):
    """A weight's worth of draws for each example, one example at a time."""

    def one(key):
        # Behind the barrier all of them are made and written, though one is returned.
        return lax.optimization_barrier(draw(key, node.shape))[0, 0]

    return lax.map(one, random.split(key, x.shape[0]))


def _build(function, batch: int, units: int) -> timing.Ready:
    key = random.key(0)
    node = nodes.gaussian()(key, (units, units))
    x = random.normal(random.key(1), (batch, units))
    return compiling.ready(function, node, x, key)


def run(quick: bool, rounds: int, say: timing.Say) -> dict[str, Any]:
    """Measures all cases."""
    measured = timing.measure(
        "lrt_layer", cases(quick), rounds=rounds, quick=quick, say=say
    )
    batch, units = sizes(quick)
    sampled = "per example, forward"
    pairs = {
        f"per example / LRT, {part}": (f"per example, {part}", f"LRT, {part}")
        for part in ("forward", "gradient")
    } | {
        # Time over time is throughput over throughput the other way round.
        f"throughput of per example, forward / that of {name} alone": (
            f"draws alone, {name}",
            sampled,
        )
        for name in DRAWS
    }
    draws = batch * units * units
    values = {
        f"{name}: draws per second": 1e3 * draws / measured.cases[name]["median"]
        for name in (sampled, *(f"draws alone, {name}" for name in DRAWS))
    }
    return {
        "settings": {
            "batch": batch,
            "units": units,
            "draws": draws,
            "dtype": "float32",
        },
        "cases": measured.cases,
        "ratios": timing.ratios(measured.times, pairs),
        "values": values,
        "notes": measured.notes,
    }


BENCHMARKS = {"lrt_layer": timing.Benchmark(TITLE, UNIT, ROUNDS, cases, run)}
