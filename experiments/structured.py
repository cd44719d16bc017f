"""What is left of a net whose units were pruned: units, arithmetic, and its latency.

Structured Bayesian pruning (Neklyudov et al. 2017), Bayesian compression (Louizos et
al. 2017) and group ARD say which units to cut; here the nets are cut and measured, as a
part of `sparsity`, and as a study of trained nets: the error and the time of the net
before and after it is cut, by the same code on the same machine.
"""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments import build as parts
from experiments.bench import timing
from experiments.core import Measured, Net, NetSpec, Study, load_data
from vnets import backend, data, edits, plan
from vnets.compact import Graph, Predictor, capture, fold_norms, shrink
from vnets.evaluate import EvalSpec, evaluate
from vnets.nets.chain import Chain
from vnets.posteriors import Point, Scaled, is_noisy
from vnets.rng import stream
from vnets.types import Key, Params

WARM_UP = 3  # rounds of timing that do not count
CUTS = {"units": edits.prune_units, "weights": edits.prune}


def build(config) -> Study:
    """The study of a config; see `configs/structured_speed.py` for its fields."""
    for field in ("batch_size", "rounds"):
        parts.positive(f"latency.{field}", config.latency[field])
    parts.positive("evals.batch_size", config.evals.batch_size)
    change = edits.chain(pruning(config), edits.mean_only)
    dataset = load_data(config.dataset)
    test = dataset.validation or dataset.test
    measure = functools.partial(_measure, config, change, test)
    return Study({"net": NetSpec(config.nets.net.run)}, measure, dataset)


def pruning(config) -> edits.Edit:
    """What goes before a net is made smaller: units above the threshold `cut.units`,
    weights above `cut.weights`, or both.

    A threshold is a number, or a mapping with one for each noisy layer.

    Raises:
      ConfigError: none of the two, or something else.
    """
    cut = {
        kind: value.to_dict() if isinstance(value, ConfigDict) else value
        for kind, value in config.cut.items()
    }
    if not cut or not set(cut) <= set(CUTS):
        raise parts.ConfigError(
            f"cut must have a threshold of units, of weights or of both: a number, or "
            f"one for each layer; it has {sorted(cut)}"
        )
    return edits.chain(*(CUTS[kind](cut[kind]) for kind in CUTS if kind in cut))


def check_cut(config, params: Params) -> None:
    """Refuses a cut that does not fit the posteriors of a net.

    Args:
      config: with a field `cut`, as `pruning` takes it.
      params: of the net, or their shapes.

    Raises:
      ConfigError: thresholds of other layers than the noisy ones; a threshold of
        weights in a net whose weights have no noise of their own.
    """
    change = pruning(config)
    parts.call("evals.cut", lambda: jax.eval_shape(change, params), {})
    noisy = edits.noisy_layers(params).values()
    weights = [node.weight if isinstance(node, Scaled) else node for node in noisy]
    if "weights" in config.cut and not any(map(is_noisy, weights)):
        raise parts.ConfigError(
            "config.evals.cut.weights: no weight of this net has noise of its own; "
            "choose units"
        )


def smaller(model, variables: Mapping, shape: tuple[int, ...]) -> Graph:
    """The same function without the units that do nothing, as arrays.

    Args:
      model: of `vnets.nets`.
      variables: "params" after whatever edit, and the model's other collections.
      shape: of one example.
    """
    return shrink(fold_norms(capture(model, variables, shape)))


def left(model, variables: Mapping, shape: tuple[int, ...]) -> dict[str, float]:
    """How much of a net is in use, from the zeros of its weights.

    Returns:
      units/<layer>: maps of a convolution, inputs of a dense layer, as both papers give
      architectures; flops, the multiply-adds of an example that are left, and
      flops_ratio, all of the net's over these.
    """
    small = smaller(model, variables, shape)
    full = sum(cost.multiply_adds for cost in plan.costs(model.plan, shape).values())
    flops = sum(cost.multiply_adds for cost in live_costs(model, small).values())
    units = {}
    for name, kernel in small.kernels.items():
        inputs, outputs = _live(kernel)
        units[f"units/{name}"] = float(inputs if kernel.ndim == 2 else outputs)
    return {"flops": float(flops), "flops_ratio": full / max(flops, 1), **units}


def live_costs(model, small: Graph) -> dict[str, plan.Cost]:
    """What each layer of a net costs if only the units of the smaller one are there."""
    live = {name: _live(kernel) for name, kernel in small.kernels.items()}
    return plan.costs(model.plan, small.shape, live)


def _live(kernel: np.ndarray) -> tuple[int, int]:
    """Input and output units with a nonzero weight."""
    used = np.any(kernel.reshape(-1, *kernel.shape[-2:]), axis=0)
    return int(used.any(axis=1).sum()), int(used.any(axis=0).sum())


def _measure(
    config, change: edits.Edit, test: data.Split, nets: dict[str, list[Net]], key: Key
) -> Measured:
    """Error, size and time of the net without noise, before and after the cut."""
    [net] = nets["net"]
    shape = test.image.shape[1:]
    evals, graphs = {}, {}
    for name, one in {"full": edits.mean_only, "cut": change}.items():
        variables = {"params": one(net.params, None), **net.collections}
        measured = evaluate(
            net.model,
            variables,
            test,
            EvalSpec(),
            stream(key, name),
            batch_size=config.evals.batch_size,
        )
        size = left(net.model, variables, shape)
        evals[name] = {"error": 1.0 - measured["accuracy"], **size}
        graphs[name] = fold_norms(capture(net.model, variables, shape))
    graphs["cut"] = shrink(graphs["cut"])
    images = test.image[: config.latency.batch_size].astype(np.float32) / 255
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
