"""What a compact file may ask for: numbers, work and memory have bounds."""

import dataclasses
import time
import tracemalloc

import numpy as np
import pytest
from compact_nets import NETS, case, lenet5

from vnets import compact, plan
from vnets.compact import limits, predict
from vnets.compact.quantize import Compact, Quantized


def net(*steps, shape=(8, 8, 1), weights=0, **changes):
    """A net that ends with a dense layer, all its weights 1 but for `changes`."""
    before = plan.shapes((*steps, plan.Flatten()), shape)[-1][0]
    steps = (*steps, plan.Flatten(), plan.Dense("out", 2))
    layer = Quantized(
        np.arange(weights),
        np.ones(weights, np.int64),
        np.float32(1),
        np.ones(2, np.int64),
        np.float32(1),
    )
    assert weights <= 2 * before
    return Compact(steps, shape, {"out": dataclasses.replace(layer, **changes)})


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([plan.Standardize((0.0,), (1e-300,))], "divides by"),
        ([plan.Standardize((0.0,), (1e300,))], "divides by"),
        ([plan.Standardize((1e300,), (1.0,))], "subtracts"),
        ([plan.Conv("../../etc/passwd", 1, (1, 1))], "cannot name"),
        ([plan.WindowMaxPool(64, 1)] * 500, "operations"),
        ([plan.Activation("gelu")] * 600, "operations"),
        ([plan.Residual(())] * 900, "operations"),
    ],
    ids=lambda one: one if isinstance(one, str) else None,
)
def test_a_file_asks_for_little(steps, message):
    many = net(*steps)
    layers = {
        name: many.layers["out"]
        if name == "out"
        else Quantized(
            np.zeros(0, np.int64),
            np.zeros(0, np.int64),
            np.float32(1),
            np.ones(1, np.int64),
            np.float32(1),
        )
        for name in plan.linear_layers(many.plan)
    }
    with pytest.raises(ValueError, match=message):
        compact.dumps(dataclasses.replace(many, layers=layers))


@pytest.mark.parametrize("step", [2.0**99, 2.0**24 + 2, np.inf, np.nan, 0.0, -1.0])
@pytest.mark.parametrize("which", ["step", "bias_step"])
def test_steps_of_grids_are_those_of_nets(which, step):
    compact.dumps(net(weights=1, **{which: np.float32(2**24)}))
    with pytest.raises(ValueError, match="has the step"):
        compact.dumps(net(weights=1, **{which: np.float32(step)}))


def test_constants_are_held_to_their_bounds():
    high, low = 2.0**24, 2.0**-24
    for mean, std in ((-high, low), (high, high)):
        limits.check_constants(plan.Standardize((mean,), (std,)))
    for mean, std in (
        (-high - 1, 1.0),
        (high + 1, 1.0),
        (0.0, low / 2),
        (0.0, high + 1),
    ):
        with pytest.raises(ValueError, match=r"subtracts|divides by"):
            limits.check_constants(plan.Standardize((mean,), (std,)))
    for values in ((), (1,), 1.0, ("1",)):
        with pytest.raises(ValueError, match="is a list of floats"):
            limits.check_constants(plan.Standardize(values))


def test_what_is_added_to_a_variance_is_above_zero_and_at_most_one():
    for good in (1e-12, 1.0):
        limits.check_epsilon("a", good)
    for bad in (0.0, -1e-5, 1.0 + 1e-9, np.nan, np.inf, 1, "1"):
        with pytest.raises(ValueError, match="epsilon of 'a'"):
            limits.check_epsilon("a", bad)


@pytest.mark.parametrize(
    ("step", "operations"),
    [
        (plan.Activation("tanh"), 4 * 98),
        (plan.Standardize(), 2 * 98),
        (plan.MaxPool(), 98),
        (plan.MeanPool(), 98),
        (plan.Flatten(), 0),
        (plan.DepthToSpace((1, 2)), 98),
        (plan.WindowMaxPool(3, 2), 2 * 3 * 98),
        (plan.Conv("a", 5, (3, 3)), 9 * 9 * 2),
        (plan.Conv("a", 5, (3, 3), padding="VALID"), 98),
        (plan.Residual((plan.Activation(), plan.MaxPool()), (plan.MaxPool(),)), 686),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, plan.Step) else "",
)
def test_the_work_of_a_step(step, operations):
    """Of an image of 7 x 7 pixels with two channels: 98 numbers."""
    assert limits._work((step,), (7, 7, 2)) == operations


def test_names_are_paths_of_modules():
    for good in ("conv1", "block/conv1", "stage1_block2_conv3", "0/a-b.c", "x" * 64):
        limits.check_name(good)
    bad = ("", "/", "a/", "/a", "../a", "a/../b", "a//b", "-a", ".a", "a\n", "x" * 65)
    for name in (*bad, "\x1b[2J", "é", 5, None):
        with pytest.raises(ValueError, match="cannot name"):
            limits.check_name(name)


def test_descriptions_do_not_steer_a_terminal():
    for about in ({"run": "\x1b[2J"}, {"a\nb": 1}, {"x": float("inf")}):
        with pytest.raises(ValueError, match=r"printable|finite"):
            compact.dumps(dataclasses.replace(net(), about=about))


@pytest.mark.parametrize("name", NETS)
def test_nets_are_far_from_the_bound_of_work(name):
    """Ten times as many steps without weights would do, too."""
    graph, _, _ = case(name)
    work = limits._work(graph.plan, graph.shape)
    layers = [
        np.prod(before) + np.prod(after)
        for step, before, after in plan.placed(graph.plan, graph.shape)
        if isinstance(step, plan.Conv | plan.Dense)
    ]
    most = limits.WEIGHTLESS * (np.prod(graph.shape) + sum(layers))
    assert 10 * work < most


def test_constant_weights_take_little_memory():
    """A quarter of a million of them in 64 kilobytes."""
    wide = net(shape=(125_000,), weights=250_000)
    content = compact.dumps(wide)
    assert len(content) < 75_000
    tracemalloc.start()
    try:
        began = time.process_time()
        loaded = compact.loads(content)
        held, reading = tracemalloc.get_traced_memory()
        compact.Predictor(loaded)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 22 * len(content)  # 5 bytes a weight
    part = 4 * 2**20  # of a stream, on its way
    assert reading < part + 40 * len(content)
    assert peak < part + 150 * len(content)
    assert time.process_time() - began < 10
    assert compact.dumps(loaded) == content


def test_a_convolution_of_many_taps_goes_by_parts(monkeypatch):
    graph, x, wanted = case("same")
    whole = compact.Predictor(graph)(x)
    monkeypatch.setattr(predict, "AT_ONCE_BYTES", 2**10)
    parts = compact.Predictor(graph)(x)
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-5)
    assert parts.shape == wanted.shape


def test_a_net_that_is_too_large_when_dense_stays_sparse():
    wide = net(plan.Dense("a", 2**20), plan.Dense("b", 256), shape=(256,), weights=1)
    none, one = np.zeros(0, np.int64), np.float32(1)
    layers = {
        name: Quantized(none, none, one, np.zeros(units, np.int64), one)
        for name, units in (("a", 2**20), ("b", 256))
    }
    large = dataclasses.replace(wide, layers={**layers, **wide.layers})
    with pytest.raises(ValueError, match=r"dense, the net has 5\d+ weights"):
        large.graph()
    assert lenet5()[1].graph().kernels


def test_what_is_no_file_is_not_read(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.vnz")
    with pytest.raises(ValueError, match="is no file"):
        compact.read(tmp_path / "pipe.vnz")
