"""What every node does: moments, draws, densities, and the rules that walks ask for.

A node is a small pytree that stands in the parameter tree in place of a weight;
whatever it does not train is a static field. It knows its own rules (how it is pruned,
silenced, multiplied, which KLs it has), so that priors, edits, projections and tests
ask the node and a new node touches its own module only. A rule that a node does not
have is a TypeError that names rule and node.

Shapes: a weight is [..., I, O] (dense [I, O], convolution [kh, kw, I, O]); a bias or a
scale of normalization is a vector, [O] (`vnets.vectors`).
"""

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NoReturn, Self, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from vnets import noise as noises
from vnets.pytrees import pytree, static
from vnets.types import Array, Key, Moment, Shape, brief, choose

LOG_FLOOR = 1e-16  # inside logarithms of squared weights
Factory = Callable[[Key, Shape], "Posterior"]
Kind = TypeVar("Kind", bound=type)


@dataclass_transform(frozen_default=True, field_specifiers=(static,))
def node_type(kind: Kind) -> Kind:
    """Makes a class of nodes: a frozen dataclass that JAX and `jax.export` know.

    Its static fields are written as JSON where an exported function is stored.
    """
    made = pytree(kind)
    package = "vnets.nodes" if kind.__module__.startswith("vnets.") else kind.__module__
    # A class that is defined again, as in a notebook, cannot be registered again.
    with contextlib.suppress(ValueError):
        export.register_pytree_node_serialization(
            made,
            serialized_name=f"{package}.{kind.__qualname__}",
            serialize_auxdata=lambda statics: json.dumps(statics).encode(),
            deserialize_auxdata=lambda stored: tuple(json.loads(stored)),
        )
    return made


class Posterior:
    """Base of all nodes: `mean + std * noise` unless a node says otherwise."""

    noise: str = "normal"
    noisy: bool = True  # whether sampling needs a key
    has_mean: bool = True
    plain: bool = False  # a mean of its own, and no mask or noise on units beside it
    fixed: bool = False  # nothing to train and no KL, as noise on units
    has_units: bool = False  # whether it says which units are of no use

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.__repr__ = Posterior.__repr__  # or a dataclass prints all its numbers

    def __repr__(self) -> str:
        """One line, with arrays by their shapes."""
        fields = dataclasses.fields(self)  # pyright: ignore[reportArgumentType]
        held = (f"{f.name}={brief(getattr(self, f.name))}" for f in fields)
        return f"{type(self).__name__}({', '.join(held)})"

    def _with(self, **values: Any) -> Self:
        return dataclasses.replace(self, **values)  # pyright: ignore[reportArgumentType]

    def _no_rule(self, rule: str) -> NoReturn:
        raise TypeError(f"{rule}: no rule for {type(self).__name__}")

    def location_scale(self) -> tuple[Moment, Moment]:
        """Mean and standard deviation (of either sign); None stands for zero."""
        raise TypeError(f"{type(self).__name__} is not a location-scale family")

    def moments(self) -> tuple[Moment, Moment]:
        """Mean and variance of each weight, [..., I, O]; None stands for zero."""
        mean, std = self.location_scale()
        return mean, None if std is None else jnp.square(std)

    def sample(self, key: Key, batch: Shape = ()) -> Array:
        """Independent draws, [*batch, *shape]; a noiseless node needs no key."""
        mean, std = self.location_scale()
        if std is None:
            return jnp.broadcast_to(mean, (*batch, *self.shape))
        draws = noises.sampler(self.noise)(key, (*batch, *self.shape), std.dtype)
        # Added axes are spelled out: no silent rank promotion.
        draws = draws * std.reshape((1,) * len(batch) + std.shape)
        if mean is None:
            return draws
        return mean.reshape((1,) * len(batch) + mean.shape) + draws

    def drawn(self, key: Key, shared: Key) -> Array:
        """A draw as part of a tree that is drawn as a whole.

        Args:
          key: the node's own.
          shared: that of the tree, for what several nodes have in common.
        """
        del shared
        return self.sample(key)

    def log_prob(self, value: Array) -> Array:
        """Log density of each weight at a value of the node's shape, in nats.

        What is pruned has none; there any number stands.

        Raises:
          TypeError: a node or a noise without a density.
        """
        mean, std = self.location_scale()
        if std is None:
            self._no_rule("log_prob")
        std = jnp.where(std == 0, 1, jnp.abs(std))
        unit = (value if mean is None else value - mean) / std
        return noises.log_density(self.noise)(unit) - jnp.log(std)

    @property
    def shape(self) -> Shape:
        """Shape of the weight, also of a node that has shapes in place of arrays."""
        found = jax.eval_shape(lambda node: node.location_scale(), self)
        return next(leaf for leaf in found if leaf is not None).shape

    @property
    def kind(self) -> str:
        """What it is called in tables."""
        return type(self).__name__

    @property
    def bare(self) -> "Posterior":
        """The weight itself, without noise on its units."""
        return self

    @property
    def dropout_of(self) -> "Posterior | None":
        """The weight that this is dropout of, with noise of mean one on its units."""
        return None

    @property
    def learned_dropout(self) -> "Any | None":
        """The noise on its units whose rate is learned, an `AdaptiveDropout`."""
        return None

    @property
    def is_normal(self) -> bool:
        """Whether its weights are independent normal variables."""
        return False

    def change_bare(self, change: Callable[[Any], "Posterior"]) -> "Posterior":
        """The node with its weight changed, and with the noise on units that it has."""
        return change(self)

    def parts(self, role: str = "weight") -> list[tuple[str, "Posterior"]]:
        """The nodes whose KLs add up to this one's, each a "weight" or a "scale"."""
        return [] if self.fixed else [(role, self)]

    def kl_from(self, prior: "Posterior") -> Array | None:
        """KL from another node in nats, in a closed form that is this node's own; None
        where there is none. That of independent normal weights is the priors'."""
        del prior
        return None

    def sum_over(self, of_log_alpha: Callable[[Array], Array]) -> Array:
        """The sum over all weights of a function of their log alpha; scalar.

        Where m weights share one alpha it counts m times, and pruned ones do not count.
        """
        self._no_rule("log_alpha")

    def shared_log_alpha(self) -> Array:
        """`log_alpha` with axes of length 1 where weights share it."""
        self._no_rule("log_alpha")

    def pruned(self) -> Array:
        """True for what was pruned, with neither mean nor noise; broadcasts to `shape`.

        A node without noise says False: there zero is a value like others.
        """
        return jnp.zeros((), jnp.bool_)

    def kept(self, keep: Array) -> "Posterior":
        """The node with all weights pruned where `keep`, broadcast, is False.

        Raises:
          TypeError: a node whose weights cannot be pruned.
        """
        raise TypeError(f"is a {type(self).__name__}, which cannot be pruned")

    def uselessness(self, axis: str = "unit") -> Array:
        """How little each unit is worth, in the rank of the weight [..., I, O].

        With length 1 but on the axis of the units; `edits.prune_units` compares it.
        Raises TypeError for points, variance layers and fixed noise.
        """
        self._no_rule("prune_units")

    def unit_uselessness(self) -> Array:
        """`uselessness` of noise on units, [units]: log(var / mean^2) of each."""
        return log_alpha(self)

    def without_units(self, threshold: float, axis: str) -> "Posterior":
        """The node without the units whose uselessness is above a threshold."""
        return self.kept(self.uselessness(axis) <= threshold)

    def with_mean(self, mean: Array) -> "Posterior":
        """The node around another mean, with the noise that it has.

        Raises:
          TypeError: a node that has no mean.
        """
        raise TypeError(f"is a {type(self).__name__}, which has no mean")

    def quieter(self, factor: float) -> "Posterior":
        """The node with the deviation of its noise times a factor, and its mean."""
        self._no_rule("scale_noise")

    def times(self, factor: Array) -> "Posterior":
        """The law of `factor` > 0 times the variable: its log alpha stays."""
        self._no_rule("balance")

    def change_noise(self, change: Callable[[Array], Array]) -> "Posterior":
        """The node with the field that moves its log alpha changed, if there is one."""
        del change
        return self

    def change_mask(self, change: Callable[[Any], Array]) -> "Posterior":
        """A masked node with the mask that is made of it; any other as it is."""
        del change
        return self

    def clipped(self, low: float, high: float, additive: bool) -> "Posterior":
        """The node with its trained log alpha in [low, high], if it has one.

        Args:
          low: least.
          high: largest.
          additive: that of additive noise, too, by moving its variance.
        """
        del low, high, additive
        return self

    def without_idle_mean(self, threshold: float) -> "Posterior":
        """Means of additive noise become zero where log alpha is above a threshold."""
        del threshold
        return self

    def balanced(self) -> "Posterior":
        """See `edits.balanced`."""
        return self

    def subset(self, mask: np.ndarray) -> "Posterior":
        """The node of the weights where a mask is True, as a vector; not under jit."""
        self._no_rule("subset")


def second_moment(mean: Moment, var: Moment) -> Array:
    """mean^2 + var of moments of which one may be None, for zero."""
    if mean is None:
        return var
    return jnp.square(mean) if var is None else jnp.square(mean) + var


def log_square(factor: float) -> float:
    """2 ln(factor); -inf for 0."""
    return 2 * math.log(factor) if factor else -math.inf


def is_posterior(node) -> bool:
    """True for a posterior node; the `is_leaf` of every walk over parameters."""
    return isinstance(node, Posterior)


def is_noisy(node) -> bool:
    """True if sampling the node needs a key."""
    return is_posterior(node) and node.noisy


def log_alpha(node: Posterior) -> Array:
    """log(sigma^2 / mean^2) in the node's shape; of Scaled, its weight's.

    A point has alpha 0 (log alpha -inf), a variance layer and a pruned weight +inf.
    """
    return jnp.broadcast_to(node.shared_log_alpha(), node.shape)


def check_factory(make, where: str) -> None:
    """Refuses what is given in place of a factory of nodes.

    Raises:
      ValueError: a class of nodes, a node, or what cannot be called.
    """
    what = None
    if isinstance(make, type) and issubclass(make, Posterior):
        what = f"the class {make.__name__}"
    elif is_posterior(make):
        what = f"a node, {type(make).__name__}"
    elif not callable(make):
        what = repr(make)
    if what is not None:
        raise ValueError(
            f"{where!r} needs a factory, (key, shape) -> node, such as what "
            f"nodes.gaussian() returns, not {what}"
        )


def listed(factories: Mapping[str, Factory]) -> str:
    """Factories on a line, by the functions that made them: {'dense1': gaussian}."""
    made_by = (
        f"{name!r}: {getattr(make, '__qualname__', type(make).__name__)}"
        for name, make in factories.items()
    )
    return f"{{{', '.join(one.partition('.<locals>')[0] for one in made_by)}}}"


def resolve(axis: str, shape: Shape) -> Literal["in", "out"]:
    """ "in" or "out" for an axis of a weight [..., I, O].

    "unit" is the axis of both papers' LeNet-5: input units of a dense layer, output
    maps of a convolution.

    Raises:
      ValueError: an axis that does not exist.
    """
    choose("axis of units", axis, ("unit", "in", "out"))
    if axis == "unit":
        return "in" if len(shape) == 2 else "out"
    return "in" if axis == "in" else "out"


def other_axes(axis: str, shape: Shape) -> tuple[int, ...]:
    """The axes of a weight [..., I, O] but that of its units."""
    own = len(shape) - (2 if resolve(axis, shape) == "in" else 1)
    return tuple(i for i in range(len(shape)) if i != own)


@jax.custom_jvp
def zeroed(each: Array, where: Array) -> Array:
    """0 in the place of some entries, whose gradients are 0 or of no use anyway.

    So the gradients of all others stay as they are, to the bit.
    """
    return jnp.where(where, 0, each)


@zeroed.defjvp
def _zeroed_jvp(primals, tangents):
    return zeroed(*primals), tangents[0]
