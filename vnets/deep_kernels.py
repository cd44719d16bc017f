"""Gaussian processes on what a net makes of its inputs: deep kernel learning.

    deep = DeepKernel(lambda params, x: net.apply({"params": params}, x))
    best = fit(deep, deep.start(params), x, y, optax.adam(1e-2), updates=500)
    mean, var = deep.predict(best, x, y, new)

Wilson et al. 2016: y ~ N(0, K + noise^2), K = signal^2 exp(-|g(a) - g(b)|^2 / (2
scale^2)) with g a net. Its weights and the three numbers are those of most evidence,
log p(y). Without a net (`plain`) it is a process with the usual kernel. All is exact,
by Cholesky's factor of N x N numbers, so for few examples.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.scipy.linalg import cho_solve, solve_triangular

from vnets.types import Array, Params

JITTER = 1e-5  # of the signal's variance: what float32 needs for Cholesky's factor


@dataclasses.dataclass(frozen=True)
class DeepKernel:
    """A process, given its parameters: the net's, and log scale, signal and noise.

    Attributes:
      features: (params, inputs [N, ...]) -> what distances are taken of, [N, D].
    """

    features: Callable[[Params, Array], Array]

    def start(self, params: Params) -> dict:
        """The parameters before training: scale and signal 1, noise exp(-1)."""
        logs = {"log_scale": 0.0, "log_signal": 0.0, "log_noise": -1.0}
        held = {name: jnp.asarray(value, jnp.float32) for name, value in logs.items()}
        return {"net": params, **held}

    def evidence(self, given: dict, x: Array, y: Array) -> Array:
        """log p(y), nats; scalar.

        Args:
          given: as `start` makes them.
          x: [N, ...].
          y: [N].

        Raises:
          ValueError: targets that are not one number for each input.
        """
        factor, _ = self._factor(given, x, y)
        white = solve_triangular(factor, y, lower=True)
        volume = jnp.sum(jnp.log(jnp.diagonal(factor)))
        return -0.5 * jnp.sum(jnp.square(white)) - volume - _half_log_2pi(len(y))

    def predict(self, given: dict, x: Array, y: Array, new: Array):
        """Mean and variance of an observation at new inputs, noise included, [M] each.

        Args:
          given, x, y: as in `evidence`; what was observed.
          new: [M, ...].

        Raises:
          ValueError: as there.
        """
        factor, seen = self._factor(given, x, y)
        across = self._kernel(given, self.features(given["net"], new), seen)
        mean = across @ cho_solve((factor, True), y)
        known = jnp.sum(jnp.square(solve_triangular(factor, across.T, lower=True)), 0)
        signal, noise = (jnp.exp(2 * given[f"log_{n}"]) for n in ("signal", "noise"))
        return mean, jnp.maximum(signal - known, 0) + noise

    def _factor(self, given: dict, x: Array, y: Array) -> tuple[Array, Array]:
        """Cholesky's factor of the covariance of what is observed, and the features."""
        if jnp.ndim(y) != 1 or len(y) != len(x):
            raise ValueError(
                f"targets are [{len(x)}], a number for each input, not "
                f"{list(jnp.shape(y))}"
            )
        seen = self.features(given["net"], x)
        signal, noise = (jnp.exp(2 * given[f"log_{n}"]) for n in ("signal", "noise"))
        added = noise + JITTER * signal
        own = self._kernel(given, seen, seen) + added * jnp.eye(len(y))
        return jnp.linalg.cholesky(own), seen

    def _kernel(self, given: dict, a: Array, b: Array) -> Array:
        # Around the middle, where squares less products lose the fewest digits.
        middle = jnp.mean(a, 0, keepdims=True)
        a, b = ((x - middle) / jnp.exp(given["log_scale"]) for x in (a, b))
        both = jnp.sum(a * a, 1)[:, None] + jnp.sum(b * b, 1)[None]
        half = jnp.maximum(0.5 * both - a @ b.T, 0)
        return jnp.exp(2 * given["log_signal"] - half)


def _half_log_2pi(count: int) -> float:
    return 0.5 * count * math.log(2 * math.pi)


plain = DeepKernel(lambda params, x: x)  # start({})


def fit(
    process: DeepKernel,
    start: dict,
    x: Array,
    y: Array,
    optimizer: optax.GradientTransformation,
    updates: int,
) -> dict:
    """The parameters after so many updates towards more evidence, of all examples.

    Args:
      process: whose evidence.
      start: as its `start` makes them.
      x: [N, ...].
      y: [N].
      optimizer: of the negative evidence per example.
      updates: 1 at least.

    Raises:
      ValueError: no update, inputs or targets that are not finite, an evidence that is
        no number on the way (the factor of the covariance needs more noise, or smaller
        updates), or as in `DeepKernel.evidence`.
    """
    if updates < 1:
        raise ValueError(f"updates must be at least 1, not {updates}")
    for name, values in {"inputs": x, "targets": y}.items():
        if not jnp.all(jnp.isfinite(values)):
            raise ValueError(f"{name} must be finite")

    def cost(given):
        return -process.evidence(given, x, y) / len(y)

    def step(carry, _):
        given, state = carry
        value, slope = jax.value_and_grad(cost)(given)
        moves, state = optimizer.update(slope, state, given)
        return (optax.apply_updates(given, moves), state), jnp.isfinite(value)

    @jax.jit
    def run(carry):
        (best, _), finite = lax.scan(step, carry, None, updates)
        return best, jnp.append(finite, jnp.isfinite(cost(best)))

    best, finite = run((start, optimizer.init(start)))
    if not finite.all():
        raise ValueError(
            f"the evidence is no number after {int(jnp.argmin(finite))} of {updates} "
            "updates: start with more noise, or take smaller updates"
        )
    return best
