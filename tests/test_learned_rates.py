"""Laws of the study of learned rates: its rates, its variances, what it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from experiments import core, masks
from experiments import spec as parts
from experiments.config_files import load_config
from vnets.nodes import adaptive_binary_dropout, dropout, point


def quick(variant):
    config = load_config(f"configs/learned_rates.py:{variant},quick")
    config.model.widths, config.evals.samples = (8, 8, 8), 2
    if "gradient" in config:
        config.gradient.draws = 20
    return config


def test_rates_are_means_over_units_by_layer():
    node = adaptive_binary_dropout(0.5)(random.key(0), (2, 3))
    log_alpha = jnp.asarray([0.0, np.log(3)], jnp.float32)  # rates 1/2 and 3/4
    node = node.replace(scale=dataclasses.replace(node.scale, log_alpha=log_alpha))
    params = {
        "a": {"kernel": node},
        "b": {"kernel": dropout(0.3)(random.key(0), (2, 3))},
        "c": {"kernel": point()(random.key(0), (2, 3))},
    }
    assert masks.rates(params) == pytest.approx({"a": 0.625, "b": 0.3})


def test_a_spread_is_the_variance_over_keys():
    draws = 4000
    params = {"a": {"kernel": adaptive_binary_dropout(0.5)(random.key(0), (2, 3))}}

    def loss(params, state, batch, key):
        noise = jnp.asarray([1.0, 3.0]) * random.normal(key, (2,))
        log_alpha = params["a"]["kernel"].scale.log_alpha
        return jnp.sum((7.0 + noise) * log_alpha), (state, batch)

    found = masks._spread(loss, draws)(params, None, None, random.key(1))
    # Variances 1 and 9; that of the mean of their estimates is (2 + 162) / 4 / draws.
    assert abs(float(found) - 5.0) < 5 * np.sqrt(41 / draws)


@pytest.mark.slow
def test_a_net_is_measured_at_its_end():
    experiment = core.build(quick("concrete_unit"))
    params, collections = jax.jit(experiment.task.init)(random.key(0))
    found = experiment.evaluations(params, collections, random.key(1)).evals
    assert found["rates"] == pytest.approx(
        dict.fromkeys(("dense2", "dense3", "dense4", "mean"), 0.2)
    )
    gradients = found["gradients"]
    for name in masks.COMPARED:
        assert 0 < gradients[name] < np.inf
    ratio = gradients["score"] / gradients["concrete"]
    assert gradients["score_of_concrete"] == pytest.approx(ratio)
    assert 0 <= found["ens"]["error"] <= 1


def test_refusals_name_the_field():
    config = quick("concrete_layer")
    config.gradient.draws = 1
    with pytest.raises(parts.ConfigError, match=r"config\.gradient\.draws.*2, not 1"):
        core.build(config)
    config = quick("score_layer")
    config.rate_gradient.kind = "reinforce"
    with pytest.raises(parts.ConfigError, match=r"rate_gradient\.kind.*score_function"):
        core.build(config)
    config = quick("score_layer")
    config.rate_gradient.baseline = "mean"
    with pytest.raises(parts.ConfigError, match=r"config\.rate_gradient.*others"):
        core.build(config)
    config = quick("score_layer")
    with config.unlocked():
        del config.rate_gradient
    with pytest.raises(parts.ConfigError, match="both or neither"):
        core.build(config)
    config = quick("fixed_20")
    with config.unlocked():
        config.rate_gradient = {"kind": "concrete"}
    with pytest.raises(parts.ConfigError, match="both or neither"):
        core.build(config)
