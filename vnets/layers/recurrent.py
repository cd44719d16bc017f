"""Layers for sequences: an embedding, LSTM and GRU, one draw of the weights a call.

A recurrent net applies its weights at every step. Its noise must be one draw for all of
them (Gal and Ghahramani 2016; Lobacheva, Chirkova and Vetrov 2017): a weight that
changed from step to step would be noise on the state, not a weight. So these layers
draw their weights before the loop, one draw for a batch whatever `Mode.estimator` says,
and noise on units (`Scaled`) one draw for each sequence, which its steps share.

LSTM and GRU have one kernel [I + H, G H] for inputs and state: G is 4 (gates i, f, g,
o) or 3 (r, z, n). Its inputs' rows multiply all steps at once, outside the loop. Noise
on its input units is on inputs and state as the kernel reads them; noise on its output
units is on gates, before the bias. `Scaled` nodes within one another have both. A scale
of the hidden units, a vector, multiplies the state itself: what the next step reads and
what the layer hands on.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax, random

from vnets import vectors
from vnets.layers.mode import TEST, Mode
from vnets.layers.modules import kernel, where
from vnets.nodes import Factory, Posterior, Scaled, is_noisy, point
from vnets.types import Array, Key

CARRY = "carry", "state"  # a collection, and what it holds


def normal_rows(key: Key, shape: tuple[int, ...]) -> Array:
    """N(0, 0.1^2), a usual start of embeddings that nobody trained before."""
    return 0.1 * random.normal(key, shape, jnp.float32)


def outside(tokens: Array, vocabulary: int) -> Array:
    """Tokens with those below 0 beyond the vocabulary, where a row is NaN.

    As an index -1 would be the last row.
    """
    return jnp.where(tokens < 0, vocabulary, tokens)


class Embed(nn.Module):
    """A row of the kernel for each token, [B, T] int -> [B, T, features].

    A token has the same draw wherever it stands in the batch; noise on units has one a
    sequence, or one a batch.

    Attributes:
      vocabulary: V, the number of tokens.
      features: E.
      posterior: factory of the kernel [V, E]. Noise on its input units is on words, on
        its output units on what the layer gives.

    Raises:
      ValueError: tokens that are no integers.
    """

    vocabulary: int
    features: int
    posterior: Factory = point(normal_rows)

    @nn.compact
    def __call__(self, tokens: Array, mode: Mode = TEST) -> Array:
        if not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise ValueError(f"{where(self)} takes integers, not {tokens.dtype}")
        q = kernel(self, self.posterior, (self.vocabulary, self.features))
        key = vectors.noise_key(self) if is_noisy(q) else None
        weight, on_words, on_features = drawn(q, key, len(tokens))
        tokens = outside(tokens, self.vocabulary)
        rows = jnp.take(weight, tokens, axis=0, mode="fill", fill_value=jnp.nan)
        if on_words is not None:
            each = jnp.broadcast_to(on_words, (len(tokens), self.vocabulary))
            own = jnp.take_along_axis(each, tokens, 1, mode="fill", fill_value=jnp.nan)
            rows = rows * own[..., None]
        if on_features is not None:
            rows = rows * on_features[:, None]
        return rows.astype(mode.precision)


class _Recurrent(nn.Module):
    """A recurrent layer, [B, T, I] -> [B, T, features].

    Attributes:
      features: H.
      posterior: factory of the kernel [I + H, G H].
      bias_init: of the bias, [G H].
      scale_posterior: factory of a scale of the hidden units [H], which starts at 1,
        with one draw a sequence; without one there is no scale.
      reverse: reads the sequence from its end.
      redraw: an ablation: the state's kernel is drawn again at each step.
      carried: the state goes on from batch to batch, in the collection "carry": in
        training, where it is mutable. Without that collection it starts at zero.

    Raises:
      ValueError: an input that is not [B, T, I], or a mask that is not [B, T].
    """

    features: int
    posterior: Factory = point()
    bias_init: Callable = nn.initializers.zeros_init()
    scale_posterior: Factory | None = None
    reverse: bool = False
    redraw: bool = False
    carried: bool = False

    gates = 0

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None, mode: Mode = TEST) -> Array:
        """Runs the layer.

        Args:
          x: [B, T, I].
          mask: [B, T], False at steps that leave the state as it is: padding, in front
            of a sequence or behind it. The output there is the state.
          mode: how the net is run.
        """
        if x.ndim != 3:
            raise ValueError(f"{where(self)} takes [B, T, I], not {list(x.shape)}")
        if mask is not None and mask.shape != x.shape[:2]:
            raise ValueError(
                f"{where(self)}: the mask is {list(mask.shape)}, the input "
                f"{list(x.shape[:2])}"
            )
        inputs, hidden = x.shape[-1], self.features
        width = self.gates * hidden
        q = kernel(self, self.posterior, (inputs + hidden, width))
        bias = self.param("bias", self.bias_init, (width,), jnp.float32)[None]
        key = vectors.noise_key(self) if is_noisy(q) else None
        weight, ins, outs = drawn(q, key, x.shape[0])
        x = x.astype(mode.precision)
        weight = weight.astype(mode.precision)
        if ins is not None:
            x = x * ins[:, None, :inputs].astype(x.dtype)
        on_gates = jnp.ones((1, width), jnp.float32) if outs is None else outs
        on_state = self._scale(x.shape[0])
        read = (x @ weight[:inputs]).astype(jnp.float32)  # all steps at once
        keep = jnp.ones(x.shape[:2], jnp.bool_) if mask is None else mask
        step = functools.partial(self.step, on_state=on_state, on_gates=on_gates)

        def product(held, h):
            h = h if ins is None else h * ins[:, inputs:]
            return (h.astype(held.dtype) @ held).astype(jnp.float32)

        def body(state, now):
            read, keep, number = now
            held = weight[inputs:]
            if self.redraw and key is not None:
                again, *_ = drawn(q, random.fold_in(key, number), 1)
                held = again[inputs:].astype(held.dtype)
            new = step(functools.partial(product, held), bias, state, read)
            state = jax.tree.map(
                lambda a, b: jnp.where(keep[:, None], a, b), new, state
            )
            return state, state[0]

        start = self.start(jnp.zeros((x.shape[0], hidden), jnp.float32))
        carry: Any = None
        if self.carried and (self.is_initializing() or self.has_variable(*CARRY)):
            carry = self.variable(*CARRY, lambda: start)
            start = carry.value
        last, states = lax.scan(
            body,
            start,
            (
                read.swapaxes(0, 1),
                keep.swapaxes(0, 1),
                jnp.arange(x.shape[1], dtype=jnp.int32),
            ),
            reverse=self.reverse,
        )
        goes_on = self.is_mutable_collection(CARRY[0]) and not self.is_initializing()
        if carry is not None and goes_on:
            carry.value = last
        return states.swapaxes(0, 1).astype(mode.precision)

    def _scale(self, batch: int) -> Array:
        """What multiplies the state, [B, H] or [1, H]."""
        if self.scale_posterior is None and not self.has_variable("params", "scale"):
            return jnp.ones((1, self.features), jnp.float32)
        factory, ones = self.scale_posterior, nn.initializers.ones_init()
        found = vectors.parameter(self, "scale", factory, ones, self.features)
        node = vectors.as_node(found, "/".join((*self.path, "scale")))
        if is_noisy(node):
            return node.sample(vectors.noise_key(self), (batch,))
        return node.sample(None, (1,))

    def start(self, zeros: Array) -> tuple[Array, ...]:
        """The state before the first step; its first part is what the layer gives."""
        # Abstract: LSTM and GRU say it (a Flax module cannot be an ABC).
        raise NotImplementedError(f"{type(self).__name__} has no start")

    def step(self, product, bias, state, read, *, on_state, on_gates):
        """The next state, of the product of a state and its kernel [H, G H], [B, G H],
        and an input's share of it."""
        # Abstract, as `start` is.
        raise NotImplementedError(f"{type(self).__name__} has no step")


class LSTM(_Recurrent):
    """A layer of long short-term memory (Hochreiter and Schmidhuber 1997).

    With points for weights it is Flax's `LSTMCell` whose kernels stand side by side.
    """

    gates = 4

    def start(self, zeros):
        return zeros, zeros

    def step(self, product, bias, state, read, *, on_state, on_gates):
        h, c = state
        both = read + product(h)
        i, f, g, o = jnp.split(both * on_gates + bias, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c) * on_state, c


class GRU(_Recurrent):
    """A layer of gated recurrent units (Cho et al. 2014).

    Of its candidate the state's share is multiplied by r after the product, and the
    bias added to the input's share: Flax's `GRUCell` whose bias `hn` is zero.
    """

    gates = 3

    def start(self, zeros):
        return (zeros,)

    def step(self, product, bias, state, read, *, on_state, on_gates):
        (h,) = state
        read, held = read * on_gates + bias, product(h) * on_gates
        (read_r, read_z, read_n), (r, z, n) = (
            jnp.split(part, 3, axis=-1) for part in (read, held)
        )
        z = jax.nn.sigmoid(read_z + z)
        new = jnp.tanh(read_n + jax.nn.sigmoid(read_r + r) * n)
        # So h is on_state times what it would be: a sum of such products from zero.
        return ((1 - z) * new * on_state + z * h,)


def drawn(q: Posterior, key: Key | None, batch: int):
    """One draw of a weight, and of the noise on its units for each example.

    Args:
      q: a node [I, O], perhaps within `Scaled` ones.
      key: None for a node without noise.
      batch: B, the number of examples.

    Returns:
      The weight [I, O] without the noise on units, and that on inputs and on outputs:
      [B, I] and [B, O] (one example where a batch has one draw), None where there is
      none.
    """
    noise: dict[str, Array | None] = {"in": None, "out": None}
    while isinstance(q, Scaled):
        if q.per == "position":
            raise ValueError(
                "a layer for sequences has one draw of noise on units a sequence: per "
                'is "example" or "batch", not "position"'
            )
        key_scale, key = (None, None) if key is None else random.split(key)
        if not is_noisy(q.scale):
            key_scale = None
        own = q.scale.sample(key_scale, (batch if q.per == "example" else 1,))
        before = noise[q.axis]
        noise[q.axis] = own if before is None else before * own
        q = q.weight
    weight = q.sample(key if is_noisy(q) else None)
    return weight, noise["in"], noise["out"]
