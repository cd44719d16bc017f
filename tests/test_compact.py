"""Laws of compact nets: the same function as the net, in fewer units and bits."""

import dataclasses
import math
import subprocess
import sys
import tracemalloc
from unittest import mock

import jax
import numpy as np
import pytest
from compact_nets import NETS, SHAPE, case, close, inputs, lenet5, sparse
from flax import linen as nn
from jax import random

from vnets import compact, plan
from vnets.compact import predict
from vnets.compact.shrink import by_weights
from vnets.compact.verify import TOLERANCE, _advice
from vnets.nets import MLP
from vnets.nets.chain import Chain
from vnets.nodes import Additive, Dropout, Point, Scaled, ZeroMean
from vnets.priors import soft_sharing


def test_parts_of_nets_do_not_change_and_are_compared_by_identity():
    net = MLP((3,), 2, batch_norm=True)
    graph = compact.capture(net, sparse(net, (4,), 1.0), (4,))
    small = compact.quantize(compact.fold_norms(graph), 8)
    layer = graph.linear("dense1")
    for one in (graph, graph.norms["norm1"], layer, small, small.layers["dense1"]):
        assert len({one, dataclasses.replace(one)}) == 2
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(one, dataclasses.fields(one)[0].name, None)


def test_units_between_which_constants_stand_are_not_cut():
    steps = (plan.Dense("a", 3), plan.Standardize((1.0,), (2.0,)), plan.Dense("b", 2))
    graph = compact.capture(
        Chain(steps=steps), sparse(Chain(steps=steps), (4,), 0.0), (4,)
    )
    assert compact.shrink(graph).plan == graph.plan
    assert compact.shrink(case("units")[0]).biases["dense2"].size == 9


def test_large_windows_over_small_maps_take_no_more_room():
    """Nor does a wide convolution take all images at once."""
    step = plan.WindowMaxPool(64, 1)
    steps = (step, plan.Flatten(), plan.Dense("dense1", 1))
    net = Chain(steps=steps)
    shape = (1, 2, 500)
    run = compact.Predictor(compact.capture(net, sparse(net, shape, 1.0), shape))
    x = inputs(shape, 50)
    tracemalloc.start()
    try:
        got = run(x)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * x.nbytes
    highest = np.broadcast_to(x.max(2, keepdims=True), x.shape).reshape(50, -1)
    layer = run.net.linear("dense1")
    close(got, highest @ layer.values[:, None] + layer.bias)
    for step, shape, numbers in (
        (plan.Conv("a", 1000, (1, 1)), (100, 100, 1), 100 * 100 * 1000),  # outputs
        (plan.Conv("a", 2, (3, 5), padding="VALID"), (302, 404, 7), 300 * 400 * 105),
        (plan.Conv("a", 9, (2, 2), (2, 2)), (400, 400, 1), 200 * 200 * 9),
        (plan.Depthwise("a", (3, 3)), (300, 300, 8), 300 * 300 * 8),
    ):
        wide = (plan.Conv("small", shape[-1], (1, 1)), step, plan.MeanPool())
        most = max(numbers, math.prod(shape)) * 4  # bytes of patches or of outputs
        count = predict._images_at_once(wide, shape)
        assert count == min(32, max(1, 2**26 // most))


def test_a_convolution_goes_by_parts_as_large_as_there_is_room_for(monkeypatch):
    """In whole rows of positions where a row fits, else in a few of its columns."""
    graph = case("maps")[0]
    predictor = compact.Predictor(graph)
    step = next(
        one for one in predictor._steps if isinstance(one, predict._Convolution)
    )
    sizes, whole = [], step._of
    taps = len(step._live[0])
    monkeypatch.setattr(
        step, "_of", lambda of, noise: sizes.append(of.shape[3:]) or whole(of, noise)
    )
    h = np.zeros((2, 6, 8, 3), np.float32)
    for room, rows, columns in (
        (6 * 8, 6, 8),
        (6 * 8 - 1, 5, 8),
        (16, 2, 8),
        (8, 1, 8),
        (7, 1, 7),
        (1, 1, 1),
        (0.5, 1, 1),
    ):
        monkeypatch.setattr(predict, "AT_ONCE_BYTES", int(room * 4 * taps * 3))
        sizes.clear()
        step(h, None)
        assert max(sizes) == (rows, columns, 3)


def test_shapes_are_found_once(monkeypatch):
    """However many layers there are: each time takes as long as all of them."""
    net = MLP((3,) * 9, 2)
    graph = compact.capture(net, sparse(net, (4,), 1.0), (4,))
    module = sys.modules[compact.Compact.__module__]
    count = mock.Mock(wraps=module.kernel_shapes)
    monkeypatch.setattr(module, "kernel_shapes", count)
    compact.Predictor(compact.quantize(graph, 8))
    count.assert_called_once()


def test_parts_that_do_not_fit_each_other_are_named():
    net = Chain(steps=(plan.Dense("a", 3), plan.Dense("b", 2)))
    params = net.init(random.key(0), np.zeros((1, 4), np.float32))["params"]
    other = {"hidden": params["a"], "b": params["b"]}
    with pytest.raises(ValueError, match=r"\['a'\] are not among .* \['b', 'hidden'\]"):
        compact.capture(net, {"params": other}, (4,))
    without = Chain(steps=(plan.Dense("a", 3, bias=False),))
    normed = Chain(steps=(*net.steps, plan.Norm("c")))
    for model, variables, message in (
        (net, params, r'need "params".*there are \[\'a\', \'b\'\]'),
        (Chain(steps=net.steps[:1]), {"params": params}, r"has the parameters of .*b"),
        (without, {"params": {"a": params["a"]}}, "'a' has a bias, its step has none"),
        (normed, {"params": params}, r"\['c'\] are not among the \"batch_stats\""),
    ):
        with pytest.raises(ValueError, match=message):
            compact.capture(model, variables, (4,))
    with pytest.raises(ValueError, match=r"is \[I\] or \[H, W, C\], not \[2, 2\]"):
        compact.capture(net, {"params": params}, (2, 2))
    for kernel in ((3, 3, 1, 4), (3, 2, 4)):  # grouped, and 1-D
        conv = {"kernel": np.ones(kernel, np.float32)}
        maps = Chain(steps=(plan.Conv("a", 4, (3, 3), bias=False), plan.MeanPool()))
        with pytest.raises(ValueError, match=r"'a' has a kernel .* is 2-D, of one gro"):
            compact.capture(maps, {"params": {"a": conv}}, (5, 5, 2))
    with pytest.raises(ValueError, match=r"of 'a' must be SAME, VALID or .*'CIRCULAR"):
        plan.Conv("a", 4, (3, 3), padding="CIRCULAR")
    graph = compact.capture(net, {"params": params}, (4,))
    with pytest.raises(ValueError, match=r"bits are of \['a', 'b'\], not \['a'\]"):
        compact.quantize(graph, {"a": 8})
    with pytest.raises(ValueError, match="holds a Compact, not a Graph; quantize"):
        compact.dumps(graph)  # pyright: ignore
    sizes = [len(compact.dumps(compact.quantize(graph, b))) for b in (8, np.int64(8))]
    assert sizes[0] == sizes[1]


def test_kernels_with_an_axis_of_heads_are_those_of_dense_layers():
    """Where an end is the layer's own: [I, heads, units] or [heads, units, O]."""
    net, draw = Chain(steps=(plan.Dense("a", 6),)), np.random.default_rng(0)

    def captured(*shape):
        kernel = draw.normal(size=shape).astype(np.float32)
        graph = compact.capture(net, {"params": {"a": {"kernel": kernel}}}, (4,))
        return kernel, graph.kernels["a"]

    for shape in ((4, 6), (4, 2, 3), (2, 2, 6), (4, 1, 6)):
        kernel, found = captured(*shape)
        np.testing.assert_array_equal(found, kernel.reshape(4, 6))
    other = (6, 4), (2, 3, 4), (6, 2, 2), (2, 6, 2), (3, 4, 2), (4, 2, 4), (24,)
    for shape in (*other, (4, 2, 3, 1), (1, 2, 2, 6)):
        with pytest.raises(ValueError, match="'a' has a kernel"):
            captured(*shape)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.Dense(6, name="dense")(x)
        h = nn.BatchNorm(use_running_average=True, name="norm")(h)
        return x + nn.relu(h)


class Nested(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="out")(Block(name="block")(nn.Dense(6, name="in")(x)))


def test_layers_of_nested_modules_are_named_by_their_paths():
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    variables = Nested().init(random.key(0), x)
    body = (plan.Dense("block/dense", 6), plan.Norm("block/norm"), plan.Activation())
    steps = (plan.Dense("in", 6), plan.Residual(body), plan.Dense("out", 3))
    graph = compact.fold_norms(compact.capture(Chain(steps=steps), variables, (4,)))
    close(compact.Predictor(graph)(x), Nested().apply(variables, x))
    content = compact.dumps(compact.quantize(graph, 8))
    predict = compact.Predictor(compact.loads(content))
    model, flat = predict.net.to_flax()
    close(predict(x), model.apply(flat, x))


@pytest.mark.parametrize("epsilon", [1e-5, 1e-3])
def test_epsilon_is_folded_beside_a_variance_of_its_size(epsilon):
    """A unit that hardly varies: the slope is 1 / sqrt(2 epsilon), not its root 2."""
    net = Chain(steps=(plan.Dense("dense1", 3), plan.Norm("norm1", epsilon=epsilon)))
    variables = sparse(net, (4,), 1.0)
    seen = {
        "mean": np.zeros(3, np.float32),
        "var": np.asarray([0, 1, 3], np.float32) * np.float32(epsilon),
    }
    variables["batch_stats"] = {"norm1": seen}
    graph = compact.capture(net, variables, (4,))
    scale = variables["params"]["norm1"]["scale"] / np.sqrt(epsilon)
    np.testing.assert_allclose(
        graph.norms["norm1"].slope, scale / [1, np.sqrt(2), 2], rtol=1e-6
    )
    x = inputs((4,))
    close(compact.Predictor(compact.fold_norms(graph))(x), net.apply(variables, x))


def test_a_norm_goes_before_pooling_unless_it_turns_maxima_over():
    """Where a padded convolution follows it can go nowhere else."""
    net = Chain(
        steps=(
            plan.Conv("conv1", 3, (2, 2)),
            plan.MaxPool(),
            plan.Norm("norm1"),
            plan.Conv("conv2", 2, (3, 3)),
            plan.Flatten(),
        )
    )
    shape = (6, 6, 2)
    variables, x = sparse(net, shape, 1.0), inputs(shape, 5)
    for least in (0.5, 0.0, -0.5):
        variables["params"]["norm1"]["scale"] = np.float32([1.0, least, 2.0])
        graph = compact.capture(net, variables, shape)
        if least < 0:
            with pytest.raises(ValueError, match="'norm1' stands beside no linear"):
                compact.fold_norms(graph)
            continue
        folded = compact.Predictor(compact.fold_norms(graph))
        close(folded(x), np.asarray(jax.jit(net.apply)(variables, x)))


def test_auto_takes_the_form_by_the_share_of_nonzeros():
    """Of the weights between live inputs and outputs, for each layer by itself."""
    steps = (plan.Dense("dense1", 20), plan.Activation(), plan.Dense("dense2", 10))
    kernels = {"dense1": np.zeros((30, 20)), "dense2": np.zeros((20, 10))}
    # Every input and output of both is live; of dense1 exactly a tenth of the weights.
    kernels["dense1"][np.arange(60) % 30, np.arange(60) % 20] = 1.0
    kernels["dense2"][np.arange(20), np.arange(20) % 10] = 1.0
    kernels = {name: kernel.astype(np.float32) for name, kernel in kernels.items()}
    biases = {"dense1": np.ones(20, np.float32), "dense2": np.ones(10, np.float32)}
    graph = compact.Graph(steps, (30,), kernels, biases)
    assert graph.nonzeros() == {"dense1": 60, "dense2": 20}
    forms = {"dense1": "dense", "dense2": "dense"}
    assert compact.Predictor(graph).forms == forms
    kernels["dense2"][0, 0] = 0.0  # input 0 is dead with it: 19 of 190
    assert compact.Predictor(graph).forms == forms
    kernels["dense1"][0, 0] = 0.0  # 59 of 600
    assert compact.Predictor(graph).forms == forms | {"dense1": "sparse"}
    for form in ("sparse", "dense"):
        found = compact.Predictor(graph, form).forms
        assert found == dict.fromkeys(forms, form)


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


def test_an_example_is_held_to_a_ten_thousandth_of_its_range():
    graph, x, _ = case("mlp")
    outputs = compact.Predictor(graph)(x)
    middle = np.argsort(outputs, None)[outputs.size // 2]
    for share, good in ((0.9e-4, True), (1.1e-4, False)):
        for sign in (1, -1):
            other = outputs.copy()
            other.flat[middle] += sign * share * np.ptp(outputs)
            if good:
                compact.verify(graph, x, other)
                continue
            with pytest.raises(ValueError, match="not the net of the example"):
                compact.verify(graph, x, other)


@pytest.mark.parametrize(
    ("wanted", "scale"), [((0, 0), 1), ((8, 8), 8), ((0, 4), 4), ((-1, 1), 2)]
)
def test_outputs_of_no_range_are_held_to_their_size_and_zeros_to_one(
    wanted, scale, monkeypatch
):
    """By a net that adds a number; it agrees where that is the tolerance itself."""
    monkeypatch.setattr(sys.modules[_advice.__module__], "TOLERANCE", 2.0**-13)
    x = np.float32(wanted)[:, None]
    kernels, steps = {"a": np.ones((1, 1), np.float32)}, (plan.Dense("a", 1),)
    for share, good in ((1, True), (1.01, False)):
        added = np.float32([share * scale * 2.0**-13])
        graph = compact.Graph(steps, (1,), kernels, {"a": added})
        if good:
            compact.verify(graph, x, x)
            continue
        with pytest.raises(ValueError, match="not the net of the example"):
            compact.verify(graph, x, x)


@pytest.mark.parametrize(
    ("apart", "advice"),
    [(1.0, "With relu after 'a' they agree"), (1.01, "No activation stands")],
)
def test_the_advice_holds_an_activation_to_the_same(apart, advice):
    net = Chain(steps=(plan.Dense("a", 3), plan.Dense("b", 2)))
    graph = compact.capture(net, sparse(net, (4,), 1.0), (4,))
    assert _advice(graph, lambda graph, size: apart * TOLERANCE).startswith(advice)


def test_units_lie_in_falling_order_of_their_weights():
    """Of those that they read and those that read them, together."""
    steps, draw = (plan.Dense("a", 40), plan.Dense("b", 9)), np.random.default_rng(0)
    into = draw.normal(size=(7, 40)) * (draw.random((7, 40)) < draw.random(40))
    out = draw.normal(size=(40, 9)) * (draw.random((40, 9)) < draw.random((40, 1)))
    biases = {"a": draw.normal(size=40), "b": np.zeros(9)}
    arrays = jax.tree.map(np.float32, ({"a": into, "b": out}, biases))
    graph = compact.Graph(steps, (7,), *arrays)
    small = by_weights(graph)
    weights = (small.kernels["a"] != 0).sum(0) + (small.kernels["b"] != 0).sum(1)
    assert (np.diff(weights) <= 0).all()
    x = draw.normal(size=(3, 7)).astype(np.float32)
    close(compact.Predictor(small)(x), compact.Predictor(graph)(x))


def test_quantized_weights_are_within_half_a_step():
    net = MLP((), 4)
    graph = compact.capture(net, sparse(net, (30,), 1.0), (30,))
    kernel = graph.kernels["dense1"] / 50  # all far below one
    graph = dataclasses.replace(graph, kernels={"dense1": kernel})
    for bits in (2, 5, 8):
        small = compact.quantize(graph, bits)
        layer = small.layers["dense1"]
        step = np.abs(kernel).max() / (2 ** (bits - 1) - 1)
        assert step <= layer.step <= step * (1 + 2**-7)  # of a bfloat16
        step = layer.step
        assert np.abs(layer.levels).max() == 2 ** (bits - 1) - 1
        error = np.abs(small.graph().kernels["dense1"] - kernel).max()
        assert error <= 0.5001 * step
        assert np.abs(layer.bias_levels).max() >= 8 * 2 ** (bits - 1)
        assert np.log2(layer.step / layer.bias_step) in range(16)


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


def test_the_fewest_bits_are_tried_in_order_up_to_the_tolerance():
    """The layer of most weights first; a change of just the tolerance may be."""
    net = MLP((3,), 7)  # 12 and 21 weights
    graph = compact.capture(net, sparse(net, (4,), 1.0), (4,))
    whole, tried = compact.quantize(graph, 8), []

    def changed(net):
        coarser = [n for n in net.layers if net.layers[n].step > whole.layers[n].step]
        tried.append(coarser)
        return 0.5 if coarser == ["dense2"] else 0.6

    assert compact.fewest_bits(graph, changed, 0.5) == {"dense1": 8, "dense2": 2}
    assert tried == [["dense2"]] * 6 + [["dense1", "dense2"]]


def test_small_files():
    """At most 2.7 bytes for each surviving weight, and 1 kB."""
    content, net = lenet5()
    survivors = sum(net.nonzeros().values())
    assert 1000 < survivors < 3000
    assert len(content) <= 2.7 * survivors + 1000


@pytest.mark.parametrize("activation", plan.ACTIVATIONS)
def test_dead_layers_and_dead_nets(activation):
    """A layer without weights keeps a unit; a net without any is a constant."""
    net = MLP((5, 4), 3, activation)
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
        np.testing.assert_allclose(got, wanted, atol=bias_error(small))


def bias_error(net):
    """Of the outputs of a net that consists of biases: half a step of each layer's."""
    return sum(layer.bias_step for layer in net.layers.values())


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
    # Of each layer's largest bias, a 2^10th.
    np.testing.assert_allclose(got, wanted, atol=2e-3 * np.abs(wanted).max())


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
    weight = Additive(kernel, np.zeros_like(kernel))
    for node, wanted in (
        (weight, kernel),
        (Scaled(Dropout(0.5, 4), weight), kernel),
        (ZeroMean(kernel), 0 * kernel),
        (kernel, kernel),
    ):
        params = {"dense1": {"kernel": node, "bias": bias}}
        params[soft_sharing.NAME] = soft_sharing.mixture()  # of no layer
        graph = compact.capture(MLP((), 2), {"params": params}, (4,))
        np.testing.assert_array_equal(graph.kernels["dense1"], wanted)


def test_probabilities_are_those_of_logits_however_large():
    logits = np.float32([[0.0, 1.0, -2.0], [1.0, 0.5, 0.0]])
    wanted = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for shift in (0, 1000, -1000):
        found = compact.operations.softmax(logits + np.float32(shift))
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


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
    with pytest.raises(ValueError, match=r"\[5, 5, 28, 1\], .* \[B, 28, 28, 1\]$"):
        predict(pixels[:, :5])
    with pytest.raises(ValueError, match=r"\[B, 28, 28, 1\]; of a single .*x\[None\]"):
        predict(pixels[0])
    for other in (pixels.astype(np.int64), pixels > 127, pixels.astype(object)):
        with pytest.raises(ValueError, match=f"inputs are {other.dtype}: give uint8"):
            predict(other)
    with pytest.raises(ValueError, match="auto, sparse or dense"):
        compact.Predictor(graph, "thin")


def test_a_net_says_in_a_few_lines_what_it_is():
    _, net = lenet5()
    left = net.nonzeros()["conv1"]
    net = dataclasses.replace(net, about={"run": "some run"})
    lines = repr(net).splitlines()
    assert lines[0] == "Compact net of inputs [B, 28, 28, 1]"
    units = net.layers["conv1"].bias_levels.size
    assert lines[1] == f"  conv1: [5, 5, 1, {units}], {left} of {25 * units} left"
    assert lines[-1] == "  run: some run"
    assert len(lines) == 2 + len(net.layers)
    predict = compact.Predictor(net, "sparse")
    assert repr(predict).startswith(f"Predictor of {net!r}")
    assert "conv1 sparse" in repr(predict)


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
