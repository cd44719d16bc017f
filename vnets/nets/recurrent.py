"""A net for sequences: embedding, LSTM and dense layer (Chirkova et al. 2018)."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import FrozenDict

from vnets.layers import LSTM, TEST, Dense, Embed, Mode
from vnets.layers.recurrent import normal_rows
from vnets.nodes import Factory, check_factory, point
from vnets.plan import Dense as Step
from vnets.plan import Plan, check_counts
from vnets.plan import sequences as steps
from vnets.types import Array, Key, Shape, choose

LAYERS = ("embed", "lstm", "dense1")
VECTORS = ("lstm/scale", "dense1/bias")


class RecurrentNet(nn.Module):
    """Tokens [B, T], 0 for padding in front, or rows [B, T, ...] -> logits.

    Logits are [B, classes], by the last state, or [B, T, classes], by every one.

    Attributes:
      classes: K; of a language model, its vocabulary.
      vocabulary: V of the embedding, or 0 where inputs are rows of numbers and not
        tokens.
      embedding: E.
      features: H.
      every: logits of every step: no token is padding then.
      forget_bias: at the start.
      redraw, carried: see `layers.LSTM`.
      posteriors: factories by layer, "embed", "lstm" or "dense1"; a point where none is
        named. "lstm/scale" makes a scale of the hidden units.

    Raises:
      ValueError: sizes below 1, or a layer that does not exist; tokens outside the
        vocabulary make logits NaN.
    """

    classes: int
    vocabulary: int = 0
    embedding: int = 64
    features: int = 64
    every: bool = False
    forget_bias: float = 0.0
    redraw: bool = False
    carried: bool = False
    posteriors: Mapping[str, Factory] = dataclasses.field(
        default_factory=dict, kw_only=True
    )

    def __post_init__(self):
        check_counts(
            classes=self.classes, embedding=self.embedding, features=self.features
        )
        self.posteriors = FrozenDict(self.posteriors)
        layers = LAYERS if self.vocabulary else LAYERS[1:]
        for name, make in self.posteriors.items():
            choose("layer", name, (*layers, *VECTORS))
            check_factory(make, name)
        super().__post_init__()

    @property
    def plan(self) -> Plan:
        """Its steps, of a net that classifies tokens.

        Raises:
          ValueError: another one, which no plan describes.
        """
        if self.every or not self.vocabulary:
            raise ValueError(
                "a recurrent net has a plan if it classifies tokens: take every=False "
                "and a vocabulary"
            )
        return (
            steps.Embedding("embed", self.vocabulary, self.embedding),
            steps.LSTM("lstm", self.features),
            steps.Last(),
            Step("dense1", self.classes),
        )

    @nn.compact
    def __call__(self, x: Array, mode: Mode = TEST) -> Array:
        mask = None
        if self.vocabulary:
            mask = None if self.every else x != 0  # one below 0 is no padding
            rows = self.posteriors.get("embed", point(normal_rows))
            x = Embed(self.vocabulary, self.embedding, rows, name="embed")(x, mode)
        else:
            x = x.reshape(*x.shape[:2], -1)
        states = LSTM(
            self.features,
            self.posteriors.get("lstm", point()),
            forgetting(self.forget_bias),
            self.posteriors.get("lstm/scale"),
            redraw=self.redraw,
            carried=self.carried,
            name="lstm",
        )(x, mask, mode)
        head = Dense(
            self.classes,
            self.posteriors.get("dense1", point()),
            bias_posterior=self.posteriors.get("dense1/bias"),
            name="dense1",
        )
        y = head(states if self.every else states[:, -1], mode)
        return y.astype(jnp.float32)


def forgetting(bias: float) -> Callable:
    """How the biases of an LSTM start: at 0, but those of forget gates at `bias`."""

    def init(key: Key, shape: Shape, dtype=jnp.float32) -> Array:
        del key
        i, *others = jnp.split(jnp.zeros(shape, dtype), 4)
        return jnp.concatenate([i, others[0] + bias, *others[1:]])

    return init


def used(params) -> dict[str, float]:
    """What is left of a `RecurrentNet` whose weights are points, by their zeros.

    A weight counts if it is not 0 and nothing that its product must pass is: an entry
    of a column of the embedding that no gate reads does not, nor one of a hidden unit
    whose scale is 0. Noise on units, scales and biases are no weights.

    Args:
      params: of the net, edited: points.

    Returns:
      nonzero, compression (all weights over these), sparsity; and units/words (rows of
      the embedding), units/columns (of it), units/hidden and units/gates (the others
      are constant, a function of their bias alone), of a net on rows without the first
      two; constant_gates, a fraction of all 4 H.
    """
    mean = jax.tree.map(
        lambda node: getattr(node, "mean", node),
        dict(params),
        is_leaf=lambda node: hasattr(node, "mean"),
    )
    kernel, head = mean["lstm"]["kernel"], mean["dense1"]["kernel"]
    inputs = len(kernel) - len(head)
    scale = mean["lstm"].get("scale", jnp.ones(len(head), jnp.float32))
    embed = mean["embed"]["kernel"] if "embed" in mean else None
    columns = jnp.ones(inputs, jnp.bool_)
    if embed is not None:
        columns = jnp.any(embed, 0) & jnp.any(kernel[:inputs], 1)
        embed = embed * columns[None]
    kernel = kernel * jnp.concatenate([columns, scale != 0])[:, None]
    head = head * (scale != 0)[:, None]
    gates = jnp.any(kernel, 0)
    hidden = jnp.any(kernel[inputs:], 1) | jnp.any(head, 1)
    found = {"units/hidden": float(hidden.sum()), "units/gates": float(gates.sum())}
    if embed is not None:
        found["units/words"] = float(jnp.any(embed, 1).sum())
        found["units/columns"] = float(columns.sum())
    matrices = [one for one in (embed, kernel, head) if one is not None]
    nonzero = sum(int(jnp.count_nonzero(one)) for one in matrices)
    total = sum(one.size for one in matrices)
    return {
        "nonzero": nonzero,
        "compression": total / max(nonzero, 1),
        "sparsity": 1 - nonzero / total,
        "constant_gates": float(1 - gates.mean()),
        **found,
    }
