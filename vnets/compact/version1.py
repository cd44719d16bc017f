"""The first version of the .vnz file, which is read for ever and no longer written.

    magic VNZ, version, checksum (BLAKE2b of all the rest), sizes of the sections
    description   canonical JSON by zlib: plan, shape, what the net is
    layers        for each linear layer: number of weights, steps of its two grids
    tables        frequencies of the streams' tokens
    words         tokens by range coding: positions as gaps, levels, biases
    bits          the numbers' remaining bits

A number below 2^m is its own token; of a larger one the token holds the length and the
m bits below the leading one, and the remaining bits follow raw. Range coding is
constriction's (Bamler 2022), whose tables are made of floating-point numbers.
"""

import dataclasses
import functools
import hashlib
import math
import struct
import zlib
from collections.abc import Iterator

import numpy as np

from vnets.compact import description, limits
from vnets.compact.binary import Bytes
from vnets.compact.graph import kernel_shapes
from vnets.compact.layers import check_numbers, read_levels, read_positions
from vnets.compact.quantize import MOST_BIAS, MOST_LEVEL, Compact, Quantized
from vnets.compact.streams import AT_ONCE, Bits, unzigzag
from vnets.compact.tables import ABSENT, MAX_BITS, Table
from vnets.plan import Plan, Residual, Shape, Step

VERSION = 1
CHECKSUM = 16  # bytes
SIZES = struct.Struct("<IIII")
LAYER = struct.Struct("<Iff")


def sealed(rest: bytes) -> bytes:
    """A file of what follows its checksum."""
    head = b"VNZ\x1a" + VERSION.to_bytes(2, "little")
    return head + hashlib.blake2b(head + rest, digest_size=CHECKSUM).digest() + rest


def parse(rest: bytes, file_size: int) -> Compact:
    """The net of what follows a file's checksum; the caller checks the net.

    Raises:
      ValueError: it is none.
    """
    source = Bytes(rest)
    sizes = SIZES.unpack(source.take(SIZES.size))
    described, tables, words, bits = map(source.take, sizes)
    if source.rest():
        raise ValueError("its sections are not as long as it says")
    plan, shape, about = _description(described)
    shapes = kernel_shapes(plan, shape)
    limits.check_work(plan, shape)
    source = Bytes(tables)
    counts = [LAYER.unpack(source.take(LAYER.size)) for _ in shapes]
    numbers = sum(count for count, _, _ in counts)
    check_numbers(numbers + sum(k[-1] for k in shapes.values()), file_size)
    reader = _Reader(source, words, bits)
    layers = {}
    for (name, kernel), (count, step, bias_step) in zip(
        shapes.items(), counts, strict=True
    ):
        layers[name] = Quantized(
            read_positions(reader.parts(count), count, math.prod(kernel)),
            _levels(reader, count, MOST_LEVEL, np.int8),
            np.float32(step),
            _levels(reader, kernel[-1], MOST_BIAS, np.int16),
            np.float32(bias_step),
        )
    reader.finish()
    return Compact(plan, shape, layers, about)


def _levels(reader: "_Reader", count: int, most: int, kind: type) -> np.ndarray:
    return read_levels(reader.parts(count), count, most, kind, unzigzag)


class _Reader:
    """Streams in their order; nothing in the sections is trusted."""

    def __init__(self, tables: Bytes, words: bytes, bits: bytes):
        if len(words) % 4:
            raise ValueError("range-coded words are cut off")
        coder, _ = _constriction()
        self._coder = coder.RangeDecoder(np.frombuffer(words, "<u4").astype(np.uint32))
        self._tables, self._bits = tables, Bits(bits)

    def parts(self, count: int) -> Iterator[np.ndarray]:
        """The next stream in parts, none empty."""
        if not count:
            return
        table = Table.unpacked(self._tables)
        for start in range(0, count, AT_ONCE):
            yield self._part(table, min(AT_ONCE, count - start))

    def _part(self, table: Table, count: int) -> np.ndarray:
        try:
            tokens = self._coder.decode(_model(table), count)
        except AssertionError as error:
            raise ValueError("range-coded words do not fit their tables") from error
        leading, lengths = (one[tokens] for one in table.parts)
        if lengths.max() >= MAX_BITS - table.mantissa:
            raise ValueError("a token stands for a number that is too large")
        return leading + self._bits.take(lengths)

    def finish(self) -> None:
        """Checks that nothing but zero padding is left."""
        if self._tables.rest():
            raise ValueError("there is more than the streams")
        self._bits.finish()
        if not self._coder.maybe_exhausted():
            raise ValueError("range-coded words do not end where the streams do")


@functools.cache
def _constriction():
    """constriction's queue coder and models."""
    try:
        import constriction
    except ImportError as error:
        raise ImportError(
            "a .vnz file of version 1 is read with constriction, which is not "
            "installed; write the net anew, or pip install constriction"
        ) from error

    # A compiled module without type stubs: a checker cannot see `stream`.
    stream = constriction.stream  # type: ignore[attr-defined]
    return stream.queue, stream.model


def _model(table: Table):
    """Probabilities of the tokens: exact in floating point but for the division."""
    sizes = np.asarray(table.sizes)
    weights = np.where(sizes > ABSENT, np.exp2(sizes.astype(np.float64)), 0.0)
    probabilities = (weights / weights.sum()).astype(np.float32)
    return _constriction()[1].Categorical(probabilities, perfect=False)


def _description(section: bytes) -> tuple[Plan, Shape, dict]:
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(section, description.LARGEST)
    except zlib.error as error:
        raise ValueError("its description cannot be read") from error
    if not unpacker.eof or unpacker.unused_data:
        raise ValueError("its description is too long or cut off")
    held = description.parsed(text.decode())
    if not isinstance(held, dict) or set(held) != {"plan", "shape", "about"}:
        raise ValueError("its description has other fields")
    plan, shape, about = held["plan"], held["shape"], held["about"]
    if not isinstance(shape, list):
        raise ValueError("its inputs have no shape")
    description.check_shape(shape)
    if not isinstance(about, dict):
        raise ValueError("its description has no names")
    description.check_about(about)
    steps = _steps(plan, description.DEPTH)
    description.check_count(steps)
    description.check_version(steps, VERSION)
    return steps, tuple(shape), about


def _steps(held, depth: int) -> Plan:
    description.check_depth(depth)
    if not isinstance(held, list):
        raise ValueError("a plan is no list of steps")
    return tuple(_step(one, depth) for one in held)


def _step(held, depth: int) -> Step:
    if not (isinstance(held, list) and held and isinstance(held[0], str)):
        raise ValueError("a step has no kind")
    kind = description.KINDS.get(held[0])
    if kind is None:
        raise ValueError(
            f"unknown step {held[0]!r}; there are {list(description.KINDS)}"
        )
    if len(held) - 1 != len(dataclasses.fields(kind)):
        raise ValueError(f"a {held[0]} step has other fields")
    if kind is Residual:
        return Residual(*(_steps(side, depth - 1) for side in held[1:]))
    step = kind(*(tuple(v) if isinstance(v, list) else v for v in held[1:]))
    description.check_step(step)
    return step
