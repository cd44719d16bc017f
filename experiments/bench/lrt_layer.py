"""Local reparameterization against a weight sample per example, on one dense layer.

1000 units in and out and a minibatch of 1000, as in section 2.2 of Kingma, Salimans and
Welling 2015: LRT draws 10^6 numbers, a sample per example 10^9, which is 4 GB of draws
if all were held at once. The bare draws of as many weights, in the same blocks, tell
how much of the time of a sample per example is spent on anything but drawing.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax, random

from experiments.bench import timing
from experiments.bench.measuring import Benchmark, Case
from vnets import nodes, noise, ops
from vnets.estimators import lrt, per_example_sampling
from vnets.rng import stream
from vnets.types import Shape

ESTIMATORS = {"LRT": lrt, "per example": per_example_sampling}
DRAWS = {"jax.random.normal": random.normal, "vnets.noise.normal": noise.normal}
PARTS = ("forward", "gradient")


def benchmark(quick: bool) -> Benchmark:
    """Forward and gradient of both estimators, and the draws alone."""
    batch, units = (3, 8) if quick else (1000, 1000)
    draws, sampled = batch * units * units, "per example, forward"
    drawers = {f"draws alone, {name}": draw for name, draw in DRAWS.items()}

    def finish(parts, times):
        del times
        rates = {
            f"{name}: draws per second": 1e3 * draws / parts["cases"][name]["median"]
            for name in (sampled, *drawers)
            if name in parts["cases"]
        }
        return {"values": rates}

    cases = {
        f"{name}, {part}": Case(
            functools.partial(layer, estimator, batch, units, part == "gradient")
        )
        for name, estimator in ESTIMATORS.items()
        for part in PARTS
    }
    pairs = {
        f"per example / LRT, {part}": (f"per example, {part}", f"LRT, {part}")
        for part in PARTS
    }
    for name in DRAWS:
        # Time over time is throughput over throughput the other way round.
        pairs[f"throughput of per example, forward / that of {name} alone"] = (
            f"draws alone, {name}",
            sampled,
        )
    return Benchmark(
        title="A dense layer: LRT and a weight sample per example",
        unit="ms per call",
        rounds=2,  # each takes a minute
        cases=cases
        | {
            name: Case(functools.partial(bare_draws, draw, [(units, units)], batch))
            for name, draw in drawers.items()
        },
        settings={"batch": batch, "units": units, "draws": draws, "dtype": "float32"},
        pairs=pairs,
        finish=finish,
    )


def layer(
    estimator: Callable, batch: int, units: int, gradient: bool = True
) -> timing.Ready:
    """A dense layer of `units` units in and out on a batch, or its gradient."""
    key = random.key(0)
    node = nodes.gaussian()(key, (units, units))
    x = random.normal(random.key(1), (batch, units))

    def forward(node, x, key):
        return estimator(ops.DENSE, node, x, key)

    def loss(node, x, key):
        # Depends on the output, so that nothing can be left out.
        return 0.5 * jnp.sum(jnp.square(forward(node, x, key)))

    function = jax.grad(loss, argnums=(0, 1)) if gradient else forward
    return timing.ready(function, node, x, key)


def bare_draws(draw: Callable, shapes: Sequence[Shape], batch: int) -> timing.Ready:
    """Draws of all weights for each example and nothing else, an example at a time."""

    def one(key):
        # Behind the barrier all are made and written, though one is returned.
        made = [draw(stream(key, i), shape) for i, shape in enumerate(shapes)]
        return sum(array.ravel()[0] for array in lax.optimization_barrier(made))

    def draws(key):
        return lax.map(one, random.split(key, batch))

    return timing.ready(draws, random.key(0))


BENCHMARKS = {"lrt_layer": benchmark}
