"""The ONNX model of the benchmark computes what the net does."""

import importlib.util
import sys

import numpy as np
import pytest

from experiments.bench import measuring, small_files
from experiments.latency import dense_numpy
from vnets.compact import Graph
from vnets.plan import Activation, Conv, Dense, Flatten, MaxPool, Norm

PLAN = (
    Conv("conv1", 3, (3, 3), (2, 2), "SAME"),
    Activation("relu"),
    Conv("conv2", 4, (2, 2), (1, 1), "VALID"),
    MaxPool(),
    Flatten(),
    Dense("dense1", 5),
)
SHAPES = {"conv1": (3, 3, 2, 3), "conv2": (2, 2, 3, 4), "dense1": (36, 5)}


@pytest.fixture
def graph():
    draw = np.random.default_rng(0)
    kernels = {k: draw.normal(size=s).astype(np.float32) for k, s in SHAPES.items()}
    biases = {k: draw.normal(size=s[-1]).astype(np.float32) for k, s in SHAPES.items()}
    return Graph(PLAN, (14, 14, 2), kernels, biases)


# ONNX Runtime is what is compared with, 20 MB that no test else needs.
@pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None, reason="needs the extra bench"
)
def test_the_exported_model_predicts_as_the_net(graph):
    images = np.random.default_rng(1).integers(0, 256, (3, 14, 14, 2), np.uint8)
    found = small_files.session(small_files.exported(graph).SerializeToString())(images)
    expected = dense_numpy(graph, images / np.float32(255))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="no ONNX is written of Norm"):
        small_files.exported(Graph((Norm("norm1"),), (2,), {}, {}))


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime.quantization", None)
    with pytest.raises(measuring.BenchError, match=r"'.\[bench\]'"):
        small_files.load()
