"""Magnitude pruning of a graph: the smallest weights go."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from vnets.compact.graph import Graph
from vnets.plan import linear_layers
from vnets.types import choose


def pruned(graph: Graph, share: float | Mapping[str, float]) -> Graph:
    """The graph without the smallest weights, by their size.

    Args:
      graph: without batch normalization, whose slopes are sizes, too (`fold_norms`).
      share: of the weights of all layers together that go; or of each layer that is
        named, the others keep theirs. Biases and layer normalizations stay.

    Raises:
      ValueError: a share that is not 0 to below 1, another layer, or a graph that is
        normalized still.
    """
    if graph.norms:
        raise ValueError("fold the normalization before pruning")
    layers = linear_layers(graph.plan)
    given = share if isinstance(share, Mapping) else {"all layers": share}
    for name, one in given.items():
        if isinstance(share, Mapping):
            choose("layer", name, layers)
        if not 0 <= one < 1:
            raise ValueError(f"the share of {name} is 0 to below 1, not {one}")
    sizes = {name: np.abs(graph.kernels[name]) for name in layers}
    if isinstance(share, Mapping):
        bounds = {name: _bound(sizes[name].ravel(), one) for name, one in share.items()}
    else:
        every = np.concatenate([one.ravel() for one in sizes.values()])
        bounds = dict.fromkeys(layers, _bound(every, share))
    kept = {
        name: np.where(sizes[name] > bound, graph.kernels[name], np.float32(0))
        for name, bound in bounds.items()
    }
    return dataclasses.replace(graph, kernels=dict(graph.kernels) | kept)


def _bound(sizes: np.ndarray, share: float) -> float:
    """The size up to which weights go."""
    count = round(share * sizes.size)
    return float(np.partition(sizes, count - 1)[count - 1]) if count else -1.0
