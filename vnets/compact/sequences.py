"""Predictions of the steps of `vnets.plan.sequences` with NumPy.

States are [I, T, B], the batch last, as in `predict`: a layer over all positions is one
product with [I, T B]. A gate without weights is the number that its bias makes of it,
and is computed once.
"""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

from vnets.compact import operations
from vnets.compact.graph import Weights
from vnets.plan import (
    Activation,
    Dense,
    Flatten,
    LayerNorm,
    Plan,
    Residual,
    Shape,
    Standardize,
    placed,
    shapes,
)
from vnets.plan import sequences as steps

AT_ONCE_BYTES = 2**26  # of the scores of one head
EXAMPLES = 64  # at once, at most, and
NUMBERS = 2**21  # of one step's outputs for them
Run = Callable[[np.ndarray, np.ndarray, object], np.ndarray]


class Reader:
    """A function from tokens to outputs, [B, T] whole -> [K, B] float32.

    Args:
      plan: that begins with an embedding.
      shape: [T].
      linear: name -> the layer by its nonzero weights.
      product: name and layer -> the product of its weights with what is live of inputs.

    Attributes:
      at_once: how many sequences it is best given in one go.
    """

    def __init__(self, plan: Plan, shape: Shape, linear: Callable, product: Callable):
        self._linear, self._product = linear, product
        first = steps.embedding(plan)
        assert first is not None
        self._embedding, self._table = first, _Rows(linear(first.name))
        self._steps = self._chain(plan[1:], first.after(shape))
        largest = max(math.prod(after) for _, _, after in placed(plan, shape))
        self.at_once = min(EXAMPLES, max(1, NUMBERS // largest))

    def __call__(self, tokens: np.ndarray, noise) -> np.ndarray:
        """Outputs of some tokens.

        Raises:
          ValueError: a token that the net does not know.
        """
        size = self._embedding.vocabulary
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < size:
            raise ValueError(
                f"tokens are {tokens.min()} to {tokens.max()}, the net knows 0 to "
                f"{size - 1}"
            )
        tokens = tokens.T
        mask = tokens != self._embedding.padding  # None is no token
        rows = self._table(tokens.ravel())
        h = rows.reshape(len(rows), *tokens.shape)
        return _in_turn(self._steps, h, np.broadcast_to(mask, tokens.shape), noise)

    def _chain(self, plan: Plan, shape: Shape) -> list[Run]:
        held = shapes(plan, shape)
        return [self._step(*one) for one in zip(plan, held, strict=False)]

    def _step(self, step, shape: Shape) -> Run:
        match step:
            case Dense():
                return functools.partial(_over_positions, self._layer(step.name))
            case Residual():
                body, shortcut = (
                    self._chain(side, shape) for side in (step.body, step.shortcut)
                )
                return lambda h, mask, noise: (
                    _in_turn(body, h, mask, noise) + _in_turn(shortcut, h, mask, noise)
                )
            case Activation():
                return lambda h, mask, noise: operations.activated(step.kind, h)
            case Standardize():
                return lambda h, mask, noise: operations.standardize(step, h)
            case Flatten():
                return lambda h, mask, noise: _flatten(h)
            case steps.Positions():
                linear = self._linear(step.name)
                rows = _Rows(linear)(np.arange(shape[0]))
                return lambda h, mask, noise: h + rows[..., None]
            case steps.LSTM() | steps.GRU():
                kind = _LSTM if isinstance(step, steps.LSTM) else _GRU
                return kind(step.name, self._linear(step.name), self._product)
            case LayerNorm():
                linear = self._linear(step.name)
                scale = _Rows(linear)(np.zeros(1, np.int64))[:, 0] - linear.bias
                affine = step.epsilon, scale, linear.bias
                return lambda h, mask, noise: operations.layer_norm(*affine, h)
            case steps.Attention():
                return _Attention(step, [self._layer(one.name) for one in step.layers])
            case steps.MeanPositions():
                return lambda h, mask, noise: _mean(h, mask)
            case steps.Last():
                return lambda h, mask, noise: h[:, -1]
        raise ValueError(f"{step} is no step of a net that reads tokens")

    def _layer(self, name: str):
        return self._product(name, self._linear(name))


def _in_turn(runs: Sequence[Run], h: np.ndarray, mask: np.ndarray, noise) -> np.ndarray:
    for run in runs:
        h = run(h, mask, noise)
    return h


def _over_positions(product, h: np.ndarray, mask, noise) -> np.ndarray:
    """A dense layer on states or on vectors."""
    live = h if product.live.size == len(h) else h[product.live]
    y = product(live.reshape(len(live), math.prod(h.shape[1:])), noise)
    return y.reshape(len(y), *h.shape[1:])


def _flatten(h: np.ndarray) -> np.ndarray:
    """[I, T, B] -> [T I, B], as units are counted."""
    if h.ndim == 2:
        return h
    return h.swapaxes(0, 1).reshape(math.prod(h.shape[:2]), h.shape[2])


def _mean(h: np.ndarray, mask: np.ndarray) -> np.ndarray:
    counts = mask | ~mask.any(axis=0)
    total = np.where(counts, h, np.float32(0)).sum(axis=1)
    return total / counts.sum(axis=0).astype(np.float32)


class _Rows:
    """Rows of a kernel [V, E], of which those without a weight are not there."""

    def __init__(self, linear: Weights):
        into, self._columns = np.divmod(linear.positions, linear.shape[-1])
        self._values, self._bias = linear.values, linear.bias
        self._live, self._starts, self._counts = np.unique(
            into, return_index=True, return_counts=True
        )

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        """The rows of [N] tokens, [E, N]."""
        found = np.repeat(self._bias[:, None], tokens.size, axis=1)
        if not self._live.size:
            return found
        at = np.minimum(np.searchsorted(self._live, tokens), self._live.size - 1)
        counts = np.where(self._live[at] == tokens, self._counts[at], 0)
        place = np.repeat(np.arange(tokens.size), counts)
        before = np.repeat(np.cumsum(counts) - counts, counts)
        which = np.repeat(self._starts[at], counts) + np.arange(place.size) - before
        found[self._columns[which], place] += self._values[which]
        return found


class _Recurrent:
    """What LSTM and GRU share: the gates that vary, and those that are constant."""

    gates = 0
    tanh = 0  # the gate that is no sigmoid

    def __init__(self, name: str, linear: Weights, product: Callable):
        width = linear.shape[-1]
        self._units = width // self.gates
        inputs = linear.shape[0] - self._units
        into, out = np.divmod(linear.positions, width)
        # Those that vary: first the sigmoids, then the others.
        live = np.unique(out)
        others = live // self._units == self.tanh
        self._live = np.concatenate([live[~others], live[others]])
        self._sigmoids = int((~others).sum())
        rank = np.zeros(width, np.int64)
        rank[self._live] = np.arange(live.size)
        bias = linear.bias[self._live]

        def part(name: str, rows: np.ndarray, first: int, size: int, bias: np.ndarray):
            positions = (into[rows] - first) * live.size + rank[out[rows]]
            order = np.argsort(positions)
            shape = (size, live.size)
            one = Weights(shape, positions[order], linear.values[rows][order], bias)
            return product(name, one)

        state = into >= inputs
        self._read = part(f"{name}/inputs", ~state, 0, inputs, bias)
        self._held = part(f"{name}/state", state, inputs, self._units, 0 * bias)
        kinds = np.arange(width) // self._units == self.tanh
        self._constant = np.where(
            kinds, np.tanh(linear.bias), operations.activated("sigmoid", linear.bias)
        )

    def start(self, zeros: np.ndarray) -> tuple[np.ndarray, ...]:
        """The state before the first position; its first part is what is handed on."""
        # Abstract: LSTM and GRU say it.
        raise NotImplementedError(f"{type(self).__name__} has no start")

    def step(self, gates, read, held, state) -> tuple[np.ndarray, ...]:
        """The next state, by the gates' shares of input and state; fills `gates`."""
        # Abstract, as `start` is.
        raise NotImplementedError(f"{type(self).__name__} has no step")

    def __call__(self, h: np.ndarray, mask: np.ndarray, noise) -> np.ndarray:
        read = _over_positions(self._read, h, mask, None)
        _, length, batch = read.shape
        gates = np.repeat(self._constant[:, None], batch, axis=1)
        state = self.start(np.zeros((self._units, batch), np.float32))
        found = np.empty((self._units, length, batch), np.float32)
        whole, live = np.all(mask, axis=1).tolist(), self._held.live
        for t in range(length):
            held = self._held(state[0][live])
            new = self.step(gates, read[:, t], held, state)
            if not whole[t]:
                new = tuple(
                    np.where(mask[t], a, b) for a, b in zip(new, state, strict=True)
                )
            state = new
            found[:, t] = state[0]
        return found


class _LSTM(_Recurrent):
    gates = 4
    tanh = 2

    def start(self, zeros: np.ndarray):
        return zeros, zeros

    def step(self, gates, read, held, state):
        pre, many = read + held, self._sigmoids
        gates[self._live[:many]] = operations.activated("sigmoid", pre[:many])
        gates[self._live[many:]] = np.tanh(pre[many:])
        i, f, g, o = gates.reshape(4, self._units, gates.shape[1])
        c = f * state[1] + i * g
        return o * np.tanh(c), c


class _GRU(_Recurrent):
    gates = 3
    tanh = 2

    def start(self, zeros: np.ndarray):
        return (zeros,)

    def step(self, gates, read, held, state):
        many = self._sigmoids
        gates[self._live[:many]] = operations.activated(
            "sigmoid", read[:many] + held[:many]
        )
        r, z, n = gates.reshape(3, self._units, gates.shape[1])
        own = self._live[many:] - 2 * self._units
        gates[self._live[many:]] = np.tanh(read[many:] + r[own] * held[many:])
        return ((1 - z) * n + z * state[0],)


class _Attention:
    def __init__(self, step: steps.Attention, products: Sequence):
        self._step, (*self._ins, self._out) = step, products

    def __call__(self, h: np.ndarray, mask: np.ndarray, noise) -> np.ndarray:
        ends, others = (
            np.cumsum(units)[:-1] for units in (self._step.keys, self._step.values)
        )
        queries, keys, values = (
            # of each head, [B, T, units]
            np.split(_over_positions(one, h, mask, noise).T, of, axis=-1)
            for one, of in zip(self._ins, (ends, ends, others), strict=True)
        )
        heads = zip(queries, keys, values, strict=True)
        mixed = [self._head(q, k, v, mask.T[:, None]) for q, k, v in heads]
        y = np.ascontiguousarray(np.concatenate(mixed, axis=-1).T)
        return _over_positions(self._out, y, mask, noise)

    def _head(self, q, k, v, mask: np.ndarray) -> np.ndarray:
        """What each query reads of the values, [B, T, units]; some queries at once."""
        batch, length, _ = q.shape
        rows = max(1, AT_ONCE_BYTES // (4 * length * max(batch, 1)))
        found = np.empty((batch, length, v.shape[-1]), np.float32)
        lowest = np.finfo(np.float32).min
        k, v = k.swapaxes(1, 2), np.ascontiguousarray(v)
        for at in range(0, length, rows):
            scores = q[:, at : at + rows] @ k / np.float32(math.sqrt(self._step.width))
            scores = np.where(mask, scores, lowest)
            scores -= scores.max(axis=-1, keepdims=True)
            np.exp(scores, out=scores)
            scores /= scores.sum(axis=-1, keepdims=True)
            found[:, at : at + rows] = scores @ v
        return found
