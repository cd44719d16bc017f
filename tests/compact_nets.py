"""Sparse nets of every kind of step, for the tests of compact nets and their files."""

import dataclasses
import functools

import jax
import numpy as np
from jax import random

from vnets import compact, plan
from vnets.nets import MLP, LeNet5, ResNet
from vnets.nets.chain import Chain
from vnets.nodes import Point

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
# Sides that flatten, standardize, and start with what another layer's units follow.
SIDES = Chain(
    steps=(
        plan.Conv("conv1", 6, (3, 3)),
        plan.Activation("abs"),
        plan.WindowMaxPool(2, 1, "VALID"),
        plan.Residual(
            (
                plan.Standardize((0.1,), (2.0,)),
                plan.Conv("conv2", 5, (3, 3)),
                plan.Activation("softplus"),
                plan.Conv("conv3", 6, (1, 1)),
            ),
        ),
        plan.Flatten(),
        plan.Activation("tanh"),
        plan.Residual(
            (plan.Dense("dense1", 9), plan.Activation(), plan.Dense("dense2", 7)),
            (plan.Residual((plan.Dense("dense3", 7),), (plan.Dense("dense4", 7),)),),
        ),
        plan.Dense("dense5", 6),
        plan.Activation("leaky_relu"),
        plan.Dense("dense6", 5),
    )
)
# Constants of units: of flattened maps, and between two layers.
UNITS = Chain(
    steps=(
        plan.Residual((), ()),
        plan.Residual(
            (
                plan.WindowMaxPool(5, 1),
                plan.Conv("conv1", 3, (2, 2), padding="VALID"),
                plan.Flatten(),
                plan.Norm("norm1"),
                plan.Dense("dense1", 8),
            ),
            (
                plan.WindowMaxPool(2, 3),
                plan.Flatten(),
                plan.Standardize(tuple(i / 8 for i in range(8)), (0.5,)),
            ),
        ),
        plan.Dense("dense2", 9),
        plan.Standardize(tuple(i / 9 for i in range(9)), (2.0,)),
        plan.Activation("softplus"),
        plan.Dense("dense3", 9),
        plan.Activation(),
        plan.Dense("dense4", 5),
    )
)
# Whose outputs are maps, flattened.
MAPS = Chain(
    steps=(
        plan.Conv("conv1", 9, (1, 1)),
        plan.Activation(),
        plan.Conv("conv2", 3, (3, 3), (2, 2), "VALID"),
        plan.Flatten(),
    )
)
# The steps of version 3: margins of their own, means of windows, depthwise kernels,
# layer normalization of maps, of flattened maps and of units, and its activations.
SEPARABLE = Chain(
    steps=(
        plan.Conv("conv1", 8, (3, 3), (2, 2), ((1, 1), (1, 0))),
        plan.Norm("norm1"),
        plan.Activation("silu"),
        plan.Depthwise("depthwise1", (3, 3), (1, 1), ((1, 1), (1, 1)), bias=False),
        plan.Norm("norm2"),
        plan.Activation("sigmoid"),
        plan.LayerNorm("norm3", 1e-3),
        plan.Conv("conv2", 9, (1, 1)),
        plan.Activation("gelu_erf"),
        plan.WindowMaxPool(3, 2, ((1, 1), (1, 1))),
        plan.Depthwise("by_channel", (2, 3), (2, 1), "VALID"),
        plan.WindowMeanPool(2, 1, ((1, 0), (1, 1))),
        plan.Conv("conv3", 4, (2, 2), padding="VALID"),
        plan.Activation("gelu"),
        plan.WindowMaxPool(2, 1, "VALID"),
        plan.Flatten(),
        plan.LayerNorm("norm4"),
        plan.Dense("dense1", 12),
        plan.LayerNorm("norm5"),
        plan.Activation("relu"),
        plan.Dense("dense2", 9),
        plan.Activation("silu"),
        plan.Dense("dense3", 5),
    )
)
SEPARABLE_KEPT = {**dict.fromkeys(SEPARABLE.layers, 0.6), "dense3": 0.1}
MEANS = Chain(
    steps=(
        plan.Conv("conv1", 7, (3, 3)),
        plan.Activation("gelu_erf"),
        plan.WindowMeanPool(3, 2, "VALID"),
        plan.Conv("conv2", 6, (2, 2), padding="VALID"),
        plan.Activation("sigmoid"),
        plan.WindowMeanPool(2, 2, "SAME"),
        plan.Conv("conv3", 5, (1, 1)),
        plan.MeanPool(),
    )
)
# Units that become maps, and maps that grow; the step of version 4.
GROWING = Chain(
    steps=(
        plan.Dense("dense1", 12),
        plan.Activation("tanh"),
        plan.Dense("dense2", 24),
        plan.DepthToSpace((2, 3)),
        plan.Conv("conv1", 12, (3, 3)),
        plan.Norm("norm1"),
        plan.Activation(),
        plan.DepthToSpace((2, 1)),
        plan.Conv("conv2", 4, (2, 2), padding="VALID"),
        plan.Flatten(),
        plan.DepthToSpace((1, 3)),
        plan.DepthToSpace((2, 1)),
        plan.Residual((plan.Conv("conv3", 4, (1, 1)),)),
        plan.Flatten(),
    )
)
NETS = {
    "mlp": (MLP((40, 30), 7), (6, 6, 1), 0.03),
    "mlp-tanh": (MLP((40, 30), 7, "tanh"), (36,), 0.03),
    "lenet5": (LeNet5(), SHAPE, KEPT),
    "lenet5-batch-norm": (LeNet5(batch_norm=True), SHAPE, KEPT),
    "lenet5-plain-norm": (LeNet5(batch_norm=True, norm_affine=False), SHAPE, KEPT),
    "same": (SAME, (13, 12, 3), 0.04),
    "resnet": (ResNet(5, stages=(2, 1), width=4, input_std=(0.3,)), (17, 16, 3), 0.1),
    "sides": (SIDES, (5, 6, 2), 0.3),
    "units": (UNITS, (5, 4, 2), 0.2),
    "maps": (MAPS, (6, 8, 2), 0.3),
    "separable": (SEPARABLE, (25, 20, 3), SEPARABLE_KEPT),
    "growing": (
        GROWING,
        (5,),
        {**dict.fromkeys(GROWING.layers, 0.4), "dense1": 0.2},
    ),
    "means": (MEANS, (9, 8, 2), {"conv1": 0.2, "conv2": 0.04, "conv3": 0.3}),
}


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


NOISY = {"separable": ("depthwise1", "by_channel")}


def noisy(name="lenet5"):
    """The graph of a net of `NETS` with deviations: of two layers, most of them zero,
    one of which has no means."""
    graph = case(name)[0]
    draw = np.random.default_rng(2)
    first, second = NOISY.get(name, list(graph.kernels)[-3:-1])
    deviations = {
        layer: (draw.random(shape) < 0.1) * draw.uniform(0.1, 1, shape)
        for layer in (first, second)
        for shape in (graph.kernels[layer].shape,)
    }
    return dataclasses.replace(
        graph,
        kernels=graph.kernels | {second: np.zeros_like(graph.kernels[second])},
        deviations={k: v.astype(np.float32) for k, v in deviations.items()},
    )


class Same:
    """In place of a generator: noise that is always what it is."""

    def __init__(self, value=1.0):
        self.value = value

    def standard_normal(self, shape, dtype):
        return np.full(shape, self.value, dtype)
