"""The same function by other weights: the hidden units of a net in another order.

    copy = permutations.shuffled(params, model.plan, key)        # the same function
    close = permutations.matched(params, other, model.plan)      # like params

A hidden unit may stand anywhere in its layer if the next layer reads it from there. So
two nets that were trained apart may be alike but for the order of their units. Weight
matching finds the orders, one layer at a time, by which the weights of the second have
the largest inner product with those of the first.

Source: Ainsworth, Hayase and Srinivasa 2023, algorithm 1, with the layers in turn and
not in random order.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import random

from vnets import tree
from vnets.nodes import is_posterior
from vnets.plan import Norm, Plan, every, pairs
from vnets.rng import stream
from vnets.types import Array, Key, Params, choose


def reordered(params: Params, plan: Plan, orders: Mapping[str, np.ndarray]) -> Params:
    """The net with the hidden units of some layers in another order.

    Args:
      params: parameters, of layers without batch normalization.
      plan: of the net.
      orders: by layer, [O]: the old number of each new unit.

    Raises:
      ValueError: a layer whose units are read elsewhere, or are outputs; an order that
        does not name each of its units once; batch normalization; a node whose numbers
        are neither of a weight each nor shared.
    """
    readers, units = _readers(plan), _units(params, plan)
    for name, order in orders.items():
        choose("layer of units with an order", name, readers)
        if not np.array_equal(np.sort(order), np.arange(units[name])):
            raise ValueError(
                f"an order of {name!r} has each number from 0 to {units[name] - 1} "
                f"once, not {np.asarray(order).tolist()}"
            )
    inputs = {readers[name]: order for name, order in orders.items()}

    def visit(place: tree.Place, leaf):
        if place.layer in orders:
            leaf = _taken(place, leaf, np.asarray(orders[place.layer]), -1)
        if place.is_kernel and place.layer in inputs:
            leaf = _taken(place, leaf, np.asarray(inputs[place.layer]), -2)
        return leaf

    return tree.change(visit, params)


def shuffled(params: Params, plan: Plan, key: Key) -> Params:
    """The net with the units of all its hidden layers in a random order."""
    units = _units(params, plan)
    orders = {n: random.permutation(stream(key, n), u) for n, u in units.items()}
    return reordered(params, plan, {n: np.asarray(o) for n, o in orders.items()})


def orders_of_match(params: Params, other: Params, plan: Plan) -> dict[str, np.ndarray]:
    """The orders by which `other` is most like `params`; see `reordered`.

    Each step gives one layer the best order while the others stay, an assignment
    problem, until no layer gains: a local maximum of `similarity`, never below that of
    the orders as they are.

    Args:
      params, other: of nets of one plan, nodes and shapes.
      plan: of both.

    Raises:
      ValueError: as in `reordered`.
    """
    from scipy.optimize import linear_sum_assignment

    readers = _readers(plan)
    orders = {name: np.arange(n) for name, n in _units(params, plan).items()}
    gained = True
    while gained:
        gained = False
        for name, order in orders.items():
            held = reordered(other, plan, orders)
            ours, theirs = (
                _by_unit(net, name, readers[name]) for net in (params, held)
            )
            products = ours @ theirs.T
            _, best = linear_sum_assignment(products, maximize=True)
            gain = products[np.arange(len(best)), best].sum() - products.trace()
            if gain > 1e-9 * np.abs(products).sum():  # above rounding
                orders[name], gained = order[best], True
    return orders


def matched(params: Params, other: Params, plan: Plan) -> Params:
    """The net `other`, its units in the order of those of `params` that they are like;
    see `orders_of_match`."""
    return reordered(other, plan, orders_of_match(params, other, plan))


def similarity(params: Params, other: Params) -> float:
    """The cosine of the angle between all weights of two nets, in [-1, 1]."""
    ours, theirs = (
        np.concatenate([np.ravel(a) for a in jax.tree.leaves(net)]).astype(np.float64)
        for net in (params, other)
    )
    return float(ours @ theirs / math.sqrt((ours @ ours) * (theirs @ theirs)))


def _readers(plan: Plan) -> dict[str, str]:
    """By layer whose units can change places: the layer that reads them."""
    if any(isinstance(step, Norm) for step in every(plan)):
        raise ValueError(
            "units that are normalized have statistics beside their weights: take a "
            "net without batch normalization"
        )
    return {this.name: after.name for this, after, _ in pairs(plan)}


def _units(params: Params, plan: Plan) -> dict[str, int]:
    """By such a layer, how many units it has."""
    return {name: tree.weight(params, name).shape[-1] for name in _readers(plan)}


def _taken(place: tree.Place, leaf, order: np.ndarray, axis: int):
    """A leaf with one axis in another order; a flattened input has several units of
    each map."""
    shape = leaf.shape
    units = len(order)
    places = np.arange(shape[axis] // units) * units
    index = (places[:, None] + order[None]).ravel()

    together = is_posterior(leaf) and leaf.bare.noise == "correlated"

    def of_array(a: Array) -> Array:
        shared = a.ndim == 0 or (a.ndim == len(shape) and a.shape[axis] == 1)
        if together or (not shared and a.shape != shape):
            raise ValueError(
                f"{place.leaf!r}, a {type(leaf).__name__}, has numbers of shape "
                f"{list(a.shape)} for weights of {list(shape)}: these units cannot be "
                "put in another order"
            )
        return a if shared else jnp.take(a, index, axis)

    return jax.tree.map(of_array, leaf)


def _by_unit(params: Params, this: str, after: str) -> np.ndarray:
    """What a layer's units read, and what reads them, [O, ...]."""
    units = tree.weight(params, this).shape[-1]
    parts = []
    for place, leaf in tree.each(params):
        for a in jax.tree.leaves(leaf):
            if a.shape != leaf.shape:
                continue  # shared by all
            a = np.asarray(a, np.float64)
            if place.layer == this:
                parts.append(a.reshape(-1, units).T)
            if place.layer == after and place.is_kernel:
                by_unit = a.reshape(-1, units, a.shape[-1])
                parts.append(by_unit.swapaxes(0, 1).reshape(units, -1))
    return np.concatenate(parts, 1)
