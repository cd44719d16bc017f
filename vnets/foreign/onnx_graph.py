"""The chain that an ONNX file describes.

Elementwise operations between two layers are one function of what the layer before
them gives. It is computed on a grid and compared with the activations that there are,
so that it does not matter how an exporter spells GELU or SiLU.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vnets import extras
from vnets.compact.limits import NAME
from vnets.compact.operations import activated
from vnets.foreign.build import Builder, Ending, Foreign, pairs
from vnets.plan import ACTIVATIONS, Shape, pads

GRID = np.linspace(-6.0, 6.0, 241)
NEAR = 1e-5  # rounded constants are nearer; GELU by tanh and by erf differ by 5e-4
ERF = np.vectorize(math.erf)
ELEMENTWISE: dict[str, Callable] = {
    "Relu": lambda x: np.maximum(x, 0),
    "LeakyRelu": lambda x, alpha=0.01: np.where(x >= 0, x, alpha * x),
    "Tanh": np.tanh,
    "Sigmoid": lambda x: activated("sigmoid", x),
    "Softplus": lambda x: activated("softplus", x),
    "Abs": np.abs,
    "Erf": lambda x: ERF(x),
    "Gelu": lambda x, approximate=b"none": activated(
        "gelu" if approximate == b"tanh" else "gelu_erf", x
    ),
    "Swish": lambda x, alpha=1.0: x * activated("sigmoid", alpha * x),
    "Neg": np.negative,
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
}
IDLE = ("Identity", "Dropout")  # of a net that is trained
ENDINGS: dict[str, Ending] = {"Softmax": "softmax", "LogSoftmax": "log_softmax"}


def read_onnx(path: Path | str) -> Foreign:
    """The net of a file, *.onnx.

    Raises:
      MissingExtra: onnx is not installed.
      ValueError: it is no chain of the steps that there are; the message names the
        operation.
    """
    onnx = extras.need("onnx")
    graph = _loaded(onnx, path).graph
    walk = _Walk(onnx, graph)
    for node in graph.node:
        walk.take(node)
    return walk.finish(graph.output[0].name)


def run_onnx(path: Path | str, inputs: np.ndarray) -> np.ndarray:
    """What the file's net makes of inputs [B, C, H, W] or [B, I], by ONNX's reference.

    Of a net for a fixed number of inputs the last are left out that do not fill it.

    Raises:
      MissingExtra: onnx is not installed.
      ValueError: there are fewer inputs than the net takes at once.
    """
    onnx = extras.need("onnx")
    model = _loaded(onnx, path)
    evaluator = extras.need("onnx.reference").ReferenceEvaluator(model)
    [given] = _inputs(model.graph)
    fixed = given.type.tensor_type.shape.dim[0].dim_value  # 0: any
    size = fixed or max(len(inputs), 1)
    if len(inputs) < size:
        raise ValueError(f"{path} takes {size} inputs at once, there are {len(inputs)}")
    parts = [inputs[i : i + size] for i in range(0, len(inputs) // size * size, size)]
    outputs = [evaluator.run(None, {given.name: part})[0] for part in parts]
    return np.concatenate(outputs)


def _loaded(onnx, path: Path | str) -> Any:
    try:
        return onnx.load(str(path))
    except (OSError, ValueError, onnx.checker.ValidationError):
        raise
    except Exception as error:  # of protobuf, which has a kind of its own
        raise ValueError(f"{path} is no ONNX file: {error}") from error


def _inputs(graph) -> list:
    """The graph's inputs; older files list their constants among them."""
    constants = {one.name for one in graph.initializer}
    return [one for one in graph.input if one.name not in constants]


class _Walk:
    """Goes along the nodes; what is at hand is `last`, and functions of it."""

    def __init__(self, onnx, graph):
        self._arrays, self._attributes = onnx.numpy_helper, onnx.helper
        self._constants = {
            one.name: self._arrays.to_array(one) for one in graph.initializer
        }
        inputs = _inputs(graph)
        if len(inputs) != 1 or len(graph.output) != 1:
            raise ValueError("a chain has one input and one output")
        self._builder = Builder(_shape(inputs[0]))
        self._names: set[str] = set()
        self._ending: Ending = ""
        self._at(inputs[0].name)

    def _at(self, name: str, without_bias: str | None = None) -> None:
        """From now on `name` is what is at hand, and values are functions of it."""
        self._values = {name: GRID}
        self._without_bias = without_bias

    def take(self, node) -> None:
        """One more node."""
        op = node.op_type
        options = {
            one.name: self._attributes.get_attribute_value(one)
            for one in node.attribute
        }
        given = [name for name in node.input if name not in self._constants]
        if op == "Constant":
            self._constants[node.output[0]] = self._constant(options)
            return
        if self._ending:
            raise ValueError(f"{op} comes after {self._ending}, which ends a chain")
        for name in filter(None, given):
            if name not in self._values:
                raise ValueError(
                    f"{op} reads {name!r}, which is not what the node before it makes: "
                    "the net is no chain"
                )
        if op in IDLE:
            self._values[node.output[0]] = self._values[node.input[0]]
        elif op in ELEMENTWISE:
            self._elementwise(node, options)
        elif op in ENDINGS:
            self._ending = ENDINGS[op]
            self._arrive(node.input[0])
            self._at(node.output[0])
        elif hasattr(self, f"_{op}"):
            self._arrive(node.input[0])
            arrays = [self._constants.get(name) for name in node.input[1:]]
            without_bias = getattr(self, f"_{op}")(node, arrays, options)
            self._at(node.output[0], without_bias)
        else:
            layers = sorted(n[1:] for n in dir(self) if n[0] == "_" and n[1].isupper())
            known = [*layers, *ELEMENTWISE, *ENDINGS, *IDLE]
            raise ValueError(f"there is no step for {op}; there is one for {known}")

    def finish(self, output: str) -> Foreign:
        """The net that ends with a value."""
        if output not in self._values:
            raise ValueError(f"the output {output!r} is not what the last node makes")
        self._arrive(output)
        return Foreign(self._builder.graph(), self._ending)

    def _arrive(self, name: str) -> None:
        """Adds the activation that made a value of what was at hand."""
        values = self._values[name]
        if np.array_equal(values, GRID):
            return
        for kind in ACTIVATIONS:
            if np.abs(values - activated(kind, GRID)).max() < NEAR:
                self._builder.activation(kind)
                return
        raise ValueError(
            f"the elementwise operations up to {name!r} are none of the activations "
            f"{list(ACTIVATIONS)}"
        )

    def _elementwise(self, node, options: dict) -> None:
        constants = [self._constants[n] for n in node.input if n in self._constants]
        several = [one for one in constants if np.size(one) > 1]
        if several and node.op_type == "Add" and self._without_bias:
            [name] = (n for n in node.input if n not in self._constants)
            if np.array_equal(self._values[name], GRID):
                self._builder.add_bias(self._without_bias, several[0])
                self._at(node.output[0])
                return
        if several:
            shapes = [list(np.shape(one)) for one in several]
            raise ValueError(f"{node.op_type} with a constant {shapes} is no step")
        read = [
            self._values[name]
            if name in self._values
            else float(np.ravel(self._constants[name])[0])
            for name in node.input
        ]
        with np.errstate(all="ignore"):
            self._values[node.output[0]] = ELEMENTWISE[node.op_type](*read, **options)

    def _name(self, node, kind: str) -> str:
        """Of a layer: what its weight is called before ".weight", else by counting."""
        weight = node.input[1].rpartition(".")[0] if len(node.input) > 1 else ""
        count = 1 + sum(name.startswith(kind) for name in self._names)
        usable = NAME.fullmatch(weight) and weight not in self._names
        name = weight if usable else f"{kind}{count}"
        self._names.add(name)
        return name

    def _constant(self, options: dict) -> np.ndarray:
        [(key, value)] = options.items()
        return self._arrays.to_array(value) if key == "value" else np.asarray(value)

    def _array(self, node, array, what: str) -> np.ndarray:
        if array is None:
            raise ValueError(f"{node.op_type}: its {what} is no constant")
        return array

    def _Gemm(self, node, arrays, options):  # noqa: N802 (as ONNX writes it)
        weight = self._array(node, arrays[0], "weight")
        if not options.pop("transB", 0):
            weight = weight.T
        if options.pop("transA", 0):
            raise ValueError("Gemm: transA turns the batch")
        weight = options.pop("alpha", 1.0) * weight
        bias, beta = arrays[1] if arrays[1:] else None, options.pop("beta", 1.0)
        name = self._name(node, "dense")
        self._builder.dense(name, weight, None if bias is None else beta * bias)

    def _MatMul(self, node, arrays, options):  # noqa: N802
        name = self._name(node, "dense")
        self._builder.dense(name, self._array(node, arrays[0], "weight").T, None)
        return name

    def _Conv(self, node, arrays, options):  # noqa: N802
        weight = self._array(node, arrays[0], "weight")
        if weight.ndim != 4 or set(options.get("dilations", [1])) != {1}:
            raise ValueError("Conv: convolutions are 2-D, and not dilated")
        bias = self._array(node, arrays[1], "bias") if arrays[1:] else None
        strides = tuple(options.get("strides", (1, 1)))
        margins = self._margins(node, options, weight.shape[2:], strides)
        self._builder.convolution(
            self._name(node, "conv"),
            weight,
            bias,
            strides,
            margins,
            options.get("group", 1),
        )

    def _MaxPool(self, node, arrays, options):  # noqa: N802
        self._pool(node, "max", options)

    def _AveragePool(self, node, arrays, options):  # noqa: N802
        margins = self._pool(node, "mean", options)
        if any(map(any, margins)) and not options.get("count_include_pad", 0):
            raise ValueError("AveragePool: what pads a window counts here, as zeros")

    def _GlobalAveragePool(self, node, arrays, options):  # noqa: N802
        self._builder.global_mean()

    def _ReduceMean(self, node, arrays, options):  # noqa: N802
        axes = options.get("axes", arrays[0] if arrays else None)
        if axes is None or {int(a) % 4 for a in axes} != {2, 3}:
            raise ValueError("ReduceMean: a mean is over all positions, H and W")
        self._builder.global_mean()

    def _Flatten(self, node, arrays, options):  # noqa: N802
        if options.get("axis", 1) != 1:
            raise ValueError("Flatten: the first axis is the batch")
        self._builder.flatten()

    def _Reshape(self, node, arrays, options):  # noqa: N802
        target = self._array(node, arrays[0], "shape").tolist()
        units = math.prod(self._builder.shape)
        if len(target) != 2 or target[1] not in (-1, units):
            raise ValueError(f"Reshape to {target}: only to [B, units]")
        self._builder.flatten()

    def _BatchNormalization(self, node, arrays, options):  # noqa: N802
        scale, bias, mean, var = (self._array(node, one, "array") for one in arrays)
        name, epsilon = self._name(node, "norm"), options.get("epsilon", 1e-5)
        self._builder.batch_norm(name, scale, bias, mean, var, epsilon)

    def _LayerNormalization(self, node, arrays, options):  # noqa: N802
        rank = len(self._builder.shape) + 1
        if rank != 2 or options.get("axis", -1) % rank != 1:
            raise ValueError("LayerNormalization: it is of units [B, I], not of maps")
        scale = self._array(node, arrays[0], "scale")
        bias = arrays[1] if arrays[1:] else np.zeros_like(scale)
        epsilon = options.get("epsilon", 1e-5)
        self._builder.layer_norm(self._name(node, "norm"), scale, bias, epsilon)

    def _pool(self, node, kind: str, options: dict):
        if options.get("ceil_mode", 0) or set(options.get("dilations", [1])) != {1}:
            raise ValueError(f"{node.op_type}: neither ceil_mode nor dilations")
        size = options["kernel_shape"]
        strides = tuple(options.get("strides", (1,) * len(size)))
        margins = self._margins(node, options, size, strides)
        self._builder.pool(kind, size, strides, margins)
        return margins

    def _margins(self, node, options: dict, size, strides):
        auto = options.get("auto_pad", b"NOTSET").decode()
        if auto == "SAME_UPPER":
            return pads(self._builder.shape[:2], size, strides, "SAME")
        if auto not in ("NOTSET", "VALID"):
            raise ValueError(f"{node.op_type}: auto_pad {auto} is no padding here")
        return pairs(options.get("pads", (0, 0, 0, 0)))


def _shape(value) -> Shape:
    """Of one example of an input, as ours."""
    sizes = [one.dim_value for one in value.type.tensor_type.shape.dim]
    if len(sizes) not in (2, 4) or not all(sizes[1:]):
        raise ValueError(
            f"the input {value.name!r} is {sizes} (0: any): it must be [B, C, H, W] or "
            "[B, I] with sizes that are fixed, but for the batch"
        )
    channels_last = (*sizes[2:], sizes[1])
    return channels_last if len(sizes) == 4 else tuple(sizes[1:])
