"""Laws of nets from elsewhere: the same function, or a refusal that names why."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy
from foreign_nets import (
    DRAW,
    INPUTS,
    TENSORS,
    WORDS,
    normal,
    reference,
    separable,
)

from experiments import compress, config_files, foreign, latency, show
from vnets import compact, plan
from vnets import foreign as nets
from vnets.foreign import chain
from vnets.nets import MLP, Chain

ConfigError = config_files.ConfigError


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
