"""The study of labels: its rounds, what rows share, and what a config may not ask."""

import functools

import numpy as np
import pytest
from jax import random

from experiments import core
from experiments.config_files import load_config
from experiments.spec import ConfigError
from experiments.studies import active_learning


def small(variant, **changes):
    config = load_config(f"configs/active_learning.py:{variant},quick")
    config.updates, config.samples = 3, min(config.samples, 2)
    config.members = min(config.members, 2)
    config.labels = {"per_class": 1, "per_round": 5, "rounds": 2}
    for path, value in changes.items():
        *parents, last = path.split("__")
        functools.reduce(getattr, parents, config)[last] = value
    return config


@functools.cache
def measured(variant, seed=0):
    return core.build(small(variant)).measure({}, random.key(seed))


@pytest.mark.parametrize("net", ["dropout", "ensemble"])
def test_rows_of_a_net_start_alike_and_share_what_is_compiled(net):
    active_learning._compiled.cache_clear()
    for look in ("random", "entropy"):
        found = measured(f"{net}_{look}")
        curve, numbers = found.curves["labels"], found.evals["test"]
        assert curve["labels"] == [10, 15]
        assert numbers["mean_error"] == pytest.approx(np.mean(curve["error"]))
        assert numbers["error"] == curve["error"][-1]
        assert numbers["labels_to_5"] == float("inf")  # of 3 updates
    one, other = (measured(f"{net}_{look}").curves for look in ("random", "entropy"))
    assert one["labels"]["error"][0] == other["labels"]["error"][0]
    assert active_learning._compiled.cache_info().misses == 1


def test_a_net_without_noise_asks_at_random_whatever_draws_say():
    """BALD of it is 0 everywhere, so no image is preferred."""
    config = small("plain_entropy", acquisition="bald")
    found = core.build(config).measure({}, random.key(0))
    first = measured("plain_random").curves["labels"]["error"][0]
    assert found.curves["labels"]["error"][0] == first
    others = [measured("plain_random", seed).curves for seed in (0, 1)]
    assert others[0] != others[1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"acquisition": "nope"}, ["config.acquisition", "bald", "random"]),
        ({"labels__rounds": 300}, ["config.labels", "300 rounds", "1437"]),
        ({"labels__per_class": 200}, ["config.labels.per_class", "200", "images"]),
        ({"labels__per_class": 0}, ["config.labels.per_class", "at least 1"]),
        ({"members": 0}, ["config.members", "at least 1"]),
        ({"updates": 0}, ["config.updates"]),
        ({"batch_size": 0}, ["config.batch_size"]),
        ({"model__name": "nope"}, ["config.model.name", "mlp"]),
    ],
)
def test_what_cannot_be_is_refused(changes, words):
    with pytest.raises(ConfigError) as caught:
        core.build(small("dropout_bald", **changes))
    for word in words:
        assert word in str(caught.value)
