"""Mutated .vnz files: each is a net or a ValueError, soon and in little memory."""

import dataclasses
import functools
import math
import struct
import time
import tracemalloc

import numpy as np
import pytest
from attack.sizes import some
from test_compact_files import FILES, Parts, examples, mutated

from vnets import compact
from vnets.compact import codec
from vnets.compact.binary import text, varint

MUTATIONS = some(625)  # of each file, in
ROUNDS = 4
# Beside the size of the file; what imports, and parts of streams, take once.
BYTES_PER_BYTE, BYTES = 400, 8 * 2**20
SECONDS = 5  # of the processor, to read a file, and again to predict; mostly hundredths
LARGEST_INPUT = 2**14  # of a net that is tried; an LSTM takes 0.1 ms a position
NAMES = ("../../etc/passwd", "/x", "a/../b", "a//b", "", "\x1b[2J", "a\n", "x" * 65)
SIZES = (0, 1, 2, 64, 65, 2**20, 2**20 + 1, 2**31, 2**34)
CONSTANTS = (math.nan, math.inf, -1.0, 0.0, 2.0**99, 1e-45)


def hostile_step(draw):
    """A step that means harm, as a file has it."""

    def size():
        return varint(SIZES[draw.integers(0, len(SIZES))])

    name = text(NAMES[draw.integers(0, len(NAMES))])
    window = bytes([*draw.choice([0, 1, 3, 64, 65, 255], 2)])
    constants = varint(1) + struct.pack("<d", CONSTANTS[draw.integers(0, 6)])
    steps = (
        bytes([3]) + window,
        bytes([4]) + window,
        bytes([21]),  # gelu
        bytes([5]) + varint(1) + struct.pack("<d", 0.0) + constants,
        bytes([5]) + size() + constants,
        bytes([6]) + varint(0) + varint(0),
        bytes([6]) * 30,
        bytes([7]) + name + size(),
        bytes([8]) + name + size() + window + window,
        bytes([0]),
        bytes([2]),
        bytes([99]),
        bytes([32]) + name + size() + size() + size(),
        bytes([33]) + name,
        bytes([34]) + name + size(),
        bytes([35]) + name + size(),
        bytes([36]) + name + b"".join(size() for _ in range(7)),
        bytes([36]) + text("a") + bytes([8, 1, 2, 1, 1, 1, 1]),
        bytes([34]) + text("b") + bytes([1]),
        bytes([37]),
        bytes([38]),
    )
    return steps[draw.integers(0, len(steps))]


taken_apart = functools.cache(Parts.of)


def hostile(content, draw):
    """A file whose checksum is right, and whose content means harm."""
    parts = dataclasses.replace(taken_apart(content))
    parts.heads = list(parts.heads)
    kind = draw.integers(0, 4)
    if kind == 0:  # a byte of what describes the net
        steps = bytearray(parts.steps)
        steps[draw.integers(0, len(steps))] = draw.integers(0, 256)
        parts.steps = bytes(steps)
    elif kind == 1:  # many steps
        times = int(2 ** draw.integers(0, 11))
        parts.steps = hostile_step(draw) * times + parts.steps
        parts.count += times
    elif kind == 2:  # larger inputs
        shape = [*taken_apart(content).shape[1:]]  # each axis below 128
        shape[draw.integers(0, len(shape))] = int(2 ** draw.integers(0, 21))
        parts.shape = bytes([len(shape)]) + b"".join(map(varint, shape))
    else:  # counts and steps of the grids
        which = draw.integers(0, len(parts.heads))
        flags = bytes([draw.integers(0, 256) | codec.LONG_STEPS])
        count = varint(int(2 ** draw.integers(0, 33)))
        steps = (CONSTANTS[i] for i in draw.integers(0, 6, 3))
        long = struct.pack("<fff", *(np.float32(step) for step in steps))
        entry = flags + count + long[:4] + long[4:8] + count + long[8:]
        old = parts.heads[which]
        keep = draw.integers(0, 4)
        parts.heads[which] = (
            entry if not keep else (old[: keep + 1] + entry[keep + 1 : len(old)])
        )
    return parts.file()


def used(content):
    """Reads a file and predicts from it; "loaded" or "refused"."""
    tracemalloc.start()
    began = time.process_time()
    try:
        predictor = compact.Predictor(compact.loads(content))
    except ValueError:
        predictor = None
    finally:
        took = time.process_time() - began
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()  # a recurrent net takes three times as long while it traces
    assert peak <= BYTES + BYTES_PER_BYTE * len(content)
    assert took < SECONDS
    if predictor is None:
        return "refused"
    shape = predictor.net.shape
    if math.prod(shape) <= LARGEST_INPUT:
        began = time.process_time()
        with np.errstate(all="ignore"):
            got = predictor(examples(predictor.net))
        assert (got.ndim, len(got)) == (2, 2)
        assert time.process_time() - began < SECONDS
        repr(predictor)
    return "loaded"


@pytest.mark.slow
@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("name", FILES)
def test_mutated_files_are_nets_or_refused(name, number):
    content, draw = FILES[name](), np.random.default_rng(number)
    other = FILES[next(one for one in FILES if one != name)]()
    outcomes = {"loaded": 0, "refused": 0}
    for turn in MUTATIONS:
        garbled = turn % 2 == 0 or name == "version1"
        bad = (
            mutated(content, other, draw, turn // 2)
            if garbled
            else hostile(content, draw)
        )
        outcomes[used(bad)] += 1
    assert min(outcomes.values()) > 0, outcomes
