"""Means that noise drowns: not used, not forgotten, and back when the noise falls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from experiments import spec
from vnets import edits, estimators, nodes, ops, priors
from vnets.nodes import Additive, Thresholded, log_alpha

X = random.normal(random.key(1), (7, 6))
# Log alpha from -1 to 5, the lower half of it at most 3 - 1 = 2.
MEAN = random.normal(random.key(2), (6, 4)) + 2.0
LOG_ALPHA = jnp.linspace(-1.0, 5.0, 24, dtype=jnp.float32).reshape(6, 4)
LOG_VAR = LOG_ALPHA + jnp.log(MEAN**2)
NODE = Thresholded(MEAN, LOG_VAR, threshold=2.0)
OFF = np.asarray(LOG_ALPHA > 2.0)
CUT = Additive(jnp.where(OFF, 0.0, MEAN), LOG_VAR)
WAYS = ("lrt", "weight_sampling", "per_example_sampling", "flipout", "antithetic")


def run(way, node):
    return estimators.ESTIMATORS[way](ops.DENSE, node, X, random.key(3))


@pytest.mark.parametrize("way", WAYS)
def test_a_masked_mean_gives_what_a_mean_of_zero_does(way):
    np.testing.assert_array_equal(run(way, NODE), run(way, CUT))


@pytest.mark.parametrize("way", WAYS)
def test_gradients_reach_every_variance_and_the_means_in_use(way):
    grads = jax.grad(lambda node: jnp.sum(run(way, node) ** 2))(NODE)
    expected = jax.grad(lambda node: jnp.sum(run(way, node) ** 2))(CUT)
    assert np.all(grads.log_var != 0)
    np.testing.assert_array_equal(grads.log_var, expected.log_var)
    np.testing.assert_array_equal(grads.mean, np.where(OFF, 0, expected.mean))


def test_kl_and_log_alpha_are_of_the_value_behind_the_mask():
    plain = Additive(MEAN, LOG_VAR)
    np.testing.assert_array_equal(log_alpha(NODE), log_alpha(plain))

    def kl(node):
        return priors.kl({"dense1": {"kernel": node}}, priors.log_uniform)

    assert kl(NODE) == kl(plain)
    assert np.all(jax.grad(kl)(NODE).mean[OFF] != 0)


def test_it_comes_back_with_the_value_that_it_had():
    quiet = NODE.replace(log_var=LOG_VAR - 10.0)
    np.testing.assert_array_equal(quiet.moments()[0], MEAN)


@pytest.mark.parametrize("edit", [edits.mean_only, edits.scale_noise(0.0)])
def test_a_test_has_the_same_mask_and_pruning_agrees(edit):
    params = {"dense1": {"kernel": NODE}}
    silent = edit(params)["dense1"]["kernel"].moments()[0]
    np.testing.assert_array_equal(silent, CUT.mean)
    pruned = edits.prune(2.0)(params, None)
    np.testing.assert_array_equal(edit(pruned)["dense1"]["kernel"].moments()[0], silent)


def test_a_config_names_the_threshold_and_a_wrong_one_is_refused():
    field = "model.posteriors.dense1"
    make = spec.posterior(field, {"kind": "gaussian", "drop_above": 2})
    node = make(random.key(0), (3, 2))
    assert isinstance(node, Thresholded)
    assert node.threshold == 2.0
    assert type(nodes.gaussian()(random.key(0), (3, 2))) is Additive
    for wrong in ("3", float("nan")):
        with pytest.raises(spec.ConfigError, match=r"dense1: drop_above is a number"):
            spec.posterior(field, {"kind": "gaussian", "drop_above": wrong})
