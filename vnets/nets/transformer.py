"""A small Transformer for texts, of Flax's own layers (Vaswani et al. 2017).

Normalizations come before attention and before the dense layers of a block. A text is
classified by the mean over its positions; a language model predicts at each of them
from those before.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vnets import tree
from vnets.edits import mean_of
from vnets.layers import Stochastic, stochastic
from vnets.layers.recurrent import outside
from vnets.nets.sequences import mean
from vnets.nodes import Factory, check_factory
from vnets.plan import Activation, Dense, LayerNorm, Plan, Residual, check_counts
from vnets.plan import sequences as steps
from vnets.types import Array, Params, choose

EPSILON = 1e-6  # of Flax's LayerNorm
ATTENTION = ("query", "key", "value", "out")
OF_BLOCK = (*(f"attention/{name}" for name in ATTENTION), "dense1", "dense2")
LAYERS = ("embed", "place", *OF_BLOCK, "head")
# Drawn once a call: no estimator knows nn.Embed, and noise on heads is on no unit of a
# product's input or output.
SAMPLED = ("embed", "place", "attention/value")


class Block(nn.Module):
    """Attention and two dense layers, each added to what it reads, [B, T, width].

    `seen`, [B, 1, T, T], says at which positions (last axis) each position looks.

    Attributes:
      width: of the states.
      heads: of attention.
      hidden: units between the dense layers.
    """

    width: int
    heads: int
    hidden: int

    @nn.compact
    def __call__(self, x: Array, seen: Array) -> Array:
        attention = nn.MultiHeadDotProductAttention(self.heads, name="attention")
        x = x + attention(nn.LayerNorm(EPSILON, name="norm1")(x), mask=seen)
        h = nn.Dense(self.hidden, name="dense1")(nn.LayerNorm(EPSILON, name="norm2")(x))
        return x + nn.Dense(self.width, name="dense2")(nn.gelu(h))


class TextTransformer(nn.Module):
    """Tokens [B, T], 0 for padding, -> logits [B, classes] or [B, T, classes].

    Attributes:
      classes: K; of a language model, its vocabulary.
      vocabulary: V.
      width: of the states.
      heads: of each block.
      hidden: units of each block between its dense layers.
      blocks: how many.
      every: logits of every position, by the tokens up to it: no token is padding then.

    Tokens outside the vocabulary make logits NaN.

    Raises:
      ValueError: sizes below 1, or a width that is no multiple of heads.
    """

    classes: int
    vocabulary: int
    width: int = 64
    heads: int = 4
    hidden: int = 256
    blocks: int = 2
    every: bool = False

    def __post_init__(self):
        fields = ("classes", "vocabulary", "width", "heads", "hidden", "blocks")
        check_counts(**{name: getattr(self, name) for name in fields})
        steps.Attention.even("attention", self.width, self.heads)
        super().__post_init__()

    @property
    def plan(self) -> Plan:
        """Its steps, of a net that classifies.

        Raises:
          ValueError: a language model, which no plan describes.
        """
        if self.every:
            raise ValueError("a language model has no plan; take every=False")
        blocks = [
            step
            for name in self.names
            for step in (
                Residual(
                    (
                        LayerNorm(f"{name}/norm1", EPSILON),
                        steps.Attention.even(
                            f"{name}/attention", self.width, self.heads
                        ),
                    )
                ),
                Residual(
                    (
                        LayerNorm(f"{name}/norm2", EPSILON),
                        Dense(f"{name}/dense1", self.hidden),
                        Activation("gelu"),
                        Dense(f"{name}/dense2", self.width),
                    )
                ),
            )
        ]
        return (
            steps.Embedding("embed", self.vocabulary, self.width),
            steps.Positions("place"),
            *blocks,
            LayerNorm("norm", EPSILON),
            steps.MeanPositions(),
            Dense("head", self.classes),
        )

    @property
    def names(self) -> list[str]:
        """Of the blocks."""
        return [f"block{number + 1}" for number in range(self.blocks)]

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        tokens = outside(tokens, self.vocabulary)
        mask = jnp.ones_like(tokens, jnp.bool_) if self.every else tokens > 0
        seen = nn.make_attention_mask(jnp.ones_like(mask), mask, dtype=jnp.bool_)
        if self.every:
            seen = seen & nn.make_causal_mask(tokens, dtype=jnp.bool_)
        x = nn.Embed(self.vocabulary, self.width, name="embed")(tokens)
        places = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
        x = x + nn.Embed(tokens.shape[1], self.width, name="place")(places)
        for name in self.names:
            x = Block(self.width, self.heads, self.hidden, name=name)(x, seen)
        x = nn.LayerNorm(EPSILON, name="norm")(x)
        x = x if self.every else mean(x, mask)
        return nn.Dense(self.classes, name="head")(x)


def transformer(
    classes: int,
    vocabulary: int,
    width: int = 64,
    heads: int = 4,
    hidden: int = 256,
    blocks: int = 2,
    every: bool = False,
    posteriors: Mapping[str, Factory] | None = None,
) -> Stochastic:
    """A `TextTransformer` whose layers have posteriors.

    Args:
      classes: K.
      vocabulary: V.
      width: of the states.
      heads: of each block. A kernel of values is [width, heads, width / heads]: noise
        on its input units is noise on heads, one draw a batch.
      hidden: units of each block between its dense layers.
      blocks: how many.
      every: see `TextTransformer`.
      posteriors: factories by layer, of `LAYERS`: a layer of a block is meant in all of
        them. An array where none is named.

    Raises:
      ValueError: as of `TextTransformer`, or a layer that does not exist.
    """
    model = TextTransformer(classes, vocabulary, width, heads, hidden, blocks, every)
    apart: dict[str, Factory] = {}
    others: dict[str, Factory] = {}
    for name, make in (posteriors or {}).items():
        choose("layer", name, LAYERS)
        check_factory(make, name)
        of = apart if name in SAMPLED else others
        of |= (
            {f"{b}/{name}": make for b in model.names}
            if name in OF_BLOCK
            else {name: make}
        )
    return stochastic(model, others, sampled=apart)


def weights_of_heads(model: TextTransformer, params: Params) -> dict[str, np.ndarray]:
    """How many weights each head of a block has that are not 0, [heads] by block.

    A head whose values or whose outputs are all 0 is dead, and has 0.

    Args:
      model: the net.
      params: its parameters, as `edits` leave them.
    """
    found = {}
    for block in model.names:
        of = {
            part: np.asarray(
                mean_of(tree.weight(params, f"{block}/attention/{part}")).mean
            )
            for part in ATTENTION
        }
        # [units, heads, width] or, of what is made of them, [heads, width, units]
        counts = sum(
            np.count_nonzero(w, axis=(1, 2) if part == "out" else (0, 2))
            for part, w in of.items()
        )
        found[block] = counts * np.any(of["value"], (0, 2)) * np.any(of["out"], (1, 2))
    return found
