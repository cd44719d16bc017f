"""What a .vnz file says of its net, as JSON: plan, shape of the inputs, and more."""

import dataclasses
import json
import math
import zlib
from collections.abc import Mapping

from vnets.compact import limits
from vnets.plan import (
    ACTIVATIONS,
    Activation,
    Conv,
    Dense,
    Flatten,
    MaxPool,
    MeanPool,
    Plan,
    Residual,
    Shape,
    Standardize,
    Step,
    WindowMaxPool,
)

LARGEST = 2**16  # bytes of JSON
ABOUT_ENTRIES, ABOUT_CHARACTERS = 32, 256
STEPS, DEPTH, FEATURES, EXTENT = 1024, 8, 2**20, 64
KINDS = {
    "conv": Conv,
    "dense": Dense,
    "activation": Activation,
    "max_pool": MaxPool,
    "window_max_pool": WindowMaxPool,
    "mean_pool": MeanPool,
    "residual": Residual,
    "flatten": Flatten,
    "standardize": Standardize,
}


def pack(plan: Plan, shape: Shape, about: Mapping) -> bytes:
    """The description as canonical JSON, by zlib.

    Raises:
      ValueError: a step, a shape or an entry that no file holds, or too much of them.
    """
    check_about(about)
    _check_shape(shape)
    steps = _packed(plan, DEPTH)
    _check_count(plan)
    held = {"plan": steps, "shape": list(shape), "about": dict(about)}
    text = json.dumps(held, sort_keys=True, separators=(",", ":"), allow_nan=False)
    if len(text) > LARGEST:
        raise ValueError(
            f"its description takes {len(text)} bytes, more than {LARGEST}: long lists "
            "of constants, or very many steps"
        )
    return zlib.compress(text.encode(), 9)


def _packed(plan: Plan, depth: int) -> list:
    """Each step as its kind and its fields; a field that is a plan likewise."""
    _check_depth(depth)
    kinds = {kind: name for name, kind in KINDS.items()}
    held = []
    for step in plan:
        check_step(step)
        fields = (getattr(step, field.name) for field in dataclasses.fields(step))
        if isinstance(step, Residual):
            fields = (_packed(side, depth - 1) for side in fields)
        held.append([kinds[type(step)], *fields])
    return held


def unpack(section: bytes) -> tuple[Plan, Shape, dict]:
    """Plan, shape and further description; nothing in them is trusted.

    Raises:
      ValueError: it is no such description.
    """
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(section, LARGEST)
        if not unpacker.eof or unpacker.unused_data:
            raise ValueError("its description is too long or cut off")
        held = json.loads(text.decode(), parse_constant=_no_constant)
    except (zlib.error, RecursionError) as error:
        raise ValueError("its description cannot be read") from error
    if not isinstance(held, dict) or set(held) != {"plan", "shape", "about"}:
        raise ValueError("its description has other fields")
    plan, shape, about = held["plan"], held["shape"], held["about"]
    if not isinstance(shape, list):
        raise ValueError("its inputs have no shape")
    _check_shape(shape)
    if not isinstance(about, dict):
        raise ValueError("its description has no names")
    check_about(about)
    steps = _unpacked(plan, DEPTH)
    _check_count(steps)
    return steps, tuple(shape), about


def _unpacked(held, depth: int) -> Plan:
    _check_depth(depth)
    if not isinstance(held, list):
        raise ValueError("a plan is no list of steps")
    return tuple(_step(one, depth) for one in held)


def _check_shape(shape) -> None:
    if not (len(shape) in (1, 3) and all(_whole(n, FEATURES) for n in shape)):
        raise ValueError(f"inputs are [I] or [H, W, C], each 1 to {FEATURES}")


def _check_depth(depth: int) -> None:
    if not depth:
        raise ValueError(f"a plan is nested {DEPTH} deep at most")


def _check_count(plan: Plan) -> None:
    if _count(plan) > STEPS:
        raise ValueError(f"a plan has {STEPS} steps at most")


def _count(plan: Plan) -> int:
    """Of all steps; one whose sides are empty is a step, too."""
    sides = (
        side for s in plan if isinstance(s, Residual) for side in (s.body, s.shortcut)
    )
    return len(plan) + sum(map(_count, sides))


def _step(held, depth: int) -> Step:
    if not (isinstance(held, list) and held and isinstance(held[0], str)):
        raise ValueError("a step has no kind")
    kind = KINDS.get(held[0])
    if kind is None:
        raise ValueError(f"unknown step {held[0]!r}; there are {list(KINDS)}")
    if len(held) - 1 != len(dataclasses.fields(kind)):
        raise ValueError(f"a {held[0]} step has other fields")
    if kind is Residual:
        return Residual(*(_unpacked(side, depth - 1) for side in held[1:]))
    step = kind(*(tuple(v) if isinstance(v, list) else v for v in held[1:]))
    check_step(step)
    return step


def check_step(step: Step) -> None:
    """Refuses a step that no file holds, or whose fields are of other types."""
    if not isinstance(step, tuple(KINDS.values())):
        raise ValueError(f"a file holds no {type(step).__name__} step")
    if isinstance(step, Activation) and step.kind not in ACTIVATIONS:
        raise ValueError(f"unknown activation {step.kind!r}; there are {ACTIVATIONS}")
    if isinstance(step, Standardize):
        limits.check_constants(step)
    if isinstance(step, WindowMaxPool):
        if not (_whole(step.size, EXTENT) and _whole(step.stride, EXTENT)):
            raise ValueError(f"size and stride of a pooling step are 1 to {EXTENT}")
        _check_padding("a pooling step", step.padding)
    if not isinstance(step, Conv | Dense):
        return
    limits.check_name(step.name)
    if not (_whole(step.features, FEATURES) and step.bias is True):
        raise ValueError(
            f"layer {step.name!r} needs 1 to {FEATURES} units, with biases"
        )
    if isinstance(step, Conv):
        extents = (*_pair(step.kernel), *_pair(step.strides))
        if not all(_whole(extent, EXTENT) for extent in extents):
            raise ValueError(f"kernel and strides of {step.name!r} are 1 to {EXTENT}")
        _check_padding(repr(step.name), step.padding)


def _check_padding(of: str, padding) -> None:
    if padding not in ("SAME", "VALID"):
        raise ValueError(f"padding of {of} must be SAME or VALID")


def check_about(about: Mapping) -> None:
    """Refuses entries that are not a few short texts and numbers."""
    good = len(about) <= ABOUT_ENTRIES and all(
        isinstance(key, str) and isinstance(value, str | int | float)
        for key, value in about.items()
    )
    texts = [str(one) for entry in about.items() for one in entry] if good else []
    # Printable: what is shown at a terminal must not steer it.
    good &= all(len(t) <= ABOUT_CHARACTERS and t.isprintable() for t in texts)
    if not good:
        raise ValueError(
            f"a description is at most {ABOUT_ENTRIES} short texts, printable, and "
            "numbers by name"
        )
    numbers = [one for one in about.values() if isinstance(one, float)]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a number of a description that is not finite is no JSON")


def _pair(value) -> tuple:
    return value if isinstance(value, tuple) and len(value) == 2 else (0, 0)


def _whole(value, most: int) -> bool:
    return type(value) is int and 1 <= value <= most


def _no_constant(name: str):
    raise ValueError(f"its description holds {name}")
