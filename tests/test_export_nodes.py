"""Exported functions take trees with nodes, and are stored with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, random

from vnets import edits, nodes

SHAPE = (4, 3)
FACTORIES = {
    "Point": nodes.point(),
    "Gaussian": nodes.gaussian(-3.0, noise="uniform"),
    "Multiplicative": nodes.multiplicative(per="output"),
    "ZeroMean": nodes.variance("sign", gain=0.5),
    "Dropout": nodes.dropout(0.3, axis="out"),
    "AdaptiveDropout": nodes.adaptive_dropout(0.3),
    "AdaptiveBinaryDropout": nodes.adaptive_binary_dropout(0.3),
    "TruncatedLogNormal": nodes.structured(),
    "Horseshoe": nodes.group_horseshoe(),
    "Masked": nodes.masked(True),
}
PARAMS = {
    name: {"kernel": make(random.key(0), SHAPE)} for name, make in FACTORIES.items()
}


def function(params):
    """Every mean; the tree comes back as well."""
    means = [edits.mean_of(layer["kernel"]).mean for layer in params.values()]
    return sum(means), params


def test_a_stored_function_takes_and_gives_nodes():
    pytest.importorskip("flatbuffers")  # which jax.export writes with
    exported = export.export(jax.jit(function))(PARAMS)
    loaded = export.deserialize(exported.serialize())
    assert loaded.in_tree == exported.in_tree
    expected, got = jax.jit(function)(PARAMS), loaded.call(PARAMS)
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_every_node_is_registered():
    kinds = [nodes.Posterior]
    for kind in kinds:
        kinds += kind.__subclasses__()
    ours = [kind for kind in kinds[1:] if kind.__module__.startswith("vnets.")]
    assert len(ours) >= len(FACTORIES)
    for kind in ours:
        with pytest.raises(ValueError, match="Duplicate serialization"):
            export.register_pytree_node_serialization(
                kind,
                serialized_name="another",
                serialize_auxdata=bytes,
                deserialize_auxdata=tuple,
            )


def test_a_class_may_be_defined_again():
    """As by a notebook's cell that runs twice."""
    for _ in range(2):

        @nodes.node_type
        class Own(nodes.Posterior):
            mean: jax.Array

            def location_scale(self):
                return self.mean, None

        node = Own(jnp.ones(2, jnp.float32))
        np.testing.assert_array_equal(jax.jit(lambda q: q.sample(None))(node), 1.0)
