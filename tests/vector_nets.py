"""Nets with noise on biases, for the tests of stochastic vectors."""

import functools

import jax
from jax import random

from vnets.nets import MLP, LeNet5
from vnets.nodes import gaussian

DRAWS = 2000
WEIGHT, VECTOR = gaussian(-1.0), gaussian(-0.5)


def keys_of(seed=0, n=DRAWS):
    return random.split(random.key(seed), n)


def rngs(seed=0):
    return {"params": random.key(seed), "noise": random.key(seed + 1)}


def moved(params, name, by=0.7):
    """The parameters with the mean of a vector away from where it starts."""
    node = params[name]
    return {**params, name: node.replace(mean=node.mean + by)}


@functools.cache
def net_and_params(**posteriors):
    net = MLP(
        (5, 4), 3, posteriors={k.replace("_", "/"): v for k, v in posteriors.items()}
    )
    x = random.normal(random.key(4), (6, 7))
    return net, net.init(rngs(), x)["params"], x


NOISY = {
    "dense1": WEIGHT,
    "dense1_bias": VECTOR,
    "dense3": WEIGHT,
    "dense3_bias": VECTOR,
}


def normalized_net():
    """LeNet-5 with noise on all that its normalizations learn, and on the last bias."""
    names = [f"norm{i}/{v}" for i in (1, 2, 3) for v in ("scale", "bias")]
    posteriors = dict.fromkeys([*names, "dense2/bias"], gaussian(-3.0))
    net = LeNet5(batch_norm=True, posteriors=posteriors)
    x = random.uniform(random.key(7), (4, 28, 28, 1))
    variables = dict(jax.jit(net.init)(rngs(), x))
    # Statistics and means away from where they start.
    variables = jax.tree.map(
        lambda leaf: leaf + 0.1 if leaf.ndim == 1 else leaf, variables
    )
    return net, variables, x
