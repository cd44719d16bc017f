"""Normal weights that vary together, within a tensor and from one to another.

What the walk of an optimizer (`vnets.swag`) and the curvature of a loss
(`vnets.laplace`) say of a posterior.
"""

import jax.numpy as jnp
from jax import random

from vnets.nodes.base import LOG_FLOOR, node_type
from vnets.nodes.weights import Noisy
from vnets.rng import stream
from vnets.types import Array, Key, Shape


@node_type
class Correlated(Noisy):
    """mean + std * noise + sum over r of z_r factor_r, noise and z normal.

    The z are shared by all such nodes of a tree where it is drawn as a whole
    (`edits.draw`, the `draw` of a `predictor.Predictor`). `sample`, and so an
    estimator, draws each tensor by itself: right for that one alone.

    Attributes:
      mean: [..., I, O], or [O] of a bias.
      std: of what is each weight's own, of the same shape.
      factor: R directions of all weights together, [R, ..., I, O].
    """

    mean: Array
    std: Array
    factor: Array
    noise = "correlated"

    @property
    def shape(self) -> Shape:
        return self.mean.shape

    def moments(self):
        var = jnp.square(self.std) + jnp.sum(jnp.square(self.factor), 0)
        return self.mean, var

    def log_variance(self) -> Array:
        return jnp.log(self.moments()[1])

    def shared_log_alpha(self) -> Array:
        held = self.log_variance() - jnp.log(jnp.square(self.mean) + LOG_FLOOR)
        return jnp.where(self.pruned(), jnp.inf, held)

    def sample(self, key: Key, batch: Shape = ()) -> Array:
        return self.drawn(stream(key, "own"), stream(key, "shared"), batch)

    def drawn(self, key: Key, shared: Key, batch: Shape = ()) -> Array:
        own = random.normal(key, (*batch, *self.shape), self.mean.dtype)
        z = random.normal(shared, (*batch, len(self.factor)), self.mean.dtype)
        ones = (1,) * len(batch)
        mean, std = (x.reshape(ones + x.shape) for x in (self.mean, self.std))
        return mean + std * own + jnp.tensordot(z, self.factor, 1)

    def pruned(self) -> Array:
        mean, var = self.moments()
        return (mean == 0) & (var == 0)

    def kept(self, keep: Array) -> "Correlated":
        factor = jnp.where(jnp.broadcast_to(keep, self.shape)[None], self.factor, 0)
        mean, std = (jnp.where(keep, x, 0) for x in (self.mean, self.std))
        return self._with(mean=mean, std=std, factor=factor)

    def with_mean(self, mean: Array) -> "Correlated":
        return self._with(mean=mean)

    def quieter(self, factor: float) -> "Correlated":
        return self._with(std=self.std * factor, factor=self.factor * factor)
