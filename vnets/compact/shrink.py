"""The same function with fewer units: normalization folded away, dead units cut out."""

import dataclasses

import numpy as np

from vnets.compact.graph import Graph, without_flatten
from vnets.plan import Activation, Conv, Dense, Norm, Standardize, Step


def fold_norms(graph: Graph) -> Graph:
    """Moves each normalization into the linear layer before it, else the one after it.

    Raises:
      ValueError: a normalization with no linear layer beside it, or one before a
        convolution whose padding it does not see.
    """
    kernels, biases = dict(graph.kernels), dict(graph.biases)
    steps = without_flatten(graph.plan)
    folded: list[Step] = []
    for step, after in zip(steps, (*steps[1:], None), strict=True):
        if not isinstance(step, Norm):
            folded.append(step)
            continue
        norm = graph.norms[step.name]
        before = folded[-1] if folded else None
        if isinstance(before, Conv | Dense):
            name = before.name
            kernels[name] = _float32(kernels[name] * norm.slope)
            biases[name] = _float32(biases[name] * norm.slope + norm.shift)
        elif isinstance(after, Conv | Dense) and not _pads(after):
            name, units = after.name, norm.slope.size
            by_unit = _by_unit(kernels[name], units)
            passed = np.einsum("tio,i->o", by_unit, norm.shift, dtype=np.float64)
            scaled = by_unit * norm.slope[:, None]
            kernels[name] = _float32(scaled.reshape(kernels[name].shape))
            biases[name] = _float32(biases[name] + passed)
        else:
            raise ValueError(
                f"{step.name!r} stands beside no linear layer that it can be folded "
                "into (a convolution with padding after it cannot take it)"
            )
    plan = tuple(_biased(s) for s in graph.plan if not isinstance(s, Norm))
    return Graph(plan, graph.shape, kernels, biases)


def shrink(graph: Graph) -> Graph:
    """Cuts out the units that do nothing, until none is left.

    A unit whose incoming weights are all zero is a constant; what it sends on moves
    into the biases of the next layer. (Into a convolution with padding only a zero is
    moved: at the border the constant ends.) A unit whose outgoing weights are all zero
    is dropped. The function stays the same up to the rounding of those biases, and so
    do inputs and outputs; a layer of dead units keeps one.

    Raises:
      ValueError: a normalization; `fold_norms` comes first. Or a standardize step that
        is not of the inputs: its constants belong to units that may go.
    """
    if any(isinstance(step, Norm) for step in graph.plan):
        raise ValueError("fold the normalization before shrinking")
    kinds = [type(step) for step in without_flatten(graph.plan)]
    if (
        Standardize
        in kinds[next(i for i, k in enumerate(kinds) if k in (Conv, Dense)) :]
    ):
        raise ValueError("a standardize step after a linear layer has no compact form")
    kernels, biases = dict(graph.kernels), dict(graph.biases)
    names = [step.name for step in graph.plan if isinstance(step, Conv | Dense)]
    while True:
        widths = [biases[name].size for name in names]
        for this, after, kinds in _pairs(graph):
            _fold_constants(kernels, biases, this, after, kinds)
            _drop_unused(kernels, biases, this.name, after.name)
        if widths == [biases[name].size for name in names]:
            break
    return Graph(graph.plan, graph.shape, kernels, biases).with_own_widths()


def _pairs(graph: Graph):
    """Each linear layer with the next one and the activations between them."""
    this, kinds = None, ()
    for step in graph.plan:
        if isinstance(step, Activation):
            kinds = (*kinds, step.kind)
        elif isinstance(step, Conv | Dense):
            if this is not None:
                yield this, step, kinds
            this, kinds = step, ()


def _fold_constants(kernels, biases, this, after, kinds) -> None:
    """Moves what constant units send on into the next layer's bias; cuts them off."""
    constant = ~np.any(
        kernels[this.name], axis=tuple(range(kernels[this.name].ndim - 1))
    )
    sent = biases[this.name].astype(np.float64)
    for kind in kinds:
        sent = activated(kind, sent)
    if _pads(after):
        constant &= sent == 0
    if not constant.any():
        return
    by_unit = _by_unit(kernels[after.name], sent.size).copy()
    moved = np.einsum(
        "tio,i->o", by_unit[:, constant], sent[constant], dtype=np.float64
    )
    by_unit[:, constant] = 0
    biases[after.name] = _float32(biases[after.name] + moved)
    kernels[after.name] = by_unit.reshape(kernels[after.name].shape)


def _drop_unused(kernels, biases, this: str, after: str) -> None:
    """Removes units with no outgoing weight; if all are such one stays, as a zero."""
    units = biases[this].size
    by_unit = _by_unit(kernels[after], units)
    used = np.any(by_unit, axis=(0, 2))
    silent = not used.any()
    used[0] |= silent
    kernels[this] = kernels[this][..., used] * np.float32(not silent)
    biases[this] = biases[this][used] * np.float32(not silent)
    kept, shape = by_unit[:, used], kernels[after].shape
    inputs = shape[-2] // units * kept.shape[1]
    kernels[after] = kept.reshape((*shape[:-2], inputs, shape[-1]))


def activated(kind: str, x: np.ndarray) -> np.ndarray:
    """An activation of `plan.ACTIVATIONS`, elementwise."""
    if kind == "relu":
        return np.maximum(x, 0)
    if kind == "leaky_relu":
        return np.where(x >= 0, x, x * x.dtype.type(0.01))
    if kind == "softplus":
        return np.logaddexp(x, x.dtype.type(0))
    return {"tanh": np.tanh, "abs": np.abs}[kind](x)


def _by_unit(kernel: np.ndarray, units: int) -> np.ndarray:
    """A kernel as [places, units, O]: the taps of a convolution, or the positions of a
    map in a flattened input."""
    return kernel.reshape(-1, units, kernel.shape[-1])


def _pads(step: Step) -> bool:
    return isinstance(step, Conv) and step.padding != "VALID" and step.kernel != (1, 1)


def _biased(step: Step) -> Step:
    linear = isinstance(step, Conv | Dense)
    return dataclasses.replace(step, bias=True) if linear else step


def _float32(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float32)
