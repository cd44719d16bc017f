"""Kinds of tasks: what trains them is one thing, and they read what they are given."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from toy_configs import config

from experiments import core, probes
from experiments.config_files import load_config
from experiments.kinds import TRAININGS
from experiments.spec import ConfigError
from vnets import train

MLP = {"name": "mlp", "widths": (8,), "posteriors": {"dense1": {"kind": "gaussian"}}}


def trained(made, mesh, epochs=1):
    """What the config's experiment measures after some epochs, and the last row."""
    experiment = core.build(made)
    [result] = train.fit(
        experiment.task,
        epochs=epochs,
        seeds=[0],
        probe_every=epochs,
        mesh=mesh,
        show_progress=False,
    )
    params, collections = result.state.params, result.state.model.collections
    return experiment.evaluations(params, collections, random.key(0)), result.history[
        -1
    ]


@pytest.mark.parametrize("row", TRAININGS.values(), ids=TRAININGS)
def test_an_experiment_names_probes_and_measures_that_there_are(row):
    assert {*row.probes} <= {*probes.PROBES}
    assert {*row.measures} <= {*probes.MEASURES}


@pytest.mark.parametrize(
    ("which", "field", "known"),
    [
        ("lenet5_mnist.py:variance", "evals__sample", "evals.samples"),
        ("lenet5_mnist.py:variance", "steps", "batch_size"),
        ("lenet5_mnist.py:variance", "dataset__labls", "dataset.labels"),
        ("toy_regression.py:variance", "batch_size", "steps"),
        ("toy_regression.py:ensemble", "epochs", "nets.net"),
        ("rl.py:cartpole_variance", "prior", "discount"),
        ("uncertainty.py:variance", "model_name", "rotation.images"),
    ],
)
def test_a_field_that_nothing_reads_is_refused(which, field, known):
    path = field.replace("__", ".")
    with pytest.raises(
        ConfigError, match=rf"config\.{path} is read by nothing.*{known}"
    ):
        core.build(config(which, **{field: 1}))


def test_what_another_kind_has_is_refused():
    made = config("rl.py:cartpole_variance", probes=("kappa",), probe__kappa={})
    with pytest.raises(ConfigError, match=r"config.probes.*Classify.*PolicyGradient"):
        core.build(made)
    with pytest.raises(ConfigError, match=r"unknown config.measures 'elbow'.*'elbo'"):
        core.build(config("rl.py:cartpole_variance", measures=("elbow",)))


def test_a_plain_kind_takes_any_probe_and_an_edit_as_a_column(one_device):
    made = load_config("configs/lenet5_mnist.py:variance,quick")
    with made.unlocked(), made.ignore_type():
        made.experiment, made.model = "classify", MLP
        made.dataset.train_images = made.batch_size
        made.probes, made.probe.columns = ("left", "log_alpha"), ("det",)
        made.evals.columns = ("det", "mean_only", "weights")
    measured, row = trained(made, one_device)
    assert {"det", "log_alpha/dense1"} <= {*row}
    evals = measured.evals
    assert {*evals} == {"det", "mean_only", "weights"}
    assert evals["mean_only"]["accuracy"] == evals["det"]["accuracy"]
    assert evals["mean_only"]["samples"] == made.evals.samples
    # A draw is done anew for each sample: 20 different nets, and no net of zeros.
    assert evals["weights"]["samples"] == made.evals.samples
    assert evals["weights"]["nll"] != evals["det"]["nll"]


def test_a_config_names_a_projection():
    """As one of those that have a name, or by a field of its own: the same."""

    def projected(**fields):
        made = load_config("configs/lenet5_mnist.py:variance,quick")
        noise = {"kind": "multiplicative", "log_alpha": 2.0}
        with made.unlocked(), made.ignore_type():
            made.model = {**MLP, "posteriors": {"dense1": noise}}
            made.update(fields)
        task = core.build(made).task
        return task.project(task.init(random.key(0))[0], 1)["dense1"]["kernel"]

    high = {"high": 1.0}
    named = projected(projection={"method": "clip_log_alpha", **high})
    own = projected(clip_log_alpha=high)
    assert float(jnp.max(named.log_alpha)) == 1
    np.testing.assert_array_equal(named.log_alpha, own.log_alpha)
    assert float(jnp.max(projected().log_alpha)) == 2
    with pytest.raises(ConfigError, match=r"config.projection.method.*drop_idle_means"):
        projected(projection={"method": "clip"})
    with pytest.raises(ConfigError, match=r"config.projection.begin must be"):
        projected(projection={"method": "clip_log_alpha", "begin": 2.0})


def test_a_table_is_classified_as_it_is(one_device):
    made = load_config("configs/lenet5_mnist.py:variance,quick")
    with made.unlocked(), made.ignore_type():
        made.experiment, made.model = "classify", {**MLP, "batch_norm": True}
        made.dataset.name, made.optimizer.learning_rate = "breast_cancer", ((0, 1e-2),)
        made.evals.columns = made.probe.columns = ("det",)
    measured, _ = trained(made, one_device, epochs=20)
    assert measured.evals["det"]["accuracy"] > 0.85
    made.dataset.name = "diabetes"
    with pytest.raises(ConfigError, match="diabetes has no classes, but numbers"):
        core.build(made)


@pytest.mark.slow
def test_a_regression_has_columns_too(one_device):
    """The mixture of many draws is no worse a density than one of them (Jensen)."""
    made = config("toy_regression.py:gaussian", steps=1, evals__batch_size=400)
    with made.unlocked(), made.ignore_type():
        made.evals.columns, made.probe.columns = ("det", "stoch", "ens"), ("ens",)
        made.probe.samples = made.evals.samples = 50
    measured, row = trained(made, one_device)
    evals = measured.evals
    assert {"det", "stoch", "ens", "predictive"} == {*evals}
    assert row["ens"] == pytest.approx(evals["ens"]["rmse"], rel=0.1)
    assert evals["ens"]["nll"] < evals["stoch"]["nll"]
    assert evals["ens"]["samples"] == 50


def test_the_price_of_a_code_is_of_codes_with_noise():
    made = config("vib.py:beta_01", bottleneck=0.2, batch_size=50)
    loss = core.build(made).task.loss
    other = core.build(config("vib.py:beta_01", bottleneck=0.3, batch_size=50)).task
    state = other.start(random.key(0))
    batch = {"input": jnp.ones((3, 8, 8, 1)), "target": jnp.asarray([0, 1, 2])}
    low, high = (
        one(state.params, state.model, batch, random.key(1))
        for one in (loss, other.loss)
    )
    np.testing.assert_allclose(
        high[0] - low[0], 0.1 * low[1][1]["latent_kl"], rtol=1e-3
    )
    for which, wrong in (("beta_01", {"model__sampled": False}), ("point", {})):
        made = config(f"vib.py:{which}", **wrong)
        if not wrong:
            made.bottleneck = 0.1
        with pytest.raises(ConfigError, match="of codes without noise"):
            core.build(made)
    with pytest.raises(ConfigError, match=r"config.bottleneck.*from 0 on"):
        core.build(config("vib.py:beta_01", bottleneck=-1.0))
    made = config("vib.py:beta_01", dataset__name="diabetes")
    del made.dataset.train_images
    with pytest.raises(ConfigError, match="diabetes has no classes"):
        core.build(made)


def test_latent_variables_of_a_config_are_refused_by_name():
    bits = "gradient_estimators.py:bits_concrete"
    wrong = {
        r"model.latents.kind.*'bits', 'normal'": {"kind": "bit"},
        r"model.latents.*'concrete'.*'straight_through'": {"gradient": "pathwise"},
        r"model.latents.*temperature must be positive": {"temperature": -1.0},
    }
    for match, change in wrong.items():
        fields = {f"model__latents__{name}": value for name, value in change.items()}
        with pytest.raises(ConfigError, match=match):
            core.build(config(bits, **fields))
    made = config(bits)
    made.model.sampled = False
    with pytest.raises(ConfigError, match="code without noise is of Normal"):
        core.build(made)
    with pytest.raises(ConfigError, match="latents is of numbers"):
        core.build(config(bits, measures=("latents",)))
