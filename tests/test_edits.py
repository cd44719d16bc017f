"""Laws of the edits, which are the test-time modes."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from node_table import FACTORIES, every_node

from vnets import edits, nodes, overview, priors
from vnets.nets import MLP
from vnets.nodes import (
    Additive,
    Dropout,
    Point,
    Scaled,
    dropout,
    gaussian,
    is_posterior,
    variance,
)
from vnets.priors import kl

PARAMS = every_node()


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("edit", [edits.mean_only, edits.zero_mean, edits.draw])
def test_biases_and_points_stay(edit):
    edited = edit(PARAMS, random.key(0))
    assert set(edited) == set(PARAMS)
    assert_same(edited["point"], PARAMS["point"])
    for name in FACTORIES:
        assert_same(edited[name]["bias"], PARAMS[name]["bias"])


def net_and_variables(make):
    net = MLP((16,), 4, posteriors={"dense1": make, "dense2": make})
    x = random.normal(random.key(1), (30, 6))
    rngs = {"params": random.key(0), "noise": random.key(0)}
    variables = jax.jit(net.init)(rngs, x)
    biased = jax.tree.map(
        lambda leaf: (
            leaf if is_posterior(leaf) else leaf + jnp.cos(jnp.arange(leaf.size))
        ),
        variables["params"],
        is_leaf=is_posterior,
    )
    return net, biased, x


@pytest.mark.parametrize("make", [variance(), dropout(0.5, variance())])
def test_a_zero_mean_net_is_constant_when_deterministic(make):
    net, params, x = net_and_variables(make)
    quiet = edits.mean_only(params)
    logits = np.asarray(net.apply({"params": quiet}, x))  # and needs no key
    np.testing.assert_array_equal(logits, np.stack([logits[0]] * len(x)))
    np.testing.assert_allclose(logits[0], params["dense2"]["bias"])
    apply = jax.jit(net.apply)
    noisy = apply({"params": params}, x, rngs={"noise": random.key(0)})
    assert np.ptp(np.asarray(noisy), axis=0).min() > 0


def test_dropout_is_silenced_in_a_net():
    net, params, x = net_and_variables(dropout(0.5))
    quiet = edits.mean_only(params)
    plain = MLP((16,), 4)
    weights = jax.tree.map(
        lambda q: q.weight if isinstance(q, Scaled) else q, params, is_leaf=is_posterior
    )
    np.testing.assert_allclose(
        net.apply({"params": quiet}, x), plain.apply({"params": weights}, x), rtol=1e-6
    )


def test_permuting_again_permutes_differently():
    a, b = (edits.permute_variance(PARAMS, random.key(i)) for i in (1, 2))
    assert not np.array_equal(
        a["variance-normal"]["kernel"].scale, b["variance-normal"]["kernel"].scale
    )


def test_layers_draw_independently():
    twins = {name: {"kernel": variance()(random.key(0), (6, 5))} for name in "ab"}
    drawn = edits.draw(twins, random.key(0))
    assert not np.allclose(drawn["a"]["kernel"].mean, drawn["b"]["kernel"].mean)


def test_where_limits_an_edit_to_layers():
    params = {"block": PARAMS, "head": PARAMS["gaussian-normal"]}
    edited = edits.edit(edits.mean_of, ("block/gaussian-normal", "*/dropout-binary"))(
        params
    )
    assert isinstance(edited["block"]["gaussian-normal"]["kernel"], Point)
    assert isinstance(edited["block"]["dropout-binary"]["kernel"], Point)
    assert_same(edited["head"], params["head"])
    assert_same(edited["block"]["variance-normal"], params["block"]["variance-normal"])
    with pytest.raises(ValueError, match=r"where: nothing is called 'x' in .*head"):
        edits.edit(edits.mean_of, "x")(params)
    with pytest.raises(ValueError, match="where takes patterns"):
        edits.edit(edits.mean_of, "head".__eq__)(params)


def test_the_weights_of_one_module_have_names_of_their_own():
    zero = Additive(jnp.zeros((2, 2), jnp.float32), jnp.zeros((2, 2), jnp.float32))
    one = dataclasses.replace(zero, mean=jnp.ones((2, 2), jnp.float32))
    params = {"attention": {"query": zero, "key": one}, "w": one}
    names = {"attention/query", "attention/key", "w"}
    assert set(edits.noisy_layers(params)) == names
    counted = overview.sizes(params)
    assert (counted["nonzero"], counted["sparsity"]) == (8, pytest.approx(1 / 3))
    quiet = edits.edit(edits.mean_of, "attention/key")(params)
    kinds = {name: type(node) for name, node in quiet["attention"].items()}
    assert kinds == {"query": Additive, "key": Point}


def test_chain_applies_from_left_to_right():
    both = edits.chain(edits.prune(3.0), edits.mean_only)
    assert_same(both(PARAMS), edits.mean_only(edits.prune(3.0)(PARAMS)))
    assert_same(edits.chain()(PARAMS), PARAMS)
    # zero_mean first leaves nothing for the means; after mean_only nothing is noisy.
    dead = edits.chain(edits.zero_mean, edits.mean_only)(PARAMS)
    assert not np.any(dead["gaussian-normal"]["kernel"].mean)
    alive = edits.chain(edits.mean_only, edits.zero_mean)(PARAMS)
    np.testing.assert_array_equal(
        alive["gaussian-normal"]["kernel"].mean,
        PARAMS["gaussian-normal"]["kernel"].mean,
    )


def test_edits_in_a_chain_draw_from_different_keys():
    identity = edits.edit(lambda node, key: node)
    key = random.key(0)
    first = edits.chain(edits.draw)(PARAMS, key)
    second = edits.chain(identity, edits.draw)(PARAMS, key)
    assert not np.allclose(
        first["variance-normal"]["kernel"].mean,
        second["variance-normal"]["kernel"].mean,
    )


def test_prune_refuses_a_node_without_a_rule():
    with pytest.raises(TypeError, match="Dropout"):
        edits.prune(1.0)({"a": {"kernel": Dropout(0.5, 3)}})


@pytest.mark.parametrize("factor", [-1.0, np.inf, np.nan])
def test_a_factor_that_scales_nothing_is_refused(factor):
    with pytest.raises(ValueError, match="at least 0 and finite"):
        edits.scale_noise(factor)


SCALED = {
    "normal_jeffreys": (
        nodes.group_normal_jeffreys,
        priors.group_normal_jeffreys,
    ),
    "horseshoe": (nodes.group_horseshoe, priors.group_horseshoe),
}


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("shape", [(30, 40), (3, 3, 4, 6)])
def test_balanced_weights_are_the_same_and_cost_less(name, shape):
    make, prior = (one() for one in SCALED[name])

    @jax.jit
    def measure(key):
        node = make(key, shape)
        moved = edits.balanced(node)
        again = edits.balanced(moved)
        all_three = (node, moved, again)
        divergences = [kl({"a": {"kernel": one}}, prior) for one in all_three]
        mean, var = moved.weight.moments()
        axes = nodes.other_axes(moved.axis, shape)
        size = jnp.mean(jnp.square(mean) + var, axes)
        return [one.moments() for one in all_three], divergences, size

    moments, divergences, size = measure(random.key(0))
    # A variance is a difference of second moments.
    second = float(jnp.max(jnp.square(moments[0][0]) + moments[0][1]))
    error = 10 * np.finfo(np.float32).eps * second
    for other in moments[1:]:
        for found, expected in zip(other, moments[0], strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=error)
    np.testing.assert_allclose(size, 1, rtol=1e-5)
    # Of normal-Jeffreys it is m / 2 (c^2 - 1 - ln c^2) for each unit, by the docstring.
    node = make(random.key(0), shape)
    mean, var = (np.asarray(part, np.float64) for part in node.weight.moments())
    square = np.mean(mean**2 + var, nodes.other_axes(node.axis, shape))
    m = np.prod(shape) / square.size
    saved = m / 2 * np.sum(square - 1 - np.log(square))
    difference = float(divergences[0] - divergences[1])
    if name == "normal_jeffreys":
        assert difference == pytest.approx(saved, rel=1e-3)
    # A horseshoe pays a little for scales that are not 1.
    assert 0.9 * saved < difference < 1.01 * saved


def test_balance_leaves_bounded_and_fixed_scales_alone():
    params = {
        "a": {"kernel": nodes.structured()(random.key(0), (3, 4))},
        "b": {"kernel": dropout(0.5, gaussian())(random.key(0), (3, 4))},
        "c": {"kernel": gaussian()(random.key(0), (3, 4))},
    }
    jax.tree.map(np.testing.assert_array_equal, edits.balance(params), params)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_share_of_all_weights_goes_those_of_least_signal(share):
    made = {"a": (gaussian(-2.0), (6, 8)), "b": (gaussian(-6.0), (5, 4))}
    params = {
        name: {"kernel": make(random.key(0), shape)}
        for name, (make, shape) in made.items()
    }
    before = edits.noisy_layers(params)
    after = edits.noisy_layers(edits.prune_share(share)(params))
    signal = np.concatenate([-np.ravel(nodes.log_alpha(n)) for n in before.values()])
    gone = np.concatenate([np.ravel(node.pruned()) for node in after.values()])
    assert gone.sum() == round(share * len(signal))
    assert share == 0 or signal[gone].max() < signal[~gone].min()


def test_a_share_needs_noisy_weights_and_to_leave_some():
    with pytest.raises(ValueError, match=r"\[0, 1\), not 1"):
        edits.prune_share(1.0)
    params = {"dense1": {"kernel": nodes.Point(jnp.ones((2, 2), jnp.float32))}}
    with pytest.raises(ValueError, match="noise of its own to rank"):
        edits.prune_share(0.5)(params)
    few = {"a": {"kernel": gaussian(-2.0)(random.key(0), (2, 2))}}
    with pytest.raises(ValueError, match="4 weights are all of them"):
        edits.prune_share(0.9)(few)


@pytest.mark.parametrize("threshold", [math.nan, {"a": math.nan}])
def test_a_threshold_is_a_number(threshold):
    """All comparisons with NaN are false, and so no weight would be left."""
    for make in (edits.prune, edits.prune_units):
        with pytest.raises(ValueError, match="threshold is a number"):
            make(threshold)
