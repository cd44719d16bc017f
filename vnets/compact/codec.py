"""The .vnz file: a header, a description, and the weights in entropy-coded streams.

    magic VNZ, version, checksum (BLAKE2b of all the rest), sizes of the sections
    description   canonical JSON by zlib: plan, shape, what the net is
    layers        for each linear layer: number of weights, steps of its two grids
    tables        frequencies of the streams' tokens
    words         tokens by range coding: positions as gaps, levels, biases
    bits          the numbers' remaining bits

A reader trusts nothing: what the checksum does not refuse (it can be made anew) the
parser does. Every size is checked before memory is taken for it; a number in a stream
must have at least two bits of file, and the writer pads a file that has less.
"""

import hashlib
import math
import struct
from pathlib import Path

import numpy as np

from vnets import files
from vnets.compact import description, limits
from vnets.compact.entropy import Reader, Writer, unzigzag, zigzag
from vnets.compact.graph import kernel_shapes
from vnets.compact.quantize import BIAS_BITS, MOST_BITS, Compact, Quantized

MAGIC, VERSION = b"VNZ\x1a", 1
PREFIX = struct.Struct("<4sH16s")
SIZES = struct.Struct("<IIII")
LAYER = struct.Struct("<Iff")
LARGEST_FILE = 2**30
NUMBERS_PER_BYTE = 4


def dumps(net: Compact) -> bytes:
    """The file of a net.

    Raises:
      ValueError: a net that no file can hold; the message says why.
    """
    if not isinstance(net, Compact):
        raise ValueError(
            f"a file holds a Compact, not a {type(net).__name__}; quantize it"
        )
    check(net)
    writer = Writer()
    layers = b""
    for layer in net.layers.values():
        layers += LAYER.pack(layer.positions.size, layer.step, layer.bias_step)
        writer.write(np.diff(layer.positions, prepend=-1) - 1)
        writer.write(zigzag(layer.levels))
        writer.write(zigzag(layer.bias_levels))
    tables, words, bits = writer.sections()
    described = description.pack(net.plan, net.shape, net.about)
    limits.check_work(net.plan, net.shape)
    sections = [described, layers + tables, words, bits]
    size = PREFIX.size + SIZES.size + sum(map(len, sections))
    numbers = sum(
        layer.positions.size + layer.bias_levels.size for layer in net.layers.values()
    )
    sections[-1] += bytes(max(0, -(-numbers // NUMBERS_PER_BYTE) - size))
    rest = SIZES.pack(*map(len, sections)) + b"".join(sections)
    return PREFIX.pack(MAGIC, VERSION, digest(rest)) + rest


def loads(content: bytes) -> Compact:
    """The net of a file's content.

    Raises:
      ValueError: it is no such file, or of a newer version, or it was damaged; the
        message says which. Nothing in it is executed.
    """
    if not content.startswith(MAGIC):
        raise ValueError("not a .vnz file")
    if len(content) < PREFIX.size + SIZES.size:
        raise ValueError(f"the .vnz file is cut off after {len(content)} bytes")
    _, version, checksum = PREFIX.unpack_from(content)
    if version != VERSION:
        raise ValueError(
            f"a .vnz file of version {version}; this vnets reads version {VERSION}"
        )
    rest = content[PREFIX.size :]
    if digest(rest) != checksum:
        raise ValueError("the .vnz file is damaged: its checksum does not fit")
    try:
        return _parse(rest, len(content))
    except ValueError as error:
        raise ValueError(f"the .vnz file is malformed: {error}") from error


def save(path: Path | str, net: Compact) -> int:
    """Writes a net's file, whole or not at all; returns its size in bytes."""
    content = dumps(net)
    with files.replacing(path) as file:
        file.write(content)
    return len(content)


def read(path: Path | str) -> Compact:
    """The net of a file; see `loads`."""
    path = Path(path)
    if path.exists() and not path.is_file():  # a pipe or a device would never end
        raise ValueError(f"{path} is no file")
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path} is larger than any .vnz file")
    try:
        return loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def digest(rest: bytes) -> bytes:
    """The checksum of what follows it; of the version too, so that it cannot change."""
    head = MAGIC + VERSION.to_bytes(2, "little")
    return hashlib.blake2b(head + rest, digest_size=16).digest()


def check(net: Compact) -> None:
    """Refuses what a file cannot hold, or must not.

    Raises:
      ValueError: the message says what.
    """
    shapes = kernel_shapes(net.plan, net.shape)
    if list(shapes) != list(net.layers):
        raise ValueError(f"the plan's layers are {list(shapes)}")
    for name, layer in net.layers.items():
        _check_layer(name, layer, shapes[name])


def _check_layer(name: str, layer: Quantized, shape) -> None:
    positions, levels = layer.positions, layer.levels
    bounds = (
        (levels, 2 ** (MOST_BITS - 1)),
        (layer.bias_levels, 2 ** (BIAS_BITS - 1)),
    )
    for numbers, bound in bounds:
        if numbers.size and np.abs(numbers).max() >= bound:
            raise ValueError(f"levels of {name!r} lie beyond {bound}")
    if positions.size and not (
        positions[0] >= 0
        and positions[-1] < math.prod(shape)
        and (np.diff(positions) > 0).all()
    ):
        raise ValueError(f"positions of {name!r} are not of its kernel")
    if levels.shape != positions.shape or not levels.all():
        raise ValueError(f"layer {name!r} needs a level for each position, none zero")
    if layer.bias_levels.shape != (shape[-1],):
        raise ValueError(f"layer {name!r} needs {shape[-1]} biases")
    for step in (layer.step, layer.bias_step):
        limits.check_step_size(name, float(step))


def _parse(rest: bytes, file_size: int) -> Compact:
    sizes = SIZES.unpack_from(rest)
    if SIZES.size + sum(sizes) != len(rest):
        raise ValueError("its sections are not as long as it says")
    at, sections = SIZES.size, []
    for size in sizes:
        sections.append(rest[at : at + size])
        at += size
    described, tables, words, bits = sections
    plan, shape, about = description.unpack(described)
    shapes = kernel_shapes(plan, shape)
    limits.check_work(plan, shape)
    counts = [
        LAYER.unpack_from(tables, i * LAYER.size)
        for i in range(len(shapes))
        if len(tables) >= (i + 1) * LAYER.size
    ]
    if len(counts) != len(shapes):
        raise ValueError("layers are missing")
    numbers = sum(count for count, _, _ in counts)
    numbers += sum(kernel[-1] for kernel in shapes.values())
    if numbers > NUMBERS_PER_BYTE * file_size:
        raise ValueError("it speaks of more weights than it can hold")
    reader = Reader(tables[len(counts) * LAYER.size :], words, bits)
    layers = {}
    for (name, kernel), (count, step, bias_step) in zip(
        shapes.items(), counts, strict=True
    ):
        layers[name] = Quantized(
            _positions(reader, count, math.prod(kernel)),
            _levels(reader, count, MOST_BITS, np.int8),
            np.float32(step),
            _levels(reader, kernel[-1], BIAS_BITS, np.int16),
            np.float32(bias_step),
        )
    reader.finish()
    net = Compact(plan, shape, layers, about)
    check(net)
    return net


def _positions(reader: Reader, count: int, size: int) -> np.ndarray:
    """Positions in a kernel of `size` weights, int32 [count]; its stream has gaps."""
    found, at, last = np.empty(count, np.int32), 0, -1
    for gaps in reader.parts(count):
        places = np.cumsum(gaps + 1) + last
        last = int(places[-1])
        if last >= size:
            raise ValueError("positions are not of their kernel")
        found[at : at + gaps.size] = places
        at += gaps.size
    return found


def _levels(reader: Reader, count: int, bits: int, kind: type) -> np.ndarray:
    """Levels of a grid of so many bits, [count], in a type that just holds them."""
    found, at, bound = np.empty(count, kind), 0, 2 ** (bits - 1)
    for numbers in reader.parts(count):
        levels = unzigzag(numbers)
        if np.abs(levels).max() >= bound:
            raise ValueError(f"levels lie beyond {bound}")
        found[at : at + levels.size] = levels
        at += levels.size
    return found
