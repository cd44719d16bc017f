"""bfloat16 for activations and the factors of products, float32 for their sums."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from claims import every
from estimator_cases import CASES, DRAWS, compiled, linear, problem
from flax import linen as nn
from jax import random
from train_tasks import fit, make_split, make_task

from vnets import backend, ops
from vnets.estimators import (
    ESTIMATORS,
    antithetic,
    flipout,
    lrt,
    per_example_sampling,
    weight_sampling,
)
from vnets.layers import Dense, Mode, stochastic
from vnets.likelihoods import Categorical
from vnets.loss import ModelState, forward, neg_elbo
from vnets.nodes import gaussian, variance
from vnets.predictor import Member, Predictor
from vnets.priors import log_uniform


def products(function, *args):
    """Types of the operands and results of every matrix product, in order."""
    found = []

    def visit(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general":
                found.append({str(v.aval.dtype) for v in (*eqn.invars, *eqn.outvars)})
            for value in eqn.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    visit(inner)

    visit(jax.make_jaxpr(function)(*args).jaxpr)
    return found


@pytest.mark.parametrize("half", ["bfloat16", "float32"])
def test_products_have_the_factors_that_the_processor_can_and_sums_in_float32(half):
    x = random.normal(random.key(0), (8, 6)).astype(jnp.bfloat16)
    node = gaussian(-4.0)(random.key(0), (6, 5))
    for estimator, count in ((lrt, 2), (weight_sampling, 1), (per_example_sampling, 1)):

        def run(node, f=estimator):
            return f(ops.DENSE, node, x, random.key(0))

        def total(node, run=run):
            return jnp.sum(run(node).astype(jnp.float32))

        with backend.use(half=half):
            assert run(node).dtype == jnp.bfloat16
            assert products(run, node) == count * [{half, "float32"}]
            assert len(products(jax.grad(total), node)) > count
            assert every(
                kinds == {half, "float32"} for kinds in products(jax.grad(total), node)
            )


def test_the_two_ways_differ_in_the_order_of_sums_only():
    keys = random.split(random.key(1), 3)
    a = random.normal(keys[0], (7, 33)).astype(jnp.bfloat16)
    b = random.normal(keys[1], (33, 5))
    g = random.normal(keys[2], (7, 5)).astype(jnp.bfloat16).astype(jnp.float32)
    ways = []
    for half in ("bfloat16", "float32"):
        with backend.use(half=half):
            y, back = jax.vjp(ops.matmul, a, b)
            ways.append((y, *back(g)))
    for first, second in zip(*ways, strict=True):
        assert first.dtype == second.dtype
        np.testing.assert_allclose(
            *(np.asarray(one, np.float32) for one in (first, second)),
            rtol=1e-2,
            atol=1e-5,
        )
    assert ways[0][2].dtype == b.dtype == jnp.float32  # its gradient is not rounded
    exact = np.asarray(a, np.float32).T @ np.asarray(g)
    np.testing.assert_allclose(ways[0][2], exact, rtol=1e-5, atol=1e-5)


def test_a_variance_in_half_precision_is_within_the_rounding_of_its_terms():
    """x^2 and var are each off by 2^-8 at most."""
    x = random.normal(random.key(0), (64, 512)).astype(jnp.bfloat16)
    node = variance()(random.key(1), (512, 16))
    _, var = node.moments()
    squares = jnp.square(x)  # as the estimators take them
    found = ops.DENSE.apply(squares, var)
    exact = np.square(np.asarray(x, np.float64)) @ np.asarray(var, np.float64)
    assert found.dtype == jnp.float32
    assert np.max(np.abs(np.asarray(found) / exact - 1)) <= 2.0**-7


def test_the_processor_says_what_it_can(tmp_path):
    info = tmp_path / "cpuinfo"
    for flags, half in (
        ("avx2 fma", "float32"),
        ("avx512f avx512_bf16 avx512vl", "bfloat16"),
        ("fp asimd bf16 i8mm", "bfloat16"),
    ):
        info.write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\n")
        assert backend._half(info) == half
    assert backend._half(tmp_path / "none") == "float32"


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


DRAWN = (lrt, weight_sampling, per_example_sampling, flipout, antithetic)
UNIT = float(jnp.finfo(jnp.bfloat16).eps)  # of half of it a number is off at most


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("estimator", DRAWN)
def test_moments_in_half_precision(case, estimator):
    """Within 5 standard errors, and the roundings of input, weight and result."""
    op, q, x = problem(case, gaussian(-1.0))
    x = x.astype(jnp.bfloat16)
    keys = random.split(random.key(4), DRAWS)
    draws = np.asarray(compiled(estimator, op)(q, x, keys), np.float64)
    x = x.astype(jnp.float32)
    mean, var = (np.asarray(linear(op, *pair), np.float64) for pair in terms(q, x))
    errors = (draws - mean) / np.sqrt(var)
    sizes = np.asarray(linear(op, jnp.abs(x), jnp.abs(q.mean)), np.float64)
    rounding = 3 * UNIT * (1 + sizes / np.sqrt(var))  # in standard deviations
    assert np.all(np.abs(errors.mean(0)) <= 5 / np.sqrt(DRAWS) + rounding)
    squares = np.square(errors).mean(0)
    slack = 5 * np.sqrt(np.square(errors).var(0) / DRAWS) + 2 * rounding + rounding**2
    assert np.all(np.abs(squares - 1) <= slack)


def terms(q, x):
    mean, var = q.moments()
    return (x, mean), (jnp.square(x), var)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("make", [gaussian(-1.0), variance()])
def test_gradients_at_zero_inputs_are_finite_in_half_precision(case, make):
    op, q, x = problem(case, make)

    def loss(q, x):
        return jnp.sum(jnp.square(lrt(op, q, x, random.key(0)).astype(jnp.float32)))

    blank = x.at[0].set(0).astype(jnp.bfloat16)
    for inputs in (blank, jnp.zeros_like(blank)):
        for leaf in jax.tree.leaves(jax.grad(loss, argnums=(0, 1))(q, inputs)):
            assert np.all(np.isfinite(np.asarray(leaf, np.float32)))


def test_a_step_in_half_precision_compiles_once(one_device, caplog):
    task = make_task(make_split(), mode=Mode(precision="bfloat16"))
    with caplog.at_level(logging.WARNING), jax.log_compiles():
        fit(task, one_device, seeds=[0, 1])
    compiled = [record.getMessage() for record in caplog.records]
    compiled = [m for m in compiled if m.startswith("Compiling") and "_chunk" in m]
    assert len(compiled) == 1


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
    log_p = Predictor(Member(net, variables), mode=mode)(x, random.key(2))
    assert log_p.dtype == jnp.float32
    loss = neg_elbo(forward(net, mode), Categorical(), log_uniform, 6)
    batch = {"input": x, "target": jnp.zeros(6, jnp.int32)}
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
