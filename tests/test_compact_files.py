"""A compact file is small, comes back, and does no harm where it is bad."""

import dataclasses
import math
import time
import tracemalloc

import golden_files
import numpy as np
import pytest
import sequence_nets
from claims import every
from compact_nets import SHAPE, case, lenet5, noisy, sparse

from vnets import compact, plan
from vnets.compact import (
    codec,
    description,
    layers,
    sequence_files,
    tables,
    version1,
)
from vnets.compact import streams as streams_
from vnets.compact.binary import Bytes, varint
from vnets.compact.graph import kernel_shapes
from vnets.nets import MLP, lenet_300_100
from vnets.plan.sequences import embedding


def reader_of(content, *streams):
    return streams_.Reader(Bytes(content), list(streams))


def read(reader, count):
    return np.concatenate([np.zeros(0, np.int64), *reader.parts(count)])


@pytest.mark.parametrize("seed", range(3))
def test_streams_come_back(seed):
    draw = np.random.default_rng(seed)
    held = [
        ("gaps", draw.geometric(0.01, 5000)),
        ("gaps", draw.geometric(0.1, 50)),
        ("gaps", np.zeros(70, np.int64)),
        ("levels", draw.integers(0, 2**31, 50)),
        ("levels", np.asarray([2**31 - 1])),
        ("levels", np.zeros(0, np.int64)),
        ("biases", streams_.zigzag(draw.integers(-(2**14), 2**14, 300))),
        ("deviations", np.arange(streams_.AT_ONCE + 40)),
    ]
    writer = streams_.Writer()
    for kind, stream in held:
        writer.write(kind, stream)
    content = writer.content()
    counts = [(kind, stream.size) for kind, stream in held]
    reader = reader_of(content, *counts)
    for _, stream in held:
        np.testing.assert_array_equal(read(reader, stream.size), stream)
    reader.finish()
    with pytest.raises(ValueError, match="cut off"):
        reader_of(content[:20], *counts)
    with pytest.raises(ValueError, match="within"):
        writer.write("gaps", np.asarray([-1]))
    numbers = np.arange(-5, 6)
    np.testing.assert_array_equal(streams_.unzigzag(streams_.zigzag(numbers)), numbers)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_nothing_but_zeros_may_follow_the_streams(count):
    """Wherever it lies: in the last byte that has bits, and in each one after it."""
    numbers = np.full(count, 2**20 + 5)  # raw bits that end within a byte, or with it
    writer = streams_.Writer()
    writer.write("gaps", numbers)
    content = writer.content()

    def finished(content):
        reader = reader_of(content, ("gaps", count))
        np.testing.assert_array_equal(read(reader, count), numbers)
        reader.finish()
        return reader

    used = finished(content + bytes(3))._bits._used
    for more in (b"\1", b"\0\1", b"\0\0\1", b"\x80", b"\0\x80\0"):
        with pytest.raises(ValueError, match="more than the streams"):
            finished(content + more)
    for bit in range(-used % 8):
        with pytest.raises(ValueError, match="more than the streams"):
            finished(content[:-1] + bytes([content[-1] | 1 << bit]))


@pytest.mark.parametrize("seed", range(5))
def test_frequencies_sum_to_their_total(seed):
    """All tokens that are there have slots, in whole numbers of them."""
    draw = np.random.default_rng(seed)
    sizes = draw.integers(0, 16, draw.integers(2, 256)) * (draw.random() < 0.8)
    sizes[0] = 1 + seed
    table = tables.Table(3, tuple(sizes.tolist()))
    assert table.frequencies.sum() == tables.TOTAL
    np.testing.assert_array_equal(table.frequencies > 0, sizes > 0)
    tokens, owned, places = table.slots()
    np.testing.assert_array_equal(
        np.bincount([*tokens]), table.frequencies[: max(tokens) + 1]
    )
    assert every(0 <= place < own for place, own in zip(places, owned, strict=True))


def test_streams_share_a_table_where_it_pays():
    """Gaps of layers that differ in density alone do; others have their own."""
    draw = np.random.default_rng(0)

    def which(streams):
        return [one for _, one, _ in tables.chosen(streams)]

    def size(*streams):
        writer = streams_.Writer()
        for stream in streams:
            writer.write("gaps", stream)
        return len(writer.content())

    alike = [draw.geometric(p, 300) - 1 for p in (0.3, 0.04, 0.005)]
    assert which(alike) == [tables.NEW, tables.SHARED, tables.SHARED]
    assert size(*alike) < sum(map(size, alike)) - 10
    unlike = [draw.geometric(0.05, 3000), draw.choice([1, 77], 3000)]
    assert tables.OWN in which(unlike)


@pytest.mark.parametrize("p", [0.8, 0.3, 0.04])
def test_two_streams_of_a_table_are_written_as_one_would_be(p):
    stream = np.random.default_rng(0).geometric(p, 3000) - 1
    [(low, _, table)] = tables.chosen([np.tile(stream, 2)])
    found = tables.chosen([stream, stream])
    assert found == [(low, tables.NEW, table), (low, tables.SHARED, table)]


def test_a_table_has_as_many_tokens_as_a_byte_counts():
    """Numbers below 255 that have no order take their entropy, in the largest table."""
    kinds = np.asarray([*range(7, 240, 16), 254])
    bits = tables.bits_alone(np.tile(kinds, 2000))
    table = 8 * len(tables.Table(7, (1,) * tables.MOST_TOKENS).packed())
    assert bits < 2000 * kinds.size * (np.log2(kinds.size) + 0.1) + table


@pytest.mark.parametrize("inputs", [40, 41, 42, 43])
def test_a_file_has_a_byte_for_every_few_numbers(inputs):
    """Else a short one could ask a reader for any amount of memory."""
    steps = (plan.Dense("dense1", 101),)
    kernels = {"dense1": np.ones((inputs, 101), np.float32)}
    biases = {"dense1": np.ones(101, np.float32)}
    graph = compact.Graph(steps, (inputs,), kernels, biases)
    content = compact.dumps(compact.quantize(graph, 4))
    numbers = (inputs + 1) * 101
    assert len(content) == math.ceil(numbers / layers.NUMBERS_PER_BYTE)
    assert compact.loads(content).nonzeros() == {"dense1": inputs * 101}


def test_streams_are_near_their_entropy():
    """Frequencies in octaves and raw bits cost less than a tenth of a bit."""
    draw = np.random.default_rng(0)
    p = 0.02
    writer = streams_.Writer()
    writer.write("gaps", draw.geometric(p, 20_000) - 1)
    bits = 8 * len(writer.content()) / 20_000
    ideal = -(np.log2(p) + (1 - p) / p * np.log2(1 - p))
    assert ideal - 0.05 < bits < ideal + 0.1


def resealed(content):
    """The content with a checksum that fits."""
    version = int.from_bytes(content[4:6], "little")
    if version == version1.VERSION:
        return version1.sealed(content[codec.HEAD + version1.CHECKSUM :])
    return codec.sealed(content[codec.HEAD + codec.CHECKSUM :], version)


def test_bad_files_are_refused(tmp_path):
    content, _ = lenet5()
    assert resealed(content) == content
    old = (golden_files.folder(1) / "same.vnz").read_bytes()
    assert resealed(old) == old
    newer = content[:4] + (codec.VERSION + 1).to_bytes(2, "little") + content[6:]
    altered = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    for bad, message in (
        (b"", "not a .vnz"),
        (b"\x80\x04N.", "not a .vnz"),
        (b"PK\x03\x04" + content[4:], "not a .vnz"),
        (content[:4], "cut off after 4 bytes"),
        (content[:9], "cut off after 9 bytes"),
        (old[:21], "cut off after 21 bytes"),
        (old[:-1], "damaged"),
        (resealed(old + b"\0"), "malformed.*sections"),
        (newer, f"version {codec.VERSION + 1}.*reads up to {codec.VERSION}"),
        (content[:-1], "damaged"),
        (content + b"\0", "damaged"),
        (altered, "damaged"),
        (resealed(content[:-1]), "malformed.*cut off"),
        (resealed(content + b"\1"), "malformed.*more than the streams"),
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
        ({"plan": (plan.DepthToSpace((1, 65)), *net.plan)}, "1 channels fill no"),
        ({"plan": (*net.plan, plan.DepthToSpace((3, 1)))}, "10 channels fill no"),
        ({"plan": (plan.WindowMeanPool(65, 1), *net.plan)}, "pooling step are 1"),
        (
            {"plan": (plan.WindowMaxPool(66, 1, ((65, 0),) * 2), *net.plan)},
            "pooling step",
        ),
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


@dataclasses.dataclass
class Parts:
    """What a file of version 2 or later is made of, as bytes."""

    shape: bytes
    count: int
    steps: bytes
    about: bytes
    heads: list[bytes]
    streams: bytes
    version: int

    @classmethod
    def of(cls, content):
        net = compact.loads(content)
        shape = bytes([len(net.shape)]) + b"".join(map(varint, net.shape))
        packed = description.pack(net.plan, net.shape, net.about)
        plan = packed[len(shape) :]
        steps = description.pack(net.plan, net.shape, {})[len(shape) : -1]
        kernels = kernel_shapes(net.plan, net.shape)
        heads = []
        for name, layer in net.layers.items():
            kernel, words = kernels[name], b""
            if name == codec._words(net.plan):
                rows, layer, kernel = sequence_files.words(layer, kernel)
                words = varint(rows.size)
            head = codec._packed(layer, codec._is_turned(layer, kernel))
            heads.append(words + head)
        begin = codec.HEAD + codec.CHECKSUM + len(packed) + sum(map(len, heads))
        count = varint(len(net.plan))
        parts = cls(
            shape,
            len(net.plan),
            steps[len(count) :],
            plan[len(steps) :],
            heads,
            content[begin:],
            content[4],
        )
        assert parts.file() == content
        return parts

    def file(self):
        described = self.shape + varint(self.count) + self.steps + self.about
        rest = described + b"".join(self.heads) + self.streams
        return codec.sealed(rest, self.version)


def test_a_header_is_short():
    """Checksum, plan, counts and steps of four layers; a name of the net's run."""
    content, net = lenet5()
    assert len(net.layers) == 4
    assert len(content) - len(Parts.of(content).streams) < 80


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
    with a checksum that fits; then, of its first bytes, one changed or a few.
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
    bad = bytearray(content)
    for _ in range(1 if kind == 6 else draw.integers(1, 5)):
        special = (0, 1, 2, 127, 128, 255, draw.integers(0, 256))
        bad[draw.integers(6, min(160, len(bad)))] = special[draw.integers(0, 7)]
    return resealed(bytes(bad))


def file_of(graph):
    return compact.dumps(compact.quantize(compact.shrink(graph), 5))


def examples(net):
    """Two inputs: ones, or tokens that every vocabulary has."""
    if embedding(net.plan) is None:
        return np.ones((2, *net.shape), np.float32)
    return np.zeros((2, *net.shape), np.int64)


def _fuzz(content, count):
    mlp = lenet_300_100()
    other = file_of(compact.capture(mlp, sparse(mlp, SHAPE, 0.02), SHAPE))
    draw = np.random.default_rng(0)
    honest_size = math.prod(compact.loads(content).shape)

    def predict(predictor):
        """What loads has a shape of its own; of huge images one is not even made."""
        shape = predictor.net.shape
        if math.prod(shape) <= 100 * honest_size:
            got = predictor(examples(predictor.net))
            assert (got.ndim, len(got)) == (2, 2)

    def use(content):
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        began = time.process_time()
        try:
            loaded = compact.Predictor(compact.loads(content))
        except ValueError:
            loaded = None
        _, peak = tracemalloc.get_traced_memory()
        return loaded, peak - before, time.process_time() - began

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
    "noisy": lambda: file_of(noisy("mlp")),
    "lstm": lambda: file_of(sequence_nets.case("lstm")[0]),
    "transformer": lambda: file_of(sequence_nets.case("transformer")[0]),
    "separable": lambda: file_of(noisy("separable")),  # of version 3
    "growing": lambda: file_of(noisy("growing")),  # of version 4
    "version1": lambda: (golden_files.folder(1) / "sides.vnz").read_bytes(),
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


def test_names_are_counted_whether_or_not_a_step_has_its_own():
    steps = (
        plan.Conv("first", 2, (1, 1)),
        plan.Conv("conv2", 2, (1, 1), padding=((1, 0), (0, 1))),
        plan.Depthwise("own", (1, 1)),
        plan.Depthwise("depthwise2", (1, 1)),
        plan.LayerNorm("mine"),
        plan.LayerNorm("norm2", 1e-3),
        plan.MeanPool(),
        plan.Dense("conv3", 2),
        plan.Dense("dense2", 2),
    )
    packed = description.pack(steps, (4, 4, 2), {"a": 1})
    assert description.unpack(Bytes(packed), 3) == (steps, (4, 4, 2), {"a": 1})
    with pytest.raises(ValueError, match="version 2 does not have"):
        description.unpack(Bytes(packed), 2)
    packed = description.pack((plan.DepthToSpace((2, 1)), *steps), (2, 4, 4), {})
    assert description.unpack(Bytes(packed), 4)[0][0] == plan.DepthToSpace((2, 1))
    with pytest.raises(ValueError, match="version 3 does not have"):
        description.unpack(Bytes(packed), 3)
