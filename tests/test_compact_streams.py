"""How a compact file writes its numbers: tables, streams, and those of version 1."""

import dataclasses
import itertools
import json
import zlib

import golden_files
import numpy as np
import pytest

from vnets import plan
from vnets.compact import (
    binary,
    codec,
    description,
    streams,
    tables,
    version1,
)
from vnets.compact.binary import Bytes, varint
from vnets.compact.quantize import Compact, Deviations, Quantized

ONE = np.float32(1)
LONE = Quantized(np.asarray([0]), np.asarray([1]), ONE, np.asarray([1]), ONE)
SPREAD = Deviations(np.asarray([0]), np.asarray([9]), ONE)


def test_a_state_at_its_limit_gives_a_word_away():
    """That of a token of 16 slots is 2^24, where one from 0 on leads to."""
    table = tables.Table(0, (7, 7, 15))
    assert table.frequencies.tolist()[:2] == [16, 16]
    words = streams._coded([(table, np.asarray([1, 0]))])  # from the last on
    assert words.tolist() == [1, 16, 0]


def test_a_stream_of_few_kinds_of_numbers_has_a_short_table():
    """Half bytes of at least two tokens, in octaves below the most frequent."""
    assert tables._sizes(np.asarray([2**16, 2**15, 0, 3 * 2**9, 4, 1])) == (
        *(15, 14, 0, 10, 1, 1),
    )
    [(low, _, table)] = tables.chosen([np.zeros(9, np.int64)])
    assert (low, len(table.packed())) == (0, 3)
    for mean, bits in ((0, 0), (1, 1), (6, 2), (7, 3), (2**20 - 1, 20)):
        counted = tables._Counted(np.asarray([mean]), np.asarray([3]))
        assert counted.low() == bits


def test_streams_share_a_table_only_where_that_takes_fewer_bits():
    """A table costs its bytes, and one that nobody shares is the stream's own."""
    shared = set()
    for seed in range(30):
        rng = np.random.default_rng(seed)
        made = [(rng.uniform(0.02, 0.9), rng.integers(3, 400)) for _ in range(2)]
        numbers = [rng.geometric(p, size=n) - 1 for p, n in made]
        bits = 0.0
        for one, (low, which, table) in zip(
            numbers, tables.chosen(numbers), strict=True
        ):
            counted = tables._Counted(*np.unique(one, return_counts=True))
            bits += counted.bits(low, table)
            bits += 8 * len(table.packed()) * (which != tables.SHARED)
            shared.add(which)
        alone = [tables.bits_alone(one) for one in numbers]
        assert bits <= sum(alone) * (1 + 1e-9)
        for one, expected in zip(numbers, alone, strict=True):
            counted = tables._Counted(*np.unique(one, return_counts=True))
            [(low, _, table)] = tables.chosen([one])
            found = counted.bits(low, table) + 8 * len(table.packed())
            assert found == pytest.approx(expected)
    assert shared == {tables.SHARED, tables.NEW, tables.OWN}


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


DENSE = ["dense", "a", 1, True]


GOOD = {"plan": [DENSE], "shape": [1], "about": {}}


def test_a_description_of_the_first_version_says_what_it_holds():
    def described(held):
        return version1._description(zlib.compress(json.dumps(held).encode()))

    assert described(GOOD) == ((plan.Dense("a", 1),), (1,), {})
    deep = DENSE
    for _ in range(description.DEPTH):
        deep = ["residual", [deep], []]
    for change, message in (
        ({"more": 1}, "other fields"),
        ({"shape": "1"}, "no shape"),
        ({"shape": [0]}, "inputs are"),
        ({"about": []}, "no names"),
        ({"about": {"a": []}}, "short texts"),
        ({"plan": "dense"}, "no list of steps"),
        ({"plan": ["dense"]}, "no kind"),
        ({"plan": [[]]}, "no kind"),
        ({"plan": [[1, "a", 1, True]]}, "no kind"),
        ({"plan": [["norm", "a"]]}, "unknown step 'norm'"),
        ({"plan": [DENSE[:-1]]}, "a dense step has other fields"),
        ({"plan": [[*DENSE, 1]]}, "a dense step has other fields"),
        ({"plan": [["dense", "a", 2**20 + 1, True]]}, "needs 1 to"),
        ({"plan": [deep]}, "nested 8 deep"),
        ({"plan": [["flatten"]] * 1025}, "1024 steps"),
        ({"plan": [["activation", "silu"], DENSE]}, "version 1 does not have"),
    ):
        with pytest.raises(ValueError, match=message):
            described({**GOOD, **change})
    for bad in ([GOOD], {"plan": [DENSE], "shape": [1]}):
        with pytest.raises(ValueError, match="other fields"):
            described(bad)


def test_streams_of_the_first_version_end_where_they_say():
    content = (golden_files.folder(1) / "same.vnz").read_bytes()
    rest = content[codec.HEAD + version1.CHECKSUM :]
    size = version1.SIZES.size
    sizes = version1.SIZES.unpack(rest[:size])
    ends = np.cumsum((size, *sizes))
    sections = [rest[a:b] for a, b in itertools.pairwise(ends)]

    def parsed(*changed):
        head = version1.SIZES.pack(*map(len, changed))
        return version1.parse(head + b"".join(changed), len(content))

    assert parsed(*sections).layers
    described, tables_, words, bits = sections
    for bad, message in (
        ((described, tables_, words + b"\0", bits), "words are cut off"),
        ((described, tables_, words + bytes(8), bits), "words do not end"),
        ((described, tables_ + b"\0", words, bits), "more than the streams"),
        ((described, tables_, words, bits + b"\1"), "more than the streams"),
        ((described, tables_, words, bits[:-2]), "raw bits are cut off"),
        ((described, tables_[:-1], words, bits), "cut off"),
    ):
        with pytest.raises(ValueError, match=message):
            parsed(*bad)


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


SHORT, LONG = np.float32(0.75), np.float32(0.7)


@pytest.mark.parametrize("step", [SHORT, LONG])
@pytest.mark.parametrize("noise", [None, SHORT, LONG])
def test_steps_of_grids_come_back(step, noise):
    """To the bit: those of biases that are halved steps of weights, and others."""
    deviations = None if noise is None else dataclasses.replace(SPREAD, step=noise)
    for bias_step in (*(step * np.float32(2.0**-s) for s in range(17)), SHORT, LONG):
        layer = dataclasses.replace(
            LONE, step=step, bias_step=bias_step, deviations=deviations
        )
        net = Compact((plan.Dense("a", 1),), (1,), {"a": layer})
        back = codec.loads(codec.dumps(net)).layers["a"]
        assert (back.step, back.bias_step) == (step, bias_step)
        held = back.deviations and back.deviations.step
        assert held == noise


@pytest.mark.parametrize("noisy", [False, True])
def test_a_file_is_as_long_as_its_numbers_ask_for(noisy):
    """Padded where it would be shorter, and no byte longer where not."""
    inputs, outputs = 101, 41
    size = inputs * outputs
    grid = np.arange(size), np.ones(size, np.int64)
    layer = Quantized(
        *(*grid, ONE, np.ones(outputs, np.int64), ONE),
        Deviations(*grid, ONE) if noisy else None,
    )
    net = Compact((plan.Dense("a", outputs),), (inputs,), {"a": layer})
    assert len(codec.dumps(net)) == -(-(size * (1 + noisy) + outputs) // 4)


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
