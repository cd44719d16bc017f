"""The mean-propagation study on a small, untrained net: what it puts into a record."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from experiments import core
from experiments import spec as parts
from experiments.config_files import load_config
from experiments.kinds import classify
from experiments.studies import mean_propagation
from experiments.tables import outcomes, pages, reading
from vnets import curvature, data
from vnets.nets import MLP
from vnets.nodes import dropout, multiplicative, variance

SHAPE, K = (3, 3, 1), 4


@pytest.fixture
def small_data(monkeypatch):
    def load(spec):
        def split(n):
            rng = np.random.default_rng(n)
            image = rng.integers(0, 256, (n, *SHAPE), np.uint8)
            return data.Split(image, rng.integers(0, K, n).astype(np.int32))

        return data.Dataset(spec.name, split(60), None, split(40), K, {}, "fake")

    monkeypatch.setattr(mean_propagation, "load_data", load)


def quick(variant):
    config = load_config(f"configs/mean_propagation.py:{variant},quick")
    config.samples, config.batch_size = 2, 20
    config.kappa.images, config.kappa.batch_size = 20, 20
    config.kappa.thresholds = (-30.0, 0.0, 30.0)
    config.kappa.histogram.bins = 7
    return config


def trained(factory, seed=0):
    net = MLP((16,), K, posteriors={"dense1": factory})
    rngs = {"params": random.key(seed), "noise": random.key(1)}
    variables = jax.jit(net.init)(rngs, jnp.zeros((1, *SHAPE), jnp.float32))
    return [core.Net(net, variables["params"], {})]


def wanted(row):
    """The evaluations that a row's committed records have, with their metrics."""
    table = reading.find("mean_propagation")
    [(_, short)] = outcomes.all_of([table], "short", pages.RESULTS)
    [cells] = [one.cells for one in short.rows if one.row.name == row]
    columns = [column for column in table.column if cells[column.name].values]
    return {(column.eval, column.metric or table.metric) for column in columns}


@pytest.mark.slow
def test_variational_dropout_has_every_cell_and_curve(small_data):
    config = quick("vd")
    study = core.build(config)
    assert list(study.nets) == ["early", "middle", "net"]
    nets = {name: trained(multiplicative(1.0), i) for i, name in enumerate(study.nets)}
    measured = study.measure(nets, random.key(0))
    for name, metric in wanted("vd"):
        assert np.isfinite(measured.evals[name][metric]), (name, metric)
    sweep = measured.curves["thresholds"]
    assert sweep["log10_threshold"] == [-30.0, 0.0, 30.0]
    # Positive kappa is above any low threshold, and nothing is above a high one.
    positive = measured.evals["kappa"]["positive"]
    assert 0 < positive < 1
    assert sweep["stochastic"][0] == pytest.approx(positive, abs=0.01)
    assert sweep["stochastic"][-1] == 0
    assert sweep["mean"][-1] == measured.evals["det"]["accuracy"]
    histogram = measured.curves["histogram"]
    assert {len(axis) for axis in histogram.values()} == {7}
    for name, which in (("net", "kappa"), ("early", "kappa_early")):
        inside = sum(histogram[name])
        assert 0 < inside <= measured.evals[which]["positive"] + 1e-9
    assert histogram["early"] != histogram["net"]


def test_a_variance_layer_has_one_replacement(small_data):
    study = core.build(quick("variance"))
    measured = study.measure({"net": trained(variance())}, random.key(0))
    for name, metric in wanted("variance"):
        assert np.isfinite(measured.evals[name][metric]), (name, metric)
    sweep = measured.curves["thresholds"]
    assert sweep["mean"] == sweep["zero"]
    assert measured.evals["mean_at"] == measured.evals["zero_at"]


def test_dropout_has_moments_and_no_kappa(small_data):
    config = quick("dropout")
    study = core.build(config)
    nets = {"net": trained(dropout(0.5))}
    measured = study.measure(nets, random.key(0))
    assert {name for name, _ in wanted("dropout")} == set(measured.evals)
    assert not measured.curves
    config.kappa.layer = "dense1"
    with pytest.raises(parts.ConfigError, match=r"config.kappa.layer: .*Scaled"):
        core.build(config).measure(nets, random.key(0))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("images", 0, "kappa.images"),
        ("threshold", float("inf"), "kappa.threshold "),
        ("histogram", {"low": 1.0, "high": 1.0, "bins": 3}, "low 1.0"),
    ],
)
def test_bad_values_name_the_field(field, value, words, small_data):
    config = quick("variance")
    config.kappa[field] = value
    with pytest.raises(parts.ConfigError, match=words):
        core.build(config)


def test_the_nets_are_one_each_and_one_is_tested(small_data):
    config = quick("variance")
    config.nets.net.members = 2
    with pytest.raises(parts.ConfigError, match=r"nets.net.members must be 1"):
        core.build(config)
    config = quick("variance")
    with config.unlocked():
        config.nets = {"other": {"run": "configs/lenet5_mnist.py:variance"}}
    with pytest.raises(parts.ConfigError, match=r"config.nets"):
        core.build(config)


@pytest.mark.slow
def test_a_probe_counts_the_weights_above_the_threshold():
    config = load_config("configs/phase_transition.py:probed_kappa,quick")
    posteriors = config.model.posteriors.to_dict()
    config.model = {"name": "mlp", "widths": (4,), "posteriors": posteriors}
    config.probe.update({"columns": ("det",), "samples": 1})
    config.probe.kappa.images, config.probe.kappa.batch_size = 20, 10
    task = core.build(config).task
    params, collections = task.init(random.key(0))
    found = task.probe(params, collections, random.key(1))
    net = classify.build(config)
    train = net.dataset.train.take(np.arange(20))
    kappa = curvature.kappa(
        net.model,
        {"params": params, **collections},
        "dense1",
        train,
        n=len(net.dataset.train),
        batch_size=10,
    )
    assert found["kappa_above"] == np.sum(np.asarray(kappa) >= 10**1.5)
    assert found["kappa_sum"] == pytest.approx(float(jnp.sum(kappa)), rel=1e-4)
    assert found["kappa_sum"] != 0
