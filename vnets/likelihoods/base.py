"""What all likelihoods share: values of parts, an example's, and sums over a test."""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from vnets import targets
from vnets.pytrees import pytree, static
from vnets.types import Array, choose

Parts = Literal["mean", "sum"]


@pytree
class Sums:
    """Running sums of a test set; add them with `+`, read them with `compute`.

    Attributes:
      totals: weighted sums over examples, or their parts; "count" is that of weights.
      read: totals -> metrics.
    """

    totals: dict[str, Array]
    read: Callable = static()

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(jax.tree.map(jnp.add, self.totals, other.totals), self.read)

    def compute(self) -> dict[str, float]:
        """The metrics, as Python floats.

        Raises:
          ValueError: sums of nothing.
        """
        if not float(self.totals["count"]):
            raise ValueError("there are no means of nothing: all weights are 0")
        return {name: float(value) for name, value in self.read(self.totals).items()}


def per_example(
    values: Array, mask: Array | None = None, parts: Parts = "mean"
) -> Array:
    """One value for each example, [B, ...] -> [B], from those of its parts.

    Args:
      values: of examples, [B], or of their parts: positions, pixels, outputs.
      mask: 1 where a part counts and 0 where not, or its weight; of the same shape.
      parts: "mean" over them, and with a mask such that the mean over the batch, too,
        is that over all parts which count: an example has the share of those that are
        its own. Or their "sum", such that the mean over the batch is that over all
        examples of which a part counts.

    Raises:
      ValueError: a mask of another shape.
    """
    if mask is None and values.ndim == 1:
        return values
    if mask is not None:
        if jnp.shape(mask) != values.shape:
            raise ValueError(
                f"targets {values.shape} need a mask {values.shape}, not "
                f"{jnp.shape(mask)}"
            )
        mask = jnp.asarray(mask, values.dtype)
        whole = jnp.mean(mask if parts == "mean" else examples(mask))
        share = mask / jnp.maximum(whole, jnp.finfo(values.dtype).tiny)
        # What does not count may be infinite: 0 * inf must not reach the mean.
        values = jnp.where(mask > 0, values, 0) * share
    total = jnp.mean if parts == "mean" else jnp.sum
    return total(values, tuple(range(1, values.ndim)))


def examples(mask: Array) -> Array:
    """The weight of each example, [B, ...] -> [B]: the largest of its parts."""
    return jnp.max(mask, tuple(range(1, mask.ndim)))


def counted(target: Array, mask: Array | None) -> Array:
    """The targets with 0 in the place of those that do not count."""
    if mask is None:
        return target
    counts = jnp.asarray(mask) > 0
    counts = counts.reshape(counts.shape + (1,) * (jnp.ndim(target) - counts.ndim))
    return jnp.where(counts, target, 0)


class Likelihood:
    """What all likelihoods share; `log_p`, `mean`, `draw`, `sums` and `shown` are their
    own.

    Attributes:
      parts: an example of several parts (positions, pixels, outputs) has their "mean",
        and the n_train of a loss counts parts; or their "sum", and it counts examples.
        Where there is a mask, those that count.
    """

    parts: Parts

    def __post_init__(self):
        choose("parts", self.parts, ("mean", "sum"))

    @property
    def kind(self) -> str:
        """Of target, as `targets.check` has them."""
        return "numbers"

    def shape(self, target: Array) -> tuple[int, ...]:
        """Of the parts of a batch, [B, ...]: what weights and masks have one of."""
        return jnp.shape(target)

    def log_p(self, outputs: Any, target: Array) -> Array:
        """log p(target) of each part, in nats, [B, ...]."""
        # Abstract: each likelihood says its own.
        raise NotImplementedError(f"{type(self).__name__} has no log_p")

    def mean(self, outputs: Any) -> Array:
        """What is expected of each part: the mean of a number, [B, ...], or the
        probability of each class, [B, ..., K]."""
        # Abstract: each likelihood says its own.
        raise NotImplementedError(f"{type(self).__name__} has no mean")

    def nll(self, outputs: Any, target: Array, mask: Array | None = None) -> Array:
        """-log p(target) of each example, in nats, [B].

        Args:
          outputs: of the net, [B, ...].
          target: where it does not count, anything.
          mask: 1 where a part counts, 0 where not, or its weight, [B, ...].

        Raises:
          ValueError: shapes or types that do not fit.
        """
        each = -self.log_p(outputs, counted(target, mask))
        return per_example(each, mask, self.parts)

    def total_nll(self, outputs: Any, target: Array, weights: Array) -> Array:
        """-log p of all that counts, whatever `parts` is: what a curvature is of.

        Args:
          outputs: [B, ...].
          target: [B, ...].
          weights: 1 where a part counts, 0 where not, or its weight.

        Returns:
          Nats; scalar.
        """
        each = self.log_p(outputs, counted(target, weights))
        return -jnp.sum(jnp.where(weights > 0, each, 0) * weights)

    def cost(self, outputs: Any, target: Array, mask: Array | None = None) -> Array:
        """What a loss has in the place of `nll`: the same, or smoothed."""
        return self.nll(outputs, target, mask)

    def crossed(self, outputs: Any, targets: Array) -> Array:
        """log p of each of B targets by each of S outputs, in nats, [S, B]."""

        def one(outputs, target):
            return -self.nll(outputs[None], target[None])[0]

        return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(outputs, targets)

    def averaged(self, draws: Any) -> Any:
        """Outputs whose distribution is the mean of those of S draws [S, B, ...]."""
        raise ValueError(
            f"the mean of draws of a {type(self).__name__} is of no such form: take "
            'average="losses"'
        )

    def shown(self, outputs: Any, target: Array, mask: Array | None = None) -> dict:
        """Further metrics of a training batch, by name; scalars."""
        # Abstract: each likelihood says its own.
        raise NotImplementedError(f"{type(self).__name__} has no shown")

    def draw(self, outputs: Any, target: Array) -> tuple[dict, dict]:
        """What a test keeps of one draw: logs, of whose exponentials the mean over all
        draws counts, and values, whose own mean does."""
        # Abstract: each likelihood says its own.
        raise NotImplementedError(f"{type(self).__name__} has no draw")

    def sums(self, logs: dict, values: dict, target: Array, weights: Array) -> Sums:
        """The sums of one batch, from the means of what `draw` gives.

        Args:
          logs: log of the mean of exponentials.
          values: means.
          target: [B, ...].
          weights: of parts; 0 of padding.
        """
        # Abstract: each likelihood says its own.
        raise NotImplementedError(f"{type(self).__name__} has no sums")

    def metrics(
        self, draws: Any, target: Array, weights: Array | None = None
    ) -> dict[str, float]:
        """The metrics of predictions made of S draws of outputs, [S, B, ...].

        Raises:
          ValueError: shapes that do not fit, targets that `targets.check` refuses or of
            more classes than there are, or weights that are all 0.
        """
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(draws)]
        if any(shape[1:2] != jnp.shape(target)[:1] for shape in shapes):
            raise ValueError(
                f"draws are [S, B, ...] of targets {jnp.shape(target)}, not {shapes}: "
                "give outputs[None] of one draw"
            )
        if weights is None:
            weights = jnp.ones(self.shape(target), jnp.float32)
        _check_weights(self.shape(target), weights)
        largest = targets.check_values(target, weights, self.kind)
        if targets.are_classes(self.kind):
            targets.check_range(largest, shapes[0][-1])
        return self._summed(draws, target, weights).compute()

    @functools.partial(jax.jit, static_argnums=0)
    def _summed(self, draws: Any, target: Array, weights: Array) -> Sums:
        """The sums of the mean distribution of S draws."""
        logs, values = jax.vmap(self.draw, (0, None))(draws, target)
        logs = jax.tree.map(lambda x: jax.nn.logsumexp(x, 0) - math.log(len(x)), logs)
        values = jax.tree.map(lambda x: jnp.mean(x, 0), values)
        return self.sums(logs, values, target, weights)

    def total(self, nll: Array, weights: Array, read: Callable, **totals) -> Sums:
        """Sums with the nll of parts, over examples where their parts are summed."""
        _check_weights(jnp.shape(nll), weights)
        # Where log p is -inf off the target, 0 * inf must not reach the sum.
        counts = {
            "count": jnp.sum(weights),
            "of_nll": jnp.sum(weights if self.parts == "mean" else examples(weights)),
            "nll": jnp.sum(jnp.where(weights > 0, nll, 0) * weights),
        }
        return Sums(counts | totals, read)


def require_sum(likelihood: Likelihood, shape: tuple[int, ...]) -> None:
    """Refuses the mean over the parts of an example where its bound is asked for.

    What is of an example as a whole, such as the KL of its latent variables, goes with
    the sum over its parts.

    Args:
      likelihood: of the parts.
      shape: of these, [B, ...].

    Raises:
      ValueError: it takes their mean, and there are several.
    """
    if likelihood.parts == "mean" and math.prod(shape[1:]) > 1:
        raise ValueError(
            f"a bound on an example is of the sum over its {math.prod(shape[1:])} "
            'parts: give the likelihood parts="sum"'
        )


def _check_weights(shape: tuple[int, ...], weights: Array) -> None:
    if jnp.shape(weights) != shape:
        raise ValueError(
            f"targets {shape} need as many weights, not {jnp.shape(weights)}"
        )


def require_shape(name: str, values: Array, need: tuple[int, ...]) -> None:
    """Refuses what would broadcast: [N, 1] and [N] to [N, N].

    A single number goes with any shape.
    """
    shape = jnp.shape(values)
    if shape == need or not (shape and need):
        return
    wide = max(shape, need, key=len)
    column = wide == (*min(shape, need, key=len), 1)
    raise ValueError(
        f"{name} {shape} must have the shape {need}"
        + (f"; give [..., 0] of what is {wide}" if column else "")
    )
