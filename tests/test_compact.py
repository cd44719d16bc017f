"""Laws of compact nets: the same function, a small file, and no harm from a bad one."""

import dataclasses
import functools
import math
import subprocess
import sys
import time
import tracemalloc
import zlib

import jax
import numpy as np
import pytest
from jax import random

from vnets import compact, plan
from vnets.compact import codec, entropy
from vnets.nets import MLP, LeNet5, lenet_300_100
from vnets.nets.chain import Chain
from vnets.posteriors import Dropout, Gaussian, Point, Scaled, ZeroMean

SHAPE = (28, 28, 1)
# Survivors of sparse variational dropout, about: some 1,800 of LeNet-5's 430,500.
KEPT = {"conv1": 0.33, "conv2": 0.02, "dense1": 0.002, "dense2": 0.05}
SAME = Chain(
    steps=(
        plan.Standardize((0.4, 0.5, 0.6), (0.25,)),
        plan.Conv("conv1", 8, (3, 3), padding="SAME", bias=False),
        plan.Norm("norm1"),
        plan.Activation("leaky_relu"),
        plan.Conv("conv2", 8, (3, 3), strides=(2, 2), padding="SAME"),
        plan.Activation("abs"),
        plan.MaxPool(),
        plan.Conv("conv3", 8, (2, 2), padding="VALID"),
        plan.Activation("tanh"),
        plan.Flatten(),
        plan.Norm("norm2", affine=False),
        plan.Dense("dense1", 12),
        plan.Activation("relu"),
        plan.Dense("dense2", 5),
    )
)
NETS = {
    "mlp": (MLP((40, 30), 7), (6, 6, 1), 0.03),
    "mlp-tanh": (MLP((40, 30), 7, "tanh"), (36,), 0.03),
    "lenet5": (LeNet5(), SHAPE, KEPT),
    "lenet5-batch-norm": (LeNet5(batch_norm=True), SHAPE, KEPT),
    "lenet5-plain-norm": (LeNet5(batch_norm=True, norm_affine=False), SHAPE, KEPT),
    "same": (SAME, (13, 12, 3), 0.04),
}


def test_units_between_which_constants_stand_are_not_cut():
    steps = (plan.Dense("a", 3), plan.Standardize((1.0,), (2.0,)), plan.Dense("b", 2))
    net = Chain(steps=steps)
    variables = net.init(random.key(0), np.zeros((1, 4), np.float32))
    graph = compact.capture(net, variables, (4,))
    with pytest.raises(ValueError, match="standardize step after a linear layer"):
        compact.shrink(graph)


def sparse(net, shape, kept, seed=0):
    """Variables of a net with random weights, most of them zero, and random norms."""
    x = jax.ShapeDtypeStruct((2, *shape), np.float32)
    like = jax.eval_shape(net.init, random.key(0), x)
    draw = np.random.default_rng(seed)
    params = {}
    for name, layer in like["params"].items():
        values = {
            k: draw.normal(size=v.shape) for k, v in layer.items() if k != "kernel"
        }
        if "kernel" in layer:
            weights = draw.normal(size=layer["kernel"].shape)
            share = kept[name] if isinstance(kept, dict) else kept
            alive = draw.random(weights.shape) < share
            values["kernel"] = Point(np.where(alive, weights, 0).astype(np.float32))
        params[name] = values
    statistics = {
        name: {"mean": draw.normal(size=v.shape), "var": draw.uniform(0.5, 2, v.shape)}
        for name, layer in like.get("batch_stats", {}).items()
        for v in (layer["mean"],)
    }
    as_float32 = functools.partial(np.asarray, dtype=np.float32)
    variables = {"params": params, "batch_stats": statistics}
    return jax.tree.map(as_float32, variables)


def inputs(shape, count=40, seed=1):
    return np.random.default_rng(seed).random((count, *shape)).astype(np.float32)


@functools.cache
def case(name):
    """A net of `NETS` with its weights: folded graph, inputs, and outputs by JAX."""
    net, shape, kept = NETS[name]
    variables = sparse(net, shape, kept)
    graph = compact.fold_norms(compact.capture(net, variables, shape))
    x = inputs(shape)
    return graph, x, np.asarray(jax.jit(net.apply)(variables, x))


def close(got, wanted):
    """Equal but for the order of sums: some 10^3 terms of 2^-24 relative each."""
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4 * scale)
    np.testing.assert_array_equal(np.argmax(got, -1), np.argmax(wanted, -1))


@functools.cache
def lenet5():
    """A synthetic sparse LeNet-5: its file's content, and the net."""
    graph = compact.capture(LeNet5(), sparse(LeNet5(), SHAPE, KEPT), SHAPE)
    net = compact.quantize(compact.shrink(graph), 6, {"run": "made up"})
    return compact.dumps(net), net


@pytest.mark.parametrize("form", ["auto", "sparse", "dense"])
@pytest.mark.parametrize("name", NETS)
def test_shrinking_keeps_the_function(name, form):
    graph, x, wanted = case(name)
    small = compact.shrink(graph)
    for one in (graph, small):
        close(compact.Predictor(one, form)(x), wanted)
    assert sum(small.nonzeros().values()) <= sum(graph.nonzeros().values())
    units, before = (sum(b.size for b in g.biases.values()) for g in (small, graph))
    assert units < before
    assert compact.shrink(small).plan == small.plan  # a fixed point


@pytest.mark.parametrize("name", NETS)
def test_a_file_holds_the_quantized_net(name, tmp_path):
    """Read back, it is the same to the bit, and predicts as the dense net in JAX."""
    graph, x, _ = case(name)
    small = compact.quantize(compact.shrink(graph), 5, {"run": "r", "epochs": 3})
    size = compact.save(tmp_path / "net.vnz", small)
    assert size == (tmp_path / "net.vnz").stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == ["net.vnz"]
    predictor = compact.load(tmp_path / "net.vnz")
    held = predictor.net
    assert (held.plan, held.shape, held.about) == (small.plan, graph.shape, small.about)
    for ours, theirs in zip(held.layers.values(), small.layers.values(), strict=True):
        jax.tree.map(
            np.testing.assert_array_equal,
            dataclasses.asdict(ours),
            dataclasses.asdict(theirs),
        )
    model, variables = held.to_flax()
    close(predictor(x), jax.jit(model.apply)(variables, x))
    assert compact.dumps(held) == (tmp_path / "net.vnz").read_bytes()


def test_quantized_weights_are_within_half_a_step():
    net = MLP((), 4)
    graph = compact.capture(net, sparse(net, (30,), 1.0), (30,))
    kernel = graph.kernels["dense1"]
    for bits in (2, 5, 8):
        small = compact.quantize(graph, bits)
        layer = small.layers["dense1"]
        step = np.abs(kernel).max() / (2 ** (bits - 1) - 1)
        np.testing.assert_allclose(layer.step, step, rtol=1e-6)
        assert np.abs(layer.levels).max() == 2 ** (bits - 1) - 1
        error = np.abs(small.graph().kernels["dense1"] - kernel).max()
        assert error <= 0.5001 * step


def test_the_fewest_bits_change_few_predictions():
    net = MLP((40,), 7)
    graph = compact.capture(net, sparse(net, (36,), 0.3), (36,))
    x = inputs((36,), 400)
    wanted = np.argmax(compact.Predictor(graph)(x), -1)

    def changed(net):
        return np.mean(np.argmax(compact.Predictor(net)(x), -1) != wanted)

    found = compact.fewest_bits(graph, changed, 0.02)
    assert changed(compact.quantize(graph, found)) <= 0.02
    assert sum(found.values()) < 2 * 8
    least = compact.fewest_bits(graph, changed, 1.0)
    assert set(least.values()) == {2}
    with pytest.raises(ValueError, match="2 to 8"):
        compact.quantize(graph, 9)


def test_small_files():
    """At most 2.7 bytes for each surviving weight, and 1 kB."""
    content, net = lenet5()
    survivors = sum(net.nonzeros().values())
    assert 1000 < survivors < 3000
    assert len(content) <= 2.7 * survivors + 1000


def test_dead_layers_and_dead_nets():
    """A layer without weights keeps a unit; a net without any is a constant."""
    net = MLP((5, 4), 3)
    variables = sparse(net, (6,), 1.0)
    x = inputs((6,))
    for dead in ("dense1", "dense2", "dense3"):
        params = dict(variables["params"])
        zero = Point(np.zeros_like(params[dead]["kernel"].mean))
        params[dead] = params[dead] | {"kernel": zero}
        graph = compact.shrink(compact.capture(net, {"params": params}, (6,)))
        wanted = net.apply({"params": params}, x)
        close(compact.Predictor(graph)(x), wanted)
        small = compact.loads(compact.dumps(compact.quantize(graph, 8)))
        assert sum(small.nonzeros().values()) == 0
        got = compact.Predictor(small)(x)
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dead", [("conv1",), ("conv2",), ("conv1", "conv2", "dense2")])
def test_dead_convolutions(dead):
    net, shape, kept = NETS["lenet5"]
    variables = sparse(net, shape, kept | dict.fromkeys(dead, 0.0))
    graph = compact.capture(net, variables, shape)
    x = inputs(shape, 5)
    wanted = jax.jit(net.apply)(variables, x)
    for form in ("auto", "sparse", "dense"):
        for one in (graph, compact.shrink(graph)):
            close(compact.Predictor(one, form)(x), wanted)
    small = compact.loads(compact.dumps(compact.quantize(compact.shrink(graph), 8)))
    got = compact.Predictor(small)(x)
    assert got.shape == wanted.shape
    # No weight is left that an image could be told by.
    np.testing.assert_array_equal(got, np.broadcast_to(got[:1], got.shape))
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3)


def test_a_unit_that_only_pads_is_kept():
    """Before a convolution with padding a constant that is not zero must stay."""
    steps = (
        plan.Conv("conv1", 2, (1, 1)),
        plan.Conv("conv2", 2, (3, 3)),
        plan.Flatten(),
        plan.Dense("dense1", 2),
    )
    net, shape = Chain(steps=steps), (4, 4, 1)
    variables = sparse(net, shape, 1.0)
    kernel = variables["params"]["conv1"]["kernel"].mean
    kernel[..., 1] = 0
    graph = compact.capture(net, variables, shape)
    x = inputs(shape)
    assert compact.shrink(graph).biases["conv1"].size == 2
    close(compact.Predictor(compact.shrink(graph))(x), compact.Predictor(graph)(x))
    silent = dict(graph.biases) | {"conv1": graph.biases["conv1"] * [1, 0]}
    graph = dataclasses.replace(graph, biases=silent)
    assert compact.shrink(graph).biases["conv1"].size == 1


def test_means_of_noisy_weights_are_captured():
    kernel = np.arange(8, dtype=np.float32).reshape(4, 2)
    bias = np.zeros(2, np.float32)
    weight = Gaussian(kernel, np.zeros_like(kernel))
    for node, wanted in (
        (weight, kernel),
        (Scaled(Dropout(0.5, 4), weight), kernel),
        (ZeroMean(kernel), 0 * kernel),
        (kernel, kernel),
    ):
        params = {"dense1": {"kernel": node, "bias": bias}}
        graph = compact.capture(MLP((), 2), {"params": params}, (4,))
        np.testing.assert_array_equal(graph.kernels["dense1"], wanted)


def test_pixels_are_scaled_as_evaluation_does():
    net, shape, kept = NETS["lenet5"]
    graph = compact.capture(net, sparse(net, shape, kept), shape)
    pixels = np.random.default_rng(0).integers(0, 256, (5, *shape), dtype=np.uint8)
    predict = compact.Predictor(graph)
    np.testing.assert_array_equal(predict(pixels), predict(pixels / np.float32(255)))
    np.testing.assert_allclose(
        predict(pixels[:1]), predict(pixels)[:1], rtol=1e-5, atol=1e-5
    )
    assert predict(pixels[:0]).shape == (0, 10)
    with pytest.raises(ValueError, match="the net takes"):
        predict(pixels[:, :5])
    with pytest.raises(ValueError, match="auto, sparse or dense"):
        compact.Predictor(graph, "thin")


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
    np.testing.assert_array_equal(entropy.unzigzag(entropy.zigzag(numbers)), numbers)


def test_streams_are_near_their_entropy():
    """Frequencies in octaves and raw bits cost less than a tenth of a bit."""
    draw = np.random.default_rng(0)
    p = 0.02
    writer = entropy.Writer()
    writer.write(draw.geometric(p, 20_000) - 1)
    bits = 8 * sum(map(len, writer.sections())) / 20_000
    ideal = -(np.log2(p) + (1 - p) / p * np.log2(1 - p))
    assert ideal - 0.05 < bits < ideal + 0.1


def test_reading_needs_no_jax(tmp_path):
    """In a fresh process where importing JAX or Flax is an error."""
    content, net = lenet5()
    (tmp_path / "net.vnz").write_bytes(content)
    x = inputs(SHAPE)
    np.save(tmp_path / "x.npy", x)
    code = """
import sys
for name in ("jax", "jaxlib", "flax", "optax", "tensorflow"):
    sys.modules[name] = None
import numpy as np
from vnets import compact
predictor = compact.load(sys.argv[1] + "/net.vnz")
np.save(sys.argv[1] + "/y.npy", predictor(np.load(sys.argv[1] + "/x.npy")))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    y = np.load(tmp_path / "y.npy")
    np.testing.assert_array_equal(y, compact.Predictor(net)(x))


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


def test_what_no_file_holds_is_refused():
    _, net = lenet5()
    layer = net.layers["conv1"]
    for change, message in (
        ({"about": {"x": [1]}}, "short texts"),
        ({"about": {"x": float("nan")}}, "JSON"),
        ({"shape": (9, 9, 1)}, "nothing is left"),
        ({"plan": (*net.plan, plan.Norm("n"))}, "no Norm"),
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


def _fuzz(count):
    content, _ = lenet5()
    mlp = lenet_300_100()
    graph = compact.capture(mlp, sparse(mlp, SHAPE, 0.02), SHAPE)
    other = compact.dumps(compact.quantize(compact.shrink(graph), 5))
    draw = np.random.default_rng(0)

    def predict(predictor):
        """What loads has a shape of its own; of huge images one is not even made."""
        shape = predictor.net.shape
        if math.prod(shape) <= 100 * math.prod(SHAPE):
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


def test_mutated_files_predict_or_are_refused():
    outcomes = _fuzz(150)
    assert outcomes["refused"] > 100


@pytest.mark.slow
def test_a_thousand_mutated_files_predict_or_are_refused():
    outcomes = _fuzz(1000)
    assert outcomes["refused"] > 700
