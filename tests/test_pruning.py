"""Laws of masks and of the rules that change them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import random

from vnets import edits, ops, overview
from vnets.estimators import lrt
from vnets.nodes import Masked, Point, is_noisy, masked
from vnets.pruning import HIGH, LOW, at_random, by_magnitude, surgery

SHAPE = (20, 30)


def tree(seed=0, revivable=False):
    make = masked(revivable)
    return {
        "a": {"kernel": make(random.key(seed), SHAPE), "bias": jnp.ones(30)},
        "b": {"kernel": make(random.key(seed + 1), (30, 10))},
        "c": {"kernel": Point(jnp.ones((10, 3)))},
    }


def ramp(step):
    return step / 100


def test_a_full_mask_is_a_point():
    node = masked()(random.key(0), SHAPE)
    x = random.normal(random.key(1), (5, 20))
    expected = lrt(ops.DENSE, Point(node.mean), x, None)
    np.testing.assert_array_equal(lrt(ops.DENSE, node, x, None), expected)
    assert not is_noisy(node)
    assert overview.sparsity({"a": {"kernel": node}}) == 0


@pytest.mark.parametrize("revivable", [False, True])
def test_entries_that_are_off_count_as_zero_and_only_revivable_ones_learn(revivable):
    mask = (random.uniform(random.key(2), SHAPE) < 0.5).astype(jnp.float32)
    mean = random.normal(random.key(3), SHAPE)
    x, target = random.normal(random.key(4), (7, 20)), jnp.ones((7, 30))

    def loss(node):
        y = lrt(ops.DENSE, node, x, None)
        return jnp.sum(jnp.square(y - target))

    node = Masked(mean, mask, revivable)
    value, grads = jax.value_and_grad(loss)(node)
    plain, full = jax.value_and_grad(loss)(Point(mean * mask))
    np.testing.assert_allclose(value, plain, rtol=1e-6)
    expected = full.mean if revivable else full.mean * mask
    np.testing.assert_allclose(grads.mean, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(grads.mask, 0)


def test_an_optimizer_leaves_the_mask_alone():
    params = tree()
    optimizer = optax.adam(0.1)
    grads = jax.tree.map(jnp.ones_like, params)
    grads["a"]["kernel"] = grads["a"]["kernel"].replace(mask=jnp.zeros(SHAPE))
    updates, _ = optimizer.update(grads, optimizer.init(params))
    new = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(new["a"]["kernel"].mask, 1)


def test_an_optimizer_may_decay_the_mask():
    """Decay of all weights, as adamw has it, would scale what is on."""
    params = tree()
    optimizer = optax.adamw(0.1, weight_decay=0.1)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    node = optax.apply_updates(params, updates)["a"]["kernel"]
    assert np.all(node.mask < 1)
    np.testing.assert_array_equal(node.sample(None), node.mean)


def test_magnitude_switches_off_exactly_the_smallest():
    params = tree()
    project = jax.jit(by_magnitude({"a": 0.9, "b": 0.5}, ramp, every=10))
    for step, part in ((40, 0.4), (100, 1.0), (200, 1.0)):
        pruned = project(params, jnp.int32(step))
        for layer, final in (("a", 0.9), ("b", 0.5)):
            node = pruned[layer]["kernel"]
            off = np.abs(node.mean)[node.mask == 0]
            on = np.abs(node.mean)[node.mask == 1]
            assert len(off) == pytest.approx(part * final * node.mean.size, abs=1.5)
            assert off.max() < on.min()
    assert overview.sizes(pruned)["sparsity/a"] == pytest.approx(0.9)
    np.testing.assert_array_equal(pruned["c"]["kernel"].mean, 1)


def test_at_random_prunes_as_many_whatever_their_size():
    params = tree()
    project = jax.jit(at_random({"a": 0.9, "b": 0.5}, ramp, every=10))
    half, whole = (project(params, jnp.int32(step)) for step in (50, 100))
    for layer, final in (("a", 0.9), ("b", 0.5)):
        some, node = (tree[layer]["kernel"] for tree in (half, whole))
        count = node.mean.size
        assert np.sum(some.mask == 0) == pytest.approx(0.5 * final * count, abs=1.5)
        assert np.sum(node.mask == 0) == pytest.approx(final * count, abs=1.5)
        assert np.all(np.asarray(node.mask) <= some.mask)  # none comes back
        size = np.abs(np.asarray(node.mean))
        assert size[node.mask == 0].max() > np.median(size)
    other = project(tree(seed=5), jnp.int32(100))
    np.testing.assert_array_equal(other["a"]["kernel"].mask, whole["a"]["kernel"].mask)


def test_magnitude_never_brings_a_weight_back():
    project = by_magnitude({"a": 0.5, "b": 0.5}, lambda step: 1.0, every=1)
    params = project(tree(), jnp.int32(1))
    before = params["a"]["kernel"].mask
    grown = params["a"]["kernel"].replace(mean=100 * (1 - before) + before)
    after = project(params | {"a": {"kernel": grown}}, jnp.int32(2))
    assert np.all(np.asarray(after["a"]["kernel"].mask) <= before)


def test_between_its_times_nothing_changes():
    params = tree()
    project = by_magnitude({"a": 0.9, "b": 0.9}, lambda step: 1.0, every=10)
    jax.tree.map(np.testing.assert_array_equal, project(params, jnp.int32(11)), params)
    late = surgery(1.0, begin=20, end=40, every=10)
    for step in (10, 50):
        same = late(params, jnp.int32(step))
        jax.tree.map(np.testing.assert_array_equal, same, params)


def test_surgery_switches_by_the_two_thresholds():
    params = tree(revivable=True)
    node = params["a"]["kernel"]
    size = np.abs(node.mean)
    limit = size.mean() + 0.5 * size.std()
    mask = (random.uniform(random.key(5), SHAPE) < 0.5).astype(jnp.float32)
    params["a"]["kernel"] = node.replace(mask=mask)
    new = surgery(0.5, 0, 100, every=1)(params, jnp.int32(1))["a"]["kernel"].mask
    np.testing.assert_array_equal(new[size < LOW * limit], 0)
    np.testing.assert_array_equal(new[size > HIGH * limit], 1)
    between = (size > LOW * limit) & (size < HIGH * limit)
    assert between.any()
    np.testing.assert_array_equal(new[between], mask[between])


def test_mean_only_and_sizes_see_the_mask():
    params = by_magnitude({"a": 0.9, "b": 0.9}, lambda s: 1.0, 1)(tree(), jnp.int32(1))
    counted = overview.sizes(edits.mean_only(params))
    assert counted["nonzero"] == 60 + 30 + 30
    assert counted["compression"] == pytest.approx((600 + 300 + 30) / 120)
    assert counted["sparsity/c"] == 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: by_magnitude({"a": 1.0}, ramp), r"sparsity of 'a' .*\[0, 1\)"),
        (lambda: by_magnitude({"a": 0.5}, ramp, every=0), "every 1 or more"),
        (lambda: surgery(1.0, 10, 5), "begins at 10, after its end at 5"),
        (
            lambda: by_magnitude({"a": 0.5}, ramp, 1)(tree(), jnp.int32(1)),
            "nothing is said of layer 'b'",
        ),
    ],
)
def test_bad_rules_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
