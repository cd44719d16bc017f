"""Curves of nets: from one net's weights to another's, at a low loss all the way.

    curve = curves.between(one, other, "bezier")        # trees of parameters
    task = train.Task(lambda key: (curve.control, {}), curve.along(loss), ...)
    [result] = train.fit(task, epochs=20, seeds=[0])
    found = curve.replace(control=result.state.params)
    Predictor(Member(model, {"params": found}), draw=curves.draw, samples=20)

The ends stay; what is trained is one control point, at E L(w(t)) with t uniform in
[0, 1], a draw of t an update. A curve is a posterior over nets, too: `draw` is a net
somewhere on it.

    line        (1 - t) a + t b
    polychain   from a to c and on to b, each in half of the time
    bezier      (1 - t)^2 a + 2 t (1 - t) c + t^2 b

Source: Garipov et al. 2018, with one bend and the loss that does not weigh by length.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import random

from vnets.pytrees import pytree, static
from vnets.rng import stream
from vnets.types import Array, Key, Params, choose


def _line(t):
    return 1 - t, None, t


def _polychain(t):
    return jnp.maximum(1 - 2 * t, 0), 1 - abs(1 - 2 * t), jnp.maximum(2 * t - 1, 0)


def _bezier(t):
    return (1 - t) ** 2, 2 * t * (1 - t), t**2


# Of t: the shares of the start, of the control point and of the end.
KINDS = {"line": _line, "polychain": _polychain, "bezier": _bezier}


@pytree
class Curve:
    """A net for each t in [0, 1]; `between` makes and checks one.

    Attributes:
      start, end: trees of parameters, the nets at 0 and at 1.
      control: a tree like them, what is trained; None of a line.
      kind: a name in `KINDS`.
    """

    start: Params
    control: Params
    end: Params
    kind: str = static()

    def at(self, t: float | Array) -> Params:
        """The parameters at t in [0, 1], a scalar.

        Of nodes each number is a share of theirs, be it a mean or a log variance.
        """
        shares = KINDS[self.kind](jnp.asarray(t, jnp.float32))
        points = (self.start, self.control, self.end)
        used = [(s, p) for s, p in zip(shares, points, strict=True) if s is not None]

        def mixed(*leaves: Array) -> Array:
            parts = zip(used, leaves, strict=True)
            each = (share.astype(leaf.dtype) * leaf for (share, _), leaf in parts)
            return functools.reduce(jnp.add, each)

        return jax.tree.map(mixed, *(point for _, point in used))

    def along(self, loss: Callable) -> Callable:
        """A loss of the control point, as `train.fit` takes it: that of a net on the
        curve, at a t of each update.

        Args:
          loss: (params, state, batch, key) -> (loss, (state, metrics)). A penalty on
            weights belongs in it, and not in an optimizer that lets weights decay:
            that one holds the control point, and not the nets.

        Raises:
          ValueError: a line, on which there is nothing to train.
        """
        if self.control is None:
            raise ValueError("a line has no control point to train; take a polychain")

        @functools.wraps(loss)  # with its `logits`
        def of_control(control: Params, state, batch, key: Key):
            curve = dataclasses.replace(self, control=control)
            params = draw(curve, stream(key, "curve"))
            return loss(params, state, batch, key)

        return of_control


def between(start: Params, end: Params, kind: str = "polychain") -> Curve:
    """The curve of a kind from one net to another, its control point in the middle.

    Args:
      start, end: parameters of one structure and shape, without what batch
        normalization has seen, which is of no net between.
      kind: "line", "polychain" or "bezier".

    Raises:
      ValueError: another kind, or nets that differ in their layers, nodes or shapes.
    """
    choose("kind of curve", kind, KINDS)
    ours, theirs = (jax.tree.map(jnp.shape, tree) for tree in (start, end))
    if jax.tree.structure(start) != jax.tree.structure(end) or ours != theirs:
        raise ValueError("a curve joins nets of the same layers, nodes and shapes")
    middle: Any = None
    if kind != "line":
        middle = Curve(start, None, end, "line").at(0.5)
    return Curve(start, middle, end, kind)


def draw(curve: Curve, key: Key) -> Params:
    """The parameters at a t that is uniform in [0, 1]: the `draw` of a `Predictor`
    whose member has the curve for its "params"."""
    return curve.at(random.uniform(key))
