"""A curve of nets from one to another, whose one control point is trained.

    E L(w(t)) + weight decay / 2 |w(t)|^2,  t uniform in [0, 1]

(`vnets.curves`). The ends are nets of another run, `nets.ends`: two seeds, or with
`connect.end` "shuffled" one and a copy of it whose hidden units have another order, the
same function. They are a collection beside the control point, since each seed has ends
of its own: the net that such a run leaves is the control point, with its ends.

Columns are those of `classify`, of the net in the middle of the curve.
"""

import dataclasses
from collections.abc import Callable
from functools import wraps
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import random

from experiments import spec as parts
from experiments.core import Net
from experiments.kinds import classify
from vnets import curves, permutations, tree
from vnets.edits import mean_of
from vnets.loss import ModelState, with_penalty
from vnets.rng import stream
from vnets.types import Array, Key, Params

ENDS = "ends"  # the collection
MEMBERS = {"other": 2, "shuffled": 1}  # by `connect.end`
FREE = ("particles", "rate_gradient")
OWN = ("kind", "end", "weight_decay")


def fields(config) -> tuple[str, ...]:
    """What this kind reads of a config."""
    known = set(classify.fields(config)) - set(FREE)
    return (*known, "nets.ends", *(f"connect.{name}" for name in OWN))


@dataclasses.dataclass(frozen=True, eq=False)
class Connect(classify.Classify):
    """A curve, as a config describes it: its parameters are the control point."""

    begun_by: ClassVar[str] = ENDS

    def loss(self, **options) -> Callable:
        """The bound of a net on the curve, and the decay of its weights."""
        decay, n = self.config.connect.weight_decay, self.source.n
        base = with_penalty(super().loss(**options), half_square, n, decay * n)

        @wraps(base)
        def loss(params, state: ModelState, batch, key):
            along = self.curve(params, state.collections).along(base)
            ends = {ENDS: state.collections[ENDS]}
            own = {k: v for k, v in state.collections.items() if k != ENDS}
            state = state.replace(collections=own)
            value, (new, metrics) = along(params, state, batch, key)
            held = {**new.collections, **ends}
            return value, (new.replace(collections=held), metrics)

        return loss

    def curve(self, params: Params, collections: dict) -> curves.Curve:
        """The curve of a control point."""
        ends = collections[ENDS]
        return curves.Curve(
            ends["start"], params, ends["end"], self.config.connect.kind
        )

    def begin(self, nets: list[Net], key: Key) -> tuple[Params, dict]:
        """See `Kind`; the middle between the ends, and the ends."""
        start, *others = (net.params for net in nets)
        if others:
            [end] = others
        else:
            plan = self.model.plan
            end = permutations.shuffled(start, plan, stream(key, "units"))
        curve = curves.between(start, end, self.config.connect.kind)
        return curve.control, {ENDS: {"start": start, "end": end}}

    def columns(self, group: str, names, split=None):
        """See `Kind`; of the net at t = 1/2."""
        run = super().columns(group, names, split)

        def columns(params, collections, key):
            middle = self.curve(params, collections).at(0.5)
            own = {k: v for k, v in collections.items() if k != ENDS}
            return run(middle, own, key)

        return columns


def half_square(params: Params) -> Array:
    """|w|^2 / 2 of the means of all weights, as an optimizer's weight decay counts."""
    squares = (
        jnp.sum(jnp.square(mean_of(node).mean)) for _, node in tree.weights(params)
    )
    return sum(squares, start=jnp.zeros((), jnp.float32)) / 2


def build(config) -> Connect:
    """The curve that a config describes; see `configs/mode_connectivity.py`.

    Raises:
      ConfigError: a value that does not fit; DataError: data that are not there.
    """
    spec = config.connect
    kinds = [name for name in curves.KINDS if name != "line"]
    parts.pick("connect.kind", spec.kind, kinds)
    members = MEMBERS[parts.pick("connect.end", spec.end, tuple(MEMBERS))]
    ends = parts.pick("nets", ENDS, dict(config.get("nets", {})))
    given = ends.get("members", 1)
    if given != members:
        raise parts.ConfigError(
            f"config.nets.ends.members must be {members}, not {given}: the end of the "
            f"curve is {spec.end!r}"
        )
    if config.optimizer.get("weight_decay", 0.0):
        raise parts.ConfigError(
            "config.optimizer.weight_decay would hold the control point: give "
            "connect.weight_decay, which holds the nets on the curve"
        )
    kind = classify.of_data(Connect, config)
    if jax.eval_shape(kind.init, random.key(0))[1]:
        raise parts.ConfigError(
            "config.model: statistics of batch normalization are those of no net "
            "between two others; take a net without"
        )
    return dataclasses.replace(kind, init=_with_ends(kind.init))


def _with_ends(plain: Callable) -> Callable:
    """The start with a place for the ends."""

    def init(key: Key) -> tuple[Params, dict]:
        params, _ = plain(key)
        return params, {ENDS: {"start": params, "end": params}}

    return init
