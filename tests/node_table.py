"""Every kind of node, a line each: the laws of `test_node_laws.py` run over them."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import random

from vnets import noise, priors
from vnets.nodes import (
    Correlated,
    Dropout,
    MatrixNormal,
    Multiplicative,
    Point,
    Scaled,
    adaptive_binary_dropout,
    adaptive_dropout,
    additive,
    dropout,
    fan_in_uniform,
    gaussian,
    group_horseshoe,
    group_normal_jeffreys,
    masked,
    multiplicative,
    point,
    structured,
    variance,
)

DENSE, CONV = (6, 5), (2, 2, 3, 4)


def type_a(axis):
    """Correlated weight noise: Gaussian noise on units."""

    def make(key, shape):
        units = shape[-2] if axis == "in" else shape[-1]
        mean = jnp.linspace(0.5, 1.5, units, dtype=jnp.float32)
        scale = Multiplicative(mean, jnp.full((1,), -1.0, jnp.float32))
        return Scaled(scale, gaussian(-1.0)(key, shape), axis)

    return make


def correlated(key, shape):
    """A node with noise of its own and along three directions."""
    std, factor = (
        jnp.full(shape, 0.3, jnp.float32),
        0.4 * random.normal(key, (3, *shape)),
    )
    return Correlated(fan_in_uniform(key, shape), std, factor)


def matrix_normal(key, shape):
    """A node whose rows have noise in common, and its columns, by wide factors."""
    rows, cols = math.prod(shape[:-1]), shape[-1]
    key_rows, key_cols = random.split(key)
    return MatrixNormal(
        fan_in_uniform(key, shape),
        0.4 * random.normal(key_rows, (rows, rows + 1)),
        0.5 * random.normal(key_cols, (cols, cols + 2)),
    )


def nested(key, shape):
    inner = dropout(0.3, gaussian(-1.0))(key, shape)
    return Scaled(Dropout(0.2, shape[-1]), inner, "out")


FACTORIES = {
    "point": point(),
    "masked": masked(True),
    **{f"gaussian-{name}": additive(-2.0, noise=name) for name in noise.FAMILIES},
    **{f"variance-{name}": variance(name) for name in noise.FAMILIES},
    "gaussian-thresholded": gaussian(-2.0, drop_above=30.0),  # all means are in use
    "variance-half": variance("sign", gain=0.5),
    "alpha-layer": multiplicative(0.5),
    "alpha-output": multiplicative(-0.5, "output"),
    "alpha-input": multiplicative(-0.5, "input", noise="sign"),
    "alpha-weight": multiplicative(0.5, "weight", noise="uniform"),
    **{f"dropout-{n}": dropout(0.3, noise=n) for n in ("binary", *noise.FAMILIES)},
    "dropout-0": dropout(0.0),
    "dropout-0-normal": dropout(0.0, noise="normal"),
    "dropout-gaussian": dropout(0.3, gaussian(-1.0)),
    "dropout-variance": dropout(0.2, variance(), axis="out"),
    "dropout-alpha": dropout(0.3, multiplicative(0.0, "output")),
    "adaptive-unit": adaptive_dropout(0.4),
    "adaptive-layer": adaptive_dropout(0.3, "layer", axis="out"),
    "adaptive-gaussian": adaptive_dropout(0.3, weight=gaussian(-1.0)),
    "adaptive-binary": adaptive_binary_dropout(0.4),
    "type-a-in": type_a("in"),
    "type-a-out": type_a("out"),
    "nested": nested,
    "structured": structured(-1.0),
    "structured-gaussian": structured(weight=gaussian(-3.0), axis="out"),
    "normal-jeffreys": group_normal_jeffreys(-3.0, -3.0),
    "horseshoe": group_horseshoe(-3.0, -3.0),
}
# Whose weights vary together: what takes them one by one refuses these.
TOGETHER = {"correlated": correlated, "matrix-normal": matrix_normal}
# Closed forms and the densities that they are of.
DENSITIES = {
    "standard_normal": priors.standard_normal(0.7),
    "student_t": priors.student_t(3.0),
    "truncated_log_uniform": priors.truncated_log_uniform,
}


@functools.cache
def node(name, shape=DENSE):
    """A node of the table, with another value in each entry of its variances."""

    def change(path, leaf):
        if path[-1].name not in ("log_var", "log_alpha"):
            return leaf
        return leaf + random.uniform(random.key(1), leaf.shape, jnp.float32, -1, 1)

    made = {**FACTORIES, **TOGETHER}[name](random.key(0), shape)
    return jax.tree_util.tree_map_with_path(change, made)


def every_node(names=FACTORIES):
    """A tree with all of them, each in a layer of its name, with a bias."""
    bias = jnp.full(DENSE[-1:], 7.0, jnp.float32)
    return {name: {"kernel": node(name), "bias": bias} for name in names}


def is_point(one):
    """True for weights without noise of any kind."""
    return isinstance(one, Point)
