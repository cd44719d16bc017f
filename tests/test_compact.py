"""Compact nets have the function of the net they were captured from, in fewer units."""

import dataclasses
import sys
from unittest import mock

import jax
import numpy as np
import pytest
from compact_nets import NETS, case, close, inputs, sparse
from flax import linen as nn
from jax import random

from vnets import compact, plan
from vnets.compact.shrink import by_weights
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
