"""The same function with fewer units: normalization folded away, dead units cut out."""

import dataclasses
import itertools

import numpy as np

from vnets.compact import sequence_cuts
from vnets.compact.graph import Graph, biased, without_flatten
from vnets.compact.operations import activated
from vnets.plan import (
    Conv,
    Dense,
    Linear,
    MaxPool,
    Norm,
    Plan,
    Residual,
    Step,
    WindowMaxPool,
    every,
    pairs,
)


def fold_norms(graph: Graph) -> Graph:
    """Moves each batch normalization into the layer before it, else the one after it.

    Max pooling between the two does not matter where no slope is negative: the maximum
    of the scaled is the scaled maximum. Scales of states move into what reads them.

    Raises:
      ValueError: a normalization with no linear layer beside it, or one before a
        convolution whose padding it does not see.
    """
    kernels, biases = dict(graph.kernels), dict(graph.biases)
    noise = dict(graph.deviations)
    sequence_cuts.fold_scales(graph.plan, graph.norms, kernels, noise.keys())
    plan = _without_norms(graph.plan, graph.norms, kernels, biases, noise)
    return Graph(plan, graph.shape, kernels, biases, deviations=noise)


def _without_norms(plan: Plan, norms, kernels, biases, noise) -> Plan:
    """A chain whose normalizations have moved into these arrays."""
    steps = without_flatten(plan)
    folded: list[Step] = []
    for step, after in itertools.zip_longest(steps, steps[1:]):
        if not isinstance(step, Norm):
            folded.append(step)
            continue
        norm = norms[step.name]
        before = _before_pooling(folded) if (norm.slope >= 0).all() else folded[-1:]
        before = before[-1] if before else None
        units = norm.slope.size  # more than the layer's where its maps are flattened
        if isinstance(before, Linear) and biases[before.name].size == units:
            name = before.name
            kernels[name] = _float32(kernels[name] * norm.slope)
            biases[name] = _float32(biases[name] * norm.slope + norm.shift)
            if name in noise:
                noise[name] = _float32(noise[name] * np.abs(norm.slope))
        elif isinstance(after, Conv | Dense) and after.name in noise:
            raise ValueError(
                f"{step.name!r} cannot be folded into the noise of {after.name!r}"
            )
        elif isinstance(after, Conv | Dense) and not _pads(after):
            name = after.name
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
    return tuple(
        Residual(
            _without_norms(step.body, norms, kernels, biases, noise),
            _without_norms(step.shortcut, norms, kernels, biases, noise),
        )
        if isinstance(step, Residual)
        else biased(step)
        for step in plan
        if not isinstance(step, Norm)
    )


def _before_pooling(steps: list[Step]) -> list[Step]:
    """The steps without the max pooling at their end."""
    while steps and isinstance(steps[-1], MaxPool | WindowMaxPool):
        steps = steps[:-1]
    return steps


def shrink(graph: Graph) -> Graph:
    """Cuts out the units that do nothing, until none is left.

    A unit whose incoming weights are all zero is a constant; what it sends on moves
    into the biases of the next layer. (Into a convolution with padding only a zero is
    moved: at the border the constant ends.) A unit whose outgoing weights are all zero
    is dropped. The function stays the same up to the rounding of those biases, and so
    do inputs and outputs; a layer of dead units keeps one. What a `Residual` step adds
    keeps its units too, since both sides and all that follows share them: of its layers
    those are cut that another layer of the same side reads. So do the units that a
    standardize step has constants of, and those that meet one another in a layer
    normalization, or alone in a depthwise convolution. `sequence_cuts` cuts states and
    heads.

    Raises:
      ValueError: a normalization; `fold_norms` comes first.
    """
    if graph.norms or any(isinstance(step, Norm) for step in every(graph.plan)):
        raise ValueError("fold the normalization before shrinking")
    kernels, biases = dict(graph.kernels), dict(graph.biases)
    noise = dict(graph.deviations)
    following, plan = list(pairs(graph.plan)), graph.plan
    while True:
        widths = [bias.size for bias in biases.values()]
        for this, after, kinds in following:
            _fold_constants(kernels, biases, noise, this, after, kinds)
            _drop_unused(kernels, biases, noise, this.name, after.name)
        plan = sequence_cuts.cut(plan, kernels, biases, noise.keys())
        if widths == [bias.size for bias in biases.values()]:
            break
    shrunk = Graph(plan, graph.shape, kernels, biases, deviations=noise)
    return shrunk.with_own_widths()


def by_weights(graph: Graph) -> Graph:
    """The same function, the units of each layer in falling order of their weights.

    A file's gaps between weights are then more alike where they follow one another. Of
    units that cannot be cut (`shrink`) the order stays.
    """
    kernels, biases = dict(graph.kernels), dict(graph.biases)
    noise = dict(graph.deviations)
    for this, after, _ in pairs(graph.plan):
        units = biases[this.name].size
        into = _by_unit(_weighs(kernels, noise, after.name), units)
        out = _weighs(kernels, noise, this.name).reshape(-1, units)
        order = np.argsort(-(into.sum(axis=(0, 2)) + out.sum(axis=0)), kind="stable")
        _choose(kernels, biases, noise, this.name, after.name, order)
    return dataclasses.replace(graph, kernels=kernels, biases=biases, deviations=noise)


def _fold_constants(kernels, biases, noise, this, after, kinds) -> None:
    """Moves what constant units send on into the next layer's bias; cuts them off."""
    weighs = _weighs(kernels, noise, this.name)
    constant = ~np.any(weighs, axis=tuple(range(weighs.ndim - 1)))
    sent = biases[this.name].astype(np.float64)
    for kind in kinds:
        sent = activated(kind, sent)
    if _pads(after):
        constant &= sent == 0
    if after.name in noise:  # what a constant meets there varies
        varies = np.any(_by_unit(noise[after.name], sent.size), axis=(0, 2))
        constant &= (sent == 0) | ~varies
    if not constant.any():
        return
    by_unit = _by_unit(kernels[after.name], sent.size).copy()
    moved = np.einsum(
        "tio,i->o", by_unit[:, constant], sent[constant], dtype=np.float64
    )
    by_unit[:, constant] = 0
    biases[after.name] = _float32(biases[after.name] + moved)
    kernels[after.name] = by_unit.reshape(kernels[after.name].shape)
    if after.name in noise:
        by_unit = _by_unit(noise[after.name], sent.size).copy()
        by_unit[:, constant] = 0
        noise[after.name] = by_unit.reshape(noise[after.name].shape)


def _weighs(kernels, noise, name: str) -> np.ndarray:
    """Which weights of a layer are not zero."""
    return (kernels[name] != 0) | (noise.get(name, 0) != 0)


def _drop_unused(kernels, biases, noise, this: str, after: str) -> None:
    """Removes units with no outgoing weight; if all are such one stays, as a zero."""
    units = biases[this].size
    used = np.any(_by_unit(_weighs(kernels, noise, after), units), axis=(0, 2))
    silent = not used.any()
    used[0] |= silent
    _choose(kernels, biases, noise, this, after, used)
    if silent:
        for arrays in (kernels, biases, noise):
            if this in arrays:
                arrays[this] = np.zeros_like(arrays[this])


def _choose(kernels, biases, noise, this: str, after: str, chosen: np.ndarray) -> None:
    """Some units of a layer, or in another order, and what another has for them."""
    units = biases[this].size
    biases[this] = biases[this][chosen]
    for arrays in (kernels, noise):
        if this in arrays:
            arrays[this] = arrays[this][..., chosen]
        if after in arrays:
            kept, shape = _by_unit(arrays[after], units)[:, chosen], arrays[after].shape
            inputs = shape[-2] // units * kept.shape[1]
            arrays[after] = kept.reshape((*shape[:-2], inputs, shape[-1]))


def _by_unit(kernel: np.ndarray, units: int) -> np.ndarray:
    """A kernel as [places, units, O]: the taps of a convolution, or the positions of a
    map in a flattened input."""
    return kernel.reshape(-1, units, kernel.shape[-1])


def _pads(step: Step) -> bool:
    return isinstance(step, Conv) and step.padding != "VALID" and step.kernel != (1, 1)


def _float32(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float32)
