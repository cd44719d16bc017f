"""Predictions of compact nets: in parts, as the net they were made of, without JAX."""

import contextlib
import dataclasses
import math
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from compact_nets import NETS, SHAPE, case, close, inputs, lenet5, sparse

from vnets import compact, plan
from vnets.compact import predict
from vnets.compact.verify import TOLERANCE, _advice
from vnets.nets.chain import Chain


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


def agreed_or_refused(good):
    if good:
        return contextlib.nullcontext()
    return pytest.raises(ValueError, match="not the net of the example")


def test_an_example_is_held_to_a_ten_thousandth_of_its_range():
    graph, x, _ = case("mlp")
    outputs = compact.Predictor(graph)(x)
    middle = np.argsort(outputs, None)[outputs.size // 2]
    for share, good in ((0.9e-4, True), (1.1e-4, False)):
        for sign in (1, -1):
            other = outputs.copy()
            other.flat[middle] += sign * share * np.ptp(outputs)
            with agreed_or_refused(good):
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
        with agreed_or_refused(good):
            compact.verify(graph, x, x)


@pytest.mark.parametrize(
    ("apart", "advice"),
    [(1.0, "With relu after 'a' they agree"), (1.01, "No activation stands")],
)
def test_the_advice_holds_an_activation_to_the_same(apart, advice):
    net = Chain(steps=(plan.Dense("a", 3), plan.Dense("b", 2)))
    graph = compact.capture(net, sparse(net, (4,), 1.0), (4,))
    assert _advice(graph, lambda graph, size: apart * TOLERANCE).startswith(advice)


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
