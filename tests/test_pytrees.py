"""Dataclasses that are trees: JAX tells two classes apart, and flax stores them."""

import importlib
import itertools
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from claims import every
from flax import serialization
from node_table import every_node

import experiments
import vnets
from vnets.pytrees import pytree, static


@pytree
class One:
    """Two leaves and a name."""

    first: jax.Array
    second: jax.Array
    name: str = static(default="a")


@pytree
class Other:
    """The same under other names."""

    left: jax.Array
    right: jax.Array
    name: str = static(default="a")


X, Y = jnp.zeros(2), jnp.ones(2)


def test_two_classes_with_equal_leaves_and_static_fields_differ():
    """Equal they would share what is traced where their hashes share a slot."""
    structure = jax.tree.structure
    assert structure(One(X, Y)) == structure(One(Y, X))
    assert structure(One(X, Y)) != structure(One(X, Y, "b"))
    assert structure(One(X, Y)) != structure(Other(X, Y))


def test_every_node_has_a_structure_of_its_class():
    nodes = [layer["kernel"] for layer in every_node().values()]
    kinds = {}
    for one in nodes:
        kinds.setdefault(type(one), []).append(jax.tree.structure(one))
    assert len(kinds) > 5
    for ours, theirs in itertools.combinations(kinds.values(), 2):
        assert not set(ours) & set(theirs)
        assert every(a != b for a, b in itertools.product(ours, theirs))


def modules():
    for package in (vnets, experiments):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            yield importlib.import_module(found.name)


def test_no_class_is_registered_as_a_dataclass_of_jax():
    found = {
        kind
        for module in modules()
        for kind in vars(module).values()
        if isinstance(kind, type) and kind.__module__ == module.__name__
    }
    assert len(found) > 200
    assert not [kind for kind in found if "_flax_dataclass" in vars(kind)]


def test_leaves_have_the_names_of_their_fields_and_come_back():
    one = One({"a": X}, Y, "b")
    paths, structure = jax.tree_util.tree_flatten_with_path(one)
    assert [jax.tree_util.keystr(path) for path, _ in paths] == [
        ".first['a']",
        ".second",
    ]
    back = jax.tree.unflatten(structure, [leaf for _, leaf in paths])
    assert (type(back), back.name) == (One, "b")
    assert back.replace(name="c").name == "c"


def test_flax_stores_the_leaves():
    one = One({"a": X}, Y, "b")
    stored = serialization.to_bytes(one)
    back = serialization.from_bytes(One({"a": Y}, X, "b"), stored)
    jax.tree.map(np.testing.assert_array_equal, back, one)
    with pytest.raises(ValueError, match=r"a Other has .'left', 'right'., not"):
        serialization.from_bytes(Other(X, Y), stored)
