"""bfloat16 for activations and means, float32 for whatever is a variance."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax import random

from vnets import ops
from vnets.estimators import ESTIMATORS, lrt, per_example_sampling, weight_sampling
from vnets.evaluate import sample_predictions
from vnets.layers import Dense, Mode, stochastic
from vnets.objectives import ModelState, classification_loss
from vnets.posteriors import gaussian, variance
from vnets.priors import log_uniform


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


class Converted(nn.Module):
    """An ordinary model, of which `stochastic` makes one layer noisy."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(8, name="hidden")(x.reshape(x.shape[0], -1)))
        return nn.Dense(4, name="logits")(x)


class Half(nn.Module):
    """A model that itself computes in half precision."""

    @nn.compact
    def __call__(self, x):
        x = x.reshape(x.shape[0], -1)
        return nn.Dense(4, dtype=jnp.bfloat16, name="logits")(x)


@pytest.mark.parametrize("model", [Converted(), Half()])
def test_logits_and_metrics_are_float32_always(model):
    mode = Mode(precision="bfloat16")
    net = stochastic(model, {"logits": gaussian()})
    x = jnp.ones((6, 2, 2, 1), jnp.float32)
    variables = net.init(random.key(0), x)
    rngs = {"noise": random.key(1)}
    assert net.apply(variables, x, mode=mode, rngs=rngs).dtype == jnp.float32
    y, _ = net.apply(variables, x, mode=mode, rngs=rngs, mutable=["other"])
    assert y.dtype == jnp.float32
    log_p = sample_predictions(net, variables, x, 1, mode, random.key(2))
    assert log_p.dtype == jnp.float32
    loss = classification_loss(net, log_uniform, 6, mode=mode)
    batch = {"image": x, "label": jnp.zeros(6, jnp.int32)}
    state = ModelState(jnp.int32(0), {})
    value, (_, metrics) = jax.eval_shape(
        loss, variables["params"], state, batch, random.key(3)
    )
    assert {m.dtype for m in (value, *metrics.values())} == {jnp.dtype(jnp.float32)}


def test_complex_inputs_are_refused():
    net = stochastic(Converted(), {"hidden": gaussian()})
    x = jnp.ones((2, 3), jnp.complex64)
    with pytest.raises(ValueError, match="'hidden' takes real numbers, not complex64"):
        net.init(random.key(0), x)
    with pytest.raises(ValueError, match="takes real numbers"):
        Dense(3).init(random.key(0), x)
