"""Steps of nets that read sequences: tokens [B, T], states [B, T, I], a vector [B, I].

They are steps of a plan (`vnets.plan`) like others, of which `Dense`, `Activation`,
`LayerNorm`, `Residual` and `Flatten` take states, too. An `Embedding` is the first step
of its net.

A token that stands for none (`Embedding.padding`) is no position: recurrent steps hand
their state on, attention does not look there, a mean leaves it out. Where a sequence
has no position at all, all count for the latter two.
"""

import dataclasses
import math
from typing import ClassVar

from vnets.plan import (
    CustomStep,
    Dense,
    Plan,
    Shape,
    Step,
    Weighted,
    check_counts,
    every,
)


@dataclasses.dataclass(frozen=True)
class Embedding(Weighted):
    """A row for each token, [B, T] int -> [B, T, features].

    Attributes:
      name: of the layer, whose kernel is [vocabulary, features].
      vocabulary: V; tokens are 0 to V - 1.
      features: E.
      padding: the token that stands for none; None: all count.

    Raises:
      ValueError: counts below 1, or a padding that is no token.
    """

    name: str
    vocabulary: int
    features: int
    padding: int | None = 0

    def __post_init__(self):
        check_counts(
            **{
                f"vocabulary of {self.name!r}": self.vocabulary,
                f"features of {self.name!r}": self.features,
            }
        )
        if self.padding is not None and not 0 <= self.padding < self.vocabulary:
            raise ValueError(
                f"padding of {self.name!r} is None or a token, 0 to "
                f"{self.vocabulary - 1}, not {self.padding!r}"
            )

    def after(self, shape: Shape) -> Shape:
        """[T] -> [T, E]."""
        if len(shape) != 1:
            raise ValueError(f"embedding {self.name!r} needs [T], not {list(shape)}")
        return (*shape, self.features)

    def kernel(self, shape: Shape) -> Shape:
        """[V, E]."""
        return (self.vocabulary, self.features)

    def multiply_adds(self, shape: Shape) -> int:
        """None: rows are looked up."""
        return 0

    def with_outputs(self, outputs: int) -> "Embedding":
        """The step with so many features."""
        return dataclasses.replace(self, features=outputs)


@dataclasses.dataclass(frozen=True)
class Positions(Weighted):
    """A row for each position, added: [B, T, I] -> [B, T, I].

    Attributes:
      name: of the layer, whose kernel is [T, I].
    """

    name: str

    def after(self, shape: Shape) -> Shape:
        """The same."""
        return _states(self, shape)

    def kernel(self, shape: Shape) -> Shape:
        """[T, I]."""
        return _states(self, shape)

    def multiply_adds(self, shape: Shape) -> int:
        """One for each number."""
        return math.prod(shape)

    def with_outputs(self, outputs: int) -> "Positions":
        """The same: it has as many units as come in."""
        return self


@dataclasses.dataclass(frozen=True)
class Recurrent(Weighted):
    """A recurrent layer, [B, T, I] -> [B, T, features]: an `LSTM` or a `GRU`.

    Attributes:
      name: of the layer, whose kernel is [I + H, G H], as `vnets.layers` has it.
      features: H.

    Raises:
      ValueError: features below 1.
    """

    name: str
    features: int
    gates: ClassVar[int] = 0  # G

    def __post_init__(self):
        check_counts(**{f"features of {self.name!r}": self.features})

    def after(self, shape: Shape) -> Shape:
        """[T, H]."""
        return (_states(self, shape)[0], self.features)

    def kernel(self, shape: Shape) -> Shape:
        """[I + H, G H]."""
        inputs = _states(self, shape)[1]
        return (inputs + self.features, self.gates * self.features)

    def multiply_adds(self, shape: Shape) -> int:
        """As many as weights, at each position."""
        return shape[0] * math.prod(self.kernel(shape))

    def operations(self, shape: Shape) -> int:
        """Some twenty for each unit at each position."""
        return 4 * (self.gates + 1) * shape[0] * self.features

    def with_outputs(self, outputs: int) -> "Recurrent":
        """The step whose kernel has so many columns."""
        return dataclasses.replace(self, features=outputs // self.gates)


@dataclasses.dataclass(frozen=True)
class LSTM(Recurrent):
    """`layers.LSTM`: gates i, f, g and o."""

    gates: ClassVar[int] = 4


@dataclasses.dataclass(frozen=True)
class GRU(Recurrent):
    """`layers.GRU`: gates r, z and n."""

    gates: ClassVar[int] = 3


@dataclasses.dataclass(frozen=True)
class Attention(CustomStep):
    """Self-attention of several heads (Vaswani et al. 2017), [B, T, I] -> [B, T, O].

    It has four dense layers, "name/query", "name/key", "name/value" and "name/out", as
    `nn.MultiHeadDotProductAttention` does; the units of a head are next to one another.

    Attributes:
      name: of the module.
      features: O.
      keys: units of the queries, and of the keys, of each head.
      values: units of the values of each head.
      width: scores are divided by its square root.

    Raises:
      ValueError: no heads, lists of other lengths, or no units at all.
    """

    name: str
    features: int
    keys: tuple[int, ...]
    values: tuple[int, ...]
    width: int

    def __post_init__(self):
        check_counts(
            **{
                f"features of {self.name!r}": self.features,
                f"width of {self.name!r}": self.width,
                f"key units of {self.name!r}, summed,": sum(self.keys),
                f"value units of {self.name!r}, summed,": sum(self.values),
            }
        )
        if len(self.keys) != len(self.values) or min(*self.keys, *self.values) < 0:
            raise ValueError(
                f"attention {self.name!r} has keys and values of each head, not of "
                f"{len(self.keys)} and {len(self.values)}"
            )

    @classmethod
    def even(cls, name: str, features: int, heads: int) -> "Attention":
        """As it is before any unit is cut: features / heads units of each.

        Raises:
          ValueError: features that are no multiple of heads.
        """
        check_counts(heads=heads, features=features)
        width, rest = divmod(features, heads)
        if rest:
            raise ValueError(f"{features} features are no multiple of {heads} heads")
        return cls(name, features, (width,) * heads, (width,) * heads, width)

    @property
    def layers(self) -> tuple[Dense, ...]:
        """Queries, keys, values, and what makes outputs of them."""
        units = {
            "query": sum(self.keys),
            "key": sum(self.keys),
            "value": sum(self.values),
            "out": self.features,
        }
        return tuple(Dense(f"{self.name}/{part}", n) for part, n in units.items())

    def after(self, shape: Shape) -> Shape:
        """[T, O]."""
        return (_states(self, shape)[0], self.features)

    def parts(self) -> tuple[Step, ...]:
        """Its layers."""
        return self.layers

    def placed(self, shape: Shape) -> tuple[tuple[Step, Shape, Shape], ...]:
        """Its layers, each with the shapes before and after it."""
        length = _states(self, shape)[0]
        *ins, out = self.layers
        read = tuple((one, shape, (length, one.features)) for one in ins)
        mixed = (length, sum(self.values))
        return (*read, (out, mixed, (length, out.features)))

    def operations(self, shape: Shape) -> int:
        """Scores, their softmax and the means by them, of each pair of positions."""
        units = sum(self.keys) + sum(self.values) + 8 * len(self.keys)
        return shape[0] ** 2 * units


@dataclasses.dataclass(frozen=True)
class Last(CustomStep):
    """The last position, [B, T, I] -> [B, I]; of a recurrent step's, the last state."""

    def after(self, shape: Shape) -> Shape:
        """[I]."""
        return _states(self, shape)[1:]


@dataclasses.dataclass(frozen=True)
class MeanPositions(CustomStep):
    """The mean over positions, [B, T, I] -> [B, I]."""

    def after(self, shape: Shape) -> Shape:
        """[I]."""
        return _states(self, shape)[1:]


def _states(step: CustomStep, shape: Shape) -> Shape:
    """The shape, if it is [T, I].

    Raises:
      ValueError: it is not.
    """
    if len(shape) != 2:
        raise ValueError(f"{type(step).__name__} needs [T, I], not {list(shape)}")
    return shape


def embedding(plan: Plan) -> Embedding | None:
    """The step by which a net reads tokens; None: it reads numbers.

    Raises:
      ValueError: an embedding that is not the first step.
    """
    found = [step for step in every(plan) if isinstance(step, Embedding)]
    if not found:
        return None
    if len(found) > 1 or plan[0] is not found[0]:
        raise ValueError(f"embedding {found[-1].name!r} must be the first step")
    return found[0]
