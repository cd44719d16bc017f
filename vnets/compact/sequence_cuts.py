"""Folding and cutting in nets that read sequences; `shrink` says what for.

Dead words need no cut: a kernel of an embedding keeps its rows, and a file and a
predictor hold those that have a weight (`sequence_files`). Constant gates need none:
they are columns without weights (`sequences`).
"""

import dataclasses
from collections.abc import Iterator, Mapping, Set

import numpy as np

from vnets.compact.operations import activated
from vnets.plan import (
    Activation,
    CustomStep,
    Dense,
    Flatten,
    Plan,
    Residual,
    Step,
    replaced,
)
from vnets.plan.sequences import (
    Attention,
    Embedding,
    Last,
    MeanPositions,
    Recurrent,
)

Layer = Dense | Recurrent | Embedding  # whose units can be cut
CANDIDATE = 2  # the place of the gate of LSTM and GRU that is no sigmoid


def fold_scales(plan: Plan, norms: Mapping, kernels: dict, noise: Set[str]) -> None:
    """Moves scales of states into what reads them, the layer's own kernel, too.

    Raises:
      ValueError: a state that something else than one layer reads, or one with noise.
    """
    for number, step in enumerate(plan):
        if isinstance(step, Residual):
            for side in (step.body, step.shortcut):
                fold_scales(side, norms, kernels, noise)
        elif isinstance(step, Recurrent) and step.name in norms:
            scale = norms[step.name].slope[:, None]
            rest = plan[number + 1 :]
            rest = [one for one in rest if not isinstance(one, Last | MeanPositions)]
            reader = rest[0] if rest else None
            if not isinstance(reader, Dense | Recurrent) or reader.name in noise:
                raise ValueError(
                    f"the scale of {step.name!r} cannot be folded: a dense or "
                    "recurrent layer without noise must read its state, alone"
                )
            own, read = kernels[step.name].copy(), kernels[reader.name].copy()
            own[-step.features :] *= scale
            read[: step.features] *= scale
            kernels |= {step.name: own, reader.name: read}


def cut(plan: Plan, kernels: dict, biases: dict, noise: Set[str]) -> Plan:
    """One round of cuts; the plan has as many units of attention as are left.

    Layers with noise keep their units, and so do those that they read.
    """
    for this, after, kinds in _pairs(plan):
        if not noise & {this.name, after.name}:
            _cut_pair(kernels, biases, this, after, kinds)

    def heads(step: Step) -> Step:
        if isinstance(step, Attention) and not noise & {
            layer.name for layer in step.layers
        }:
            return _cut_heads(kernels, biases, step)
        return step

    return replaced(plan, heads)


def _pairs(plan: Plan) -> Iterator[tuple[Layer, Layer, tuple[str, ...]]]:
    """Layers whose units can be cut, the one that alone reads them, and activations
    between, where there is a step of sequences among them."""
    this, kinds, ours = None, (), False
    for step in plan:
        if isinstance(step, Activation):
            kinds = (*kinds, step.kind)
        elif isinstance(step, Last | MeanPositions):
            ours = True
        elif isinstance(step, Layer):
            own = isinstance(step, CustomStep)
            if this is not None and (ours or own):
                yield this, step, kinds
            this, kinds, ours = step, (), own
        elif not isinstance(step, Flatten):
            this = None
            if isinstance(step, Residual):
                yield from _pairs(step.body)
                yield from _pairs(step.shortcut)


def _cut_pair(kernels, biases, this: Layer, after: Layer, kinds) -> None:
    gates = this.gates if isinstance(this, Recurrent) else 1
    units = biases[this.name].size // gates
    columns = kernels[this.name].reshape(-1, gates, units)
    bias = biases[this.name].reshape(gates, units).astype(np.float64)
    if gates == 1:
        constant, sent = ~columns.any(axis=(0, 1)), bias[0]
    else:  # a candidate that is zero always leaves the state at zero
        constant = ~columns[:, CANDIDATE].any(axis=0) & (bias[CANDIDATE] == 0)
        sent = np.zeros(units)
    for kind in kinds:
        sent = activated(kind, sent)
    # What constant units send on goes into the bias of the layer that reads them.
    state = _units(after, kernels) if isinstance(after, Recurrent) else 0
    read = kernels[after.name][: len(kernels[after.name]) - state]
    by_unit = read.reshape(-1, units, read.shape[-1]).copy()
    moved = np.einsum("tuo,u->o", by_unit[:, constant], sent[constant])
    biases[after.name] = (biases[after.name] + moved).astype(np.float32)
    by_unit[:, constant] = 0
    used = by_unit.any(axis=(0, 2))
    own = np.zeros((0, gates, units), np.float32)
    if gates > 1:  # and its own units read it
        own = columns[-units:].copy()
        own[constant] = 0
        while True:
            more = used | own[:, :, used].any(axis=(1, 2))
            if (more == used).all():
                break
            used = more
    silent = not used.any()
    used[0] |= silent
    columns = columns[: len(columns) - len(own)][..., used]
    own = own[used[: len(own)]][..., used]
    kept = np.concatenate([columns, own])
    kernels[this.name] = kept.reshape(len(kept), -1) * np.float32(not silent)
    own_bias = biases[this.name].reshape(gates, units)[:, used].ravel()
    biases[this.name] = own_bias * np.float32(not silent)
    rest = kernels[after.name][len(read) :]
    by_unit = by_unit[:, used].reshape(-1, read.shape[-1])
    kernels[after.name] = np.concatenate([by_unit, rest])


def _units(step: Recurrent, kernels: Mapping) -> int:
    """Of its state, as many as are left by now."""
    return kernels[step.name].shape[-1] // step.gates


def _cut_heads(kernels: dict, biases: dict, step: Attention) -> Attention:
    """Cuts units of heads, and heads that have no values left.

    The weights by which a query reads values sum to 1: a value that is constant is so
    after attention, too, and what is the same in the scores of all keys counts nothing.
    """
    query, key, value, out = (one.name for one in step.layers)
    constant = ~kernels[value].any(axis=0)
    rows = kernels[out].astype(np.float64)
    moved = biases[value][constant].astype(np.float64) @ rows[constant]
    biases[out] = (biases[out] + moved).astype(np.float32)
    used = ~constant & rows.any(axis=1)
    asked = kernels[query].any(axis=0) | (biases[query] != 0)
    asked &= kernels[key].any(axis=0)
    heads = np.repeat(np.arange(len(step.values)), step.values)
    values = np.bincount(heads[used], minlength=len(step.values))
    heads = np.repeat(np.arange(len(step.keys)), step.keys)
    asked &= values[heads] > 0
    keys = np.bincount(heads[asked], minlength=len(step.keys))
    alive = values > 0
    for name, chosen in ((query, asked), (key, asked), (value, used)):
        kernels[name], biases[name] = _chosen(kernels[name], biases[name], chosen)
    biases[key] = np.zeros_like(biases[key])
    kernels[out] = kernels[out][used]
    if not used.any():
        kernels[out] = np.zeros((1, kernels[out].shape[1]), np.float32)
    keys, values = ([int(n) for n in of[alive]] or [0] for of in (keys, values))
    keys[0] += not sum(keys)
    values[0] += not sum(values)
    return dataclasses.replace(step, keys=tuple(keys), values=tuple(values))


def _chosen(kernel: np.ndarray, bias: np.ndarray, chosen: np.ndarray):
    """Some units of a layer; of none a zero."""
    if chosen.any():
        return kernel[:, chosen], bias[chosen]
    return np.zeros((len(kernel), 1), np.float32), np.zeros(1, np.float32)
