"""How a .vnz file holds the steps of `vnets.plan.sequences`, within which bounds.

A step is a byte of its kind and its fields. An embedding has a stream of its own before
those of its kernel, of the words that have a weight: of the others there are no rows.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from vnets.compact import limits
from vnets.compact.binary import Bytes, text, varint
from vnets.compact.quantize import Quantized
from vnets.plan import CustomStep, Plan, Shape, Weighted, every
from vnets.plan.sequences import (
    GRU,
    LSTM,
    Attention,
    Embedding,
    Last,
    MeanPositions,
    Positions,
    Recurrent,
)

FIRST = 32  # byte of the first kind
KINDS = (
    *(Embedding, Positions, LSTM, GRU),
    *(Attention, Last, MeanPositions),
)
HEADS = 256
LARGEST = 2**20  # of a vocabulary, and of units; as `description.FEATURES`


def packed(step: CustomStep) -> bytes:
    """The bytes of a step."""
    found = bytes([FIRST + KINDS.index(type(step))])
    match step:
        case Embedding():
            padding = 0 if step.padding is None else step.padding + 1
            sizes = (step.vocabulary, step.features, padding)
            return found + text(step.name) + b"".join(map(varint, sizes))
        case Positions():
            return found + text(step.name)
        case Recurrent():
            return found + text(step.name) + varint(step.features)
        case Attention():
            sizes = (step.features, step.width, len(step.keys))
            sizes += (*step.keys, *step.values)
            return found + text(step.name) + b"".join(map(varint, sizes))
    return found


def unpacked(kind: int, source: Bytes) -> CustomStep:
    """Inverts `packed`, the byte of the kind being read.

    Raises:
      ValueError: it is no such step.
    """
    if not FIRST <= kind < FIRST + len(KINDS):
        raise ValueError(f"unknown step {kind}")
    made = KINDS[kind - FIRST]
    if made is Embedding:
        name, *sizes = source.text(), source.varint(), source.varint(), source.varint()
        return Embedding(name, sizes[0], sizes[1], sizes[2] - 1 if sizes[2] else None)
    if made is Positions:
        return Positions(source.text())
    if made in (LSTM, GRU):
        return made(source.text(), source.varint())
    if made is Attention:
        name, features, width = source.text(), source.varint(), source.varint()
        heads = source.varint()
        if heads > HEADS:
            raise ValueError(f"attention {name!r} has more than {HEADS} heads")
        keys, values = (tuple(source.varint() for _ in range(heads)) for _ in range(2))
        return Attention(name, features, keys, values, width)
    return Last() if made is Last else MeanPositions()


def check_step(step: CustomStep) -> None:
    """Refuses a step that no file holds.

    Raises:
      ValueError: a name, a size or a constant beyond the bounds, or a kind of step that
        has no byte.
    """
    if type(step) not in KINDS:
        raise ValueError(f"no file holds a {type(step).__name__}")
    # Every kind of step is a dataclass, but their common base is none.
    sizes = [
        value
        for field in dataclasses.fields(step)  # type: ignore[arg-type]
        for value in [getattr(step, field.name)]
        if isinstance(value, int)
    ]
    names = [step.name] if isinstance(step, Weighted) else []
    if isinstance(step, Attention):
        sizes += [sum(step.keys), sum(step.values)]
        names = [layer.name for layer in step.layers]
        if len(step.keys) > HEADS:
            raise ValueError(f"attention {step.name!r} has more than {HEADS} heads")
    for name in names:
        limits.check_name(name)
    if any(size > LARGEST for size in sizes):
        raise ValueError(f"{step} has sizes beyond {LARGEST}")


def check_noise(plan: Plan, layers: Mapping[str, Quantized]) -> None:
    """Refuses noise of layers that a file holds without any.

    Raises:
      ValueError: there is some.
    """
    for step in every(plan):
        name = step.name if isinstance(step, Weighted) else ""
        if name and layers[name].deviations is not None:
            raise ValueError(f"a file holds no noise of {name!r}")


def words(layer: Quantized, shape: Shape) -> tuple[np.ndarray, Quantized, Shape]:
    """The rows of an embedding that have a weight, and it with these alone."""
    into, out = np.divmod(layer.positions.astype(np.int64), shape[-1])
    rows, at = np.unique(into, return_inverse=True)
    few = dataclasses.replace(layer, positions=at * shape[-1] + out)
    return rows, few, (rows.size, shape[-1])


def with_words(layer: Quantized, rows: np.ndarray, features: int) -> Quantized:
    """Inverts `words`."""
    into, out = np.divmod(layer.positions, np.int32(features))
    return dataclasses.replace(layer, positions=rows[into] * np.int32(features) + out)
