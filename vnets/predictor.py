"""The one way to predict: members x draws of noise, stacked along one axis.

    Predictor(Member(model, variables), samples=20)(x, key)    -> log p, [20, B, K]
    Predictor([Member(...), Member(...)]).log_mean(x, key)     -> log mean p, [B, K]

A variance net is a member with many draws; a deep ensemble is members with one draw
each; a chain of samples, the points of a curve and seeds trained side by side are a
`Stack`; draws of another posterior of the weights are an edit done once a draw.

Draws are made under `vmap` over keys, so whatever comes before the first noisy layer
is computed once for all of them; many of them chunk by chunk, so that they need no more
memory than a few. It is a pytree, so that a compiled function takes one as an argument:
what differs in its arrays alone is compiled once.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from vnets.edits import Edit
from vnets.layers import TEST, Mode, checked
from vnets.pytrees import pytree, static
from vnets.rng import stream
from vnets.targets import rows
from vnets.types import Array, Key, in_float32

AT_ONCE = 10_000  # inputs of a net: 20 draws of 500 images


def unedited(params, key=None):
    """The edit that changes nothing."""
    del key
    return params


def as_is(x: Any) -> Any:
    """The `link` of outputs, and the `prepare` of inputs, that stay as they are."""
    return x


def at_least_one(name: str, value: int | None) -> None:
    """Refuses a number below 1; None is none."""
    if value is not None and value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")


class _Net:
    """Checks the model of a net; arrays are the caller's."""

    model: Any

    def __post_init__(self):
        object.__setattr__(self, "model", checked(self.model))


@pytree
class Member(_Net):
    """A net and what it has learned.

    Attributes:
      model: has `apply(variables, x, mode=..., rngs=..., mutable=...)`, as what
        `layers.stochastic` and `layers.call` make.
      variables: "params", not yet edited, and the model's other collections.
    """

    model: Any = static()
    variables: Any


@pytree
class Stack(_Net):
    """M nets of one model, predicted in turn: a chain, a curve, seeds side by side.

    Attributes:
      model: as in `Member`.
      variables: as in `Member`, all arrays with a first axis of M.
    """

    model: Any = static()
    variables: Any

    def __len__(self) -> int:
        return rows(self.variables)


@pytree
class Predictor:
    """Nets as they predict.

    Attributes:
      nets: a `Member`, which draws by the key itself; or a list of members and stacks,
        an ensemble, of which member m draws by a key of its own, whoever else is in it.
      edit: of the parameters, once for all draws.
      draw: a further edit, once for each draw (`edits.draw`: the same weights for all
        inputs; a sample of another posterior).
      samples: S draws of each member; one without noise repeats itself.
      mode: estimator, and the statistics that batch normalization uses.
      mirrored: S draws see the images as they are and S others see them mirrored left
        to right.
      at_once: draws of a member in memory at once, at most; None for as many as make
        `AT_ONCE` inputs of the net. It changes the memory and the time that a
        prediction takes, and its numbers by rounding alone.
      link: from a net's outputs to what a call gives: log probabilities of classes, or
        `as_is`. A likelihood (`evaluate.score`) reads the outputs themselves.

    Raises:
      ValueError: no net, or samples or at_once below 1.
    """

    nets: Any
    edit: Edit = static(default=unedited)
    draw: Edit | None = static(default=None)
    samples: int = static(default=1)
    mode: Mode = static(default=TEST)
    mirrored: bool = static(default=False)
    at_once: int | None = static(default=None)
    link: Callable = static(default=jax.nn.log_softmax)

    def __post_init__(self):
        if isinstance(self.nets, Stack | list):
            several = [self.nets] if isinstance(self.nets, Stack) else self.nets
            object.__setattr__(self, "nets", tuple(several))
        if isinstance(self.nets, tuple) and not self.nets:
            raise ValueError("a predictor needs at least one net")
        for name in ("samples", "at_once"):
            at_least_one(name, getattr(self, name))

    def __len__(self) -> int:
        """All draws: those of all members, and of both sides."""
        nets = self.nets if isinstance(self.nets, tuple) else [self.nets]
        members = sum(len(net) if isinstance(net, Stack) else 1 for net in nets)
        return members * self.samples * (2 if self.mirrored else 1)

    def edited(self, key: Key) -> "Predictor":
        """The same with its edit done, for many batches."""

        def change(variables, own: Key):
            params = self.edit(variables["params"], stream(own, "edit"))
            return {**variables, "params": params}

        if self.edit is unedited:
            return self
        nets: Any = tuple(
            dataclasses.replace(net, variables=_of_members(change, net, keys))
            for net, keys in self._keyed(key)
        )
        nets = nets if isinstance(self.nets, tuple) else nets[0]
        return dataclasses.replace(self, nets=nets, edit=unedited)

    def __call__(self, x: Any, key: Key) -> Any:
        """What each draw predicts, [S, B, ...]: the first member's draws first.

        Args:
          x: inputs, an array [B, ...] or a tree of several.
          key: of the edit and of the draws.
        """

        def draws(model, variables, view, own: Key):
            chunk, numbers = self._chunks(model, variables, view, own)
            if len(numbers) == 1:
                return chunk(numbers[0])
            # What is drawn beyond S fills the last chunk, and is left out.
            _, made = lax.scan(lambda _, row: (None, chunk(row)), None, numbers)
            return jax.tree.map(lambda a: _joined(a)[: self.samples], made)

        parts = self.edited(key)._of_each(draws, x, key)
        return jax.tree.map(
            lambda *each: jnp.concatenate(list(map(_joined, each))), *parts
        )

    def log_mean(self, x: Any, key: Key) -> Array:
        """Log of the mean over all draws of what is predicted as a log, [B, ...]."""
        logs, _ = self.means(x, key, lambda outputs: (outputs, ()))
        return logs

    def means(self, x: Any, key: Key, of_draw: Callable) -> tuple[Any, Any]:
        """Means over all draws, of which a chunk at a time is in memory.

        Args:
          x: inputs, as in a call.
          key: of the edit and of the draws.
          of_draw: outputs [B, ...] of a draw -> two trees, logs and values.

        Returns:
          The log of the mean of the logs' exponentials, and the mean of the values.
        """

        def totals(model, variables, view, own: Key):
            chunk, numbers = self._chunks(model, variables, view, own, of_draw)

            def add(carry, row: Array):
                logs, values = chunk(row)
                inside = row < self.samples
                logs = jax.tree.map(lambda a: _kept(a, inside, -jnp.inf), logs)
                values = jax.tree.map(lambda a: _kept(a, inside, 0), values)
                return _added(carry, _sums(logs, values)), None

            if len(numbers) == 1:
                return _sums(*chunk(numbers[0]))
            logs, values = jax.eval_shape(chunk, numbers[0])
            zero = jax.tree.map(lambda a: jnp.zeros(a.shape[1:], a.dtype), values)
            none = jax.tree.map(
                lambda a: jnp.full(a.shape[1:], -jnp.inf, a.dtype), logs
            )
            return lax.scan(add, (none, zero), numbers)[0]

        parts = self.edited(key)._of_each(totals, x, key)
        logs, values = functools.reduce(_added, (_sums(*part) for part in parts))
        count = float(len(self))
        return (
            jax.tree.map(lambda a: a - jnp.log(count), logs),
            jax.tree.map(lambda a: a / count, values),
        )

    def _of_each(self, run: Callable, x: Any, key: Key) -> list:
        """run(model, variables, view, key) of each net, and of each view of x, with a
        first axis of members."""
        views: list[tuple[Any, tuple[str, ...]]] = [(x, ())]
        if self.mirrored:
            if jnp.ndim(x) != 4:
                shape = list(jnp.shape(x))
                raise ValueError(f"images [B, H, W, C] are mirrored, not {shape}")
            views.append((x[:, :, ::-1], ("mirrored",)))
        found = []
        for net, keys in self._keyed(key):
            for view, path in views:

                def one(variables, own, net=net, view=view, path=path):
                    return run(net.model, variables, view, stream(own, *path))

                if isinstance(net, Stack):
                    found.append(_of_members(one, net, keys))
                else:
                    made = one(net.variables, keys)
                    found.append(jax.tree.map(lambda a: a[None], made))
        return found

    def _keyed(self, key: Key) -> list[tuple[Any, Key]]:
        """Each net and its key, or a stack and the keys of its members."""
        if not isinstance(self.nets, tuple):
            return [(self.nets, key)]
        found, member = [], 0
        for net in self.nets:
            if isinstance(net, Stack):
                numbers = member + jnp.arange(len(net), dtype=jnp.int32)
                own = jax.vmap(lambda number: stream(key, "member", number))(numbers)
                member += len(net)
            else:
                own = stream(key, "member", member)
                member += 1
            found.append((net, own))
        return found

    def _chunks(self, model, variables, x, key: Key, of_draw: Callable = as_is):
        """What predicts for some numbers of draws, [C] -> [C, ...], and their rows
        [n, C].

        Rows are as even as they can be; the last may have numbers from S on.
        """
        count = rows(x)
        # Models that flatten by reshape(len(x), -1) cannot take an empty batch.
        inputs = x
        if not count:
            inputs = jax.tree.map(lambda a: jnp.zeros((1, *a.shape[1:]), a.dtype), x)

        def one(sample: Array):
            own = variables
            if self.draw is not None:
                weights = self.draw(variables["params"], stream(key, "draw", sample))
                own = {**variables, "params": weights}
            outputs, _ = model.apply(
                own,
                inputs,
                mode=self.mode,
                rngs={"noise": stream(key, "sample", sample)},
                mutable=[name for name in variables if name != "params"],
            )
            outputs = self.link(jax.tree.map(in_float32, outputs))
            return of_draw(outputs if count else jax.tree.map(lambda a: a[:0], outputs))

        at_once = self.at_once or max(1, AT_ONCE // max(1, count))
        steps = -(-self.samples // at_once)
        size = -(-self.samples // steps)
        numbers = jnp.arange(steps * size, dtype=jnp.int32).reshape(steps, size)
        if size == 1:
            return lambda row: jax.tree.map(lambda a: a[None], one(row[0])), numbers
        return jax.vmap(one), numbers


def _of_members(function: Callable, net, keys):
    """function(variables, key) of a net; of a stack in turn, with a first axis of M."""
    if not isinstance(net, Stack):
        return function(net.variables, keys)
    return lax.map(lambda each: function(*each), (net.variables, keys))


def _joined(a: Array) -> Array:
    """The first two axes as one."""
    return a.reshape(a.shape[0] * a.shape[1], *a.shape[2:])


def _kept(a: Array, inside: Array, fill: float) -> Array:
    """Draws [C, ...], and `fill` in the place of those that are not inside [C]."""
    return jnp.where(inside.reshape(-1, *(1,) * (a.ndim - 1)), a, fill)


def _sums(logs, values):
    """Over the first axis: log of the sum of exponentials, and the sum."""
    return (
        jax.tree.map(lambda a: a[0] if len(a) == 1 else jax.nn.logsumexp(a, 0), logs),
        jax.tree.map(lambda a: jnp.sum(a, 0), values),
    )


def _added(one, other):
    return jax.tree.map(jnp.logaddexp, one[0], other[0]), jax.tree.map(
        jnp.add, one[1], other[1]
    )
