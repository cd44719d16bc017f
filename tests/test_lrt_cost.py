"""The study of what sampling costs, at a tiny size; no time is asserted."""

import math

import jax
import jax.numpy as jnp
import pytest
from claims import every
from jax import random

from experiments import core, lrt_cost
from experiments.config_files import load_config
from experiments.spec import ConfigError
from vnets import ops
from vnets.nodes import gaussian


def small(variant="cpu", **cost):
    config = load_config(f"configs/lrt_cost.py:{variant},quick")
    config.training.model.widths = (8,)
    del config.training.model.posteriors["dense3"]
    del config.training.model.posteriors["dense4"]
    config.training.batch_size = 16
    with config.unlocked(), config.ignore_type():
        config.cost.update(
            {"rounds": 1, "steps": 1, "widths": (4, 8), "batches": (16,)}
        )
        config.cost.update(cost)
    return config


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["cpu", "cpu_plain"])
def test_the_study_measures_every_way_and_both_sweeps(variant):
    measured = core.build(small(variant)).measure({}, random.key(0))
    evals, curves = measured.evals, measured.curves
    for name in lrt_cost.WAYS:
        assert every(value > 0 for value in evals[name].values())
        ratio = evals[name]["epoch_seconds"] / evals[name]["step_ms"]
        assert ratio == pytest.approx(1e-3 * (1437 // 16))
        if name != "lrt":
            both = evals[name]["step_ms"], evals["lrt"]["step_ms"]
            assert evals["ratios"][name] == pytest.approx(both[0] / both[1])
    # Data are a part of what is held: 1437 digits of 28 x 28 bytes.
    assert evals["none"]["peak_mib"] > 1437 * 28 * 28 / 2**20
    assert evals["ratios"]["throughput"] > 0
    assert curves["width"]["width"] == [4, 8]
    assert curves["batch"]["batch"] == [16]
    # Counts: twice the width is four times the draws of a sample per example.
    low, high = curves["width"]["separate_theory"]
    assert high == pytest.approx(4 * low)
    for curve in curves.values():
        assert len({len(axis) for axis in curve.values()}) == 1
        assert every(
            math.isfinite(x) and x > 0 for axis in curve.values() for x in axis
        )


def test_the_plain_sampler_draws_what_ours_draws(assert_moments):
    node = gaussian(-1.0)(random.key(1), (3, 2))
    x = jnp.broadcast_to(random.normal(random.key(2), (3,)), (20_000, 3))
    drawn = lrt_cost.plain_sampling(ops.DENSE, node, x, random.key(3))
    mean, var = node.moments()
    assert_moments(drawn, x[0] @ mean, jnp.square(x[0]) @ var)


@pytest.mark.slow
def test_memory_of_a_sample_per_example_does_not_grow_with_the_batch():
    """Its temporary buffers do, by activations; not by a weight for each example."""
    net = lrt_cost.classify.build(wide(16)), lrt_cost.classify.build(wide(128))
    separate = lrt_cost.WAYS[lrt_cost.SLOW]
    few, many = (lrt_cost.training_step(one, separate, random.key(0))[1] for one in net)
    weight_mib = 4 * 784 * 400 / 2**20
    assert many - few < 10 * weight_mib  # of the 112 weights more


def wide(batch_size):
    """A layer that is larger than what is drawn at once."""
    config = small().training
    config.model.widths, config.batch_size = (400,), batch_size
    return config


def test_the_other_platform_is_refused_with_what_to_do():
    assert jax.default_backend() == "cpu"
    study = core.build(small("gpu"))
    with pytest.raises(
        ConfigError, match=r"'gpu', but JAX runs on 'cpu'.*JAX_PLATFORMS"
    ):
        study.measure({}, random.key(0))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("rounds", 0, "cost.rounds must be at least 1"),
        ("widths", (), "cost.widths must rise from 1"),
        ("batches", (100, 10), "cost.batches must rise"),
    ],
)
def test_wrong_fields_are_refused(field, value, words):
    with pytest.raises(ConfigError, match=words):
        core.build(small(**{field: value}))


def test_an_unknown_platform_is_answered_with_the_known_ones():
    config = small()
    config.platform = "tpu"
    with pytest.raises(ConfigError, match=r"cpu.*gpu"):
        core.build(config)
