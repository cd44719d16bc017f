"""A small Transformer for texts by class, of Flax's own layers (Vaswani et al. 2017).

Normalizations come before attention and before the dense layers of a block, and the
mean over positions is classified.
"""

from collections.abc import Mapping

import jax.numpy as jnp
from flax import linen as nn

from vnets.layers import Stochastic, stochastic
from vnets.nets.sequences import mean
from vnets.nodes import Factory, check_factory
from vnets.plan import Activation, Dense, LayerNorm, Plan, Residual, check_counts
from vnets.plan import sequences as steps
from vnets.types import Array, choose

EPSILON = 1e-6  # of Flax's LayerNorm
ATTENTION = ("query", "key", "value", "out")
OF_BLOCK = (*(f"attention/{name}" for name in ATTENTION), "dense1", "dense2")
LAYERS = ("embed", "place", *OF_BLOCK, "head")
# Drawn once a call: no estimator knows nn.Embed, and noise on heads is on no unit of a
# product's input or output.
SAMPLED = ("embed", "place", "attention/value")


class Block(nn.Module):
    """Attention and two dense layers, each added to what it reads, [B, T, width].

    Attributes:
      width: of the states.
      heads: of attention.
      hidden: units between the dense layers.
    """

    width: int
    heads: int
    hidden: int

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> Array:
        seen = nn.make_attention_mask(jnp.ones_like(mask), mask)
        attention = nn.MultiHeadDotProductAttention(self.heads, name="attention")
        x = x + attention(nn.LayerNorm(EPSILON, name="norm1")(x), mask=seen)
        h = nn.Dense(self.hidden, name="dense1")(nn.LayerNorm(EPSILON, name="norm2")(x))
        return x + nn.Dense(self.width, name="dense2")(nn.gelu(h))


class TextTransformer(nn.Module):
    """Tokens [B, T], 0 for padding, -> logits [B, classes].

    Attributes:
      classes: K.
      vocabulary: V.
      width: of the states.
      heads: of each block.
      hidden: units of each block between its dense layers.
      blocks: how many.

    Raises:
      ValueError: sizes below 1, or a width that is no multiple of heads.
    """

    classes: int
    vocabulary: int
    width: int = 64
    heads: int = 4
    hidden: int = 256
    blocks: int = 2

    def __post_init__(self):
        fields = ("classes", "vocabulary", "width", "heads", "hidden", "blocks")
        check_counts(**{name: getattr(self, name) for name in fields})
        steps.Attention.even("attention", self.width, self.heads)
        super().__post_init__()

    @property
    def plan(self) -> Plan:
        """Its steps."""
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
        mask = tokens > 0
        x = nn.Embed(self.vocabulary, self.width, name="embed")(tokens)
        places = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
        x = x + nn.Embed(tokens.shape[1], self.width, name="place")(places)
        for name in self.names:
            x = Block(self.width, self.heads, self.hidden, name=name)(x, mask)
        x = mean(nn.LayerNorm(EPSILON, name="norm")(x), mask)
        return nn.Dense(self.classes, name="head")(x)


def transformer(
    classes: int,
    vocabulary: int,
    width: int = 64,
    heads: int = 4,
    hidden: int = 256,
    blocks: int = 2,
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
      posteriors: factories by layer, of `LAYERS`: a layer of a block is meant in all of
        them. An array where none is named.

    Raises:
      ValueError: as of `TextTransformer`, or a layer that does not exist.
    """
    model = TextTransformer(classes, vocabulary, width, heads, hidden, blocks)
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
