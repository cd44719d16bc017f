"""Laws of cutting whole units."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from vnets import edits, nodes
from vnets.edits import prune_units
from vnets.nets import MLP
from vnets.nodes import (
    Gaussian,
    Horseshoe,
    LogNormal,
    Point,
    Scaled,
    TruncatedLogNormal,
    dropout,
    gaussian,
    is_noisy,
    multiplicative,
    variance,
)

SHAPES = {"dense": (4, 5), "conv": (3, 3, 2, 4)}
USEFUL, USELESS = np.array([0, 2]), np.array([1, 3])  # of four units


def spread(low, high):
    return jnp.where(jnp.arange(4) % 2 == 0, jnp.float32(low), jnp.float32(high))


def scales_of_four():
    """Units 0 and 2 are kept at the thresholds below, 1 and 3 are not."""
    flat = LogNormal(jnp.zeros(2), jnp.full(2, -9.0))
    unit = jnp.stack([spread(0.0, -20.0), jnp.zeros(4)])
    return {
        "gaussian": (Gaussian(jnp.ones(4), spread(-9.0, 3.0)), 0.0),
        "log_normal": (LogNormal(jnp.zeros(4), spread(-9.0, 1.0)), 0.0),
        "truncated": (TruncatedLogNormal(spread(0.0, -10.0), spread(-5.0, 3.0)), 0.0),
        "horseshoe": (Horseshoe(flat, LogNormal(unit, jnp.full((2, 4), -9.0))), 5.0),
    }


def noisy(name, layer):
    scale, threshold = scales_of_four()[name]
    axis = "in" if layer == "dense" else "out"
    weight = gaussian(-3.0)(random.key(0), SHAPES[layer])
    return {layer: {"kernel": Scaled(scale, weight, axis, "batch")}}, threshold


def group(layer):
    """Gaussian weights whose units 1 and 3 are noise."""
    weight = gaussian(-3.0)(random.key(0), SHAPES[layer])
    column = spread(1.0, 1e-3).reshape((4, 1) if layer == "dense" else (1, 1, 1, 4))
    return {layer: {"kernel": weight.replace(mean=weight.mean * column)}}, 4.0


def by_unit(array, layer):
    """[4, the rest], the units that decide first."""
    return np.moveaxis(np.asarray(array), 0 if layer == "dense" else -1, 0)


CASES = [
    pytest.param(make, id="-".join(names))
    for names in [(n, s) for n in (*scales_of_four(), "group") for s in SHAPES]
    for make in [
        (lambda s=names[1]: (*group(s), s))
        if names[0] == "group"
        else (lambda n=names[0], s=names[1]: (*noisy(n, s), s))
    ]
]


@pytest.mark.parametrize("make", CASES)
def test_useless_units_leave_whole_and_at_infinity_none(make):
    params, threshold, layer = make()

    @jax.jit
    def all_of_it(params):
        cut = prune_units(threshold)(params)
        node = cut[layer]["kernel"]
        means = [edits.mean_of(one[layer]["kernel"]).mean for one in (cut, params)]
        same = prune_units(jnp.inf)(params)
        again = prune_units(threshold)(cut)
        return cut, again, same, means, node.moments(), node.sample(random.key(1))

    cut, again, same, means, moments, draw = all_of_it(params)
    assert jax.tree.structure(cut) == jax.tree.structure(params)
    for part in moments:
        assert not by_unit(part, layer)[USELESS].any()
        assert by_unit(part, layer)[USEFUL].all()
    mean, expected = (by_unit(part, layer) for part in means)
    np.testing.assert_array_equal(mean[USEFUL], expected[USEFUL])
    assert not by_unit(draw, layer)[USELESS].any()
    jax.tree.map(np.testing.assert_array_equal, same, params)
    # Scales stay as they are, so that they decide as before.
    if isinstance(cut[layer]["kernel"], Scaled):
        jax.tree.map(np.testing.assert_array_equal, again, cut)


def test_a_cut_unit_s_weights_do_not_matter():
    """The output of a net stays when the cut unit's input or weights change."""
    params, threshold = noisy("truncated", "dense")
    net = MLP(widths=(), classes=5, posteriors={"dense1": nodes.structured()})
    kernel = params["dense"]["kernel"]
    other = kernel.weight.mean.at[USELESS].add(100.0)
    changed = kernel.replace(weight=kernel.weight.replace(mean=other))
    x = random.normal(random.key(2), (3, 4))

    @jax.jit
    def output(one, image):
        edited = prune_units(threshold)(
            {"dense1": {"kernel": one, "bias": jnp.ones(5)}}
        )
        return net.apply({"params": edited}, image, rngs={"noise": random.key(3)})

    pairs = ((kernel, x), (changed, x), (kernel, x.at[:, 1].add(9.0)))
    outputs = [output(*pair) for pair in pairs]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    np.testing.assert_array_equal(outputs[0], outputs[2])


def test_signal_to_noise_below_one_is_cut():
    """Of structured pruning: mean < std, as the authors say it."""
    scale = TruncatedLogNormal(
        random.uniform(random.key(0), (50,), minval=-8.0, maxval=1.0),
        random.uniform(random.key(1), (50,), minval=-4.0, maxval=3.0),
    )
    mean, var = jax.jit(lambda scale: scale.moments())(scale)
    node = Scaled(scale, Point(jnp.ones((50, 1))), "in", "batch")
    cut = jax.jit(prune_units())({"dense": {"kernel": node}})
    kept = cut["dense"]["kernel"].weight.mean
    np.testing.assert_array_equal(kept[:, 0] != 0, mean >= jnp.sqrt(var))
    assert 0 < np.count_nonzero(kept) < 50


def test_a_few_weights_in_use_keep_their_unit():
    """Under group ARD, weights onto dead outputs become N(0, lambda^2), lambda^2 the
    mean of mean^2 + var in the unit: here 23 of 500 weights, at one, are in use."""
    live = jnp.arange(500) < 23
    mean = jnp.stack([live, jnp.zeros(500)]).astype(jnp.float32)
    # Of the first unit lambda^2 = (23 + 477 lambda^2) / 500, which is one.
    log_var = jnp.where(mean > 0, -8.0, 0.0)
    cut = prune_units(3.0)({"a": {"kernel": Gaussian(mean, log_var)}})["a"]["kernel"]
    np.testing.assert_array_equal(cut.mean, mean)
    assert np.all(np.isfinite(cut.log_var[0]))
    assert np.all(np.isneginf(cut.log_var[1]))


def test_points_stay_and_dropout_decides_nothing():
    weight = Point(jnp.ones((4, 5)))
    drop = dropout(0.9)(random.key(0), (4, 5))
    params = {"a": {"kernel": weight}, "b": {"kernel": drop}}
    same = prune_units(-100.0)(params)
    jax.tree.map(np.testing.assert_array_equal, same, params)
    inner = dropout(0.5, multiplicative(0.5))(random.key(0), (4, 5))
    cut = prune_units(0.0)({"a": {"kernel": inner}})["a"]["kernel"]
    assert is_noisy(cut)
    assert not np.any(cut.weight.mean)


def two_layers():
    first, threshold = noisy("gaussian", "dense")
    weight = gaussian(-3.0)(random.key(5), (4, 5))
    return {**first, "other": {"kernel": weight}}, threshold


def test_each_layer_has_its_own_threshold():
    params, threshold = two_layers()
    for prune, own in ((prune_units, threshold), (edits.prune, -2.0)):
        thresholds = {"dense": own, "other": jnp.inf}
        cut = jax.jit(prune(thresholds))(params)
        expected = jax.jit(prune(own))(params)["dense"]
        assert np.any(edits.mean_of(expected["kernel"]).mean == 0)
        jax.tree.map(np.testing.assert_array_equal, cut["dense"], expected)
        jax.tree.map(np.testing.assert_array_equal, cut["other"], params["other"])


@pytest.mark.parametrize(
    "layers", [("dense",), ("dense", "other", "third"), ("a", "b")]
)
def test_thresholds_must_name_the_noisy_layers(layers):
    params, _ = two_layers()
    with pytest.raises(
        ValueError,
        match=r"thresholds: given for .* the layers are \['dense', 'other'\]",
    ):
        prune_units(dict.fromkeys(layers, 0.0))(params)


def test_errors():
    with pytest.raises(ValueError, match="choose from"):
        prune_units(0.0, "rows")
    with pytest.raises(TypeError, match="prune_units: no rule for ZeroMean"):
        prune_units()({"a": {"kernel": variance()(random.key(0), (4, 5))}})
