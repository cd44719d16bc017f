"""Help in choosing the threshold of log alpha: what each one costs, and what it leaves.

For any trained net with noise on its weights or units: the histogram of log alpha,
accuracy and sparsity against the threshold on images that are not the test set, and the
weights as pictures. Nets whose config cuts units, or whose weights have no noise but
that of their units, are cut by units, at one threshold for all layers. The published
threshold of weights is 3, where the histogram of sparse variational dropout has its gap
(Molchanov, Ashukha and Vetrov 2017).
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jax import random

from experiments import cuts
from experiments.core import Net
from experiments.running import restore
from experiments.spec import ConfigError, call, pick
from vnets import checkpoint, edits, evaluate, overview
from vnets.data import Split, Stream
from vnets.nodes import log_alpha

THRESHOLDS = tuple(np.arange(-4.0, 10.5, 0.5))
IMAGES = 5000
STREAMED = 1000  # of pictures that are large and decoded one by one


@dataclasses.dataclass(frozen=True)
class Layer:
    """A noisy layer.

    Attributes:
      name: its path.
      mean: of the weights, [..., I, O].
      log_alpha: of the weights, [..., I, O]; where units are cut, what decides of the
        unit that a weight belongs to (`nodes.Posterior.uselessness`).
      kind: what is cut, "weights" or "units".
    """

    name: str
    mean: np.ndarray
    log_alpha: np.ndarray
    kind: str = "weights"

    @property
    def axis(self) -> str:
        """What `log_alpha` is, for a figure."""
        return "log alpha" if self.kind == "weights" else "uselessness of the unit"


@dataclasses.dataclass(frozen=True)
class Choice:
    """What was found.

    Attributes:
      layers: the noisy ones.
      rows: one for each threshold: threshold, accuracy, and `overview.sizes`.
      unpruned: accuracy with the noise off and nothing pruned.
      chosen: the row of the lowest threshold that costs no more than was allowed; None
        if they all do.
      images: how many, and where from.
    """

    layers: list[Layer]
    rows: list[dict[str, float]]
    unpruned: float
    chosen: dict[str, float] | None
    images: str


MEASURES = {"weights": log_alpha, "units": lambda node: node.uselessness()}


def layers_of(params, kind: str = "weights", order: Sequence[str] = ()) -> list[Layer]:
    """The noisy layers whose log alpha is finite somewhere.

    Args:
      params: of the net.
      kind: what is cut, "weights" or "units".
      order: names of the layers as they are executed, where known.

    Raises:
      ConfigError: there is none: nothing to choose a threshold for.
    """
    found = _measured(params, kind)
    if not found:
        raise ConfigError(
            f"no layer of this net has {kind} with a log alpha between its extremes: a "
            "threshold keeps or removes all of it (points, variance layers, dropout of "
            "a fixed rate)"
        )
    places = {name: place for place, name in enumerate(order)}
    return sorted(found, key=lambda layer: places.get(layer.name, len(places)))


def _order(net: Net) -> Sequence[str]:
    """The net's layers as they are executed; none if it does not say."""
    return getattr(net.model, "layers", ())


def _measured(params, kind: str) -> list[Layer]:
    """`layers_of`, which may be none."""
    found = []
    for name, node in edits.noisy_layers(params).items():
        if kind == "units" and not node.has_units:
            continue
        value = np.broadcast_to(np.asarray(MEASURES[kind](node)), node.shape)
        if np.isfinite(value).any():
            mean = np.asarray(edits.mean_of(node).mean)
            found.append(Layer(name, mean, value, kind))
    return found


def kind_of(config, params) -> str:
    """What a net is cut by: units where its run's config cuts any, or where only they
    have a log alpha (dropout whose rate is learned), else weights.
    """
    if "units" in config.evals.get("cut", {}):
        return "units"
    only_units = not _measured(params, "weights") and _measured(params, "units")
    return "units" if only_units else "weights"


def choose(
    net: Net,
    split: Split,
    images: str,
    tolerance: float = 0.001,
    thresholds: Sequence[float] = THRESHOLDS,
    kind: str = "weights",
) -> Choice:
    """Prunes at each threshold and tests without noise.

    Args:
      net: trained.
      split: to test on; not the test set.
      images: says what they are.
      tolerance: accuracy (0 to 1) that pruning may cost.
      thresholds: of log alpha.
      kind: what is cut, "weights" or "units".

    Raises:
      ConfigError: no layer with a log alpha, one that cannot be cut so, a tolerance
        below 0, or something else to cut.
    """
    pick("kind", kind, MEASURES)
    if tolerance < 0:
        raise ConfigError(f"the accuracy to give up must be at least 0: {tolerance}")
    prune = cuts.CUTS[kind]
    layers = layers_of(net.params, kind, _order(net))
    variables = {"params": net.params, **net.collections}
    call("model.posteriors", lambda: jax.eval_shape(prune(0.0), net.params), {})

    def accuracy(threshold: float) -> float:
        edit = edits.chain(prune(threshold), edits.mean_only)
        spec = evaluate.EvalSpec(edit)
        tested = evaluate.evaluate(net.model, variables, split, spec, random.key(0))
        return tested["accuracy"]

    unpruned = accuracy(float("inf"))
    rows = [
        {
            "threshold": float(threshold),
            "accuracy": accuracy(threshold),
            **overview.sizes(prune(threshold)(net.params)),
        }
        for threshold in thresholds
    ]
    fine = [row for row in rows if row["accuracy"] >= unpruned - tolerance]
    chosen = min(fine, key=lambda row: row["threshold"]) if fine else None
    return Choice(layers, rows, unpruned, chosen, images)


def choose_for(folder: Path, tolerance: float = 0.001) -> Choice:
    """`choose` for a workdir, on its validation split, or else on training images.

    Raises:
      ConfigError: as `choose`, or a run whose data are made on the fly.
    """
    config, experiment, net = restore(folder)
    dataset, kind = experiment.dataset, kind_of(config, net.params)
    if dataset is None:
        raise ConfigError(
            f"{folder}: only nets with a data set are tested at each threshold; this "
            "run's data are made on the fly"
        )
    if dataset.validation is not None:
        split = dataset.validation
        images = f"{len(split)} validation images"
        return choose(net, split, images, tolerance, kind=kind)
    split = _first(dataset.train)
    images = (
        f"{len(split)} training images: this run kept no validation split "
        "(config.dataset.validation)"
    )
    return choose(net, split, images, tolerance, kind=kind)


def _first(split: Split | Stream) -> Split:
    """The first images of a split, those of a stream cut as for a test."""
    if isinstance(split, Stream):
        few = dataclasses.replace(split, count=min(STREAMED, len(split)))
        [batch] = few.test_batches(len(few))
        return Split(batch["input"], batch["target"])
    return Split(split.inputs[:IMAGES], split.target[:IMAGES])


def over_training(folder: Path) -> list[tuple[int, list[Layer]]]:
    """The noisy layers at every checkpoint that the run kept, by epoch.

    Raises:
      ConfigError: fewer than two were kept.
    """
    config, experiment, net = restore(folder)
    like = jax.eval_shape(experiment.task.start, random.key(0))
    kept = checkpoint.every(folder / "checkpoints", like)
    kind = kind_of(config, net.params)
    frames = [
        (epoch, layers_of(state.params, kind, _order(net))) for epoch, state in kept
    ]
    if len(frames) < 2:
        raise ConfigError(
            f"{folder} kept {len(frames)} checkpoint(s), an animation needs two or "
            "more: train with --keep_every=N"
        )
    return frames
