"""The worked example of CONTRIBUTING.md runs as it stands, and keeps its laws."""

import shutil

import documents
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from configs import variance_lenet5
from experiments import core
from experiments import spec as parts
from experiments.tables import reading
from vnets import edits, estimators, nets, nodes, noise, priors, train
from vnets.layers import Mode


@pytest.fixture
def example(monkeypatch):
    """The names that the example defines; what it registers is undone afterwards."""
    registries = (
        noise.FAMILIES,
        priors.PRIORS,
        edits.EDITS,
        variance_lenet5.NOISE,
        variance_lenet5.ESTIMATORS,
    )
    before = [dict(registry) for registry in registries]
    monkeypatch.setattr(variance_lenet5, "VARIANTS", variance_lenet5.VARIANTS)
    names: dict = {}
    for block in documents.blocks("CONTRIBUTING.md", "python"):
        exec(block, names)
    yield names
    for registry, held in zip(registries, before, strict=True):
        registry.clear()
        registry.update(held)


def test_the_noise_family_is_known_by_name(example, assert_moments):
    draws = noise.sampler("laplace")(random.key(0), (20000, 3), jnp.float32)
    assert_moments(draws, 0.0, 1.0)
    node = nodes.variance(noise="laplace")(random.key(0), (4, 3))
    assert node.sample(random.key(1)).shape == (4, 3)


def test_the_node_is_known_to_every_walk(example, assert_moments):
    node = example["drop_connect"](0.3)(random.key(0), (4, 3))
    draws = node.sample(random.key(1), (20_000,))
    assert_moments(draws, *node.moments())
    params = {"dense1": {"kernel": node}}
    silent = edits.mean_only(params)["dense1"]["kernel"]
    np.testing.assert_array_equal(silent.mean, node.moments()[0])
    with pytest.raises(TypeError, match="scale_noise: no rule for DropConnect"):
        edits.scale_noise(0.5)(params)
    assert float(priors.kl(params, priors.log_uniform)) == 0
    net = nets.MLP((4,), 2, posteriors={"dense1": example["drop_connect"](0.3)})
    x, rngs = jnp.ones((5, 3)), {"params": random.key(0), "noise": random.key(1)}
    mode = Mode(estimator=estimators.per_example_sampling)
    y, _ = net.init_with_output(rngs, x, mode)
    assert len(np.unique(y, axis=0)) > 1


def test_the_prior_is_a_density(example):
    node = nodes.gaussian(log_var=-2.0)(random.key(0), (6, 5))
    params = {"dense1": {"kernel": node}}
    prior = parts.prior("two_scales")
    assert np.isfinite(float(priors.kl(params, prior, random.key(1))))
    one = parts.prior({"kind": "two_scales", "wide": 0.7, "narrow": 0.7})
    expected = random.normal(random.key(2), (4,))
    normal = -0.5 * (expected / 0.7) ** 2 - np.log(0.7 * (2 * np.pi) ** 0.5)
    np.testing.assert_allclose(one.log_prob(expected), normal, rtol=1e-5)


def test_the_edit_is_known_by_name(example):
    node = nodes.gaussian()(random.key(0), (6, 5))
    params = {"dense1": {"kernel": node}}
    change = parts.edit("nets.start", {"edit": "rounded"})
    rounded = change(params, random.key(1))["dense1"]["kernel"].mean
    np.testing.assert_allclose(rounded, np.round(node.mean, 2), atol=1e-6)
    assert float(jnp.max(jnp.abs(rounded - node.mean))) > 0


def test_the_variant_builds_and_the_row_loads(example, tmp_path):
    config = variance_lenet5.get_config("laplace,quick")
    posterior = config.model.posteriors.dense1
    assert (posterior.kind, posterior.noise) == ("variance", "laplace")
    assert config.estimator == "flipout"
    assert isinstance(core.build(config), core.Experiment)
    [rows] = documents.blocks("CONTRIBUTING.md", "toml")
    shutil.copytree(reading.SPECS, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "variance_lenet5.toml"
    table = path.read_text(encoding="utf-8")
    path.write_text(table.replace("row = [\n", rows.strip().removesuffix("]"), 1))
    assert reading.load(path).row[0].run == "configs/variance_lenet5.py:laplace"


def learned(config, mesh):
    """Accuracies of the variant on the digits, after all epochs of scale quick."""
    config.evals.columns = config.probe.columns = ("det", "stoch", "ens")
    experiment = core.build(config)
    [result] = train.fit(
        experiment.task,
        epochs=config.epochs,
        seeds=[0],
        chunk_steps=config.chunk_steps,
        probe_every=config.epochs,
        mesh=mesh,
    )
    return result.history[-1]


def test_the_row_learns(example, one_device):
    """With an MLP in place of LeNet-5, which takes seconds; one draw for the whole
    batch, in place of flipout, ends at 0.42 and 0.72."""
    config = variance_lenet5.get_config("laplace,quick")
    layers = {"dense2": config.model.posteriors.dense1}
    with config.ignore_type():
        config.model = {
            "name": "mlp",
            "widths": (64, 64),
            "batch_norm": True,
            "posteriors": layers,
        }
    measured = learned(config, one_device)
    assert measured["det"] < 0.2
    assert measured["stoch"] > 0.6
    assert measured["ens"] > 0.8


@pytest.mark.slow
def test_the_row_learns_as_it_stands(example, one_device):
    measured = learned(variance_lenet5.get_config("laplace,quick"), one_device)
    assert measured["det"] < 0.2
    assert measured["stoch"] > 0.5
    assert measured["ens"] > 0.6
