"""The steps of a plan, and walks over them."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from typing import get_args

Shape = tuple[int, ...]
ACTIVATIONS = ("relu", "leaky_relu", "tanh", "abs", "softplus", "gelu")
ACTIVATIONS += ("sigmoid", "silu", "gelu_erf")  # gelu is by tanh, gelu_erf as defined
Padding = str | tuple[tuple[int, int], ...]
POOL = 2  # edge and stride of max pooling; an odd last row or column is left out


@dataclasses.dataclass(frozen=True)
class Conv:
    """A 2-D convolution, [B, H, W, I] -> [B, H', W', features].

    Of one group, neither dilated nor transposed; `Depthwise` has a group for each
    channel, others have no step.

    Attributes:
      name: of the layer.
      features: O.
      kernel: kh, kw.
      strides: along H and W.
      padding: "SAME", "VALID" or (low, high) along H and W.
      bias: adds a bias [O].

    Raises:
      ValueError: features below 1, a kernel or strides that are no pair of whole
        numbers, or another padding.
    """

    name: str
    features: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: Padding = "SAME"
    bias: bool = True

    def __post_init__(self):
        check_counts(**{f"features of {self.name!r}": self.features})
        _check_windows(self)


@dataclasses.dataclass(frozen=True)
class Depthwise:
    """A convolution of each channel by itself, [B, H, W, C] -> [B, H', W', C].

    Attributes:
      name: of the layer.
      kernel: kh, kw.
      strides: along H and W.
      padding: "SAME", "VALID" or (low, high) along H and W.
      bias: adds a bias [C].

    Raises:
      ValueError: as of `Conv`.
    """

    name: str
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: Padding = "SAME"
    bias: bool = True

    def __post_init__(self):
        _check_windows(self)


def _check_windows(step: "Conv | Depthwise") -> None:
    for field in ("kernel", "strides"):
        _check_pair(field, repr(step.name), getattr(step, field))
    check_padding(repr(step.name), step.padding)


def _check_pair(field: str, of: str, value: tuple[int, int]) -> None:
    pair = isinstance(value, tuple) and len(value) == 2
    if not (pair and all(isinstance(n, int) and n > 0 for n in value)):
        raise ValueError(
            f"{field} of {of} must be a pair such as (3, 3), not {value!r}"
        )


def check_padding(of: str, padding: Padding) -> None:
    """Refuses what is no padding along H and W.

    Raises:
      ValueError: neither a name nor two pairs of whole numbers, none below 0.
    """
    if padding in ("SAME", "VALID"):
        return
    pairs = isinstance(padding, tuple) and len(padding) == 2
    pairs = pairs and all(isinstance(p, tuple) and len(p) == 2 for p in padding)
    if not (pairs and all(type(n) is int and n >= 0 for p in padding for n in p)):
        raise ValueError(
            f"padding of {of} must be SAME, VALID or (low, high) along H and W, not "
            f"{padding!r}"
        )


@dataclasses.dataclass(frozen=True)
class Dense:
    """A dense layer on the last axis, [B, ..., I] -> [B, ..., features].

    Attributes:
      name: of the layer.
      features: O.
      bias: adds a bias [O].

    Raises:
      ValueError: features below 1.
    """

    name: str
    features: int
    bias: bool = True

    def __post_init__(self):
        check_counts(**{f"features of {self.name!r}": self.features})


@dataclasses.dataclass(frozen=True)
class Standardize:
    """(x - mean) / std of the inputs, with constants that are not trained.

    Attributes:
      mean: of each channel, or one for all.
      std: likewise; positive.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


@dataclasses.dataclass(frozen=True)
class Norm:
    """Batch normalization over the last axis.

    Attributes:
      name: of the module.
      affine: with a learned bias, and
      scale: a learned scale; counts only if affine.
      epsilon: added to the variance.
      zero: the learned scale starts at 0, not at 1.
    """

    name: str
    affine: bool = True
    epsilon: float = 1e-5
    scale: bool = True
    zero: bool = False


@dataclasses.dataclass(frozen=True)
class LayerNorm:
    """(x - mean) / sqrt(var + epsilon) over the last axis, times a scale, and a bias.

    Attributes:
      name: of the module, which learns "scale" and "bias", [C] each.
      epsilon: added to the variance.
    """

    name: str
    epsilon: float = 1e-5


@dataclasses.dataclass(frozen=True)
class Activation:
    """A function of each unit; `kind` is one of `ACTIVATIONS`.

    Raises:
      ValueError: a kind that is not.
    """

    kind: str = "relu"

    def __post_init__(self):
        if self.kind not in ACTIVATIONS:
            raise ValueError(
                f"unknown activation {self.kind!r}; choose from {sorted(ACTIVATIONS)}"
            )


@dataclasses.dataclass(frozen=True)
class MaxPool:
    """2 x 2 max pooling, [B, H, W, C] -> [B, H // 2, W // 2, C]."""


@dataclasses.dataclass(frozen=True)
class Window:
    """What pools windows that may overlap, [B, H, W, C] -> [B, H', W', C].

    Attributes:
      size: edge of a window.
      stride: between windows.
      padding: "SAME", "VALID" or (low, high) along H and W, each less than `size`.

    Raises:
      ValueError: another padding.
    """

    size: int = 3
    stride: int = 2
    padding: Padding = "SAME"

    def __post_init__(self):
        check_padding(type(self).__name__, self.padding)
        margins = () if isinstance(self.padding, str) else self.padding
        if any(n >= self.size for pair in margins for n in pair):
            raise ValueError(f"a window of {self} would lie in the padding alone")

    @property
    def kernel(self) -> tuple[int, int]:
        """Edges of a window, as a convolution has them."""
        return (self.size, self.size)

    @property
    def strides(self) -> tuple[int, int]:
        """Along H and W, likewise."""
        return (self.stride, self.stride)


@dataclasses.dataclass(frozen=True)
class WindowMaxPool(Window):
    """The maximum of each window; what pads it does not count."""


@dataclasses.dataclass(frozen=True)
class WindowMeanPool(Window):
    """The mean of each window; what pads it counts, as zeros."""


@dataclasses.dataclass(frozen=True)
class MeanPool:
    """The mean over all positions, [B, H, W, C] -> [B, C]."""


@dataclasses.dataclass(frozen=True)
class Flatten:
    """[B, ...] -> [B, units], the last axis running fastest."""


@dataclasses.dataclass(frozen=True)
class DepthToSpace:
    """Channels laid out as positions, [B, H, W, C] -> [B, H h, W w, C / (h w)].

    Each position becomes a block of h x w, whose rows its channels fill in order, the
    new channels running fastest. Units [B, I] are a map of one position: of them it
    inverts `Flatten`. After a convolution it is the sub-pixel convolution of Shi et al.
    2016, by which maps grow.

    Attributes:
      block: h, w.

    Raises:
      ValueError: a block that is no pair of whole numbers.
    """

    block: tuple[int, int]

    def __post_init__(self):
        _check_pair("block", type(self).__name__, self.block)

    def channels(self, before: int) -> int:
        """C / (h w).

        Raises:
          ValueError: channels that fill no whole blocks.
        """
        height, width = self.block
        left, over = divmod(before, height * width)
        if over:
            raise ValueError(f"{before} channels fill no blocks of {height} x {width}")
        return left


@dataclasses.dataclass(frozen=True)
class Residual:
    """The sum of two chains that both start from x; their results have one shape.

    Attributes:
      body: the steps of one.
      shortcut: those of the other; none leaves x as it is.

    Raises:
      ValueError: a chain that is no tuple of steps.
    """

    body: "Plan"
    shortcut: "Plan" = ()

    def __post_init__(self):
        check(self.body)
        check(self.shortcut)


class CustomStep:
    """A step that itself answers what the functions of this module find for others.

    Those of tokens and sequences are in `vnets.plan.sequences`, random features in
    `vnets.plan.features`.
    """

    def after(self, shape: Shape) -> Shape:
        """The shape of one example after it.

        Raises:
          ValueError: a shape that it does not fit.
        """
        # Abstract: the steps are dataclasses, which an ABC would not keep apart.
        raise NotImplementedError(f"{type(self).__name__} has no shape")

    def parts(self) -> tuple["Step", ...]:
        """The steps that stand for it among `every`."""
        return (self,)

    def placed(self, shape: Shape) -> tuple[tuple["Step", Shape, Shape], ...]:
        """Its parts, each with the shapes before and after it."""
        return ((self, shape, self.after(shape)),)

    def operations(self, shape: Shape) -> int:
        """Those on an example that no weight has a part in, about; few by default."""
        return math.prod(shape)


class Weighted(CustomStep):
    """One with a kernel, which is none of a `Conv` or `Dense`.

    Attributes:
      name: of the layer.
    """

    name: str

    def kernel(self, shape: Shape) -> Shape:
        """The shape of the kernel, given that of an example before the step."""
        # Abstract, as `after` is; the two below, too.
        raise NotImplementedError(f"{type(self).__name__} has no kernel")

    def multiply_adds(self, shape: Shape) -> int:
        """Of one example, likewise."""
        raise NotImplementedError(f"{type(self).__name__} has no cost")

    def with_outputs(self, outputs: int) -> "Weighted":
        """The step whose kernel's last axis is so long."""
        raise NotImplementedError(f"{type(self).__name__} has no units")


Step = (
    Conv
    | Depthwise
    | Dense
    | Norm
    | LayerNorm
    | Activation
    | MaxPool
    | WindowMaxPool
    | WindowMeanPool
    | MeanPool
    | Flatten
    | DepthToSpace
    | Standardize
    | Residual
    | CustomStep
)
Plan = tuple[Step, ...]
Linear = Conv | Depthwise | Dense  # have a weight, and perhaps a bias
Kernel = Linear | Weighted  # all that have a weight


def check(plan: Plan) -> None:
    """Refuses what is no plan.

    Raises:
      ValueError: no tuple, or one with something else than steps; the message names
        the kinds of steps.
    """
    if not isinstance(plan, tuple):
        raise ValueError(f"a chain is a tuple of steps, not {plan!r}")
    for step in plan:
        if not isinstance(step, Step):
            kinds = [kind.__name__ for kind in get_args(Step)]
            raise ValueError(f"{step!r} is no step of a plan; there are {kinds}")


def check_counts(**counts: int | Sequence[int]) -> None:
    """Refuses counts, or lists of them, that are not whole and at least 1.

    Raises:
      ValueError: the message names the field.
    """
    for field, held in counts.items():
        several = isinstance(held, list | tuple)
        each = held if several else [held]
        if not all(isinstance(n, Integral) and int(n) > 0 for n in each):
            what = "whole numbers" if several else "a whole number"
            raise ValueError(f"{field} must be {what} of at least 1, not {held!r}")


def standardized(mean: Sequence[float], std: Sequence[float]) -> tuple[Step, ...]:
    """What standardizes a net's inputs: a step, or none where it changes nothing.

    Raises:
      ValueError: a deviation that is not positive.
    """
    if not all(one > 0 for one in std):
        raise ValueError(f"input_std must be positive, not {tuple(std)}")
    step = Standardize(tuple(mean), tuple(std))
    return () if step == Standardize() else (step,)


def linear_layers(plan: Plan) -> tuple[str, ...]:
    """Names of the layers that have a weight, in order of execution."""
    return tuple(step.name for step in every(plan) if isinstance(step, Kernel))


def vectors(plan: Plan) -> tuple[str, ...]:
    """Names of what the layers learn beside weights, in order of execution.

    "dense1/bias" for each bias, "norm1/scale" and "norm1/bias" for what a batch
    normalization learns.
    """
    return tuple(
        f"{step.name}/{vector}"
        for step in every(plan)
        if isinstance(step, Linear | Norm)
        for vector in _learned(step)
    )


def _learned(step: Linear | Norm) -> tuple[str, ...]:
    """The vectors of one step."""
    if not isinstance(step, Norm):
        return ("bias",) if step.bias else ()
    if not step.affine:
        return ()
    return ("scale", "bias") if step.scale else ("bias",)


def every(plan: Plan) -> Iterator[Step]:
    """The steps of a plan, those within a `Residual` in place of it.

    And the dense layers of attention in place of that.
    """
    for step in plan:
        if isinstance(step, Residual):
            yield from every(step.body)
            yield from every(step.shortcut)
        elif isinstance(step, CustomStep):
            yield from step.parts()
        else:
            yield step


def replaced(plan: Plan, change: Callable[[Step], Step]) -> Plan:
    """The plan with `change(step)` for each step, those within a `Residual`, too."""
    return tuple(
        Residual(replaced(step.body, change), replaced(step.shortcut, change))
        if isinstance(step, Residual)
        else change(step)
        for step in plan
    )
