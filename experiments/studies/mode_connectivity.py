"""The loss on paths between nets: are the minima of a loss one connected set?

A path is a `vnets.curves.Curve`; its barrier is by how much the training loss on it is
above that at the worse of its ends. Paths are straight lines and trained curves between
two seeds, or between a net and the same function with its hidden units in another order
(`vnets.permutations`), and the line along which the means of a noisy layer go to zero.

Sources: Garipov et al. 2018 (curves); Ainsworth, Hayase and Srinivasa 2023 (units in
the order that fits).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments import datasets, ranges
from experiments import spec as parts
from experiments.config_files import load_config
from experiments.core import Measured, Net, NetSpec, Study
from experiments.kinds.connect import ENDS
from vnets import curves, data, edits, permutations
from vnets.evaluate import score
from vnets.nodes import around
from vnets.predictor import Member, Predictor
from vnets.rng import stream
from vnets.types import Key, Params

FIELDS = ("dataset", "nets.net", "path", "points", "samples", "batch_size")
FIELDS += ("kept",)  # of "without_means": which of the nets of a run


def build(config) -> Study:
    """The study of a config; see `configs/mode_connectivity.py` for its fields.

    Raises:
      ConfigError: a path that does not exist, or a value that does not fit.
    """
    make = parts.pick("path", config.path, PATHS)
    if config.points < 3:
        raise parts.ConfigError(
            f"config.points must be at least 3, not {config.points}: both ends and a "
            "place between"
        )
    spec = parts.call("nets.net", NetSpec, config.nets.net)
    dataset = datasets.load(config)
    return Study(
        {"net": spec}, functools.partial(_measure, config, dataset, make), dataset
    )


def _line(config, nets: list[Net], key: Key) -> curves.Curve:
    """Straight from one net to another."""
    del config, key
    one, other = nets
    return curves.between(one.params, other.params, "line")


def _shuffled(config, nets: list[Net], key: Key) -> curves.Curve:
    """Straight from a net to itself with its units in another order."""
    del config
    [net] = nets
    copy = permutations.shuffled(net.params, net.model.plan, stream(key, "units"))
    return curves.between(net.params, copy, "line")


def _matched(config, nets: list[Net], key: Key) -> curves.Curve:
    """Straight to the other net, its units in the order that fits the first."""
    del config, key
    one, other = nets
    end = permutations.matched(one.params, other.params, one.model.plan)
    return curves.between(one.params, end, "line")


def _trained(config, nets: list[Net], key: Key) -> curves.Curve:
    """What a run of `kinds.connect` found."""
    del key
    [net] = nets
    run = load_config(f"{config.nets.net.run},{config.scale}")
    ends = net.collections[ENDS]
    return curves.Curve(ends["start"], net.params, ends["end"], run.connect.kind)


def _without_means(config, nets: list[Net], key: Key) -> curves.Curve:
    """Noisy weights as their means go to zero and their variances stay."""
    del key
    [net] = nets
    kept = jax.tree.map(lambda a: a[config.kept], net.collected)["params"]

    def noise_around(share: float) -> Params:
        def change(node, key):
            del key
            mean, std = node.location_scale()
            return around(share * mean, std, node.noise)

        return edits.edit(change)(kept)

    return curves.between(noise_around(1.0), noise_around(0.0), "line")


PATHS: dict[str, Callable[..., curves.Curve]] = {
    "line": _line,
    "shuffled": _shuffled,
    "matched": _matched,
    "trained": _trained,
    "without_means": _without_means,
}


def _measure(config, dataset: data.Dataset, make, nets, key: Key) -> Measured:
    """The losses along a path, what its ends are, and the mean of nets on it."""
    ranges.COUNT.check("config.samples", config.samples)
    curve = make(config, nets["net"], stream(key, "path"))
    net = nets["net"][0]
    samples = config.samples if net.noisy else 1

    def tested(split: data.Split, params: Params, **options) -> dict[str, float]:
        nets = Predictor(Member(net.model, {"params": params}), **options)
        return score(
            nets,
            split,
            stream(key, "test"),  # one key: places differ by their weights alone
            batch_size=config.batch_size,
            prepare=datasets.prepare_of(split),
        )

    test = dataset.validation or dataset.test
    places = np.linspace(0.0, 1.0, config.points)
    on_path = {"train": [], "test": []}
    for t in places:
        params = curve.at(float(t))
        for name, split in {"train": dataset.train, "test": test}.items():
            on_path[name].append(tested(split, params, samples=samples))
    loss, test_loss = (_of(on_path[name], "nll") for name in ("train", "test"))
    error = 1 - _of(on_path["test"], "accuracy")
    several = tested(test, curve, draw=curves.draw, samples=config.samples)

    def ends(values: np.ndarray) -> np.ndarray:
        return values[[0, -1]]

    evals = {
        "path": {
            "barrier": loss.max() - ends(loss).max(),
            "rise": loss.max() - loss[0],
            "error": error.max(),
            "similarity": permutations.similarity(curve.start, curve.end),
        },
        "ends": {
            "loss": ends(loss).max(),
            "error": ends(error).max(),
            "nll": ends(test_loss).mean(),
            "difference": _difference(net.model, curve, test),
        },
        "curve": {"nll": several["nll"], "error": 1 - several["accuracy"]},
    }
    lines = {"t": places, "loss": loss, "test_loss": test_loss, "error": error}
    return Measured(
        {name: {k: float(v) for k, v in one.items()} for name, one in evals.items()},
        {"path": {name: values.tolist() for name, values in lines.items()}},
    )


def _of(measured: list[dict[str, float]], name: str) -> np.ndarray:
    return np.array([one[name] for one in measured])


def _difference(model, curve: curves.Curve, split: data.Split, inputs: int = 100):
    """The largest between outputs of the ends, noise off, on the first inputs."""
    x = datasets.prepare_of(split)(jnp.asarray(split.inputs[:inputs]))
    start, end = (
        model.apply({"params": edits.mean_only(net)}, x)
        for net in (curve.start, curve.end)
    )
    return jnp.max(jnp.abs(start - end))
