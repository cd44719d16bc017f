"""Mutated .vnz files: each is a net or a ValueError, soon and in little memory."""

import json
import math
import struct
import time
import tracemalloc

import numpy as np
import pytest
from attack.sizes import some
from test_compact_files import FILES, mutated, rebuilt, sections

from vnets import compact
from vnets.compact import codec

MUTATIONS = some(1250)  # of each file, in
ROUNDS = 4
# Beside the size of the file; what imports, and parts of streams, take once.
BYTES_PER_BYTE, BYTES = 400, 8 * 2**20
SECONDS = 5  # of the processor, to read a file, and again to predict; mostly hundredths
LARGEST_INPUT = 2**16  # of a net that is tried
NUMBERS = (0, -1, 1, 2, 64, 65, 2**20, 2**20 + 1, 2**31, 10**400, 1e-300, 1e300, 0.5)
NAMES = ("../../etc/passwd", "/x", "a/../b", "a//b", "", "\x1b[2J", "a\n", "x" * 65)
STEPS = (
    ["window_max_pool", 64, 1, "SAME"],
    ["window_max_pool", 3, 1, "SAME"],
    ["activation", "gelu"],
    ["standardize", [0.0], [1e-300]],
    ["residual", [], []],
    ["mean_pool"],
    ["flatten"],
)


def places(held, path=()):
    """Paths of all numbers and texts of a description."""
    if isinstance(held, dict | list):
        items = held.items() if isinstance(held, dict) else enumerate(held)
        for key, one in items:
            yield from places(one, (*path, key))
    else:
        yield path


def hostile(content, draw):
    """A file whose checksum and sizes are right, and whose content means harm."""
    parts = sections(content)
    held = json.loads(parts[0])
    kind = draw.integers(0, 4)
    if kind == 0:  # a field
        paths = list(places(held))
        *path, last = paths[draw.integers(0, len(paths))]
        node = held
        for key in path:
            node = node[key]
        choices = NAMES if isinstance(node[last], str) else NUMBERS
        node[last] = choices[draw.integers(0, len(choices))]
    elif kind == 1:  # many steps
        at = int(draw.integers(0, len(held["plan"]) + 1))
        step = STEPS[draw.integers(0, len(STEPS))]
        held["plan"][at:at] = [step] * int(2 ** draw.integers(0, 11))
    elif kind == 2:  # larger inputs
        axis = draw.integers(0, len(held["shape"]))
        held["shape"][axis] = int(2 ** draw.integers(0, 21))
    else:  # counts and steps of the grids
        layers = bytearray(parts[1])
        bad = (math.nan, math.inf, -1.0, 0.0, 2.0**99, 1e-45)
        count = int(draw.integers(0, 2**32))
        entry = struct.pack("<Iff", count, *(bad[i] for i in draw.integers(0, 6, 2)))
        begin, end = sorted(draw.integers(0, codec.LAYER.size + 1, 2))
        layers[begin:end] = entry[begin:end]
        parts[1] = bytes(layers)
    parts[0] = json.dumps(held).encode()
    return rebuilt(parts)


def used(content):
    """Reads a file and predicts from it; "loaded" or "refused"."""
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    began = time.process_time()
    try:
        predictor = compact.Predictor(compact.loads(content))
    except ValueError:
        predictor = None
    took = time.process_time() - began
    _, peak = tracemalloc.get_traced_memory()
    assert peak - before <= BYTES + BYTES_PER_BYTE * len(content)
    assert took < SECONDS
    if predictor is None:
        return "refused"
    shape = predictor.net.shape
    if math.prod(shape) <= LARGEST_INPUT:
        began = time.process_time()
        with np.errstate(all="ignore"):
            got = predictor(np.ones((2, *shape), np.float32))
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
    tracemalloc.start()
    try:
        for turn in MUTATIONS:
            garbled = turn % 2 == 0
            bad = (
                mutated(content, other, draw, turn // 2)
                if garbled
                else hostile(content, draw)
            )
            outcomes[used(bad)] += 1
    finally:
        tracemalloc.stop()
    assert min(outcomes.values()) > 0, outcomes
