"""Laws of nets from ONNX files: any spelling of an operation, or a refusal by name."""

import numpy as np
import pytest
from foreign_nets import INPUTS, TENSORS, WORDS, model_of, normal, reference, separable

from vnets import compact, plan
from vnets import foreign as nets
from vnets.foreign import chain

TANH = np.float32(np.sqrt(2 / np.pi))
SPELLED = {
    "relu": [("Relu", "x", {})],
    "leaky_relu": [("LeakyRelu", "x", {"alpha": 0.01})],
    "softplus": [("Softplus", "x", {})],
    "abs": [("Abs", "x", {})],
    "silu": [("Sigmoid", "x", {}), ("Mul", "x0", {})],
    "gelu_erf": [("Gelu", "x", {})],
    "gelu": [("Gelu", "x", {"approximate": "tanh"})],
    "sigmoid": [("Identity", "x", {}), ("Sigmoid", "0", {})],
    "tanh": [("Tanh", "x", {}), ("Dropout", "0", {})],
}
SPELLED_OUT = {  # as PyTorch writes them
    "gelu_erf": [
        ("Div", ["a", "root"]),
        ("Erf", ["b"]),
        ("Add", ["c", "one"]),
        ("Mul", ["a", "d"]),
        ("Mul", ["e", "half"]),
    ],
    "gelu": [
        ("Pow", ["a", "three"]),
        ("Mul", ["b", "cubic"]),
        ("Add", ["a", "c"]),
        ("Mul", ["d", "tanh"]),
        ("Tanh", ["e"]),
        ("Add", ["one", "f"]),
        ("Mul", ["half", "a"]),
        ("Mul", ["h", "g"]),
    ],
}
SCALARS = {
    "root": np.float32(np.sqrt(2)),
    "one": np.float32([1]),
    "half": np.float32(0.5),
    "three": np.float32(3),
    "cubic": np.float32(0.044715),
    "tanh": TANH,
}


def between(operations, path):
    """Two dense layers with operations between; names go on as letters."""
    arrays = {"w1": normal(3, 4), "b1": normal(4), "w2": normal(2, 4), **SCALARS}
    nodes = [("MatMul", ["x", "w1"], ["m"], {}), ("Add", ["b1", "m"], ["a"], {})]
    last = "a"
    for number, (op, inputs, options) in enumerate(operations):
        last = chr(ord("b") + number)
        nodes.append((op, inputs, [last], options))
    nodes.append(("Gemm", [last, "w2"], ["y"], {"transB": 1}))
    return model_of(path, nodes, arrays=arrays)


@pytest.mark.parametrize("spelled", ["op", "out"])
@pytest.mark.parametrize("kind", plan.ACTIVATIONS)
def test_activations_are_known_however_they_are_written(kind, spelled, tmp_path):
    if spelled == "out":
        if kind not in SPELLED_OUT:
            pytest.skip("one operation")
        operations = [(op, inputs, {}) for op, inputs in SPELLED_OUT[kind]]
    else:
        operations = []
        for op, reads, options in SPELLED[kind]:
            last = "a" if not operations else chr(ord("a") + len(operations))
            inputs = ["a", last] if reads == "x0" else [last]
            operations.append((op, inputs, options))
    path = between(operations, tmp_path / "net.onnx")
    net = nets.read_onnx(path)
    assert net.graph.plan == (
        plan.Dense("dense1", 4),
        plan.Activation(kind),
        plan.Dense("dense2", 2),
    )
    x = 2 * normal(9, 3)
    compact.verify(net.graph, x, nets.run_onnx(path, x))


CONV = ("Conv", ["x", "k"], ["c"])


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([("Elu", ["x"], ["y"], {})], "no step for Elu; there is one for .*'Conv'"),
        ([("Transpose", ["x"], ["y"], {})], "no step for Transpose"),
        ([(*CONV, {"dilations": [2, 2]})], "Conv: .*not dilated"),
        ([(*CONV, {"group": 3})], "of 3 groups"),
        ([(*CONV, {"auto_pad": "SAME_LOWER"})], "auto_pad SAME_LOWER"),
        ([(*CONV, {}), ("Add", ["c", "x"], ["y"], {})], "no chain"),
        ([("MaxPool", ["x"], ["y"], {"kernel_shape": [2, 2], "ceil_mode": 1})], "ceil"),
        ([("MaxPool", ["x"], ["y"], {"kernel_shape": [2, 3]})], "are squares"),
        (
            [("AveragePool", ["x"], ["y"], {"kernel_shape": [3, 3], "pads": [1] * 4})],
            "counts here, as zeros",
        ),
        ([("Mul", ["x", "k"], ["y"], {})], "Mul with a constant"),
        ([("Clip", ["x"], ["y"], {})], "no step for Clip"),
        (
            [("Sigmoid", ["x"], ["s"], {}), ("Add", ["s", "x"], ["y"], {})],
            "none of the",
        ),
        (
            [("Softmax", ["x"], ["s"], {}), ("Relu", ["s"], ["y"], {})],
            "Relu comes after",
        ),
        ([("Flatten", ["x"], ["y"], {"axis": 2})], "first axis is the batch"),
    ],
)
def test_what_is_no_chain_is_refused_by_name(nodes, message, tmp_path):
    arrays = {"k": normal(6, 3, 3, 3)}
    path = model_of(tmp_path / "net.onnx", nodes, ("N", 3, 8, 8), arrays)
    with pytest.raises(ValueError, match=message):
        nets.read_onnx(path)


def test_inputs_of_unknown_size_and_files_of_another_kind_are_refused(tmp_path):
    nodes = [("Relu", ["x"], ["y"], {})]
    path = model_of(tmp_path / "net.onnx", nodes, ("N", "any"), {})
    with pytest.raises(ValueError, match="sizes that are fixed"):
        nets.read_onnx(path)
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x80no onnx at all")
    with pytest.raises(ValueError, match="no ONNX file"):
        nets.read_onnx(tmp_path / "bad.onnx")
    with pytest.raises(ValueError, match="floats"):
        nets.channels_last(np.zeros((1, 3, 8, 8), np.uint8))


def test_an_onnx_file_and_words_give_the_same_net(tmp_path):
    path = separable(tmp_path / "net.onnx")
    np.testing.assert_allclose(
        nets.run_onnx(path, INPUTS), reference(INPUTS), atol=1e-5
    )
    found, told = nets.read_onnx(path), chain.build(TENSORS, WORDS, (16, 16, 3))
    x = nets.channels_last(INPUTS)
    ours, theirs = (
        compact.Predictor(compact.fold_norms(one.graph))(x) for one in (found, told)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert [s for s in found.graph.plan if isinstance(s, plan.Linear)] == [
        s for s in told.graph.plan if isinstance(s, plan.Linear)
    ]
    one = separable(tmp_path / "one.onnx", batch=1)
    np.testing.assert_allclose(nets.run_onnx(one, INPUTS), reference(INPUTS), atol=1e-5)
