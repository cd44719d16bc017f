"""What is left of a net whose units were pruned: units, arithmetic, and its latency.

Structured Bayesian pruning (Neklyudov et al. 2017), Bayesian compression (Louizos et
al. 2017) and group ARD say which units to cut; here the nets are cut and measured, as a
part of `sparsity`, and as a study of trained nets: the error and the time of the net
before and after it is cut, by the same code on the same machine.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments import cuts
from experiments.bench import timing
from experiments.core import Measured, Net, NetSpec, Study
from experiments.datasets import load_data
from vnets import backend, data, edits
from vnets.compact import Graph, Predictor, capture, fold_norms, shrink
from vnets.evaluate import EvalSpec
from vnets.nets.chain import Chain
from vnets.nodes import Point
from vnets.rng import stream
from vnets.types import Key

FIELDS = (
    *("dataset", "nets.net", "cut", "evals.batch_size", "latency.batch_size"),
    "latency.rounds",
)

WARM_UP = 3  # rounds of timing that do not count


def build(config) -> Study:
    """The study of a config; see `configs/structured_speed.py` for its fields."""
    change = edits.chain(cuts.pruning(config), edits.mean_only)
    dataset = load_data(config.dataset)
    test = dataset.validation or dataset.test
    measure = functools.partial(_measure, config, change, test)
    return Study({"net": NetSpec(config.nets.net.run)}, measure, dataset)


def _measure(
    config, change: edits.Edit, test: data.Split, nets: dict[str, list[Net]], key: Key
) -> Measured:
    """Error, size and time of the net without noise, before and after the cut."""
    [net] = nets["net"]
    shape = test.inputs.shape[1:]
    evals, graphs = {}, {}
    for name, one in {"full": edits.mean_only, "cut": change}.items():
        params, size = one(net.params, None), config.evals.batch_size
        variables, own = net.variables(params), stream(key, name)
        measured = net.evaluate(test, EvalSpec(), own, params, batch_size=size)
        size = cuts.left(net.model, variables, shape)
        evals[name] = {"error": 1.0 - measured["accuracy"], **size}
        graphs[name] = fold_norms(capture(net.model, variables, shape))
    graphs["cut"] = shrink(graphs["cut"])
    images = test.inputs[: config.latency.batch_size].astype(np.float32) / 255
    for code, run in RUNNERS.items():
        runs = {name: run(graph, images) for name, graph in graphs.items()}
        times = timing.interleave(runs, config.latency.rounds, WARM_UP)
        for name, values in times.items():
            evals[name][f"{code}_ms"] = timing.summary(values)["median"]
        evals["cut"][f"{code}_speedup"] = timing.ratio(times, "full", "cut")
    return Measured(evals)


def _numpy(graph: Graph, images: np.ndarray) -> Callable[[], object]:
    """The net by NumPy's matrix products; inputs that no weight reads are left out."""
    predictor = Predictor(graph, "dense")
    return lambda: predictor(images)


def _xla(graph: Graph, images: np.ndarray) -> Callable[[], object]:
    """The net compiled by XLA, on the device that JAX uses."""
    params = {
        name: {"kernel": Point(jnp.asarray(kernel)), "bias": jnp.asarray(bias)}
        for name, kernel in graph.kernels.items()
        for bias in (graph.biases[name],)
    }
    model = Chain(steps=graph.plan)
    run = backend.jit(lambda params, x: model.apply({"params": params}, x))
    x = jnp.asarray(images)
    return lambda: jax.block_until_ready(run(params, x))


RUNNERS = {"numpy": _numpy, "xla": _xla}
