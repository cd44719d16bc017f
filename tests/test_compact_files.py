"""A compact file is small, comes back, and does no harm where it is bad."""

import dataclasses
import math
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from compact_nets import SHAPE, case, lenet5, sparse

from vnets import compact, plan
from vnets.compact import codec, description, entropy
from vnets.nets import MLP, lenet_300_100


@pytest.mark.parametrize("seed", range(3))
def test_streams_come_back(seed):
    draw = np.random.default_rng(seed)
    streams = [
        draw.geometric(0.01, 5000),
        np.zeros(70, np.int64),
        draw.integers(0, 2**31, 50),
        np.asarray([2**31 - 1]),
        np.zeros(0, np.int64),
        entropy.zigzag(draw.integers(-(2**14), 2**14, 300)),
        np.arange(40),
    ]
    writer = entropy.Writer()
    for stream in streams:
        writer.write(stream)
    reader = entropy.Reader(*writer.sections())
    for stream in streams:
        np.testing.assert_array_equal(reader.read(stream.size), stream)
    reader.finish()
    with pytest.raises(ValueError, match="cut off"):
        reader.read(1)
    with pytest.raises(ValueError, match="within"):
        writer.write(np.asarray([-1]))
    numbers = np.arange(-5, 6)
    back = entropy.unzigzag(entropy.zigzag(numbers))
    np.testing.assert_array_equal(back, numbers, strict=True)


@pytest.mark.parametrize("table", [b"\0\0", b"\0\1\xf0", b"\0\2\0"])
def test_a_table_of_fewer_than_two_tokens_or_of_none_that_occurs_is_refused(table):
    with pytest.raises(ValueError, match="a stream has no tokens"):
        entropy.Reader(table, bytes(8), b"").read(1)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_nothing_but_zeros_may_follow_the_streams(count):
    """Wherever it lies: in the last byte that has bits, and in each one after it."""
    numbers = np.full(count, 2**20 + 5)  # raw bits that end within a byte, or with it
    writer = entropy.Writer()
    writer.write(numbers)
    tables, words, bits = writer.sections()

    def read(bits, tables=tables):
        reader = entropy.Reader(tables, words, bits)
        np.testing.assert_array_equal(reader.read(count), numbers)
        reader.finish()
        return reader

    used = read(bits + bytes(3))._used
    for more in (b"\1", b"\0\1", b"\0\0\1", b"\x80", b"\0\x80\0"):
        with pytest.raises(ValueError, match="more than the streams"):
            read(bits + more)
    for bit in range(-used % 8):
        with pytest.raises(ValueError, match="more than the streams"):
            read(bits[:-1] + bytes([bits[-1] | 1 << bit]))
    with pytest.raises(ValueError, match="more than the streams"):
        read(bits, tables + b"\0")


@pytest.mark.parametrize("inputs", [40, 41, 42, 43])
def test_a_file_has_a_byte_for_every_few_numbers(inputs):
    """Else a short one could ask a reader for any amount of memory."""
    steps = (plan.Dense("dense1", 101),)
    kernels = {"dense1": np.ones((inputs, 101), np.float32)}
    biases = {"dense1": np.ones(101, np.float32)}
    graph = compact.Graph(steps, (inputs,), kernels, biases)
    content = compact.dumps(compact.quantize(graph, 4))
    numbers = (inputs + 1) * 101
    assert len(content) == math.ceil(numbers / codec.NUMBERS_PER_BYTE)
    assert compact.loads(content).nonzeros() == {"dense1": inputs * 101}


def test_streams_are_near_their_entropy():
    """Frequencies in octaves and raw bits cost less than a tenth of a bit."""
    draw = np.random.default_rng(0)
    p = 0.02
    writer = entropy.Writer()
    writer.write(draw.geometric(p, 20_000) - 1)
    bits = 8 * sum(map(len, writer.sections())) / 20_000
    ideal = -(np.log2(p) + (1 - p) / p * np.log2(1 - p))
    assert ideal - 0.05 < bits < ideal + 0.1


def resealed(content):
    """The content with a checksum that fits."""
    head = codec.PREFIX.pack(codec.MAGIC, codec.VERSION, codec.digest(content[22:]))
    return head + content[22:]


def test_bad_files_are_refused(tmp_path):
    content, _ = lenet5()
    assert codec.PREFIX.size == 22
    assert resealed(content) == content
    newer = content[:4] + (codec.VERSION + 1).to_bytes(2, "little") + content[6:]
    altered = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    for bad, message in (
        (b"", "not a .vnz"),
        (b"\x80\x04N.", "not a .vnz"),
        (b"PK\x03\x04" + content[4:], "not a .vnz"),
        (content[:4], "cut off after 4 bytes"),
        (content[:37], "cut off after 37 bytes"),
        (newer, f"version {codec.VERSION + 1}.*reads version {codec.VERSION}"),
        (content[:-1], "damaged"),
        (content + b"\0", "damaged"),
        (altered, "damaged"),
        (resealed(content[:-1]), "malformed.*sections"),
        (resealed(content + b"\0"), "malformed.*sections"),
    ):
        (tmp_path / "bad.vnz").write_bytes(bad)
        with pytest.raises(ValueError, match=rf"bad.vnz: .*{message}"):
            compact.load(tmp_path / "bad.vnz")


def test_a_file_larger_than_any_is_not_read(tmp_path, monkeypatch):
    content, _ = lenet5()
    path = tmp_path / "net.vnz"
    path.write_bytes(content)
    monkeypatch.setattr(codec, "LARGEST_FILE", len(content))
    compact.read(path)
    monkeypatch.setattr(codec, "LARGEST_FILE", len(content) - 1)
    with pytest.raises(ValueError, match=r"net.vnz is larger than any .vnz file"):
        compact.read(path)
    monkeypatch.undo()
    with path.open("wb") as file:
        file.truncate(2**30 + 1)  # of holes: it takes no room
    with pytest.raises(ValueError, match="larger than any"):
        compact.read(path)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_one_bad_constant_among_good_ones_is_refused(bad):
    for step, words in (
        (plan.Standardize((0.0, bad)), "subtracts"),
        (plan.Standardize((bad, 0.0)), "subtracts"),
        (plan.Standardize((0.0,), (1.0, bad)), "divides by"),
        (plan.Standardize((0.0,), (bad, 1.0)), "divides by"),
    ):
        with pytest.raises(ValueError, match=words):
            description.check_step(step)


def nested(depth):
    """Sides within sides."""
    return plan.Residual((nested(depth - 1),)) if depth else plan.Activation()


def test_what_no_file_holds_is_refused():
    _, net = lenet5()
    layer = net.layers["conv1"]
    for change, message in (
        ({"about": {"x": [1]}}, "short texts"),
        ({"about": {"x": float("nan")}}, "JSON"),
        ({"shape": (9, 9, 1)}, "nothing is left"),
        ({"plan": (*net.plan, plan.Norm("n"))}, "no Norm"),
        ({"plan": (*net.plan, plan.Residual((plan.Norm("n"),)))}, "no Norm"),
        ({"plan": (plan.WindowMaxPool(0, 1), *net.plan)}, "pooling step are 1"),
        ({"plan": (plan.WindowMaxPool(1, 1, "FULL"), *net.plan)}, "SAME or VALID"),
        (
            {"plan": (plan.Residual((plan.Conv("c", 3, (1, 1)),)), *net.plan)},
            "shortcut",
        ),
        ({"plan": (nested(8), *net.plan)}, "nested 8 deep"),
        ({"plan": (*[plan.Activation()] * 1024, *net.plan)}, "1024 steps"),
        ({"plan": (*[plan.Residual(())] * 1024, *net.plan)}, "1024 steps"),
        ({"shape": (28, 28)}, "not .28, 28"),
        ({"plan": (plan.Standardize((0.0, 0.0)), *net.plan)}, "fit 1 channels"),
        ({"plan": (plan.Standardize((0.0,), (0.0,)), *net.plan)}, "divides by"),
        ({"plan": (plan.Standardize((float("nan"),)), *net.plan)}, "subtracts"),
        ({"plan": (plan.Standardize([0.0]), *net.plan)}, "list of floats"),
        ({"plan": (*net.plan, net.plan[-1])}, "several steps"),
        ({"layers": {"conv1": layer}}, "the plan's layers"),
    ):
        with pytest.raises(ValueError, match=message):
            compact.dumps(dataclasses.replace(net, **change))
    for change, message in (
        ({"levels": layer.levels * 0}, "none zero"),
        ({"levels": layer.levels + 1000}, "beyond"),
        ({"positions": layer.positions[::-1]}, "not of its kernel"),
        ({"bias_levels": layer.bias_levels[:-1]}, "biases"),
        ({"step": np.float32(0)}, "step"),
    ):
        layers = dict(net.layers) | {"conv1": dataclasses.replace(layer, **change)}
        with pytest.raises(ValueError, match=message):
            compact.dumps(dataclasses.replace(net, layers=layers))
    constants = (plan.Standardize((0.0,) * 20_000),)
    for steps, size, message in (
        (constants, 20_000, "more than 65536: long lists"),
        ((), 2**20 + 1, "inputs are .* each 1 to 1048576"),
    ):
        with pytest.raises(ValueError, match=message):
            description.pack(steps, (size,), {})
    with pytest.raises(ValueError, match="no plan"):
        compact.capture(object(), {}, SHAPE)
    with pytest.raises(ValueError, match="kernel"):
        compact.capture(MLP((5,), 3), sparse(MLP((5,), 3), (4,), 1.0), (6,))


def sections(content):
    """Description (as text), layers and tables, words, bits."""
    at, found = codec.PREFIX.size + codec.SIZES.size, []
    for size in codec.SIZES.unpack_from(content, codec.PREFIX.size):
        found.append(content[at : at + size])
        at += size
    return [zlib.decompress(found[0]), *found[1:]]


def rebuilt(parts):
    """A file of such sections, sizes and checksum made to fit."""
    parts = [zlib.compress(bytes(parts[0])), *map(bytes, parts[1:])]
    rest = codec.SIZES.pack(*map(len, parts)) + b"".join(parts)
    return resealed(bytes(codec.PREFIX.size) + rest)


def garbled(content, draw):
    """Some bytes changed, a part cut out, or doubled."""
    changed = bytearray(content)
    at, end = sorted(draw.integers(0, len(content) + 1, 2))
    kind = draw.integers(0, 4)
    if kind == 0:
        del changed[at : at + 1 + (end - at) // 8]
    elif kind == 1:
        changed[at:at] = content[at:end]
    elif len(changed):
        for _ in range(draw.integers(1, 5)):
            changed[draw.integers(0, len(changed))] ^= 1 << draw.integers(0, 8)
    return bytes(changed)


def mutated(content, other, draw, number):
    """In turn: garbled as a whole; cut; spliced with another file; each of the two
    with a checksum that fits; one section garbled; another digit in the description.
    """
    at, end = sorted(draw.integers(0, len(content) + 1, 2))
    kind = number % 8
    if kind < 6:
        bad = (
            lambda: garbled(content, draw),
            lambda: content[:at],
            lambda: content[:at] + other[at:end] + content[end:],
        )[kind // 2]()
        return resealed(bad) if kind % 2 else bad
    parts = sections(content)
    if kind == 6:
        which = draw.integers(0, len(parts))
        parts[which] = garbled(parts[which], draw)
    else:
        digits = [i for i, c in enumerate(parts[0]) if chr(c).isdigit()]
        text = bytearray(parts[0])
        place = digits[draw.integers(0, len(digits))]
        text[place : place + 1] = str(
            draw.integers(0, 10 ** draw.integers(1, 9))
        ).encode()
        parts[0] = text
    return rebuilt(parts)


def file_of(graph):
    return compact.dumps(compact.quantize(compact.shrink(graph), 5))


def _fuzz(content, count):
    mlp = lenet_300_100()
    other = file_of(compact.capture(mlp, sparse(mlp, SHAPE, 0.02), SHAPE))
    draw = np.random.default_rng(0)
    honest_size = math.prod(compact.loads(content).shape)

    def predict(predictor):
        """What loads has a shape of its own; of huge images one is not even made."""
        shape = predictor.net.shape
        if math.prod(shape) <= 100 * honest_size:
            got = predictor(np.ones((2, *shape), np.float32))
            assert (got.ndim, len(got)) == (2, 2)

    def use(content):
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        began = time.monotonic()
        try:
            loaded = compact.Predictor(compact.loads(content))
        except ValueError:
            loaded = None
        _, peak = tracemalloc.get_traced_memory()
        return loaded, peak - before, time.monotonic() - began

    tracemalloc.start()
    try:
        use(content)  # imports
        loaded, honest, seconds = use(content)
        assert loaded is not None
        outcomes = {"loaded": 0, "refused": 0}
        for number in range(count):
            bad = mutated(content, other, draw, number)
            loaded, peak, took = use(bad)
            outcomes["refused" if loaded is None else "loaded"] += 1
            if loaded is not None:
                predict(loaded)
            assert peak <= 10 * honest, (number, peak, honest)
            assert took < 1 + 20 * seconds, (number, took)
    finally:
        tracemalloc.stop()
    return outcomes


FILES = {
    "lenet5": lambda: lenet5()[0],
    "sides": lambda: file_of(case("sides")[0]),  # plans within plans
}


@pytest.mark.parametrize("name", FILES)
def test_mutated_files_predict_or_are_refused(name):
    outcomes = _fuzz(FILES[name](), 150)
    assert outcomes["refused"] > 100


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_thousand_mutated_files_predict_or_are_refused(name):
    outcomes = _fuzz(FILES[name](), 1000)
    assert outcomes["refused"] > 700
