"""What `summary` prints, and that nodes, results and models are a line each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import random
from train_tasks import fit, make_split, make_task

import vnets
from vnets import edits, nets, nodes, overview, plan, priors
from vnets.layers import stochastic

MADE = {
    "first": nodes.gaussian(-3.0),
    "second": nodes.variance(),
    "third": nodes.dropout(0.5, nodes.multiplicative(-2.0)),
    "*bias": nodes.gaussian(-3.0),
}


class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Embed(4, 3, name="embed")(x)
        for name in ("first", "second", "third"):
            x = nn.relu(nn.Dense(3, name=name)(x))
        return nn.Dense(2, use_bias=False, name="last")(x)


@pytest.fixture(scope="module")
def made():
    net = stochastic(Model(), MADE)
    return net, jax.jit(net.init)(random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]


def test_a_row_for_each_weight(made):
    _, params = made
    rows = {row["layer"]: row for row in overview.describe(params, priors.log_uniform)}
    assert list(rows) == [
        *("embed/embedding", "first/bias", "first", "last", "second/bias", "second"),
        *("third/bias", "third"),
    ]
    assert rows["first"]["posterior"] == "Gaussian"
    assert rows["second"]["posterior"] == "ZeroMean"
    assert rows["third"]["posterior"] == "Dropout x Multiplicative"
    assert [rows[name]["noisy"] for name in ("first", "last")] == [True, False]
    assert rows["third"]["log alpha"] == pytest.approx(-2.0)
    assert rows["second"]["log alpha"] == jnp.inf
    assert rows["last"]["log alpha"] is rows["last"]["KL"] is None
    kls = [row["KL"] for row in rows.values() if row["KL"] is not None]
    assert sum(kls) == pytest.approx(float(priors.kl(params, priors.log_uniform)))


@pytest.mark.parametrize("threshold", [-3.0, jnp.inf])
def test_zeros_are_weights_that_nothing_moves(made, threshold):
    _, params = made
    pruned = edits.prune(threshold)(params)
    rows = {row["layer"]: row["zeros"] for row in overview.describe(pruned)}
    gone = 1.0 if threshold < 0 else 0.0
    assert rows["second"] == rows["third"] == gone
    assert rows["last"] == 0.0
    assert 0.0 <= rows["first"] <= 1.0


def test_summary_prints_a_table(made, capsys):
    net, params = made
    vnets.summary(net, params, priors.log_uniform)
    first, head, *rows, last = capsys.readouterr().out.splitlines()
    assert first == repr(net)
    assert head.split()[:4] == ["layer", "posterior", "shape", "noisy"]
    assert len(rows) == 8
    line = next(row for row in rows if row.startswith("first "))
    assert line.split()[:6] == ["first", "Gaussian", "3", "x", "3", "yes"]
    assert line.split()[-1] == "first"  # the pattern that made it
    assert next(r for r in rows if r.startswith("third/bias")).endswith("*bias")
    assert "-" in next(row for row in rows if row.startswith("embed"))
    assert last.startswith("73 numbers, 36 noisy, KL ")
    vnets.summary(nets.MLP(), {})
    assert "0 numbers" in capsys.readouterr().out


NODES = [
    nodes.gaussian(),
    nodes.variance(),
    nodes.multiplicative(),
    nodes.dropout(0.5),
    nodes.structured(),
    nodes.group_horseshoe(),
]


@pytest.mark.parametrize("factory", NODES)
def test_a_node_is_one_line(factory):
    node = factory(random.key(0), (300, 100))
    assert "\n" not in repr(node)
    assert repr(node).startswith(type(node).__name__ + "(")
    assert "[300, 100]" in repr(node)
    assert len(repr(node)) < 300
    assert "float32[300, 100]" in repr(jax.eval_shape(lambda: node))


def test_models_are_one_line(made):
    net, _ = made
    expected = (
        "Stochastic(Model, {'first': gaussian, 'second': variance, 'third': dropout, "
        "'*bias': gaussian})"
    )
    assert repr(net) == expected
    own = nets.LeNet5(posteriors={"dense1": nodes.variance()})
    assert repr(own) == "LeNet5(posteriors={'dense1': variance})"
    chain = nets.Chain(steps=(plan.Flatten(), plan.Dense("dense1", 3)))
    assert repr(chain) == "Chain(steps=2 steps)"


def test_a_result_is_one_line(one_device):
    [result] = fit(make_task(make_split()), one_device, epochs=1)
    for one in (result, result.state, result.state.model):
        assert "\n" not in repr(one)
        assert len(repr(one)) < 250
    assert repr(result).startswith("Result(seed=0, epochs=1, loss=")
    assert "numbers}" in repr(result)


def test_sparsity_counts_exact_zeros():
    weights = jnp.asarray([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]], jnp.float32)
    params = {
        "a": {"kernel": nodes.Point(weights), "bias": jnp.zeros(2, jnp.float32)},
        "b": {"kernel": nodes.Point(jnp.ones((3, 1), jnp.float32))},
    }
    assert overview.sparsity(params) == pytest.approx(3 / 9)
    assert overview.sparsity({"a": jnp.zeros(3, jnp.float32)}) == 0.0


def test_sparsity_after_pruning():
    key, shape = random.key(0), (10, 10)
    q = nodes.gaussian(-4.0)(key, shape)
    params = {
        "a": {"kernel": q},
        "b": {"kernel": nodes.dropout(0.5, lambda k, s: q)(key, shape)},
    }
    gone = np.mean(np.asarray(-4.0 - 2 * np.log(np.abs(q.mean))) > 3)
    assert 0 < gone < 1
    assert overview.sparsity(params) == 0.0
    pruned = edits.prune(3.0)(params)
    assert isinstance(pruned["b"]["kernel"], nodes.Scaled)
    assert overview.sparsity(pruned) == pytest.approx(gone)
    assert overview.sparsity({"a": {"kernel": nodes.variance()(key, shape)}}) == 1.0
