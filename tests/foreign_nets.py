"""Nets from elsewhere: weights in PyTorch's layout, what they compute, ONNX files."""

import numpy as np
import onnx
from jax import lax
from onnx import TensorProto, helper, numpy_helper

from vnets import foreign as nets

DRAW = np.random.default_rng(0)
CHANNELS_FIRST = ("NCHW", "OIHW", "NCHW")
WORDS = """
conv1(stride=2,padding=1) bn relu   # maps of 8 x 8
dw(padding=1) gelu
mean_pool(3, stride=2, padding=1) conv2 silu max_pool(2)
flatten ln fc1 relu fc2 softmax
"""


def normal(*shape):
    return np.float32(0.4 * DRAW.standard_normal(shape))


TENSORS = {
    "conv1.weight": normal(6, 3, 3, 3),
    "conv1.bias": normal(6),
    "bn.weight": 1 + normal(6),
    "bn.bias": normal(6),
    "bn.running_mean": normal(6),
    "bn.running_var": 1 + normal(6) ** 2,
    "bn.num_batches_tracked": np.asarray(7),
    "dw.weight": normal(6, 1, 3, 3),
    "conv2.weight": normal(4, 6, 1, 1),
    "conv2.bias": normal(4),
    "ln.weight": 1 + normal(16),
    "ln.bias": normal(16),
    "fc1.weight": normal(9, 16),
    "fc1.bias": normal(9),
    "fc2.weight": normal(5, 9),
    "fc2.bias": normal(5),
}
INPUTS = normal(12, 3, 16, 16)


def convolved(x, name, stride, padding, groups=1):
    y = lax.conv_general_dilated(
        x,
        TENSORS[f"{name}.weight"],
        (stride, stride),
        ((padding, padding),) * 2,
        dimension_numbers=CHANNELS_FIRST,
        feature_group_count=groups,
    )
    bias = TENSORS.get(f"{name}.bias", np.zeros(1, np.float32))
    return np.asarray(y) + bias[:, None, None]


def windows(x, size, stride):
    """[B, C, H', W', size, size]."""
    seen = np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))
    return seen[:, :, ::stride, ::stride]


def reference(x):
    """What PyTorch makes of `WORDS`, channels first, by hand; probabilities."""
    t = TENSORS
    mean, var = (t[f"bn.running_{k}"][:, None, None] for k in ("mean", "var"))
    scale, bias = (t[f"bn.{k}"][:, None, None] for k in ("weight", "bias"))
    x = (convolved(x, "conv1", 2, 1) - mean) / np.sqrt(var + 1e-5) * scale + bias
    x = convolved(np.maximum(x, 0), "dw", 1, 1, groups=6)
    x = x * 0.5 * (1 + nets.onnx_graph.ERF(x / np.sqrt(2)))
    x = windows(np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), 3, 2).mean((4, 5))
    x = convolved(np.float32(x), "conv2", 1, 0)
    x = windows(x / (1 + np.exp(-x)), 2, 2).max((4, 5)).reshape(len(x), -1)
    x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    x = (x * t["ln.weight"] + t["ln.bias"]) @ t["fc1.weight"].T + t["fc1.bias"]
    x = np.maximum(x, 0) @ t["fc2.weight"].T + t["fc2.bias"]
    likely = np.exp(x - x.max(1, keepdims=True))
    return likely / likely.sum(1, keepdims=True)


def model_of(path, nodes, shape=("N", 3), arrays=None, output="y", opset=20):
    """An ONNX file; an x becomes a y."""

    def value(name, sizes):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes)

    constants = [numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items()]
    made = [helper.make_node(op, i, o, **options) for op, i, o, options in nodes]
    graph = helper.make_graph(
        made, "g", [value("x", shape)], [value(output, None)], constants
    )
    versions = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=versions, ir_version=9)
    onnx.save(model, path)
    return path


def separable(path, batch="N"):
    """The net of `TENSORS` as an exporter writes it."""
    t = {k: v for k, v in TENSORS.items() if "tracked" not in k}
    bn = [f"bn.{k}" for k in ("weight", "bias", "running_mean", "running_var")]
    square = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}
    nodes = [
        ("Conv", ["x", "conv1.weight", "conv1.bias"], ["1"], dict(square)),
        ("BatchNormalization", ["1", *bn], ["2"], {}),
        ("Relu", ["2"], ["3"], {}),
        ("Conv", ["3", "dw.weight"], ["4"], {"group": 6, "pads": [1] * 4}),
        ("Gelu", ["4"], ["5"], {}),
        ("AveragePool", ["5"], ["6"], square | {"count_include_pad": 1}),
        ("Conv", ["6", "conv2.weight", "conv2.bias"], ["7"], {}),
        ("Sigmoid", ["7"], ["8"], {}),
        ("Mul", ["7", "8"], ["9"], {}),
        ("MaxPool", ["9"], ["10"], {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Reshape", ["10", "flat"], ["11"], {}),
        ("LayerNormalization", ["11", "ln.weight", "ln.bias"], ["12"], {}),
        ("Gemm", ["12", "fc1.weight", "fc1.bias"], ["13"], {"transB": 1}),
        ("Relu", ["13"], ["14"], {}),
        ("Gemm", ["14", "fc2.weight", "fc2.bias"], ["15"], {"transB": 1}),
        ("Softmax", ["15"], ["y"], {}),
    ]
    shape = (batch, 3, 16, 16)
    return model_of(path, nodes, shape, t | {"flat": np.asarray([-1, 16])})
