"""What a .vnz file says of its net: the shape of its inputs, its plan, and more.

A step is a byte of its kind and its fields; a name is empty where it is the one that
counts layers of its kind ("conv1", "conv2", "dense1"). Some kinds came with version 3
of the file, one with version 4; one without them is of version 2. What else is said
stands in lines of a text, a name and, after a tab, a text or, after a carriage return,
a number.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping

from vnets.compact import limits, sequence_files
from vnets.compact.binary import Bytes, float64, text, varint
from vnets.plan import (
    ACTIVATIONS,
    Activation,
    Conv,
    CustomStep,
    Dense,
    DepthToSpace,
    Depthwise,
    Flatten,
    LayerNorm,
    Linear,
    MaxPool,
    MeanPool,
    Padding,
    Plan,
    Residual,
    Shape,
    Standardize,
    Step,
    Window,
    WindowMaxPool,
    WindowMeanPool,
    check_padding,
    every,
)

LARGEST = 2**16  # bytes
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
}  # by their names in version 1
SINCE_3 = (Depthwise, LayerNorm, WindowMeanPool, *sequence_files.KINDS)
SINCE_4 = (DepthToSpace,)
OLD_ACTIVATIONS = ACTIVATIONS[:6]  # of versions 1 and 2
PADDINGS = ("SAME", "VALID")
# Bytes of the kinds; of two of them the next one is for the padding "VALID".
BARE: dict[int, type] = {0: Flatten, 1: MaxPool, 2: MeanPool}
WINDOW, STANDARDIZE, RESIDUAL, DENSE, CONV, ACTIVATION = 3, 5, 6, 7, 8, 16
# Since version 3; a padding is a byte, after `MARGINS` follow four of them.
LAYER_NORM, DEPTHWISE, WINDOW_MEAN, WIDE_CONV, WIDE_WINDOW = 10, 11, 12, 13, 14
MARGINS = 2
DEPTH_TO_SPACE = 15  # since version 4


def pack(plan: Plan, shape: Shape, about: Mapping) -> bytes:
    """The description of a net.

    Raises:
      ValueError: a step, a shape or an entry that no file holds, or too much of them.
    """
    check_about(about)
    check_shape(shape)
    steps = _packed(plan, DEPTH, Counter())
    check_count(plan)
    lines = (
        f"{key}\t{value}"
        if isinstance(value, str)
        else f"{key}\r{json.dumps(value, allow_nan=False)}"
        for key, value in sorted(about.items())
    )
    found = bytes([len(shape)]) + b"".join(map(varint, shape))
    found += steps + text("\n".join(lines))
    if len(found) > LARGEST:
        raise ValueError(
            f"its description takes {len(found)} bytes, more than {LARGEST}: long "
            "lists of constants, or very many steps"
        )
    return found


def version(plan: Plan) -> int:
    """The lowest version of the file that has all steps of a plan."""
    return max(map(_since, every(plan)), default=2)


def _since(step: Step) -> int:
    """The version that a step came with."""
    if isinstance(step, SINCE_4):
        return 4
    if isinstance(step, Activation):
        new = step.kind not in OLD_ACTIVATIONS
    else:
        padding = getattr(step, "padding", "")
        new = isinstance(step, SINCE_3) or not isinstance(padding, str)
    return 3 if new else 2


def _packed(plan: Plan, depth: int, seen: Counter) -> bytes:
    """How many steps there are, and each."""
    check_depth(depth)
    found = varint(len(plan))
    for step in plan:
        check_step(step)
        found += _packed_step(step, depth, seen)
    return found


def _packed_step(step: Step, depth: int, seen: Counter) -> bytes:
    for kind, bare in BARE.items():
        if isinstance(step, bare):
            return bytes([kind])
    if isinstance(step, Activation):
        return bytes([ACTIVATION + ACTIVATIONS.index(step.kind)])
    if isinstance(step, CustomStep):
        return sequence_files.packed(step)
    if isinstance(step, Residual):
        sides = (_packed(side, depth - 1, seen) for side in (step.body, step.shortcut))
        return bytes([RESIDUAL]) + b"".join(sides)
    if isinstance(step, Standardize):
        lists = (
            varint(len(v)) + b"".join(map(float64, v)) for v in (step.mean, step.std)
        )
        return bytes([STANDARDIZE]) + b"".join(lists)
    if isinstance(step, DepthToSpace):
        return bytes([DEPTH_TO_SPACE, *step.block])
    if isinstance(step, WindowMeanPool):
        return bytes([WINDOW_MEAN, step.size, step.stride, *_margins(step.padding)])
    if isinstance(step, WindowMaxPool):
        kind, margins = _padded(WINDOW, WIDE_WINDOW, step.padding)
        return bytes([kind, step.size, step.stride, *margins])
    assert isinstance(step, Linear | LayerNorm)
    usual = _usual_name(type(step), seen)
    name = text("" if step.name == usual else step.name)
    if isinstance(step, LayerNorm):
        return bytes([LAYER_NORM]) + name + float64(step.epsilon)
    if isinstance(step, Dense):
        return bytes([DENSE]) + name + varint(step.features)
    extents = bytes([*step.kernel, *step.strides])
    if isinstance(step, Depthwise):
        return bytes([DEPTHWISE]) + name + extents + bytes(_margins(step.padding))
    kind, margins = _padded(CONV, WIDE_CONV, step.padding)
    return bytes([kind]) + name + varint(step.features) + extents + bytes(margins)


def _padded(named: int, wide: int, padding: Padding) -> tuple[int, list[int]]:
    """The kind of a step that version 2 has with named paddings alone, and margins."""
    kind, *margins = _margins(padding)
    return (wide if kind == MARGINS else named + kind), margins


def _margins(padding: Padding) -> list[int]:
    """The byte of a padding, and those that follow."""
    if isinstance(padding, str):
        return [PADDINGS.index(padding)]
    return [MARGINS, *(n for pair in padding for n in pair)]


def _usual_name(kind: type, seen: Counter) -> str:
    """By which a layer counts those of its kind."""
    names = {Conv: "conv", Dense: "dense", Depthwise: "depthwise", LayerNorm: "norm"}
    seen[kind] += 1
    return f"{names[kind]}{seen[kind]}"


def unpack(source: Bytes, of: int) -> tuple[Plan, Shape, dict]:
    """Plan, shape and further description; nothing in them is trusted.

    Args:
      source: at what `pack` made.
      of: the version of the file.

    Raises:
      ValueError: it is no such description.
    """
    shape = tuple(source.varint() for _ in range(min(source.byte(), 4)))
    check_shape(shape)
    plan = _unpacked(source, DEPTH, Counter())
    check_version(plan, of)
    lines = filter(None, source.text(LARGEST).split("\n"))
    about = dict(map(_entry, lines))
    check_about(about)
    return plan, shape, about


def check_version(plan: Plan, of: int) -> None:
    """Refuses steps that came with a later version of the file."""
    if version(plan) > max(of, 2):
        raise ValueError(f"it has steps that version {of} does not have")


def _entry(line: str) -> tuple:
    """Name and value."""
    key, tab, value = line.partition("\t")
    if tab:
        return key, value
    key, number, value = line.partition("\r")
    if not number:
        raise ValueError("its description has a line without a value")
    return key, parsed(value)


def parsed(held: str):
    """JSON that somebody else wrote.

    Raises:
      ValueError: it is none, or not finite, or nested too deep.
    """
    try:
        return json.loads(held, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("its description cannot be read") from error


def _unpacked(source: Bytes, depth: int, seen: Counter) -> Plan:
    check_depth(depth)
    count = source.varint()
    seen["step"] += count
    if seen["step"] > STEPS:
        raise ValueError(f"a plan has {STEPS} steps at most")
    return tuple(_step(source, depth, seen) for _ in range(count))


def _step(source: Bytes, depth: int, seen: Counter) -> Step:
    kind = source.byte()
    if kind in BARE:
        return BARE[kind]()
    if ACTIVATION <= kind < ACTIVATION + len(ACTIVATIONS):
        return Activation(ACTIVATIONS[kind - ACTIVATION])
    if kind == RESIDUAL:
        return Residual(*(_unpacked(source, depth - 1, seen) for _ in range(2)))
    if kind == STANDARDIZE:
        step = Standardize(*(tuple(_floats(source)) for _ in range(2)))
    elif kind in (WINDOW, WINDOW + 1, WINDOW_MEAN, WIDE_WINDOW):
        made = WindowMeanPool if kind == WINDOW_MEAN else WindowMaxPool
        size, stride = source.take(2)
        step = made(size, stride, _padding(source, kind, WINDOW))
    elif kind == DEPTH_TO_SPACE:
        height, width = source.take(2)
        step = DepthToSpace((height, width))
    elif kind == DENSE:
        usual = _usual_name(Dense, seen)
        step = Dense(source.text() or usual, source.varint())
    elif kind == LAYER_NORM:
        usual = _usual_name(LayerNorm, seen)
        step = LayerNorm(source.text() or usual, source.float64())
    elif kind in (CONV, CONV + 1, WIDE_CONV, DEPTHWISE):
        usual = _usual_name(Depthwise if kind == DEPTHWISE else Conv, seen)
        name = source.text() or usual
        features = 1 if kind == DEPTHWISE else source.varint()
        (height, width), (down, right) = source.take(2), source.take(2)
        window = (height, width), (down, right), _padding(source, kind, CONV)
        if kind == DEPTHWISE:
            step = Depthwise(name, *window)
        else:
            step = Conv(name, features, *window)
    else:
        step = sequence_files.unpacked(kind, source)
    check_step(step)
    return step


def _padding(source: Bytes, kind: int, named: int) -> Padding:
    """Inverts `_margins` and `_padded`."""
    if kind in (named, named + 1):
        return PADDINGS[kind - named]
    which = MARGINS if kind in (WIDE_CONV, WIDE_WINDOW) else source.byte()
    if which < MARGINS:
        return PADDINGS[which]
    (top, bottom), (left, right) = source.take(2), source.take(2)
    return (top, bottom), (left, right)


def _floats(source: Bytes) -> list[float]:
    """A list of floats; the caller's file has eight bytes for each."""
    return [source.float64() for _ in range(source.varint())]


def check_shape(shape) -> None:
    """Refuses what is no shape of an example."""
    if not (len(shape) in (1, 3) and all(_whole(n, FEATURES) for n in shape)):
        raise ValueError(f"inputs are [I] or [H, W, C], each 1 to {FEATURES}")


def check_depth(depth: int) -> None:
    """Refuses a plan within too many others."""
    if not depth:
        raise ValueError(f"a plan is nested {DEPTH} deep at most")


def check_count(plan: Plan) -> None:
    """Refuses too many steps."""
    if _count(plan) > STEPS:
        raise ValueError(f"a plan has {STEPS} steps at most")


def _count(plan: Plan) -> int:
    """Of all steps; one whose sides are empty is a step, too."""
    sides = (
        side for s in plan if isinstance(s, Residual) for side in (s.body, s.shortcut)
    )
    return len(plan) + sum(map(_count, sides))


def check_step(step: Step) -> None:
    """Refuses a step that no file holds, or whose fields are of other types."""
    if isinstance(step, sequence_files.KINDS):
        return sequence_files.check_step(step)
    if not isinstance(step, (*KINDS.values(), *SINCE_3, *SINCE_4)):
        raise ValueError(f"a file holds no {type(step).__name__} step")
    if isinstance(step, Activation) and step.kind not in ACTIVATIONS:
        raise ValueError(f"unknown activation {step.kind!r}; there are {ACTIVATIONS}")
    if isinstance(step, Standardize):
        limits.check_constants(step)
    if isinstance(step, Window):
        if not (_whole(step.size, EXTENT) and _whole(step.stride, EXTENT)):
            raise ValueError(f"size and stride of a pooling step are 1 to {EXTENT}")
        _check_padding("a pooling step", step.padding)
    if isinstance(step, DepthToSpace) and not all(
        _whole(n, EXTENT) for n in step.block
    ):
        raise ValueError(f"a block of channels laid out is 1 to {EXTENT} each way")
    if not isinstance(step, Linear | LayerNorm):
        return
    limits.check_name(step.name)
    if isinstance(step, LayerNorm):
        limits.check_epsilon(step.name, step.epsilon)
        return
    units = 1 if isinstance(step, Depthwise) else step.features
    if not (_whole(units, FEATURES) and step.bias is True):
        raise ValueError(
            f"layer {step.name!r} needs 1 to {FEATURES} units, with biases"
        )
    if not isinstance(step, Dense):
        extents = (*_pair(step.kernel), *_pair(step.strides))
        if not all(_whole(extent, EXTENT) for extent in extents):
            raise ValueError(f"kernel and strides of {step.name!r} are 1 to {EXTENT}")
        _check_padding(repr(step.name), step.padding)


def _check_padding(of: str, padding: Padding) -> None:
    check_padding(of, padding)
    margins = [] if isinstance(padding, str) else [n for pair in padding for n in pair]
    if max(margins, default=0) > EXTENT:
        raise ValueError(f"padding of {of} is at most {EXTENT}")


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
