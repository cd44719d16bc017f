"""The file of a sparse net beside what a deployment would take else: ONNX, int8.

A perceptron of the embedded digits is trained by sparse variational dropout. The same
net, its zeros written out, is an ONNX model that ONNX Runtime quantizes to 8 bits for
weights and activations, calibrated on training images; with xz, which takes the zeros
out again, and without. ONNX Runtime cuts nothing, and has no form for sparse weights.
"""

import functools
import importlib
import lzma
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import compress, running
from experiments.bench import timing
from experiments.bench.measuring import BenchError, Benchmark, Case
from experiments.config_files import load_config
from vnets import compact, edits
from vnets.compact import Graph
from vnets.data import Split
from vnets.plan import POOL, Activation, Conv, Dense, Flatten, MaxPool

NET = "configs/sparse_vd.py:lenet_300_100_sparse_vd"
QUICK_EPOCHS = 3
CALIBRATION = 100  # images
OPSET, IR = 21, 10
MISSING = (
    "ONNX Runtime is not installed, so nothing is compared with it: "
    "pip install -e '.[bench]' adds it"
)
OURS, THEIRS = "the .vnz file", "ONNX Runtime, int8"
Predict = Callable[[np.ndarray], np.ndarray]


class Sparse(NamedTuple):
    """A trained net: pruned, with its zeros written out, its file, and its images."""

    graph: Graph
    file: bytes
    seen: Split
    test: Split


@functools.cache
def trained(epochs: int = 0) -> Sparse:
    """Trains and prunes the net; all of its config's epochs by default."""
    config = load_config(f"{NET},quick")
    config.epochs = epochs or config.epochs
    with tempfile.TemporaryDirectory() as folder:
        running.run(config, NET, lambda _: Path(folder), [config.seed])
        config, experiment, net = running.restore(folder)
        data, path = experiment.dataset, Path(folder) / "net.vnz"
        compress.compress_net(config, data, net, path, seconds=0.01)
        file = path.read_bytes()
    prune = edits.chain(edits.prune(config.evals.threshold), edits.mean_only)
    variables = {"params": prune(net.params), **net.collections}
    graph = compact.capture(net.model, variables, data.test.shape)
    return Sparse(compact.fold_norms(graph), file, data.train, data.test)


def load() -> Any:
    """The package onnx, whose runtime is there, too.

    Raises:
      BenchError: one of them is not installed.
    """
    try:
        importlib.import_module("onnxruntime.quantization")
        return importlib.import_module("onnx")
    except ImportError as error:
        raise BenchError(MISSING) from error


def benchmark(quick: bool) -> Benchmark:
    """The net from either file, an image at a time and all test images at once."""
    of = functools.partial(trained, QUICK_EPOCHS if quick else 0)
    ways = {OURS: from_file, THEIRS: from_onnx}
    batches = {"one image": 1, "360 images": 360}

    def finish(parts, times):
        del parts
        net = of()
        there = {how for how in ways if any(case.endswith(how) for case in times)}
        files = {OURS: net.file}
        if THEIRS in there:
            files[THEIRS] = onnx_file(net)
            files[f"{THEIRS}, xz"] = packed(files[THEIRS])
        values = {f"bytes of {name}": len(content) for name, content in files.items()}
        for how in there:
            guesses = ways[how](net)(net.test.inputs).argmax(-1)
            wrong = int(np.sum(guesses != net.test.target))
            values[f"test images wrong by {how}"] = wrong
        return {"values": values}

    def ready(how: str, batch: int) -> timing.Ready:
        predict, x = ways[how](of()), of().test.inputs[:batch]
        return timing.Ready(lambda: predict(x))

    return Benchmark(
        title="A sparse net as a .vnz file and as an ONNX model of 8 bits",
        unit="ms per call",
        rounds=100,
        cases={
            f"{images}: {how}": Case(
                functools.partial(ready, how, batch), optional=how == THEIRS
            )
            for images, batch in batches.items()
            for how in ways
        },
        settings={"net": f"{NET},quick", "calibration_images": CALIBRATION},
        pairs={
            f"{images}: {THEIRS} / {OURS}": (f"{images}: {THEIRS}", f"{images}: {OURS}")
            for images in batches
        },
        overview={
            how: {images: f"{images}: {how}" for images in batches} for how in ways
        },
        memory_of=(),
        notes=(
            "Sparse variational dropout on the embedded digits. ONNX Runtime has the "
            "net with its zeros, as an exporter writes it; the .vnz file has as few "
            "bits for each layer as change at most 0.1 % of the predictions.",
        ),
        check=load,
        finish=finish,
    )


def exported(graph: Graph) -> Any:
    """The graph as an ONNX model of float32, inputs [B, H, W, C].

    Raises:
      ValueError: a step that is none of a LeNet's.
    """
    onnx = load()
    helper, arrays = onnx.helper, {}

    def held(name: str, value: np.ndarray) -> str:
        arrays[name] = onnx.numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def made() -> Iterator[tuple[str, list[str], dict[str, Any]]]:
        """Operator, other inputs and attributes, in their order."""
        yield "Transpose", [], {"perm": (0, 3, 1, 2)}
        for step in graph.plan:
            if isinstance(step, Conv):
                kernel = graph.kernels[step.name].transpose(3, 2, 0, 1)
                names = held(f"{step.name}/kernel", kernel), _bias(step.name)
                padding = {"VALID": "VALID", "SAME": "SAME_UPPER"}[step.padding]
                how = {"strides": step.strides, "auto_pad": padding}
                yield "Conv", list(names), how
            elif isinstance(step, Dense):
                names = held(f"{step.name}/kernel", graph.kernels[step.name])
                yield "Gemm", [names, _bias(step.name)], {}
            elif isinstance(step, Activation) and step.kind == "relu":
                yield "Relu", [], {}
            elif isinstance(step, MaxPool):
                size = (POOL, POOL)
                yield "MaxPool", [], {"kernel_shape": size, "strides": size}
            elif isinstance(step, Flatten):
                yield "Transpose", [], {"perm": (0, 2, 3, 1)}
                yield "Flatten", [], {}
            else:
                raise ValueError(f"no ONNX is written of {step}")

    def _bias(name: str) -> str:
        return held(f"{name}/bias", graph.biases[name])

    nodes, last = [], "input"
    for number, (operator, others, how) in enumerate(made()):
        nodes.append(
            helper.make_node(operator, [last, *others], [f"step{number}"], **how)
        )
        last = f"step{number}"
    number = onnx.TensorProto.FLOAT
    whole = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", number, ("B", *graph.shape))],
        [helper.make_tensor_value_info(last, number, ("B", None))],
        list(arrays.values()),
    )
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(whole, opset_imports=opset, ir_version=IR)
    onnx.checker.check_model(model)
    return model


def onnx_file(net: Sparse) -> bytes:
    """The ONNX model of 8 bits, calibrated on training images."""
    onnx, images = load(), _pixels(net.seen.inputs[:CALIBRATION])
    tools = importlib.import_module("onnxruntime.quantization")
    held = iter([{"input": images}])

    class Reader(tools.CalibrationDataReader):
        def get_next(self):
            return next(held, None)

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "net.onnx", Path(folder) / "int8.onnx"
        onnx.save(exported(net.graph), source)
        tools.quantize_static(source, target, Reader())
        return target.read_bytes()


def packed(content: bytes) -> bytes:
    """The same with xz, as small as it makes it."""
    return lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)


def _pixels(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float32) / np.float32(255)


def from_file(net: Sparse) -> Predict:
    """uint8 [B, H, W, C] -> logits, from the .vnz file."""
    return compact.Predictor(compact.loads(net.file))


def from_onnx(net: Sparse) -> Predict:
    """The same by ONNX Runtime, on the benchmark's threads."""
    return session(onnx_file(net))


def session(content: bytes) -> Predict:
    """uint8 [B, H, W, C] -> logits by ONNX Runtime, of any model."""
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = min(timing.THREADS, timing.cores())
    made = runtime.InferenceSession(content, options, ["CPUExecutionProvider"])
    return lambda images: made.run(None, {"input": _pixels(images)})[0]


BENCHMARKS = {"small_files": benchmark}
