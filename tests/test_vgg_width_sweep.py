"""The sweep's configs: what they share, what starts from what, dropout in its place."""

import jax
import pytest
from jax import random

from experiments import core
from experiments.config_files import load_config
from vnets import data
from vnets.nodes import Additive, Point, Scaled


def config(variant, scale="paper"):
    return load_config(f"configs/vgg_width_sweep.py:{variant},{scale}")


def test_widths_data_and_starts_are_what_the_names_say():
    wide = config("cifar100_k15_sparse_vd")
    assert wide.model.width == 1.5
    assert (wide.dataset.name, wide.dataset.labels) == ("cifar100", "coarse")
    assert wide.nets.start.run == "configs/vgg_width_sweep.py:cifar100_k15_dense"
    dense = config("cifar10_k025_dense")
    assert (dense.dataset.name, dense.dataset.labels) == ("cifar10", "")
    assert "nets" not in dense
    assert len(wide.model.posteriors) == 15
    # KL weight 0 until epoch 5 and in full from epoch 20 on, as the authors have it.
    assert [t * wide.epochs for t, _ in wide.kl_weight] == pytest.approx([5, 20])


def test_dropout_stands_where_the_authors_have_it():
    """Before a layer: after every convolution but the last of each block."""
    last = {2, 4, 7, 10, 13}
    after = {f"conv{i + 1}" for i in range(1, 13) if i not in last}
    found = dict(config("cifar10_k1_dense").model.posteriors)
    assert set(found) == after | {"dense1", "dense2"}
    rates = {layer: spec["rate"] for layer, spec in found.items()}
    assert rates.pop("conv2") == 0.3
    assert rates.pop("dense1") == rates.pop("dense2") == 0.5
    assert set(rates.values()) == {0.4}


@pytest.mark.slow
def test_the_noisy_net_starts_from_the_means_of_the_dense_one():
    dense, noisy = (
        core.build(config(f"cifar10_k025_{method}", "quick"))
        for method in ("dense", "sparse_vd")
    )
    assert noisy.start.run == "configs/vgg_width_sweep.py:cifar10_k025_dense"
    assert isinstance(noisy.dataset, data.Dataset)
    # Shapes are enough: that means are carried over is a law of the edits.
    params, _ = jax.eval_shape(dense.task.init, random.key(0))
    assert isinstance(params["conv2"]["kernel"], Scaled)
    started, _ = jax.eval_shape(
        lambda own, key: noisy.begin([core.Net(None, own, {})], key),
        *(params, random.key(1)),
    )
    for layer in noisy.model.layers:
        before, after = params[layer]["kernel"], started[layer]["kernel"]
        weight = before.weight if isinstance(before, Scaled) else before
        assert isinstance(weight, Point)
        assert isinstance(after, Additive)
        assert after.mean.shape == weight.mean.shape
    assert started["norm1"].keys() == params["norm1"].keys()
    shapes, _ = jax.eval_shape(noisy.task.init, random.key(0))
    assert jax.tree.structure(started) == jax.tree.structure(shapes)
