"""bfloat16 for activations and means, float32 for whatever is a variance."""

import jax
import jax.numpy as jnp
import pytest
from jax import random

from vnets import ops
from vnets.estimators import ESTIMATORS, lrt, per_example_sampling, weight_sampling
from vnets.posteriors import gaussian, variance


def products(function, *args):
    """Types of the operands of every matrix product, in order."""
    found = []

    def visit(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general":
                found.append({str(v.aval.dtype) for v in eqn.invars})
            for value in eqn.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    visit(inner)

    visit(jax.make_jaxpr(function)(*args).jaxpr)
    return found


def test_only_variances_are_multiplied_in_float32():
    x = random.normal(random.key(0), (8, 6)).astype(jnp.bfloat16)
    node = gaussian(-4.0)(random.key(0), (6, 5))
    y = lrt(ops.DENSE, node, x, random.key(0))
    assert y.dtype == jnp.bfloat16
    types = products(lambda x: lrt(ops.DENSE, node, x, random.key(0)), x)
    assert types == [{"float32"}, {"bfloat16"}]
    for estimator in (weight_sampling, per_example_sampling):
        assert estimator(ops.DENSE, node, x, random.key(0)).dtype == jnp.bfloat16
        types = products(lambda x, f=estimator: f(ops.DENSE, node, x, random.key(0)), x)
        assert types == [{"bfloat16"}]


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_half_precision_is_a_rounding(name):
    """Within the roundings of the inputs, the weights, their sum and the result."""
    magnitudes = name.startswith("magnitude")
    make = variance() if magnitudes else gaussian(-4.0)
    node = make(random.key(0), (64, 5))
    x = random.normal(random.key(3), (16, 64)).astype(jnp.bfloat16)
    full = ESTIMATORS[name](ops.DENSE, node, x.astype(jnp.float32), random.key(0))
    half = ESTIMATORS[name](ops.DENSE, node, x, random.key(0))
    unit = float(jnp.finfo(jnp.bfloat16).eps)
    # |x| |w| summed, with the weights as large as any draw of 16-bit normals (4.9).
    mean, var = node.moments()
    largest = 5 * jnp.sqrt(var) + (0 if mean is None else jnp.abs(mean))
    bound = unit * (jnp.abs(x.astype(jnp.float32)) @ largest + jnp.abs(full))
    assert half.dtype == jnp.bfloat16
    assert jnp.all(jnp.abs(half.astype(jnp.float32) - full) <= bound)
