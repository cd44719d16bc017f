"""The file of a sparse net beside what a deployment would take else: ONNX, int8.

The same net, its zeros written out, as an ONNX model that ONNX Runtime quantizes to
8 bits for weights and activations, calibrated on images; with xz, which takes the zeros
out again, and without. ONNX Runtime cannot cut, and has no form for sparse weights.

Weights are random and so are the places of zeros, as in `sparse_nets`.
"""

import functools
import importlib
import lzma
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench import sparse_nets, timing
from experiments.bench.measuring import BenchError, Benchmark, Case
from vnets.compact import Graph
from vnets.nets import LeNet5, lenet_300_100
from vnets.nets.net import Net
from vnets.plan import POOL, Activation, Conv, Dense, Flatten, MaxPool

SHAPE = (28, 28, 1)
# Name, net, and the share of zeros that sparse variational dropout reaches there.
NETS: dict[str, tuple[Net, float]] = {
    "LeNet-300-100": (lenet_300_100(10), 0.985),
    "LeNet-5": (LeNet5(batch_norm=False), 0.995),
}
BATCHES = {True: (1,), False: (1, 256)}  # by whether it is a quick run
CALIBRATION = 100  # images
OPSET, IR = 21, 10
MISSING = (
    "ONNX Runtime is not installed, so nothing is compared with it: "
    "pip install -e '.[bench]' adds it"
)
OURS, THEIRS = "the .vnz file", "ONNX Runtime, int8"


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
    """Each net at each batch, from either file."""
    chosen = dict(list(NETS.items())[:1]) if quick else NETS
    columns = {
        f"{net}, batch {batch}": (net, batch)
        for net in chosen
        for batch in BATCHES[quick]
    }
    ways = {OURS: _ours, THEIRS: _theirs}

    def finish(parts, times):
        sizes = {}
        theirs = any(case.endswith(THEIRS) for case in times)
        for net, (model, zeros) in chosen.items():
            files = {OURS: sparse_nets.content(model, SHAPE, zeros)}
            if theirs:
                files[THEIRS] = onnx_file(net)
                files[f"{THEIRS}, xz"] = packed(files[THEIRS])
            sizes |= {f"{net}: bytes of {k}": len(v) for k, v in files.items()}
        zeros = {f"zeros of {net}": share for net, (_, share) in chosen.items()}
        return {"settings": zeros | parts["settings"], "values": sizes}

    return Benchmark(
        title="A sparse net as a .vnz file and as an ONNX model of 8 bits",
        unit="ms per image",
        rounds=30,
        cases={
            f"{column}: {how}": Case(
                functools.partial(build, *of), of[-1], optional=how == THEIRS
            )
            for column, of in columns.items()
            for how, build in ways.items()
        },
        settings={"bits": sparse_nets.BITS},
        pairs={
            f"{column}: {THEIRS} / {OURS}": (f"{column}: {THEIRS}", f"{column}: {OURS}")
            for column in columns
        },
        overview={
            how: {column: f"{column}: {how}" for column in columns} for how in ways
        },
        memory_of=(),
        notes=(
            "Milliseconds for each image. Weights are random and zeros at random "
            "places, as many in each layer; 8 bits a weight in both. ONNX Runtime has "
            "the net with its zeros, as an exporter writes it, and is calibrated on "
            f"{CALIBRATION} random images.",
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


@functools.cache
def onnx_file(net: str) -> bytes:
    """The ONNX model of 8 bits of one of NETS, calibrated on random images."""
    onnx, graph = load(), sparse_nets.sparse_graph(NETS[net][0], SHAPE, NETS[net][1])
    tools = importlib.import_module("onnxruntime.quantization")
    held = iter([{"input": sparse_nets.images(SHAPE, CALIBRATION)}])

    class Reader(tools.CalibrationDataReader):
        def get_next(self):
            return next(held, None)

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "net.onnx", Path(folder) / "int8.onnx"
        onnx.save(exported(graph), source)
        tools.quantize_static(source, target, Reader())
        return target.read_bytes()


def packed(content: bytes) -> bytes:
    """The same with xz, as small as it makes it."""
    return lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)


def session(content: bytes) -> Any:
    """ONNX Runtime with a model, on the benchmark's threads: images -> logits."""
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = min(timing.THREADS, timing.cores())
    made = runtime.InferenceSession(content, options, ["CPUExecutionProvider"])
    return lambda x: made.run(None, {"input": x})[0]


def _ours(net: str, batch: int) -> timing.Ready:
    model, zeros = NETS[net]
    return sparse_nets.from_file(zeros, model, SHAPE, batch)


def _theirs(net: str, batch: int) -> timing.Ready:
    load()
    predict, x = session(onnx_file(net)), sparse_nets.images(SHAPE, batch)
    return timing.Ready(lambda: predict(x))


BENCHMARKS = {"small_files": benchmark}
