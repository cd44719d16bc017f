"""What a compact file may say: a bound is held, and one beyond it is refused."""

import dataclasses
import importlib
import pkgutil
from collections import Counter

import golden_files
import numpy as np
import pytest

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
    version1,
)
from vnets.compact.binary import Bytes, varint
from vnets.compact.quantize import Compact, Deviations, Quantized
from vnets.plan import sequences


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


def coded(table, low=0):
    """A reader of one stream of one number, 0, by this table."""
    words = streams._coded([(table, np.zeros(1, np.int64))])
    head = bytes([low + (tables.OWN << streams.HEAD_BITS)]) + table.packed()
    content = head + varint(words.size) + words.tobytes() + bytes(4)
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
    "positions": (read, limits.LOOPS),
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
    table = tables.Table(0, (1, 15))  # the token 1 is 1, times 2^31
    words = streams._coded([(table, np.ones(1, np.int64))])
    head = bytes([31 + (tables.OWN << streams.HEAD_BITS)]) + table.packed()
    content = head + varint(words.size) + words.tobytes() + bytes(4)
    with pytest.raises(ValueError, match="too large"):
        list(streams.Reader(Bytes(content), [("gaps", 1)]).parts(1))


def test_whole_numbers_come_back_around_each_further_byte():
    for number in (0, *(128**n + d for n in (1, 2, 3, 4) for d in (-1, 0, 1))):
        assert Bytes(varint(number)).varint() == number
    assert len(varint(127)) == 1
    assert len(varint(128)) == 2
    with pytest.raises(ValueError, match="too long"):
        Bytes(varint(2**35)).varint()


@pytest.mark.parametrize("mantissa", tables.MANTISSAS)
def test_a_token_and_the_bits_that_remain_are_the_number(mantissa):
    numbers = np.concatenate([np.arange(600), 2 ** np.arange(10, 31) + 5])
    tokens = tables.tokens_of(numbers, mantissa)
    assert (np.diff(tokens) >= 0).all()
    leading, lengths = tables.Table(mantissa, (15,) * (tokens[-1] + 1)).parts
    rest = numbers - leading[tokens]
    assert ((rest >= 0) & (rest < 2 ** lengths[tokens])).all()


def test_a_description_of_the_first_version_ends_where_it_says():
    content = (golden_files.folder(1) / "same.vnz").read_bytes()
    source = Bytes(content[codec.HEAD + version1.CHECKSUM :])
    size, *_ = version1.SIZES.unpack(source.take(version1.SIZES.size))
    section = source.take(size)
    steps, shape, _ = version1._description(section)
    assert plan.shapes(steps, shape)
    for bad in (section[:-1], section + b"\0", section + section):
        with pytest.raises(ValueError, match="too long or cut off"):
            version1._description(bad)


@pytest.mark.parametrize(("at", "turned"), [((0, 99), False), ((99, 0), True)])
def test_a_lone_weight_lies_where_its_gap_is_short(at, turned):
    position, none = np.asarray([at[0] * 100 + at[1]]), np.zeros(100, np.int64)
    one = np.float32(1)
    layer = Quantized(position, np.ones(1, np.int64), one, none, one)
    assert codec._is_turned(layer, (100, 100)) == turned


def test_a_kernel_is_in_its_own_order_where_no_other_is_shorter():
    """Full, empty, and the same from either side."""
    one = np.float32(1)
    for positions in (np.arange(9), np.zeros(0, np.int64), np.arange(0, 9, 4)):
        levels = np.ones(positions.size, np.int64)
        layer = Quantized(positions, levels, one, np.zeros(3, np.int64), one)
        assert not codec._is_turned(layer, (3, 3))


@pytest.mark.parametrize("noise", [None, (5, np.float32(0.5))])
@pytest.mark.parametrize("vocabulary", [0, 9])
def test_a_layer_counts_the_numbers_of_all_its_streams(noise, vocabulary):
    """Gaps aside: memory is taken for what a file of its size can hold."""
    one = np.float32(1)
    head = codec._Head((4, 3), 7, one, one, noise, False, vocabulary)
    counts = [count for kind, count in head.streams() if kind != "gaps"]
    assert head.numbers() == sum(counts)


@pytest.mark.parametrize("package", ["nodes", "priors", "likelihoods", "compact"])
def test_what_nets_are_made_of_cannot_be_changed(package):
    found = importlib.import_module(f"vnets.{package}")
    kinds = 0
    for module in pkgutil.iter_modules(found.__path__):
        name = f"{found.__name__}.{module.name}"
        for kind in vars(importlib.import_module(name)).values():
            if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
                continue
            if kind.__module__ == name:
                kinds += 1
                with pytest.raises(dataclasses.FrozenInstanceError):
                    object.__new__(kind).another = 1
    assert kinds >= 4


def test_two_nets_of_arrays_are_not_compared_by_their_numbers():
    for kind in (graph.Statistics, graph.Weights, graph.Graph):
        assert kind.__eq__ is object.__eq__
    for kind in (Deviations, Quantized, Compact):
        assert kind.__eq__ is object.__eq__


def test_a_step_takes_two_bytes_where_they_say_it():
    """The least such number that is not below: at most 2^-7 of it larger."""
    draw = np.random.default_rng(0)
    for value in np.exp(draw.uniform(-20, 9, 50)).astype(np.float32):
        short = binary.shortened(value)
        assert value <= short <= value * (1 + 2.0**-7)
        assert binary.is_short(short)
        assert binary.shortened(short) == short
        assert binary.is_short(value) == (value == short)
        for number, long in ((value, True), (short, False)):
            packed = binary.float32(number, long)
            assert len(packed) == (4 if long else 2)
            assert Bytes(packed).float32(long) == number
