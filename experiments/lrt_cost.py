"""What a way of sampling costs: seconds of an epoch, memory, and what theory says.

Kingma, Salimans and Welling 2015, section 2.2: for a minibatch of M examples and a
layer of I x O weights, LRT draws M O numbers and a weight sample for each example
M I O; they report 7.4 and 1635 seconds an epoch. Timed here is the step of training
that `train.fit` compiles, optimizer included, all ways in turns on one machine.

A weight sample for each example draws all weights twice: once more for the gradient, in
place of keeping them. `throughput` is of its forward pass: draws per second beside
those of `jax.random.normal` alone, which makes as many, in the same blocks.

Memory is what XLA plans for the compiled step: its arguments (the data among them),
its results but for those that take the place of arguments, and its temporary buffers.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax, random
from ml_collections import ConfigDict

from experiments import spec as parts
from experiments.bench import timing
from experiments.core import Measured, Study
from experiments.kinds import classify
from experiments.kinds.classify import Classify
from vnets import backend, estimators, nodes, noise, ops, parallel, train
from vnets.edits import mean_only
from vnets.evaluate import to_float
from vnets.layers import Mode
from vnets.likelihoods import Categorical
from vnets.nodes import is_posterior
from vnets.rng import stream
from vnets.types import Key

FIELDS = (
    "dataset",
    "platform",
    "training",
    "cost.rounds",
    "cost.steps",
    "cost.widths",
    "cost.batches",
)

WAYS = {
    "lrt": estimators.lrt,
    "separate": estimators.per_example_sampling,
    "single": estimators.weight_sampling,
    "none": estimators.lrt,  # of weights without noise
}
SLOW = "separate"  # one step a round, of the others several
PLATFORMS = ("cpu", "gpu")
PRODUCTS = 6  # matrix products in LRT and its gradient: two forward, four backward
COUNTS = ("rounds", "steps")
SWEEPS = ("widths", "batches")
Thunk = Callable[[], None]


def build(config) -> Study:
    """The study of a config; see `configs/lrt_cost.py` for its fields."""
    parts.pick("platform", config.platform, PLATFORMS)
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
    steps = {
        name: training_step(net, way, key, quiet=name == "none")
        for name, way in WAYS.items()
    }
    runs = {
        name: _repeated(thunk, 1 if name == SLOW else spec.steps)
        for name, (thunk, _) in steps.items()
    }
    runs["forward"] = _forward(net, key)
    shapes = [w.shape for w in _weights(net, key)]
    for name, draw in (("draws", random.normal), ("own_draws", noise.normal)):
        runs[name] = _bare_draws(draw, shapes, net, key)
    timing.interleave(runs, 1)  # the first calls do not count
    times = timing.interleave(runs, spec.rounds)
    for name in WAYS:
        times[name] = [t / (1 if name == SLOW else spec.steps) for t in times[name]]
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
    ratios = timing.ratios(times, pairs)
    evals["ratios"] = {name: one["median"] for name, one in ratios.items()}
    memory = evals[SLOW]["peak_mib"] / evals["lrt"]["peak_mib"]
    evals["ratios"]["memory"] = memory
    per_example = sum(w.size for w in _weights(net, key))
    draws = net.source.batch_size * per_example
    return Measured(evals, _sweeps(spec, draws / medians["own_draws"], key))


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
    task = net.experiment(None, None).task
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
    compiled = backend.jit(update, donate_argnums=0).lower(*arguments).compile()

    def thunk():
        held[0] = jax.block_until_ready(compiled(held[0], *arguments[1:]))

    return thunk, _planned_mib(compiled)


def _planned_mib(compiled) -> float:
    plan = compiled.memory_analysis()
    results = plan.output_size_in_bytes - plan.alias_size_in_bytes
    held = plan.argument_size_in_bytes + results + plan.temp_size_in_bytes
    return held / timing.MIB


def _repeated(thunk: Thunk, times: int) -> Thunk:
    def run():
        for _ in range(times):
            thunk()

    return run


def _weights(net: Classify, key: Key) -> list[jax.ShapeDtypeStruct]:
    """The shapes of all noisy weights; nothing is computed."""

    def stds(key):
        params, _ = net.init(key)
        nodes = jax.tree.leaves(params, is_leaf=is_posterior)
        return [node.location_scale()[1] for node in nodes if is_posterior(node)]

    return [std for std in jax.eval_shape(stds, key) if std is not None]


def _forward(net: Classify, key: Key) -> Thunk:
    """The loss of a minibatch by a weight sample for each example, without gradient."""
    params, collections = net.init(stream(key, "init"))
    count = net.source.batch_size
    image = to_float(net.source.arrays["input"][:count])
    label = net.source.arrays["target"][:count]

    def loss(params, image, label, key):
        variables = {"params": params, **collections}
        mode, rngs = Mode(WAYS[SLOW]), {"noise": key}
        logits = net.model.apply(variables, image, mode=mode, rngs=rngs)
        return jnp.mean(Categorical().nll(logits, label))

    return _compiled(loss, params, image, label, key)


def _bare_draws(draw: Callable, shapes: Sequence, net: Classify, key: Key) -> Thunk:
    """As many draws and nothing else, one example's weights after another's."""

    def draws(key):
        def one(key):
            # Behind the barrier all are made and written, though one is returned.
            made = [draw(stream(key, i), shape) for i, shape in enumerate(shapes)]
            return sum(array.ravel()[0] for array in lax.optimization_barrier(made))

        return lax.map(one, random.split(key, net.source.batch_size))

    return _compiled(draws, key)


def _compiled(function, *arguments) -> Thunk:
    compiled = backend.jit(function).lower(*arguments).compile()
    return lambda: jax.block_until_ready(compiled(*arguments))


def _sweeps(spec, draws_per_ms: float, key: Key) -> dict[str, dict[str, list[float]]]:
    """One dense layer and its gradient against its width, and against the minibatch.

    The other of the two is the largest. The theory: as many draws as there are to make,
    at the rate of bare ones of the sampler in use (`vnets.noise.normal`), and products
    at the rate of the largest.
    """
    widths, batches = tuple(spec.widths), tuple(spec.batches)
    wide, many = widths[-1], batches[-1]
    a, b = (
        random.normal(stream(key, i), (n, wide)) for i, n in enumerate((many, wide))
    )
    product = {"product": _compiled(ops.matmul, a, b)}
    timing.interleave(product, 1)
    fastest = min(timing.interleave(product, 10)["product"])
    rate = many * wide * wide / fastest  # multiply-adds per ms
    sweeps = {
        "width": [(w, many) for w in widths],
        "batch": [(wide, m) for m in batches],
    }
    curves, fastest_ms = {}, {}  # the sweeps cross in the largest layer
    for name, sizes in sweeps.items():
        curve: dict[str, list[float]] = {
            name: [],
            "lrt_theory": [],
            "separate_theory": [],
        }
        for width, batch in sizes:
            if (width, batch) not in fastest_ms:
                runs = {
                    way: _layer(estimator, width, batch, key)
                    for way, estimator in WAYS.items()
                    if way != "none"
                }
                timing.interleave(runs, 1)
                times = timing.interleave(runs, spec.rounds)
                fastest_ms[width, batch] = {way: min(ms) for way, ms in times.items()}
            for way, ms in fastest_ms[width, batch].items():
                curve.setdefault(way, []).append(ms)
            products = batch * width * width / rate
            drawn = batch * width / draws_per_ms
            curve[name].append(float(width if name == "width" else batch))
            curve["lrt_theory"].append(PRODUCTS * products + drawn)
            # What fits a block is kept for the gradient and not drawn again.
            kept = batch * width * width <= estimators.WEIGHTS_AT_ONCE
            curve["separate_theory"].append((1 if kept else 2) * width * drawn)
        curves[name] = curve
    return curves


def _layer(estimator, width: int, batch: int, key: Key) -> Thunk:
    """A dense layer of `width` units in and out, and its gradient."""
    node = nodes.gaussian()(key, (width, width))
    x = random.normal(stream(key, "x"), (batch, width))

    def loss(node, x, key):
        # Depends on the output, so that nothing can be left out.
        return 0.5 * jnp.sum(jnp.square(estimator(ops.DENSE, node, x, key)))

    return _compiled(jax.grad(loss, argnums=(0, 1)), node, x, key)
