"""What a way of sampling costs: seconds of an epoch, memory, and what theory says.

Kingma, Salimans and Welling 2015, section 2.2: for a minibatch of M examples and a
layer of I x O weights, LRT draws M O numbers and a weight sample for each example
M I O; they report 7.4 and 1635 seconds an epoch. Timed here is the step of training
that `train.fit` compiles, optimizer included, all ways in turns on one machine.

A weight sample for each example draws all weights twice: once more for the gradient, in
place of keeping them. `cost.draws` says by which sampler: our own, or the one that
people have, `jax.random.normal`. `throughput` is of its forward pass: draws per second
beside those of `jax.random.normal` alone, which makes as many, in the same blocks.

Memory is what XLA plans for the compiled step: its arguments (the data among them),
its results but for those that take the place of arguments, and its temporary buffers.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import random
from ml_collections import ConfigDict

from experiments import spec as parts
from experiments import trained
from experiments.bench import lrt_layer, timing
from experiments.bench.timing import Thunk
from experiments.core import Measured, Study
from experiments.kinds import classify
from experiments.kinds.classify import Classify
from vnets import estimators, noise, ops, parallel, train, tree
from vnets.edits import mean_only
from vnets.evaluate import to_float
from vnets.layers import Mode
from vnets.likelihoods import Categorical
from vnets.nodes import Posterior
from vnets.rng import stream
from vnets.types import Array, Key

FIELDS = (
    *("dataset", "platform", "training", "cost.rounds", "cost.steps", "cost.widths"),
    *("cost.batches", "cost.draws"),
)

SAMPLED = {
    "lrt": estimators.lrt,
    "separate": estimators.per_example_sampling,
    "single": estimators.weight_sampling,
}
WAYS = {**SAMPLED, "none": estimators.lrt}  # of weights without noise
OWN, PLAIN = "vnets", "random.normal"  # samplers of a weight for each example
SLOW = "separate"  # one step a round, of the others several
PLATFORMS = ("cpu", "gpu")
PRODUCTS = 6  # matrix products in LRT and its gradient: two forward, four backward
COUNTS = ("rounds", "steps")
SWEEPS = ("widths", "batches")


def plain_sampling(op, q: Posterior, x: Array, key: Key) -> Array:
    """`estimators.per_example_sampling` of normal noise by `jax.random.normal`."""
    mean, std = q.location_scale()

    def sample(key: Key) -> Array:
        return mean + std * random.normal(key, std.shape, std.dtype)

    return estimators.each_its_own(op, q.shape, sample, x, key)


SAMPLERS = {OWN: WAYS[SLOW], PLAIN: plain_sampling}


def ways_of(spec) -> dict[str, Callable]:
    """The ways to sample, by the sampler that a config's `cost` names."""
    drawn = parts.pick("cost.draws", spec.get("draws", OWN), SAMPLERS)
    return WAYS | {SLOW: drawn}


def build(config) -> Study:
    """The study of a config; see `configs/lrt_cost.py` for its fields."""
    parts.pick("platform", config.platform, PLATFORMS)
    ways_of(config.cost)
    for field in COUNTS:
        parts.positive(f"cost.{field}", config.cost[field])
    for field in SWEEPS:
        sizes = tuple(config.cost[field])
        if not sizes or min(sizes) < 1 or list(sizes) != sorted(set(sizes)):
            raise parts.ConfigError(
                f"config.cost.{field} must rise from 1 or more, not {sizes}"
            )
    net = classify.build(ConfigDict(config.training))

    def measure(nets, key) -> Measured:
        del nets
        if jax.default_backend() != config.platform:
            raise parts.ConfigError(
                f"config.platform is {config.platform!r}, but JAX runs on "
                f"{jax.default_backend()!r} here: set JAX_PLATFORMS, or measure there"
            )
        return _measure(config.cost, net, key)

    return Study({}, measure, net.dataset)


def _measure(spec, net: Classify, key: Key) -> Measured:
    ways = ways_of(spec)
    steps = {
        name: training_step(net, way, key, quiet=name == "none")
        for name, way in ways.items()
    }
    calls = {name: 1 if name == SLOW else spec.steps for name in ways}
    runs: dict[str, Thunk] = {
        name: lambda thunk=thunk, n=calls[name]: [thunk() for _ in range(n)]
        for name, (thunk, _) in steps.items()
    }
    runs["forward"] = _forward(net, ways[SLOW], key)
    shapes = [w.shape for w in _weights(net, key)]
    for name, draw in (("draws", random.normal), ("own_draws", noise.normal)):
        alone = lrt_layer.bare_draws(draw, shapes, net.source.batch_size)
        runs[name] = alone.call
    times = timing.interleave(runs, spec.rounds, warmup=1)
    for name in WAYS:
        times[name] = [t / calls[name] for t in times[name]]
    medians = {name: timing.summary(ms)["median"] for name, ms in times.items()}
    evals = {
        name: {
            "step_ms": medians[name],
            "epoch_seconds": 1e-3 * medians[name] * net.source.steps_per_epoch,
            "peak_mib": steps[name][1],
        }
        for name in WAYS
    }
    pairs = {name: (name, "lrt") for name in WAYS if name != "lrt"}
    # As many draws in both: time over time is throughput the other way round.
    pairs["throughput"] = "draws", "forward"
    pairs["own_throughput"] = "own_draws", "forward"
    evals["ratios"] = {n: timing.ratio(times, *pair) for n, pair in pairs.items()}
    evals["ratios"]["memory"] = steps[SLOW][1] / steps["lrt"][1]
    draws = net.source.batch_size * sum(map(math.prod, shapes))
    alone = "own_draws" if ways[SLOW] is WAYS[SLOW] else "draws"
    return Measured(evals, _sweeps(spec, ways, draws / medians[alone], key))


def training_step(
    net: Classify, estimator: Callable, key: Key, quiet: bool = False
) -> tuple[Thunk, float]:
    """One update of a net: the call, and the MiB that it plans with.

    Args:
      net: what is trained.
      estimator: of its noisy weights.
      key: of its start and its noise.
      quiet: train the means alone.
    """
    net = dataclasses.replace(net, mode=Mode(estimator))
    task = trained.task(net)
    params, collections = task.init(stream(key, "init"))
    if quiet:
        params = mean_only(params, None)
    held = [task.begin(params, collections)]
    mesh = parallel.mesh(jax.devices()[:1])
    items = next(iter(net.source.chunks(stream(key, "order"), 0, 1)))
    item = jax.tree.map(lambda x: jnp.asarray(x)[0], items)

    def update(state, arrays, item, key):
        return train.step(task, mesh, state, arrays, item, key)[0]

    arguments = held[0], net.source.arrays, item, key
    compiled, _ = timing.compiled(update, *arguments, donate_argnums=0)

    def thunk():
        held[0] = jax.block_until_ready(compiled(held[0], *arguments[1:]))

    plan = compiled.memory_analysis()
    results = plan.output_size_in_bytes - plan.alias_size_in_bytes
    planned = plan.argument_size_in_bytes + results + plan.temp_size_in_bytes
    return thunk, planned / timing.MIB


def _weights(net: Classify, key: Key) -> list[jax.ShapeDtypeStruct]:
    """The shapes of all noisy weights; nothing is computed."""

    def stds(key):
        params, _ = net.init(key)
        return [node.location_scale()[1] for _, node in tree.nodes(params)]

    return [std for std in jax.eval_shape(stds, key) if std is not None]


def _forward(net: Classify, way: Callable, key: Key) -> Thunk:
    """The loss of a minibatch by a weight sample for each example, without gradient."""
    params, collections = net.init(stream(key, "init"))
    count = net.source.batch_size
    image = to_float(net.source.arrays["input"][:count])
    label = net.source.arrays["target"][:count]

    def loss(params, image, label, key):
        variables = {"params": params, **collections}
        mode, rngs = Mode(way), {"noise": key}
        logits = net.model.apply(variables, image, mode=mode, rngs=rngs)
        return jnp.mean(Categorical().nll(logits, label))

    return timing.ready(loss, params, image, label, key).call


def _sweeps(
    spec, ways: Mapping[str, Callable], draws_per_ms: float, key: Key
) -> dict[str, dict[str, list[float]]]:
    """One dense layer and its gradient against its width, and against the minibatch.

    The other of the two is the largest. The theory: as many draws as there are to make,
    at the rate of bare ones of the sampler in use, and products at the rate of the
    largest.
    """
    widths, batches = tuple(spec.widths), tuple(spec.batches)
    wide, many = widths[-1], batches[-1]
    a, b = (
        random.normal(stream(key, i), (n, wide)) for i, n in enumerate((many, wide))
    )
    product = {"product": timing.ready(ops.matmul, a, b).call}
    fastest = min(timing.interleave(product, 10, warmup=1)["product"])
    rate = many * wide * wide / fastest  # multiply-adds per ms
    sweeps = {
        "width": [(w, many) for w in widths],
        "batch": [(wide, m) for m in batches],
    }

    @functools.cache  # the sweeps cross in the largest layer
    def fastest_ms(width: int, batch: int) -> dict[str, float]:
        runs = {
            way: lrt_layer.layer(estimator, batch, width).call
            for way, estimator in ways.items()
            if way != "none"
        }
        times = timing.interleave(runs, spec.rounds, warmup=1)
        return {way: min(ms) for way, ms in times.items()}

    curves = {}
    for name, sizes in sweeps.items():
        rows = []
        for width, batch in sizes:
            products = batch * width * width / rate
            drawn = batch * width / draws_per_ms
            # What fits a block is kept for the gradient and not drawn again.
            kept = batch * width * width <= estimators.WEIGHTS_AT_ONCE
            theory = {
                "lrt_theory": PRODUCTS * products + drawn,
                "separate_theory": (1 if kept else 2) * width * drawn,
            }
            size = {name: float(width if name == "width" else batch)}
            rows.append(size | theory | fastest_ms(width, batch))
        curves[name] = {axis: [row[axis] for row in rows] for axis in rows[0]}
    return curves
