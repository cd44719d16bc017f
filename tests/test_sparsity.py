"""The sparsity experiment: what each way of pruning leaves, on a net of a second."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import core, records, running, workdirs
from experiments import spec as parts
from experiments.config_files import load_config
from vnets.nodes import Multiplicative

LAYERS = ("dense1", "dense2")


def small(method, **changes):
    """A quick config of `configs/sparse_vd.py` on a smaller net."""
    config = load_config(f"configs/sparse_vd.py:lenet_300_100_{method},quick")
    with config.ignore_type(), config.unlocked():
        noise = config.model.posteriors
        config.model = {"name": "mlp", "widths": (30,), "posteriors": {}}
        if noise:
            config.model.posteriors = dict.fromkeys(LAYERS, noise.dense1.to_dict())
        if "pruning" in config and "sparsity" in config.pruning:
            config.pruning.sparsity = dict.fromkeys(LAYERS, 0.8)
            config.pruning.every = 5
        config.epochs, config.probe.every = 3, 2
        config.batch_size = 48
        for name, value in changes.items():
            config[name] = value
    return config


def run(config, folder):
    [record] = running.run(config, "configs/x.py:y", lambda _: folder, [0]).values()
    assert record["status"] == "done"
    return record


def test_pruning_leaves_the_bound_of_log_alpha_in_force():
    config = small("multiplicative", max_log_alpha=1.0)
    with config.unlocked():
        config.pruning = {"method": "log_alpha", "threshold": 3.0}
    node = Multiplicative(jnp.ones((2, 3)), jnp.full((2, 3), 2.0))
    project = core.build(config).task.project
    held = project({"dense1": {"kernel": node}}, jnp.int32(0))["dense1"]["kernel"]
    np.testing.assert_array_equal(held.log_alpha, 1.0)


@pytest.mark.parametrize(
    "method",
    [
        "magnitude",
        "surgery",
        pytest.param("sharing", marks=pytest.mark.slow),
        pytest.param("sparse_vd", marks=pytest.mark.slow),
    ],
)
def test_every_method_says_what_it_leaves(method, tmp_path):
    config = small(method)
    record = run(config, tmp_path)
    last = config.evals.columns[1]
    left = record["evals"][last]
    assert left["error"] == pytest.approx(1 - left["accuracy"])
    weights = 784 * 30 + 30 * 10
    assert left["compression"] == pytest.approx(weights / max(left["nonzero"], 1))
    assert left["sparsity"] == pytest.approx(1 - left["nonzero"] / weights)
    parts = [left[f"sparsity/{layer}"] for layer in LAYERS]
    assert np.dot(parts, (784 * 30, 300)) == pytest.approx(weights - left["nonzero"])
    if method == "magnitude":
        assert parts == [pytest.approx(0.8, abs=0.01)] * 2
        assert record["evals"]["det"]["sparsity"] == left["sparsity"]
    if method == "surgery":
        assert 0.5 < left["sparsity"] < 1
    if method == "sharing":
        assert record["history"][-1]["penalty"] != 0
        assert record["evals"]["det"]["sparsity"] == 0
    probed = record["history"][-1]
    assert probed["sparsity"] == pytest.approx(left["sparsity"])
    assert f"sparsity/{LAYERS[0]}" in probed
    assert records.read(tmp_path / workdirs.RECORD)["evals"] == record["evals"]


def test_columns_on_the_training_set_stand_apart(tmp_path):
    config = small("original")
    config.evals.train_columns = ("det",)
    config.probe.columns = ()  # nothing but log alpha is watched
    record = run(config, tmp_path)
    assert set(record["evals"]) == {"det", "pruned", "train_det"}
    assert record["evals"]["train_det"] != record["evals"]["det"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pruning": {"method": "no"}}, ["pruning.method", "magnitude", "surgery"]),
        ({"pruning": {"method": "surgery"}}, ["config.pruning", "begin"]),
        ({"pruning": {"method": "surgery", "every": 100}}, ["pruning.every", "87 upd"]),
        ({"sharing": {"weight": ((0, 1),), "parts": 3}}, ["sharing", "components"]),
    ],
)
def test_bad_fields_are_named(changes, words):
    with pytest.raises(parts.ConfigError) as caught:
        core.build(small("original", **changes))
    for word in words:
        assert word in str(caught.value)
