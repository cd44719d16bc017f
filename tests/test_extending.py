"""The worked additions of the documentation run as they stand, and keep laws."""

import pkgutil
import re
import shutil
import sys
import types

import documents
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from configs import variance_lenet5
from experiments import core, kinds
from experiments import spec as parts
from experiments.tables import reading
from vnets import (
    data,
    edits,
    estimators,
    nets,
    nodes,
    noise,
    priors,
    projections,
    train,
    tree,
)
from vnets.layers import Mode

# Lines that are not empty, at most: of one block, or of all with config and table.
LIMITS = {"A noise family": 12, "A node": 40, "A prior": 12}
MODULES = {"A text classifier": 60, "A kind of task": 60}
WHOLE = {"A projection and a draw": 70}


def section(title, pages=("docs/howto/extend.md", "docs/howto/extend_more.md")):
    """The text under a heading."""
    text = "\n".join(map(documents.text, pages))
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.S | re.M).group(1)


def blocks(title, language="python"):
    return re.findall(rf"```{language}\n(.*?)```", section(title), re.S)


def count(block):
    return sum(bool(line.strip()) for line in block.splitlines())


@pytest.fixture
def run(monkeypatch):
    """Runs the blocks of a section; what they register is undone afterwards."""
    registries = (
        noise.FAMILIES,
        priors.PRIORS,
        edits.EDITS,
        edits.DRAWS,
        projections.PROJECTIONS,
        parts.POSTERIORS,
        data.SOURCES,
        nets.NETS,
        kinds.TRAININGS,
        variance_lenet5.NOISE,
        variance_lenet5.ESTIMATORS,
    )
    before = [dict(registry) for registry in registries]
    monkeypatch.setattr(variance_lenet5, "VARIANTS", variance_lenet5.VARIANTS)

    def run(title, module="example"):
        made = types.ModuleType(module)
        monkeypatch.setitem(sys.modules, module, made)
        for block in blocks(title):
            exec(block, vars(made))
        return vars(made)

    yield run
    for registry, held in zip(registries, before, strict=True):
        registry.clear()
        registry.update(held)


@pytest.fixture
def example(run):
    return run("Four small additions")


def test_the_additions_are_as_short_as_they_say():
    worked = section("Four small additions")
    for name, most in LIMITS.items():
        found = re.search(rf"\*\*{name}\*\*.*?```python\n(.*?)```", worked, re.S)
        assert count(found.group(1)) <= most, name
    for title, most in MODULES.items():
        assert count(blocks(title)[0]) <= most, title
    for title, most in WHOLE.items():
        assert sum(map(count, blocks(title) + blocks(title, "toml"))) <= most, title


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
    [rows] = blocks("Four small additions", "toml")
    shutil.copytree(reading.SPECS, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "variance_lenet5.toml"
    table = path.read_text(encoding="utf-8")
    path.write_text(table.replace("row = [\n", rows.strip().removesuffix("]"), 1))
    assert reading.load(path).row[0].run == "configs/variance_lenet5.py:laplace"


def fitted(config, mesh):
    """The experiment of a config, and its result for one seed."""
    experiment = core.build(config)
    [result] = train.fit(
        experiment.task,
        epochs=config.epochs,
        seeds=[0],
        chunk_steps=config.chunk_steps,
        probe_every=config.epochs,
        mesh=mesh,
    )
    return experiment, result


def learned(config, mesh):
    """Accuracies of the variant on the digits, after all epochs of scale quick."""
    config.evals.columns = config.probe.columns = ("det", "stoch", "ens")
    _, result = fitted(config, mesh)
    return result.history[-1]


@pytest.mark.slow
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


def test_the_map_names_what_there_is():
    walks = section("Three walks", ["CONTRIBUTING.md"])
    assert count(walks) <= 40
    names = re.findall(r"`((?:configs|experiments|vnets)\.[\w.]+)`", walks)
    assert len(names) > 25
    for name in names:
        assert pkgutil.resolve_name(name) is not None
    for script in re.findall(r"`(scripts/\w+\.py)`", walks):
        assert (documents.ROOT / script).is_file()


def trained(names, title, which, mesh, tmp_path):
    """The variant at scale quick: its experiment, its result and what was measured.

    The table that stands beside it has a column for what was, and a row for each
    variant.
    """
    config = names["get_config"](f"{which},quick")
    experiment, result = fitted(config, mesh)
    assert result.failed is None
    state = result.state
    evals = experiment.evaluations(
        state.params, state.model.collections, random.key(1)
    ).evals
    path = tmp_path / "addition.toml"
    path.write_text(blocks(title, "toml")[0])
    table = reading.load(path)
    for column in table.column:
        assert np.isfinite(evals[column.eval][column.metric or table.metric])
    assert [row.name for row in table.row] == list(names["VARIANTS"])
    return experiment, result, evals


@pytest.mark.slow
def test_the_text_classifier_learns(run, one_device, tmp_path):
    """By the order of tokens: a bag of words knows the last of three for some 60 %."""
    names = run("A text classifier")
    _, _, evals = trained(names, "A text classifier", "units", one_device, tmp_path)
    assert evals["det"]["error"] < 0.05
    assert evals["ens"]["error"] < 0.05


def test_a_text_has_one_draw(run):
    """So the state of a sequence of one token settles; a mask is of a sequence, and a
    draw of weights of all that there are."""
    names = run("A text classifier")
    config = names["get_config"]("units,quick")
    config.model.posteriors = {"lstm": {"kind": "point"}}
    with pytest.raises(parts.ConfigError, match=r"unknown layer 'lstm'.*'gru'"):
        core.build(config)
    tokens = jnp.full((2, 80), 4, jnp.int32)
    for which, alike in {"weights": True, "units": False}.items():
        net = core.build(names["get_config"](f"{which},quick")).model
        variables = net.init({"params": random.key(0), "noise": random.key(1)}, tokens)

        def logits(key, steps=80, net=net, variables=variables):
            x = tokens[:, :steps]
            return np.asarray(net.apply(variables, x, Mode(), rngs={"noise": key}))

        y = logits(random.key(2))
        np.testing.assert_allclose(y, logits(random.key(2), 79), atol=1e-4)
        assert np.max(np.abs(y - logits(random.key(3)))) > 1e-2
        assert (np.max(np.abs(y[0] - y[1])) < 1e-6) == alike


@pytest.mark.slow
def test_the_kind_of_task_learns(run, one_device, tmp_path):
    names = run("A kind of task", "experiments.kinds.autoencode")
    experiment, result, evals = trained(
        names, "A kind of task", "point", one_device, tmp_path
    )
    first, last = result.history[0], result.history[-1]
    n = experiment.task.source.n
    total = last["nll"] + last["latent_kl"]
    np.testing.assert_allclose(last["elbo"], -n * total, rtol=1e-4)
    assert last["elbo"] > first["elbo"] + 5 * n
    assert evals["det"]["latent_kl"] > 1
    assert evals["det"]["elbo"] == pytest.approx(last["elbo"] / n, abs=2)
    params = result.state.params
    x = jnp.asarray(data.load("digits_8x8").test.inputs[:50] / 255.0, jnp.float32)
    draws = [
        experiment.model.apply({"params": params}, x, rngs={"noise": key})[0]
        for key in random.split(random.key(2), 4)
    ]
    nll = np.mean([names["PIXELS"].nll(logits, x) for logits in draws])
    uniform = names["PIXELS"].nll(0 * x, x)
    assert nll < 0.6 * float(jnp.mean(uniform))
    config = names["get_config"]("point,quick")
    with config.unlocked():
        config.estimator = "lrt"
    with pytest.raises(parts.ConfigError, match="estimator is read by nothing"):
        core.build(config)


def test_the_weights_of_the_kind_are_noisy_too(run):
    """And the loss has both KLs."""
    names = run("A kind of task", "experiments.kinds.autoencode")
    task = core.build(names["get_config"]("weights,quick")).task
    state = task.start(random.key(0))
    batch = {"input": jnp.ones((3, 8, 8, 1), jnp.float32)}
    run = jax.jit(task.loss)
    _, (_, found) = run(state.params, state.model, batch, random.key(1))
    n = task.source.n
    whole = n * (found["nll"] + found["latent_kl"]) + found["kl"]
    np.testing.assert_allclose(found["elbo"], -whole, rtol=1e-5)
    assert float(found["kl"]) > 1


def test_the_walk_is_what_the_weights_were(run):
    names = run("A projection and a draw")
    project = jax.jit(names["collect"](begin=4, every=3))
    params = {"dense1": {"kernel": names["walk"](rank=3)(random.key(0), (2, 3))}}
    been = []
    for step in range(1, 18):
        w = random.normal(random.key(step), (2, 3), jnp.float32)
        node = params["dense1"]["kernel"].with_mean(w)
        params = project({"dense1": {"kernel": node}}, jnp.int32(step))
        been += [np.asarray(w)] if step in (4, 7, 10, 13, 16) else []
    node = params["dense1"]["kernel"]
    np.testing.assert_allclose(node.average, np.mean(been, 0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(node.square, np.mean(np.square(been), 0), rtol=1e-5)
    means = [np.mean(been[: n + 1], 0) for n in range(5)]
    away = [w - mean for w, mean in zip(been, means, strict=True)]
    np.testing.assert_allclose(node.last, away[:1:-1], rtol=1e-4, atol=1e-6)


def test_a_draw_of_swag_has_its_moments(run, assert_moments):
    """Its covariance is that of single weights and of directions they share."""
    names = run("A projection and a draw")
    w = random.normal(random.key(0), (5, 2, 3), jnp.float32)
    square = jnp.square(w[0]) + jnp.square(w[1])
    node = names["Walk"](w[4], w[0], square, w[2:4])
    params = {"dense1": {"kernel": node}, "dense2": {"kernel": node}}
    draws = jax.vmap(names["swag"], (None, 0))(
        params, random.split(random.key(1), 40_000)
    )
    one, two = (np.asarray(draws[name]["kernel"].mean) for name in params)
    w = np.asarray(w)
    along = np.sum(np.square(w[2:4]), 0) / 2  # K - 1 = 1
    assert_moments(one, w[0], np.square(w[1]) / 2 + along)
    shared = np.mean((one - w[0]) * (two - w[0]), 0)
    error = 5 * np.max(np.square(w[1]) + along) * np.sqrt(2 / 40_000)
    np.testing.assert_allclose(shared, along, atol=error)


@pytest.mark.slow
def test_swag_is_trained(run, one_device, tmp_path):
    names = run("A projection and a draw")
    title = "A projection and a draw"
    _, result, evals = trained(names, title, "swag", one_device, tmp_path)
    assert evals["swag"]["accuracy"] > 0.9
    assert evals["swag"]["samples"] == 20
    assert evals["swag"]["nll"] != evals["det"]["nll"]
    for _, node in tree.nodes(result.state.params):
        assert np.any(np.asarray(node.last[-1]))  # all K are filled
