"""A regression that cuts units counts those that are left, and refuses a wrong cut."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from experiments.config_files import load_config
from experiments.kinds import regress
from experiments.spec import ConfigError
from vnets import tree

NAME = "configs/horseshoe_nets.py:horseshoe,quick"


@pytest.mark.slow
def test_units_with_small_scales_are_cut_and_counted():
    """The others predict what the whole net would without the weights of these."""
    kind = regress.build(load_config(NAME))
    params, collections = kind.init(random.key(0))
    node = tree.weight(params, "dense2")
    small = jnp.where(jnp.arange(100) < 97, -8.0, 0.0)
    unit = dataclasses.replace(node.scale.unit, log_mean=jnp.stack([small, small]))
    scale = dataclasses.replace(node.scale, unit=unit)
    scaled = dataclasses.replace(node, scale=scale)
    params = {**params, "dense2": {**params["dense2"], "kernel": scaled}}
    columns = kind.columns("evals", ("det", "cut"))
    found = columns(params, collections, random.key(1))
    assert found["det"]["units/dense2"] == 100
    assert found["cut"]["units/dense2"] == 3

    kept = scaled.kept((jnp.arange(100) >= 97)[:, None])
    params = {**params, "dense2": {**params["dense2"], "kernel": kept}}
    alone = columns(params, collections, random.key(1))["det"]
    assert found["cut"]["rmse"] == pytest.approx(alone["rmse"], rel=1e-6)
    assert np.isfinite(alone["rmse"])
    assert alone["rmse"] != found["det"]["rmse"]


def test_a_cut_of_another_layer_is_refused():
    config = load_config(NAME)
    config.evals.cut = {"units": {"dense7": 0.0}}
    with pytest.raises(ConfigError, match="dense7"):
        regress.build(config)
