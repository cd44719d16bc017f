"""Random labels: which ones are random, and that the record says so."""

import numpy as np
import pytest

from experiments import core, running
from experiments.config_files import load_config
from vnets import data

SEED = 74632


def config(variant, scale="quick"):
    return load_config(f"configs/random_labels.py:{variant},{scale}")


@pytest.mark.parametrize("variant", ["mnist_fc_sparse_vd", "cifar10_vgg_dropout"])
def test_training_labels_are_redrawn_and_test_labels_true(variant):
    spec = config(variant).dataset
    experiment = core.build(config(variant))
    true = data.load(spec.name)
    if "train_images" in spec:
        true = data.with_fewer_images(true, spec.train_images)
    redrawn = data.with_random_labels(true, SEED)
    label = experiment.task.source.arrays["target"]
    np.testing.assert_array_equal(label, redrawn.train.target)
    np.testing.assert_array_equal(experiment.dataset.test.target, true.test.target)
    assert str(SEED) in experiment.dataset.source


def test_scales_take_the_images_that_they_name():
    for variant in ("mnist_fc_dropout", "mnist_fc_sparse_vd"):
        assert "train_images" not in config(variant, "short").dataset
    for method in ("dropout", "sparse_vd"):
        net = f"cifar10_vgg_{method}"
        assert config(net, "short").dataset.train_images == 10_000
        assert "train_images" not in config(net, "paper").dataset
        assert config(net, "paper").model.width == 1.0


def test_noise_is_on_every_layer_and_the_kl_in_full():
    for scale, layers in (("quick", 6), ("short", 15), ("paper", 15)):
        sparse = config("cifar10_vgg_sparse_vd", scale)
        assert sparse.kl_weight == ((0.0, 1.0),)
        assert len(sparse.model.posteriors) == layers


@pytest.mark.slow
def test_a_short_run_measures_both_sets(tmp_path):
    short = config("mnist_fc_sparse_vd")
    short.model.widths, short.epochs, short.batch_size = (16, 16), 1, 400
    name = "configs/random_labels.py:mnist_fc_sparse_vd"
    [record] = running.run(short, name, lambda seed: tmp_path, [0]).values()
    assert record["status"] == "done"
    assert str(SEED) in record["dataset"]["source"]
    for column in ("det", "pruned", "train_det", "train_pruned"):
        assert 0 <= record["evals"][column]["accuracy"] <= 1
        assert 0 <= record["evals"][column]["sparsity"] <= 1
