"""Help in choosing the threshold of log alpha: what each one costs, and what it leaves.

For any trained net with noise on its weights: the histogram of log alpha, accuracy and
sparsity against the threshold on images that are not the test set, and the weights as
pictures. The published threshold is 3, where the histogram of sparse variational
dropout has its gap (Molchanov, Ashukha and Vetrov 2017).
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jax import random

from experiments.build import ConfigError
from experiments.core import Net, restore
from vnets import checkpoint, edits, evaluate, metrics
from vnets.data import Split
from vnets.edits import path_name
from vnets.posteriors import is_noisy, is_posterior, log_alpha

THRESHOLDS = tuple(np.arange(-4.0, 10.5, 0.5))
IMAGES = 5000


@dataclasses.dataclass(frozen=True)
class Layer:
    """A noisy layer: its name, means and log alpha, both [..., I, O]."""

    name: str
    mean: np.ndarray
    log_alpha: np.ndarray


@dataclasses.dataclass(frozen=True)
class Choice:
    """What was found.

    Attributes:
      layers: the noisy ones.
      rows: one for each threshold: threshold, accuracy, and `metrics.sizes`.
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


def layers_of(params) -> list[Layer]:
    """The noisy layers whose log alpha is finite somewhere.

    Raises:
      ConfigError: there is none: nothing to choose a threshold for.
    """
    found = []
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=is_posterior)
    for path, node in leaves:
        if is_posterior(node) and is_noisy(node):
            value = np.asarray(log_alpha(node))
            if np.isfinite(value).any():
                mean = np.asarray(edits.mean_of(node).mean)
                found.append(Layer(path_name(path), mean, value))
    if not found:
        raise ConfigError(
            "no layer of this net has a log alpha between its extremes: a threshold "
            "keeps or removes all of it (points, variance layers, fixed dropout)"
        )
    return found


def choose(
    net: Net,
    split: Split,
    images: str,
    tolerance: float = 0.001,
    thresholds: Sequence[float] = THRESHOLDS,
) -> Choice:
    """Prunes at each threshold and tests without noise.

    Args:
      net: trained.
      split: to test on; not the test set.
      images: says what they are.
      tolerance: accuracy (0 to 1) that pruning may cost.
      thresholds: of log alpha.

    Raises:
      ConfigError: no layer with a log alpha, or a tolerance below 0.
    """
    if tolerance < 0:
        raise ConfigError(f"the accuracy to give up must be at least 0: {tolerance}")
    layers = layers_of(net.params)
    variables = {"params": net.params, **net.collections}

    def accuracy(threshold: float) -> float:
        edit = edits.chain(edits.prune(threshold), edits.mean_only)
        spec = evaluate.EvalSpec(edit)
        tested = evaluate.evaluate(net.model, variables, split, spec, random.key(0))
        return tested["accuracy"]

    unpruned = accuracy(float("inf"))
    rows = [
        {
            "threshold": float(threshold),
            "accuracy": accuracy(threshold),
            **metrics.sizes(edits.prune(threshold)(net.params)),
        }
        for threshold in thresholds
    ]
    fine = [row for row in rows if row["accuracy"] >= unpruned - tolerance]
    chosen = min(fine, key=lambda row: row["threshold"]) if fine else None
    return Choice(layers, rows, unpruned, chosen, images)


def choose_for(folder: Path, tolerance: float = 0.001) -> Choice:
    """`choose` for a workdir, on its validation split, or else on training images."""
    _, experiment, net = restore(folder)
    dataset = experiment.dataset
    assert dataset is not None  # a net of `restore` was trained on one
    if dataset.validation is not None:
        split = dataset.validation
        return choose(net, split, f"{len(split)} validation images", tolerance)
    count = min(IMAGES, len(dataset.train))
    split = Split(dataset.train.image[:count], dataset.train.label[:count])
    images = (
        f"{count} training images: this run kept no validation split "
        "(config.dataset.validation)"
    )
    return choose(net, split, images, tolerance)


def over_training(folder: Path) -> list[tuple[int, list[Layer]]]:
    """The noisy layers at every checkpoint that the run kept, by epoch.

    Raises:
      ConfigError: fewer than two were kept.
    """
    _, experiment, _ = restore(folder)
    like = jax.eval_shape(experiment.task.start, random.key(0))
    kept = checkpoint.every(folder / "checkpoints", like)
    frames = [(epoch, layers_of(state.params)) for epoch, state in kept]
    if len(frames) < 2:
        raise ConfigError(
            f"{folder} kept {len(frames)} checkpoint(s), an animation needs two or "
            "more: train with --keep_every=N"
        )
    return frames
