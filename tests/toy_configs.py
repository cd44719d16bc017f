"""Configs of the toy problems cut down for tests, and what they give in an epoch."""

import jax.numpy as jnp
from jax import random

from experiments.config_files import load_config
from vnets import train

VARIANCE = {"dense3": {"kind": "variance"}}
KEY = random.key(5)
X = random.normal(random.key(7), (40, 2), jnp.float32)


def config(which, **changes):
    made = load_config(f"configs/{which},quick")
    with made.unlocked():
        for path, value in changes.items():
            *parents, last = path.split("__")
            node = made
            for parent in parents:
                node = node[parent]
            node[last] = value
    return made


def fitted(experiment, mesh):
    """The result of one epoch, and what it measures."""
    [result] = train.fit(
        experiment.task, epochs=1, seeds=[0], mesh=mesh, show_progress=False
    )
    assert result.failed is None
    return result, experiment.evaluations(result.state.params, {}, random.key(0))
