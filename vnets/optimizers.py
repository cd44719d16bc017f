"""Changes of the update, as optax transformations, beside optax's own."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from vnets import tree
from vnets.nodes import is_posterior
from vnets.types import Array

# Of the quintic polynomial that brings singular values near one (Jordan 2024).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def muon(
    learning_rate: optax.ScalarOrSchedule,
    momentum: float = 0.95,
    iterations: int = 5,
    keep_norm: bool = False,
) -> optax.GradientTransformation:
    """Updates of matrices whose singular values are all near one.

    Nesterov momentum, then orthogonalization by Newton and Schulz's iteration (Jordan
    et al. 2024, "Muon"; optax's implementation). A kernel [..., I, O] is a matrix whose
    columns are its outputs. Everything that it is given must have two axes at least:
    `by_pattern` gives the rest to another optimizer.

    Args:
      learning_rate: of the update, whose singular values are near one; it has no
        factor of the shape.
      momentum: of the running mean of gradients.
      iterations: of Newton and Schulz.
      keep_norm: scales every kernel to the norm sqrt(O) before each update, for layers
        that a normalization follows, where length only slows learning down.
    """
    orthogonal = contrib.scale_by_muon(
        ns_coeffs=NEWTON_SCHULZ,
        ns_steps=iterations,
        beta=momentum,
        weight_dimension_numbers=_columns_are_outputs,
    )
    chain = [orthogonal, optax.scale_by_learning_rate(learning_rate)]
    if keep_norm:
        chain.append(_from_norm())
    return optax.chain(*chain)


def _columns_are_outputs(params):
    """The last axis gives the outputs, all others the inputs."""

    def axes(x: Array):
        if x.ndim < 2:
            raise ValueError(f"muon is of matrices and kernels, not of {list(x.shape)}")
        return contrib.MuonDimensionNumbers(tuple(range(x.ndim - 1)), x.ndim - 1)

    return jax.tree.map(axes, params)


def _from_norm() -> optax.GradientTransformation:
    """The update as it is from parameters of norm sqrt(O)."""

    def moved(update, param):
        size = jnp.sqrt(jnp.sum(jnp.square(param)) + 1e-30)
        return update + param * (jnp.sqrt(float(param.shape[-1])) / size - 1)

    def update(updates, params):
        return jax.tree.map(moved, updates, params)

    return optax.stateless(update)


def by_pattern(
    optimizers: Mapping[str, optax.GradientTransformation],
    rest: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Each parameter by the optimizer whose pattern matches its path, or by `rest`.

    Args:
      optimizers: pattern of a path, such as "conv*/kernel/mean", to an optimizer; the
        first match counts.
      rest: of what matches none.

    Raises:
      ValueError: by its `init`, a pattern that is no parameter's first match.
    """

    def labels(params):
        return tree.change(
            lambda at, _: tree.first(optimizers, at.leaf) or "", params, inside=True
        )

    whole = optax.partition({**optimizers, "": rest}, labels)

    def init(params):
        refuse_idle(optimizers, params)
        return whole.init(params)

    return optax.GradientTransformationExtraArgs(init, whole.update)


def scale_by_pattern(factors: Mapping[str, float]) -> optax.GradientTransformation:
    """Multiplies the updates of parameters by a factor.

    Args:
      factors: pattern of a path, such as "mixture/*", to its factor; the first match
        counts, and 0 holds a parameter where it is.

    Raises:
      ValueError: by its `init`, a pattern that is no parameter's first match, unless it
        starts with "*": that says "wherever there is one".
    """

    def init(params):
        refuse_idle(factors, params, [one for one in factors if one[:1] != "*"])
        return optax.EmptyState()

    def scale(place: tree.Place, value):
        pattern = tree.first(factors, place.leaf)
        return value if pattern is None else factors[pattern] * value

    def update(updates, state, params=None):
        del params
        return tree.change(scale, updates, inside=True), state

    return optax.GradientTransformation(init, update)


def decay_means(decay: float) -> optax.GradientTransformation:
    """Adds `decay` times the mean of each weight to its gradient.

    An L2 penalty of decay / 2 on means; variances, biases and normalization have none.
    """

    def add(place: tree.Place, gradient, node):
        if place.is_vector or not hasattr(getattr(node, "bare", None), "mean"):
            return gradient
        added = decay * node.bare.mean
        return gradient.change_bare(lambda one: one.replace(mean=one.mean + added))

    def update(updates, params):
        return tree.change(add, updates, params)

    return optax.stateless(update)


def restarted(
    inner: optax.GradientTransformation, every: int
) -> optax.GradientTransformationExtraArgs:
    """An optimizer that begins anew every so many updates, its rate's schedule, too.

    What a task has left in the moments of Adam is of no use to the next.

    Raises:
      ValueError: not at least one update.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, not {every}")
    inner = optax.with_extra_args_support(inner)

    def init(params):
        return inner.init(params), jnp.zeros((), jnp.int32)

    def update(updates, state, params: Any = None, **extra):
        held, count = state
        due = count % every == 0
        held = jax.tree.map(
            lambda new, old: jnp.where(due, new, old), inner.init(params), held
        )
        updates, held = inner.update(updates, held, params, **extra)
        return updates, (held, count + 1)

    return optax.GradientTransformationExtraArgs(init, update)


def faster_noise(factor: float) -> optax.GradientTransformation:
    """Multiplies the updates of what sets alpha: log alpha, or log sigma^2.

    It stands behind Adam, whose own scaling would undo it.
    """

    def faster(place, node):
        del place
        return node.change_noise(lambda x: factor * x) if is_posterior(node) else node

    def update(updates, params):
        del params
        return tree.change(faster, updates)

    return optax.stateless(update)


def refuse_idle(patterns, params, needed=None) -> None:
    """Raises a ValueError for a pattern that is no parameter's first match.

    Args:
      patterns: in their order.
      params: whose paths they are for.
      needed: those that must match; all by default.
    """
    paths = [place.leaf for place, _ in tree.each(params, inside=True)]
    used = {tree.first(patterns, path) for path in paths}
    idle = sorted(set(patterns if needed is None else needed) - used)
    if idle:
        raise ValueError(f"nothing is left for {idle}; the parameters are {paths}")


OPTIMIZERS: dict[str, Callable] = {"adam": optax.adam, "sgd": optax.sgd, "muon": muon}
