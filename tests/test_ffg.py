"""The study of fully factorized Gaussians: what is noisy, and the scales it reports."""

import jax
import pytest
from jax import random

from experiments import core
from experiments.config_files import load_config
from vnets.nodes import is_noisy, is_posterior


def quick(variant):
    config = load_config(f"configs/ffg.py:{variant},quick")
    config.model.widths, config.evals.columns = (4, 3), ("det",)
    config.evals.elbo_samples = 0
    return core.build(config)


def noisy(params):
    leaves = jax.tree.leaves(params, is_leaf=is_posterior)
    return sum(map(is_noisy, leaves)), sum(not is_noisy(leaf) for leaf in leaves)


def test_which_parameters_are_deterministic():
    found = {
        variant: noisy(jax.eval_shape(quick(variant).task.init, random.key(0))[0])
        for variant in ("deterministic", "empirical", "empirical_biases")
    }
    assert found == {
        "deterministic": (0, 6),
        "empirical": (3, 3),
        "empirical_biases": (6, 0),
    }


def test_a_run_reports_the_scales_that_its_prior_learned():
    experiment = quick("norm_empirical_vectors")
    params, collections = jax.jit(experiment.task.init)(random.key(0))
    found = experiment.evaluations(params, collections, random.key(1)).evals
    vectors = [f"norm{i}/{v}" for i in (1, 2) for v in ("scale", "bias")]
    names = {"dense1", "dense2", "dense3", "dense3/bias", *vectors}
    assert set(found["prior_scale"]) == names
    # At the start the variance e^-10 of each, around 1 of a scale and 0 of a bias.
    assert found["prior_scale"]["norm1/scale"] == pytest.approx(1.0, rel=1e-3)
    assert found["prior_scale"]["norm1/bias"] == pytest.approx(0.0067379, rel=1e-3)
