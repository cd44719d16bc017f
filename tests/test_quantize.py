"""Quantized weights: near the weights that they were, in few bits and bytes."""

import dataclasses

import jax
import numpy as np
import pytest
from compact_nets import NETS, case, close, inputs, lenet5, sparse

from vnets import compact
from vnets.nets import MLP


@pytest.mark.parametrize("name", NETS)
def test_a_file_holds_the_quantized_net(name, tmp_path):
    """Read back, it is the same to the bit, and predicts as the dense net in JAX."""
    graph, x, _ = case(name)
    small = compact.quantize(compact.shrink(graph), 5, {"run": "r", "epochs": 3})
    size = compact.save(tmp_path / "net.vnz", small)
    assert size == (tmp_path / "net.vnz").stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == ["net.vnz"]
    predictor = compact.load(tmp_path / "net.vnz")
    held = predictor.net
    assert (held.plan, held.shape, held.about) == (small.plan, graph.shape, small.about)
    for ours, theirs in zip(held.layers.values(), small.layers.values(), strict=True):
        jax.tree.map(
            np.testing.assert_array_equal,
            dataclasses.asdict(ours),
            dataclasses.asdict(theirs),
        )
    model, variables = held.to_flax()
    close(predictor(x), jax.jit(model.apply)(variables, x))
    assert compact.dumps(held) == (tmp_path / "net.vnz").read_bytes()


def test_quantized_weights_are_within_half_a_step():
    net = MLP((), 4)
    graph = compact.capture(net, sparse(net, (30,), 1.0), (30,))
    kernel = graph.kernels["dense1"] / 50  # all far below one
    graph = dataclasses.replace(graph, kernels={"dense1": kernel})
    for bits in (2, 5, 8):
        small = compact.quantize(graph, bits)
        layer = small.layers["dense1"]
        step = np.abs(kernel).max() / (2 ** (bits - 1) - 1)
        assert step <= layer.step <= step * (1 + 2**-7)  # of a bfloat16
        step = layer.step
        assert np.abs(layer.levels).max() == 2 ** (bits - 1) - 1
        error = np.abs(small.graph().kernels["dense1"] - kernel).max()
        assert error <= 0.5001 * step
        assert np.abs(layer.bias_levels).max() >= 8 * 2 ** (bits - 1)
        assert np.log2(layer.step / layer.bias_step) in range(16)


def test_the_fewest_bits_change_few_predictions():
    net = MLP((40,), 7)
    graph = compact.capture(net, sparse(net, (36,), 0.3), (36,))
    x = inputs((36,), 400)
    wanted = np.argmax(compact.Predictor(graph)(x), -1)

    def changed(net):
        return np.mean(np.argmax(compact.Predictor(net)(x), -1) != wanted)

    found = compact.fewest_bits(graph, changed, 0.02)
    assert changed(compact.quantize(graph, found)) <= 0.02
    assert sum(found.values()) < 2 * 8
    least = compact.fewest_bits(graph, changed, 1.0)
    assert set(least.values()) == {2}
    with pytest.raises(ValueError, match="2 to 8"):
        compact.quantize(graph, 9)


def test_the_fewest_bits_are_tried_in_order_up_to_the_tolerance():
    """The layer of most weights first; a change of just the tolerance may be."""
    net = MLP((3,), 7)  # 12 and 21 weights
    graph = compact.capture(net, sparse(net, (4,), 1.0), (4,))
    whole, tried = compact.quantize(graph, 8), []

    def changed(net):
        coarser = [n for n in net.layers if net.layers[n].step > whole.layers[n].step]
        tried.append(coarser)
        return 0.5 if coarser == ["dense2"] else 0.6

    assert compact.fewest_bits(graph, changed, 0.5) == {"dense1": 8, "dense2": 2}
    assert tried == [["dense2"]] * 6 + [["dense1", "dense2"]]


def test_small_files():
    """At most 2.7 bytes for each surviving weight, and 1 kB."""
    content, net = lenet5()
    survivors = sum(net.nonzeros().values())
    assert 1000 < survivors < 3000
    assert len(content) <= 2.7 * survivors + 1000
