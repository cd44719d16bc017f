"""Laws of nets from elsewhere: the same function, or a refusal that names why."""

import dataclasses
import json

import numpy as np
import onnx
import pytest
import safetensors.numpy
from jax import lax
from onnx import TensorProto, helper, numpy_helper

from experiments import compress, config_files, foreign, latency, show
from vnets import compact, plan
from vnets import foreign as nets
from vnets.foreign import chain
from vnets.nets import MLP, Chain

ConfigError = config_files.ConfigError
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


def test_a_chain_in_words_is_the_net_of_pytorch(tmp_path):
    safetensors.numpy.save_file(TENSORS, tmp_path / "net.safetensors")
    net = nets.read_safetensors(tmp_path / "net.safetensors", WORDS, (16, 16, 3))
    assert net.ending == "softmax"
    x = nets.channels_last(INPUTS)
    compact.verify(net.graph, x, reference(INPUTS), probabilities=True)
    logits = compact.Predictor(compact.fold_norms(net.graph))(x)
    likely = compact.operations.softmax(logits)
    np.testing.assert_allclose(likely, reference(INPUTS), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("", ""), "give the chain.*conv1 .6, 3, 3, 3.*fc2 .5, 9"),
        (("fc2 softmax", ""), "leaves layers out.*fc2 .5, 9"),
        (("fc2", "fc3"), "fc3 is no step, of .*'relu'.*fc2"),
        (("flatten", ""), "ln: 16 numbers for 4 units"),
        (("max_pool(2)", "max_pool"), r"needs its size, as in max_pool\(2\)"),
        (("max_pool(2)", "max_pool(2.5)"), "0 is a whole number"),
        (("max_pool(2)", "max_pool(two)"), "'two' is no number"),
        (("relu fc2", "relu(2) fc2"), "relu takes no 0"),
        (("conv2", "conv2(dilation=2)"), "conv2 takes no dilation"),
        (("fc2 softmax", "softmax fc2"), "fc2 comes after softmax"),
        (("bn relu", "bn) relu"), r"cannot be read from ' bn\) relu"),
        (("fc1 relu fc2", "fc2 relu fc1"), "fc2: a weight .5, 9. on 16 units"),
    ],
)
def test_a_chain_that_does_not_fit_is_refused(change, message):
    old, new = change
    words = WORDS.replace(old, new) if old else new
    with pytest.raises(ValueError, match=message):
        chain.build(TENSORS, words, (16, 16, 3))


def test_what_is_ambiguous_is_refused():
    weights = {"relu.weight": normal(2, 3)}
    with pytest.raises(ValueError, match="relu is a step and a layer"):
        chain.build(weights, "relu", (3,))
    grouped = {"conv.weight": normal(4, 2, 3, 3)}
    with pytest.raises(ValueError, match="one group here, or one a channel"):
        chain.build(grouped, "conv flatten", (5, 5, 4))
    with pytest.raises(ValueError, match="whose order is not ours"):
        chain.build({"conv.weight": normal(4, 2, 3, 3)}, "conv flatten", (5, 5, 2))
    with pytest.raises(ValueError, match=r"odd is no layer.*\['code'\]"):
        chain.build({"odd.code": normal(3)}, "odd", (3,))


def test_a_forgotten_activation_is_found():
    net = chain.build(TENSORS, WORDS, (16, 16, 3))
    x, wanted = nets.channels_last(INPUTS), reference(INPUTS)
    for step, after in (
        (plan.Activation("silu"), "conv2"),
        (plan.Activation("gelu_erf"), "dw"),
    ):
        place = net.graph.plan.index(step)
        steps = (*net.graph.plan[:place], *net.graph.plan[place + 1 :])
        bare = dataclasses.replace(net.graph, plan=steps)
        with pytest.raises(ValueError, match=f"With {step.kind} after '{after}' they"):
            compact.verify(bare, x, wanted, probabilities=True)


def test_capture_holds_a_plan_to_an_example():
    model, x = MLP((5, 4), 3, "tanh"), normal(6, 7)
    variables = model.init({"params": jax_key()}, x)
    y = np.asarray(model.apply(variables, x))
    compact.capture(model, variables, (7,), example=(x, y))
    steps = [s for s in model.plan if not isinstance(s, plan.Activation)]
    bare = Chain(steps=tuple(steps))
    compact.capture(bare, variables, (7,))  # modules alone do not tell
    with pytest.raises(ValueError, match="With tanh after 'dense1', 'dense2'"):
        compact.capture(bare, variables, (7,), example=(x, y))
    other = dataclasses.replace(model, activation="abs")
    with pytest.raises(ValueError, match="have an activation between them"):
        compact.capture(other, variables, (7,), example=(x, y))
    with pytest.raises(ValueError, match=r"outputs \[6, 2\], the chain makes \[6, 3\]"):
        compact.capture(model, variables, (7,), example=(x, y[:, :2]))


def jax_key():
    from jax import random

    return random.key(0)


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


@pytest.mark.parametrize("share", [0.0, 0.35, 0.9])
def test_the_smallest_weights_go(share):
    graph = compact.fold_norms(chain.build(TENSORS, WORDS, (16, 16, 3)).graph)
    layers = plan.linear_layers(graph.plan)
    total = sum(graph.kernels[name].size for name in layers)

    def left(cut, names=layers):
        return sum(np.count_nonzero(cut.kernels[name]) for name in names)

    cut = nets.pruned(graph, share)
    assert left(cut) == total - round(share * total)
    gone = [
        np.abs(graph.kernels[n][cut.kernels[n] == 0]).max(initial=0) for n in layers
    ]
    kept = [np.abs(cut.kernels[n][cut.kernels[n] != 0]).min(initial=9) for n in layers]
    assert max(gone) <= min(kept)
    for name in set(graph.kernels) - set(layers):  # of layer normalization
        np.testing.assert_array_equal(cut.kernels[name], graph.kernels[name])
    each = nets.pruned(graph, {"fc1": share})
    assert left(each, ["fc1"]) == 144 - round(share * 144)
    assert left(each) == total - round(share * 144)


def test_shares_that_cannot_be_are_refused():
    normed = chain.build(TENSORS, WORDS, (16, 16, 3)).graph
    graph = compact.fold_norms(normed)
    with pytest.raises(ValueError, match="fold the normalization"):
        nets.pruned(normed, 0.5)
    for share, message in ((1.0, "0 to below 1"), ({"ln": 0.5}, "unknown layer 'ln'")):
        with pytest.raises(ValueError, match=message):
            nets.pruned(graph, share)


@pytest.fixture
def quick(monkeypatch):
    """Without the process that measures latency."""
    taken = {"threads": 1, "batch_1": {"compact": 2.0, "dense_numpy": 1.0}}
    given = []

    def measure(graph, out, threads, seconds, onnx):
        given.append(onnx)
        return {**taken, "fastest_1": taken["batch_1"], "int8_bytes": 4321}

    monkeypatch.setattr(latency, "measure", measure)
    return given


def test_a_model_becomes_a_file(quick, tmp_path, capsys):
    path, out = separable(tmp_path / "net.onnx"), tmp_path / "net.vnz"
    pixels = DRAW.random((20, 3, 16, 16), np.float32)
    labels = np.argmax(reference((pixels - 0.5) / 0.25), -1)
    example = tmp_path / "example.npz"
    np.savez(example, inputs=(pixels - 0.5) / 0.25, labels=labels)
    report = foreign.compress_model(
        path, out, example=example, prune="fc1=0.5", mean=(0.5,), std=(0.25,)
    )
    assert quick == [path]
    predictor = compact.load(out)
    assert predictor.net.about == {"run": "net.onnx"}
    found = np.argmax(predictor(nets.channels_last(pixels)), -1)
    agreement = report["agreement"]
    assert agreement["error/model"] == 0
    assert agreement["error/file"] == pytest.approx(np.mean(found != labels))
    assert agreement["error/file"] == agreement["differ/file"]
    assert report["bytes"]["file"] == out.stat().st_size < report["bytes"]["dense"]
    assert report["bytes"]["onnx_int8"] == 4321
    weights = report["weights"]
    assert weights["all"] - weights["pruned"] == 72
    json.dumps(report)
    show.foreign(report)
    shown = " ".join(capsys.readouterr().out.split())
    assert "on 20 examples given" in shown
    assert "The file is slower at batch 1 than dense NumPy" in shown


def test_weights_alone_need_a_chain_and_an_example(quick, tmp_path):
    path, out = tmp_path / "net.safetensors", tmp_path / "net.vnz"
    safetensors.numpy.save_file(TENSORS, path)
    example, bare = tmp_path / "example.npz", tmp_path / "bare.npz"
    np.savez(example, inputs=INPUTS, outputs=reference(INPUTS))
    np.savez(bare, inputs=INPUTS)
    (tmp_path / "net.txt").write_text(WORDS)
    words = str(tmp_path / "net.txt")
    report = foreign.compress_model(path, out, chain=words, example=example)
    assert report["agreement"]["differ/pruned"] == 0
    assert quick == [None]
    for options, message in (
        ({}, "give the chain.*conv1"),
        ({"chain": words}, "give an example"),
        ({"chain": words, "example": bare}, "give an example"),
        ({"chain": words, "example": example, "prune": "most"}, "it is a share"),
        ({"chain": words, "example": example, "prune": "1.5"}, "below 1, not 1.5"),
        ({"chain": words, "example": path}, "no .npz"),
        (
            {"chain": WORDS.replace("silu", ""), "example": example},
            "With silu after 'conv2' they agree",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            foreign.compress_model(path, tmp_path / "bad.vnz", **options)
    with pytest.raises(ConfigError, match=r"ends with \.onnx or \.safetensors"):
        foreign.compress_model(tmp_path / "net.txt", out)
    with pytest.raises(ConfigError, match="says its chain itself"):
        foreign.compress_model(separable(tmp_path / "n.onnx"), out, chain="x")
    assert not (tmp_path / "bad.vnz").exists()
    assert compress.units_of(compact.load(out).net)["fc2"] == 5
