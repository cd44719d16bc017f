"""What a compact file may say: a bound is held, and one beyond it is refused."""

import dataclasses
import sys
from collections import Counter

import numpy as np
import pytest
from claims import frozen_kinds

from vnets import plan
from vnets.compact import (
    binary,
    codec,
    description,
    graph,
    layers,
    limits,
    sequence_files,
    streams,
    tables,
)
from vnets.compact.binary import Bytes, varint
from vnets.compact.quantize import Compact, Deviations, Quantized
from vnets.plan import sequences

quantize = sys.modules["vnets.compact.quantize"]  # the package has a function for it


def nested(depth):
    """A plan of sides within sides."""
    return (plan.Residual(nested(depth - 1)),) if depth else (plan.Activation(),)


def described(size):
    """Packs a description of so many bytes."""
    steps = (plan.Standardize((0.0,) * 8100, (1.0,)),)
    base = len(description.pack(steps, (8100,), {"a": "", "b": "", "c": "", "d": ""}))
    rest = size - base - 1  # its length takes two bytes then
    texts = {key: "x" * (rest // 4 + (i < rest % 4)) for i, key in enumerate("abcd")}
    assert len(description.pack(steps, (8100,), texts)) == size


def coded(table, low=0, token=0):
    """A reader of one stream of one number, a token of this table without more bits."""
    words = streams._coded([(table, np.asarray([token]))])
    head = bytes([low + (tables.OWN << streams.HEAD_BITS)]) + table.packed()
    content = head + varint(words.size) + words.tobytes() + bytes(8)
    return streams.Reader(Bytes(content), [("gaps", 1)])


def unpacked(count):
    content = varint(count) + bytes(count)
    return description._unpacked(Bytes(content), description.DEPTH, Counter())


tokens_step = sequence_files.check_step
check_step, ones = description.check_step, np.ones(2, np.int64)


def padded(margin):
    return plan.Conv("a", 1, (1, 1), padding=((margin, 0), (0, 0)))


def read(positions):
    """Checks what takes some positions one by one."""
    lstm = sequences.LSTM("a", 1), sequences.Last()
    limits.check_work((sequences.Embedding("words", 2, 1), *lstm), (positions,))


def work(operations):
    """Checks steps of so many operations on one number, and a layer of two numbers."""
    four, two, one = operations // 4, operations % 4 // 2, operations % 2
    steps = [plan.Activation()] * four + [plan.Standardize()] * two
    steps += [plan.MeanPool() if one else plan.Flatten(), plan.Dense("a", 1)]
    limits.check_work(tuple(steps), (1, 1, 1))


def shapes(steps, *shape):
    return graph.kernel_shapes(steps, shape)


ONE = np.float32(1)
LONE = Quantized(np.asarray([0]), np.asarray([1]), ONE, np.asarray([1]), ONE)


def held(**changes):
    """Checks a layer of one weight."""
    layers._check_layer("a", dataclasses.replace(LONE, **changes), (1, 1))


def spread(level):
    return Deviations(np.asarray([0]), np.asarray([level]), ONE)


def attention(*keys):
    return sequences.Attention("a", 1, keys, (1,) * len(keys), 1)


BOUNDS = {  # what takes a number, and the largest that it takes
    "units": (lambda n: check_step(plan.Dense("a", n)), 2**20),
    "kernel": (lambda n: check_step(plan.Conv("a", 1, (1, n))), 64),
    "strides": (lambda n: check_step(plan.Conv("a", 1, (1, 1), (n, 1))), 64),
    "window": (lambda n: check_step(plan.WindowMaxPool(n, 1)), 64),
    "stride": (lambda n: check_step(plan.WindowMaxPool(1, n)), 64),
    "padding": (lambda n: check_step(padded(n)), 64),
    "inputs": (lambda n: description.check_shape((n,)), 2**20),
    "channels": (lambda n: description.check_shape((1, 1, n)), 2**20),
    "steps": (lambda n: description.check_count((plan.Flatten(),) * n), 1024),
    "packed": (unpacked, 1024),
    "sides": (lambda n: description.check_count((plan.Residual(()),) * n), 1024),
    "depth": (lambda n: description.pack(nested(n), (1,), {}), 7),
    "positions": (read, 2**15),
    "work": (work, 3 * 128),
    "weights of a layer": (lambda n: shapes((plan.Dense("a", n),), 2**14), 2**14),
    "pixels": (
        lambda n: shapes((plan.MeanPool(), plan.Dense("a", 1)), 2**14, n, 1),
        2**14,
    ),
    "heads": (lambda n: tokens_step(attention(*(1,) * n)), 256),
    "units of heads": (lambda n: tokens_step(attention(n - 1, 1)), 2**20),
    "words": (lambda n: tokens_step(sequences.Embedding("a", n, 1)), 2**20),
    "about": (lambda n: description.check_about(dict.fromkeys(map(str, range(n)))), 0),
    "entries": (lambda n: description.check_about({str(i): i for i in range(n)}), 32),
    "key": (lambda n: description.check_about({"x" * n: 1}), 256),
    "value": (lambda n: description.check_about({"x": "x" * n}), 256),
    "bytes": (described, 2**16),
    "text": (lambda n: Bytes(binary.text("x" * n)).text(), 255),
    "take": (lambda n: Bytes(bytes(5)).take(n), 5),
    "position": (lambda n: layers.read_positions([np.asarray([n])], 1, 10), 9),
    "level": (
        lambda n: layers.read_levels([ones * n], 2, 99, np.int8, lambda x: x),
        99,
    ),
    "weight": (lambda n: held(levels=np.asarray([n])), 127),
    "bias": (lambda n: held(bias_levels=np.asarray([n])), 2**15 - 1),
    "deviation": (lambda n: held(deviations=spread(n)), 255),
    "low level": (lambda n: layers._check_levels("a", ones * -n, 99), 99),
    "high level": (lambda n: layers._check_levels("a", ones * n, 99), 99),
    "numbers": (lambda n: layers.check_numbers(n, 25), 100),
    "last": (lambda n: layers._check_grid("a", np.asarray([0, n]), ones, 10, 1), 9),
    "number": (lambda n: streams.Writer().write("gaps", np.asarray([0, n])), 2**31 - 1),
    "tokens": (lambda n: coded(tables.Table(0, (15,) * n)), 32),
    "bits": (lambda n: streams.Bits(bytes(3)).take(np.asarray([n - 5, 5])), 24),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_the_bound_is_held_and_one_beyond_is_not(name):
    take, most = BOUNDS[name]
    take(most)
    with pytest.raises(ValueError, match=r"\w"):
        take(most + 1)


def test_positions_rise_from_zero_on():
    for positions in ([0, 1], [3, 9]):
        layers._check_grid("a", np.asarray(positions), ones, 10, 1)
    for positions in ([-1, 1], [3, 3], [4, 3]):
        with pytest.raises(ValueError, match="not of its kernel"):
            layers._check_grid("a", np.asarray(positions), ones, 10, 1)


def test_what_is_not_there_may_be_as_large_as_it_likes():
    """A token for 2^31 in a table without it, and a number of a shared table."""
    reader = coded(tables.Table(0, (15,) * 32 + (0,)))
    assert [part.tolist() for part in reader.parts(1)] == [[0]]
    assert [part.tolist() for part in coded(tables.Table(0, (15, 1)), 31).parts(1)]
    with pytest.raises(ValueError, match="too large"):  # the token 1 is 1, times 2^31
        list(coded(tables.Table(0, (1, 15)), 31, token=1).parts(1))


def test_a_number_that_leaves_its_word_is_refused():
    """2^33 times 2^31 is 0 in 64 bits."""
    table = tables.Table(3, (15,) + (0,) * 247 + (1,))
    with pytest.raises(ValueError, match="too large"):
        list(coded(table, 31, token=248).parts(1))


def test_what_files_are_made_of_cannot_be_changed():
    assert frozen_kinds("compact") >= 4


def test_two_nets_of_arrays_are_not_compared_by_their_numbers():
    for kind in (graph.Statistics, graph.Weights, graph.Graph):
        assert kind.__eq__ is object.__eq__
    for kind in (Deviations, Quantized, Compact):
        assert kind.__eq__ is object.__eq__


@pytest.mark.parametrize("rest", [bytes(60), b"\1" * 60, b"\1a" + b"\1" * 60])
def test_a_byte_begins_the_step_that_is_written_with_it_or_is_refused(rest):
    kinds = []
    for kind in range(256):
        source = Bytes(bytes([kind]) + rest)
        try:
            step = description._step(source, description.DEPTH, Counter())
        except ValueError:
            continue
        assert description._packed_step(step, description.DEPTH, Counter())[0] == kind
        kinds.append(kind)
    activations = range(16, 16 + len(plan.ACTIVATIONS))
    assert [kind for kind in kinds if 16 <= kind < 32] == [*activations]
    assert {0, 1, 2, 37, 38} <= set(kinds) <= {*range(16), *activations, *range(32, 39)}


def test_a_file_of_no_version_or_of_nothing_but_its_head_is_refused():
    content = codec.dumps(Compact((plan.Dense("a", 1),), (1,), {"a": LONE}))
    rest = content[codec.HEAD + codec.CHECKSUM :]
    for bad, message in (
        (codec.sealed(rest, 0), "cut off after"),
        (content[: codec.HEAD + codec.CHECKSUM], "damaged"),
    ):
        with pytest.raises(ValueError, match=message):
            codec.loads(bad)


def test_biases_have_the_coarsest_grid_with_enough_levels():
    """Of weights of 4 bits 8 * 2^3; the smallest have what 15 halvings give them."""
    step, short = np.float32(0.75), np.float32(2.0**-20)
    for times, halvings in ((64, 0), (63.9, 1), (32, 1), (31.9, 2), (64 / 2**15, 15)):
        bias = np.asarray([times * step, 0], np.float32)
        assert quantize._bias_step(bias, step, 4) == step / 2**halvings
    assert quantize._bias_step(np.asarray([short]), step, 4) == step / 2**15
    assert quantize._bias_step(np.zeros(3, np.float32), step, 4) == step
    assert quantize._step(np.zeros(3, np.float32), 7) == 1
    large = np.asarray([1000.0], np.float32)
    found = quantize._bias_step(large, np.float32(2.0**-9), 4)
    assert 1000 / (2**15 - 1) <= found <= 1000 / (2**15 - 1) * (1 + 2**-7)


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_the_largest_deviation_is_on_the_last_level(bits):
    std = np.asarray([[0.1, 0.003, 0.0]], np.float32)
    mean, bias = np.ones((1, 3), np.float32), np.zeros(3, np.float32)
    one = graph.Graph(
        *((plan.Dense("a", 3),), (1,), {"a": mean}, {"a": bias}), deviations={"a": std}
    )
    noise = quantize.quantize(one, bits).layers["a"].deviations
    assert noise is not None
    assert noise.levels.max() == 2**bits - 1


def test_a_dense_net_has_so_many_weights_at_most(monkeypatch):
    net = Compact((plan.Dense("a", 1),), (1,), {"a": LONE})
    monkeypatch.setattr(quantize, "LARGEST", 1)
    assert net.graph().kernels["a"].tolist() == [[1.0]]
    monkeypatch.setattr(quantize, "LARGEST", 0)
    with pytest.raises(ValueError, match="dense, the net has 1 weights, more than 0"):
        net.graph()
