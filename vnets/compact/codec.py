"""The .vnz file: a description, and the weights in entropy-coded streams.

    magic VNZ, version, checksum (CRC-32 of both and of all the rest)
    description   shape of the inputs, plan, what the net is (`description`)
    layers        for each linear layer: numbers of weights, steps of its grids
    streams       positions as gaps, levels, biases (`streams`); before those of an
                  embedding the words that have rows, as gaps

Where all weights of a kernel are there it has no stream of gaps. Weights are in the
order of the kernel or, where that is shorter, of each output in turn. A step is two
bytes where a bfloat16 holds it; that of biases is the weights' times 2^-s, 0 <= s < 16,
where it can be. Whole numbers of a variable length have seven bits a byte, the lowest
first. Versions 2 to 4 differ in the steps that there are (`description`), and a net is
written in the lowest that holds it: older readers know it.

A reader trusts nothing: what the checksum does not refuse (it can be made anew) the
parser does. Every size is checked before memory is taken for it; a number in a stream
must have at least two bits of file, and the writer pads a file that has less.
"""

import dataclasses
import math
import zlib
from pathlib import Path

import numpy as np

from vnets import files
from vnets.compact import (
    binary,
    description,
    limits,
    sequence_files,
    tables,
    version1,
)
from vnets.compact.binary import Bytes, varint
from vnets.compact.graph import kernel_shapes
from vnets.compact.layers import (
    NUMBERS_PER_BYTE,
    check,
    check_numbers,
    read_levels,
    read_positions,
)
from vnets.compact.quantize import (
    MOST_BIAS,
    MOST_DEVIATION,
    MOST_LEVEL,
    Compact,
    Deviations,
    Quantized,
)
from vnets.compact.streams import Reader, Writer, unzigzag, zigzag
from vnets.plan import Plan, Shape
from vnets.plan.sequences import embedding

MAGIC, VERSION = b"VNZ\x1a", 4  # the newest; a file is of the oldest that holds it
HEAD = len(MAGIC) + 2  # bytes of magic and version, in every version
CHECKSUM = 4  # bytes
LARGEST_FILE = 2**30
# Bits of a layer's first byte; the lowest four are s of its biases' step.
BIAS_STEP, LONG_STEPS, NOISY, TURNED = 16, 32, 64, 128
FINER = 16  # values of s
INTEGERS = {MOST_LEVEL: np.int8, MOST_DEVIATION: np.uint8, MOST_BIAS: np.int16}


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
    content = written(net)
    limits.check_work(net.plan, net.shape)
    return content


def written(net: Compact) -> bytes:
    """The file of a net that nobody checked."""
    writer, heads, numbers = Writer(), b"", 0
    words = _words(net.plan)
    for name, shape in kernel_shapes(net.plan, net.shape).items():
        layer, noise = net.layers[name], net.layers[name].deviations
        numbers += layer.numbers()
        if name == words:
            rows, layer, (count, columns) = sequence_files.words(layer, shape)
            heads, numbers = heads + varint(count), numbers + count
            if count < shape[0]:
                writer.write("words", _gaps(rows))
            shape = (count, columns)
        grids = [(layer.positions, "levels", zigzag(layer.levels) - 1)]
        if noise is not None:
            grids.append((noise.positions, "deviations", noise.levels - 1))
        turned = _is_turned(layer, shape)
        heads += _packed(layer, turned)
        for positions, kind, held in grids:
            positions, order = _ordered(positions, shape, turned)
            if positions.size < math.prod(shape):
                writer.write("gaps", _gaps(positions))
            writer.write(kind, held[order])
        writer.write("biases", zigzag(layer.bias_levels))
    described = description.pack(net.plan, net.shape, net.about)
    rest = described + heads + writer.content()
    size = HEAD + CHECKSUM + len(rest)
    rest += bytes(max(0, -(-numbers // NUMBERS_PER_BYTE) - size))
    return sealed(rest, description.version(net.plan))


def _words(plan: Plan) -> str:
    """The name of the layer whose rows are words, if there is one."""
    step = embedding(plan)
    return "" if step is None else step.name


def sealed(rest: bytes, version: int) -> bytes:
    """A file of version 2 or later, of what follows its checksum."""
    head = MAGIC + version.to_bytes(2, "little")
    return head + zlib.crc32(head + rest).to_bytes(CHECKSUM, "little") + rest


def loads(content: bytes) -> Compact:
    """The net of a file's content.

    Raises:
      ValueError: it is no such file, or of a newer version, or it was damaged; the
        message says which. Nothing in it is executed.
    """
    if not content.startswith(MAGIC):
        raise ValueError("not a .vnz file")
    version = int.from_bytes(content[len(MAGIC) : HEAD], "little")
    if version > VERSION:
        raise ValueError(
            f"a .vnz file of version {version}; this vnets reads up to {VERSION}"
        )
    first = version == version1.VERSION
    begin = HEAD + (version1.CHECKSUM if first else CHECKSUM)
    if not version or len(content) < begin:
        raise ValueError(f"the .vnz file is cut off after {len(content)} bytes")
    rest = content[begin:]
    if content != (version1.sealed(rest) if first else sealed(rest, version)):
        raise ValueError("the .vnz file is damaged: its checksum does not fit")
    try:
        if first:
            net = version1.parse(rest, len(content))
        else:
            net = _parse(rest, len(content), version)
        check(net)
    except ValueError as error:
        raise ValueError(f"the .vnz file is malformed: {error}") from error
    return net


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


def _gaps(positions: np.ndarray) -> np.ndarray:
    return np.diff(positions, prepend=-1) - 1


def _ordered(positions: np.ndarray, shape: Shape, turned: bool):
    """Rising positions in the order of a file, and which comes when."""
    if not turned:
        return positions, slice(None)
    into, out = np.divmod(positions.astype(np.int64), shape[-1])
    found = out * (math.prod(shape) // shape[-1]) + into
    order = np.argsort(found)
    return found[order], order


def _is_turned(layer: Quantized, shape: Shape) -> bool:
    """Whether gaps take fewer bits along the inputs of each output."""
    noise = layer.deviations
    grids = [layer.positions, *([] if noise is None else [noise.positions])]
    partial = [one for one in grids if 0 < one.size < math.prod(shape)]

    def bits(turned: bool) -> float:
        gaps = (_gaps(_ordered(one, shape, turned)[0]) for one in partial)
        return sum(tables.bits_alone(one) for one in gaps)

    return bits(True) < bits(False)


def _packed(layer: Quantized, turned: bool) -> bytes:
    """How many numbers a layer has, their order, and the steps of its grids."""
    noise = layer.deviations
    steps = [layer.step, *([] if noise is None else [noise.step])]
    long = not all(map(binary.is_short, steps))
    flags = _finer(layer) | (LONG_STEPS if long else 0) | (TURNED if turned else 0)
    found = varint(layer.positions.size) + binary.float32(layer.step, long)
    if flags & BIAS_STEP:
        found += binary.float32(layer.bias_step, long=True)
    if noise is not None:
        flags |= NOISY
        found += varint(noise.positions.size) + binary.float32(noise.step, long)
    return bytes([flags]) + found


def _finer(layer: Quantized) -> int:
    """The s of the biases' step, or the flag that says that there is none."""
    for finer in range(FINER):
        if layer.step * np.float32(2.0**-finer) == layer.bias_step:
            return finer
    return BIAS_STEP


def _unpacked(source: Bytes, shape: Shape, words: bool) -> "_Head":
    """Inverts `_packed`; of an embedding how many words have rows comes first."""
    vocabulary = 0
    if words:
        vocabulary, shape = shape[0], (source.varint(), shape[1])
        if shape[0] > vocabulary:
            raise ValueError("it has more words than its vocabulary")
    flags, count = source.byte(), source.varint()
    long = bool(flags & LONG_STEPS)
    step = source.float32(long)
    if flags & BIAS_STEP:
        bias_step = source.float32(long=True)
    else:
        bias_step = step * np.float32(2.0 ** -(flags % FINER))
    noise = None
    if flags & NOISY:
        number = source.varint()
        noise = number, source.float32(long)
    turned = bool(flags & TURNED)
    return _Head(shape, count, step, bias_step, noise, turned, vocabulary)


@dataclasses.dataclass(frozen=True)
class _Head:
    """What the file says of a layer before its numbers."""

    shape: Shape
    count: int
    step: np.float32
    bias_step: np.float32
    noise: tuple[int, np.float32] | None
    turned: bool
    vocabulary: int  # V of an embedding; 0 of another layer

    def numbers(self) -> int:
        """How many its streams have, positions in kernels not counted."""
        rows = self.shape[0] if self.vocabulary else 0
        noise = self.noise[0] if self.noise else 0
        return rows + self.count + noise + self.shape[-1]

    def streams(self) -> list[tuple[str, int]]:
        """Kind and count of each of its streams."""
        found = [*self._rows(), *self._gaps(self.count), ("levels", self.count)]
        if self.noise:
            found += [*self._gaps(self.noise[0]), ("deviations", self.noise[0])]
        return [*found, ("biases", self.shape[-1])]

    def read(self, reader: Reader) -> Quantized:
        """The layer from its streams."""
        rows = None
        for _, count in self._rows():
            rows = read_positions(reader.parts(count), count, self.vocabulary)
        positions, levels = self._grid(reader, self.count, MOST_LEVEL, _not_zero)
        deviations = None
        if self.noise:
            count, step = self.noise
            grid = self._grid(reader, count, MOST_DEVIATION, _above_zero)
            deviations = Deviations(*grid, step)
        biases = _read(reader, self.shape[-1], MOST_BIAS, unzigzag)
        layer = Quantized(
            positions, levels, self.step, biases, self.bias_step, deviations
        )
        if rows is None:
            return layer
        return sequence_files.with_words(layer, rows, self.shape[-1])

    def _rows(self) -> list[tuple[str, int]]:
        """The stream of words, where they are not all."""
        rows = self.shape[0]
        return [("words", rows)] if rows < self.vocabulary else []

    def _gaps(self, count: int) -> list[tuple[str, int]]:
        return [] if count == math.prod(self.shape) else [("gaps", count)]

    def _grid(self, reader: Reader, count: int, most: int, level):
        """Positions and levels of the weights that are there."""
        size, inputs = math.prod(self.shape), math.prod(self.shape[:-1])
        if self._gaps(count):
            positions = read_positions(reader.parts(count), count, size)
        else:
            positions = np.arange(count, dtype=np.int32)
        levels = _read(reader, count, most, level)
        if self.turned:
            out, into = np.divmod(positions, np.int32(inputs))
            positions = into * np.int32(self.shape[-1]) + out
            order = np.argsort(positions)
            positions, levels = positions[order], levels[order]
        return positions, levels


def _read(reader: Reader, count: int, most: int, level) -> np.ndarray:
    return read_levels(reader.parts(count), count, most, INTEGERS[most], level)


def _not_zero(numbers: np.ndarray) -> np.ndarray:
    return unzigzag(numbers + 1)


def _above_zero(numbers: np.ndarray) -> np.ndarray:
    return numbers + 1


def _parse(rest: bytes, file_size: int, version: int) -> Compact:
    source = Bytes(rest)
    plan, shape, about = description.unpack(source, version)
    shapes = kernel_shapes(plan, shape)
    limits.check_work(plan, shape)
    words = _words(plan)
    heads = {
        name: _unpacked(source, one, name == words) for name, one in shapes.items()
    }
    check_numbers(sum(head.numbers() for head in heads.values()), file_size)
    streams = [one for head in heads.values() for one in head.streams()]
    reader = Reader(source, streams)
    layers = {name: head.read(reader) for name, head in heads.items()}
    reader.finish()
    return Compact(plan, shape, layers, about)
