"""Laws of the walks and of the language of patterns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from vnets import tree
from vnets.nodes import Point, gaussian, is_posterior

MADE = gaussian()(random.key(0), (2, 3))
PARAMS = {
    "block": {
        "conv": {"kernel": MADE, "bias": jnp.ones(3, jnp.float32)},
        "attention": {"query": MADE, "key": MADE},
    },
    "head": {"kernel": jnp.ones((3, 2), jnp.float32), "bias": MADE},
}
LEAVES = {
    "block/attention/key": "block/attention/key",
    "block/attention/query": "block/attention/query",
    "block/conv/bias": "block/conv/bias",
    "block/conv/kernel": "block/conv",
    "head/bias": "head/bias",
    "head/kernel": "head",
}
ARRAYS = ("block/conv/bias", "head/kernel")


def test_each_leaf_has_a_path_and_a_name():
    found = {place.leaf: place.name for place, _ in tree.each(PARAMS)}
    assert found == LEAVES
    nodes = [place.leaf for place, _ in tree.nodes(PARAMS)]
    assert nodes == [name for name in LEAVES if name not in ARRAYS]
    weights = dict(tree.weights(PARAMS))
    assert list(weights) == [
        "block/attention/key",
        "block/attention/query",
        "block/conv",
    ]
    inside = [place.leaf for place, _ in tree.each(PARAMS, "head", inside=True)]
    assert inside == ["head/bias/mean", "head/bias/log_var", "head/kernel"]


@pytest.mark.parametrize(
    ("where", "names"),
    [
        (None, set(LEAVES)),
        ("block", {name for name in LEAVES if name.startswith("block")}),
        ("block/conv", {"block/conv/bias", "block/conv/kernel"}),
        ("*/bias", {"block/conv/bias", "head/bias"}),
        (("head/kernel", "*/query"), {"head/kernel", "block/attention/query"}),
    ],
)
def test_a_pattern_covers_what_is_under_it(where, names):
    assert {place.leaf for place, _ in tree.each(PARAMS, where)} == names
    zero = tree.change(lambda place, leaf: None, PARAMS, where=where)
    gone = {name for name in LEAVES if at(zero, name) is None}
    assert gone == names
    for name in set(LEAVES) - names:
        assert at(zero, name) is at(PARAMS, name)


def at(params, name):
    for part in name.split("/"):
        params = params[part]
    return params


def test_what_covers_nothing_is_an_error_that_lists_what_there_is():
    for wrong in ("conv", ("head", "tail"), "HEAD"):
        with pytest.raises(
            ValueError, match=r"where: nothing is called .*block/conv/k"
        ):
            list(tree.each(PARAMS, wrong))
    with pytest.raises(ValueError, match="takes patterns"):
        tree.change(lambda place, leaf: leaf, PARAMS, where="head".__eq__)
    with pytest.raises(ValueError, match=r"'tail'.*block/conv"):
        tree.weight(PARAMS, "tail")


def test_a_change_sees_the_other_trees():
    doubled = jax.tree.map(lambda x: 2 * x, PARAMS)
    summed = tree.change(
        lambda place, a, b: jax.tree.map(jnp.add, a, b), PARAMS, doubled
    )
    for three, one in zip(*map(jax.tree.leaves, (summed, PARAMS)), strict=True):
        np.testing.assert_allclose(three, 3 * one)


def test_the_weight_of_a_layer_is_a_node():
    assert tree.weight(PARAMS, "block/conv") is MADE
    assert isinstance(tree.weight(PARAMS, "head"), Point)
    assert is_posterior(tree.weight(PARAMS, "block/attention/key"))


def test_a_mapping_gives_each_node_what_its_first_pattern_has():
    places = [place for place, _ in tree.each(PARAMS)]
    values = {"block/conv": 1, "block/*": 2, "*/bias": 3, "head": 4}
    found = tree.assigned(values, places, "values", complete=True)
    expected = dict.fromkeys(["block/attention/key", "block/attention/query"], 2)
    expected |= {"block/conv": 1, "block/conv/bias": 3, "head/bias": 3, "head": 4}
    assert found == expected
    for wrong in ({**values, "tail": 5}, {"block/*": 2, "head": 4}):
        with pytest.raises(
            ValueError, match=r"values: given for .*layers are .*'head'"
        ):
            tree.assigned(wrong, places, "values", complete=True)
    assert tree.assigned({"head": 4}, places, "values") == {"head": 4}
