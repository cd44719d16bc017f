"""Laws of units in another order: the same function, and the order that fits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from vnets import edits, nets, nodes, permutations
from vnets.permutations import matched, orders_of_match, shuffled, similarity

LENET = nets.LeNet5(classes=4, widths=(3, 4, 6))
NETS = {
    "mlp": (nets.MLP(widths=(9, 7), classes=4), (4, 4, 1)),
    "lenet": (LENET, (20, 20, 1)),
    "gaussian": (
        nets.MLP(widths=(9, 7), posteriors={"dense2": nodes.gaussian(-2.0)}),
        (4, 4, 1),
    ),
    "shared_alpha": (
        nets.MLP(
            widths=(9, 7), posteriors={"dense2": nodes.multiplicative(per="layer")}
        ),
        (4, 4, 1),
    ),
    "dropout": (
        nets.MLP(widths=(9, 7), posteriors={"dense2": nodes.dropout(0.5)}),
        (4, 4, 1),
    ),
}


def made(name, seed=0):
    model, shape = NETS[name]
    x = np.zeros((5, *shape), np.float32)
    like = jax.eval_shape(model.init, random.key(0), x)["params"]
    drawn = np.random.default_rng(seed)

    def numbers(leaf):
        return jnp.asarray(drawn.normal(size=leaf.shape, scale=0.3), jnp.float32)

    return model, jax.tree.map(numbers, like), drawn.normal(size=x.shape)


def outputs(model, params, x):
    return model.apply({"params": edits.mean_only(params)}, x)


@pytest.mark.parametrize("name", NETS)
def test_units_in_another_order_are_the_same_function(name):
    model, params, x = made(name)
    copy = shuffled(params, model.plan, random.key(1))
    assert similarity(params, copy) < 0.99
    ours, theirs = (outputs(model, one, x) for one in (params, copy))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    variances = [
        jax.tree.map(lambda a: jnp.sort(a.ravel()), one) for one in (params, copy)
    ]
    jax.tree.map(np.testing.assert_array_equal, *variances)


@pytest.mark.parametrize("name", NETS)
def test_matching_a_shuffled_copy_undoes_the_order(name):
    model, params, _ = made(name)
    copy = shuffled(params, model.plan, random.key(1))
    found = matched(params, copy, model.plan)
    jax.tree.map(np.testing.assert_array_equal, found, params)


@pytest.mark.parametrize("name", NETS)
def test_matching_never_makes_nets_less_alike_and_keeps_the_function(name):
    model, params, x = made(name)
    for seed in range(1, 4):
        other = made(name, seed)[1]
        found = matched(params, other, model.plan)
        assert similarity(params, found) >= similarity(params, other) - 1e-6
        ours, theirs = (outputs(model, one, x) for one in (other, found))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_no_single_layer_has_a_better_order_after_matching():
    model, params, _ = made("mlp")
    found = matched(params, made("mlp", 1)[1], model.plan)
    best = similarity(params, found)
    for layer, units in (("dense1", 9), ("dense2", 7)):
        for seed in range(20):
            order = random.permutation(random.key(seed), units)
            moved = permutations.reordered(found, model.plan, {layer: order})
            assert similarity(params, moved) <= best + 1e-6
    assert best > similarity(params, made("mlp", 1)[1])


def test_orders_name_the_old_number_of_each_new_unit():
    model, params, _ = made("mlp")
    order = jnp.asarray([3, 0, 1, 2, 4, 5, 6, 7, 8])
    moved = permutations.reordered(params, model.plan, {"dense1": order})
    np.testing.assert_array_equal(
        moved["dense1"]["bias"], params["dense1"]["bias"][order]
    )
    np.testing.assert_array_equal(
        moved["dense2"]["kernel"].mean[0], params["dense2"]["kernel"].mean[3]
    )
    found = orders_of_match(moved, params, model.plan)
    np.testing.assert_array_equal(found["dense1"], order)


@pytest.mark.parametrize("order", [[0, 0, *range(2, 9)], [0, 1], [*range(8), 9]])
def test_an_order_has_each_unit_once(order):
    model, params, _ = made("mlp")
    with pytest.raises(ValueError, match="each number from 0 to 8 once"):
        permutations.reordered(params, model.plan, {"dense1": jnp.asarray(order)})


def test_units_that_cannot_change_places_are_refused():
    model, params, _ = made("mlp")
    with pytest.raises(ValueError, match=r"dense3.*choose from.*dense1.*dense2"):
        permutations.reordered(params, model.plan, {"dense3": jnp.arange(4)})
    normal = nets.MLP(widths=(9, 7), batch_norm=True)
    with pytest.raises(ValueError, match="normalized"):
        shuffled(params, normal.plan, random.key(0))
    scaled = nets.MLP(
        widths=(9, 7), posteriors={"dense2": nodes.group_normal_jeffreys()}
    )
    noisy = scaled.init(random.key(0), jnp.ones((1, 4, 4, 1)))["params"]
    with pytest.raises(ValueError, match=r"dense2/kernel.*another order"):
        shuffled(noisy, scaled.plan, random.key(0))
    square = nets.MLP(widths=(4, 4), classes=4)
    params = square.init(random.key(0), jnp.ones((1, 4)))["params"]
    eye = jnp.eye(4)
    params["dense1"]["kernel"] = nodes.MatrixNormal(eye, eye, eye, "dense1")
    with pytest.raises(ValueError, match=r"MatrixNormal.*another order"):
        shuffled(params, square.plan, random.key(0))
