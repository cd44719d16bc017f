"""Nets that read tokens, of every kind of step, sparse at random: for tests."""

import functools

import jax
import numpy as np
from jax import random

from vnets import compact, plan
from vnets.nets import Chain
from vnets.nodes import Point
from vnets.plan import sequences as steps

WORDS, LENGTH = 50, 9
EPSILON = 1e-6  # Flax's


def block(name, features, heads):
    """One of a Transformer, whose normalizations come first."""
    attention = steps.Attention.even(f"{name}/attention", features, heads)
    return (
        plan.Residual((plan.LayerNorm(f"{name}/norm1", EPSILON), attention)),
        plan.Residual(
            (
                plan.LayerNorm(f"{name}/norm2", EPSILON),
                plan.Dense(f"{name}/dense1", 16),
                plan.Activation("gelu"),
                plan.Dense(f"{name}/dense2", features),
            )
        ),
    )


# And the share of weights that is left, and of columns.
NETS = {
    "lstm": (
        (
            steps.Embedding("embed", WORDS, 6),
            steps.LSTM("lstm", 7),
            steps.Last(),
            plan.Dense("dense1", 3),
        ),
        0.3,
    ),
    "gru": (
        (
            steps.Embedding("embed", WORDS, 6),
            plan.Dense("dense1", 5),
            plan.Activation("tanh"),
            steps.GRU("gru", 7),
            steps.LSTM("lstm", 5),
            plan.Activation("abs"),
            plan.Flatten(),
            plan.Dense("dense2", 4),
            plan.Activation("relu"),
            plan.Dense("dense3", 3),
        ),
        0.4,
    ),
    "transformer": (
        (
            steps.Embedding("embed", WORDS, 8),
            steps.Positions("place"),
            *block("block1", 8, 2),
            plan.LayerNorm("norm", EPSILON),
            steps.MeanPositions(),
            plan.Dense("dense1", 3),
        ),
        0.3,
    ),
}


def tokens(count=12, length=LENGTH, seed=1):
    """Padded in front, some; one without a token."""
    draw = np.random.default_rng(seed)
    found = draw.integers(0, WORDS, (count, length))
    found[:, : length // 3] *= draw.integers(0, 2, (count, 1))
    found[-1] = 0
    return found


def sparse(net, share, seed, length=LENGTH):
    """Parameters of which a share is left, and of some columns nothing."""
    like = jax.eval_shape(net.init, random.key(0), tokens(length=length))["params"]
    draw = np.random.default_rng(seed)

    def make(leaf):
        values = draw.normal(size=leaf.shape).astype(np.float32)
        alive = draw.random(leaf.shape) < share
        if isinstance(leaf, Point):
            alive &= draw.random(leaf.shape[-1]) < max(share, 0.7)
            return Point(values * alive)
        return values * (draw.random(leaf.shape) < 0.7)

    return jax.tree.map(make, like, is_leaf=lambda leaf: isinstance(leaf, Point))


@functools.cache
def net_of(name):
    """A net of `NETS`, and its compiled function of parameters and tokens."""
    net = Chain(steps=NETS[name][0])
    return net, jax.jit(lambda params, x: net.apply({"params": params}, x))


@functools.cache
def case(name, seed=0):
    """Folded graph, tokens, and outputs by JAX."""
    net, run = net_of(name)
    params, x = sparse(net, NETS[name][1], seed), tokens(seed=seed)
    graph = compact.fold_norms(compact.capture(net, {"params": params}, (LENGTH,)))
    return graph, x, np.asarray(run(params, x))
