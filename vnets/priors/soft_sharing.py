"""Soft weight sharing: a learned mixture of Gaussians as the prior of all weights.

Weights gather around the means of a few components, the first of which is held at zero;
afterwards each weight is replaced by the mean of its component (Nowlan and Hinton 1992;
Ullrich, Meeds and Welling 2017, whose tutorial the defaults follow). The mixture lies
in the parameters under `NAME`, beside the layers, and is trained with them.
"""

import math

import jax
import jax.numpy as jnp

from vnets import edits, tree
from vnets.nodes import Point, is_posterior
from vnets.pytrees import pytree
from vnets.types import Array, Key, Params

NAME = "mixture"
# Gamma(shape, rate) hyper-priors of the precisions: of the zero component, of others.
ZERO_PRIOR, OTHER_PRIOR = (5e3, 2.0), (250.0, 0.1)
ZERO_SHARE = 0.99  # mixing proportion of the zero component, fixed
BLOCK = 2**15  # weights whose densities are held at once


@pytree
class Mixture:
    """K Gaussians beside one at zero.

    Attributes:
      means: [K].
      log_precision: of all K + 1, the zero component first.
      logits: mixing proportions of the K, which share 1 - ZERO_SHARE.
    """

    means: Array
    log_precision: Array
    logits: Array

    def log_joint(self, w: Array) -> Array:
        """log (mixing proportion x density) of weights [N] by component, [N, K + 1]."""
        means = jnp.concatenate([jnp.zeros((1,), jnp.float32), self.means])
        share = jnp.log1p(-ZERO_SHARE) + jax.nn.log_softmax(self.logits)
        log_share = jnp.concatenate([jnp.log(jnp.full((1,), ZERO_SHARE)), share])
        square = jnp.square(w[:, None] - means[None])
        log_density = 0.5 * (
            self.log_precision[None]
            - jnp.exp(self.log_precision)[None] * square
            - math.log(2 * math.pi)
        )
        return log_share[None] + log_density

    def hyper(self) -> Array:
        """-log of the hyper-priors of the precisions, without constants."""
        prior = jnp.asarray([ZERO_PRIOR] + [OTHER_PRIOR] * self.means.size, jnp.float32)
        shape, rate = prior.T
        return -jnp.sum(
            (shape - 1) * self.log_precision - rate * jnp.exp(self.log_precision)
        )


def mixture(components: int = 16, reach: float = 0.6, std: float = 0.25) -> Mixture:
    """A mixture before training: means spread evenly over [-reach, reach].

    Raises:
      ValueError: no component.
    """
    if components < 1:
        raise ValueError(f"a mixture needs at least 1 component, not {components}")
    return Mixture(
        jnp.linspace(-reach, reach, components, dtype=jnp.float32),
        jnp.full((components + 1,), -2 * math.log(std), jnp.float32),
        jnp.zeros((components,), jnp.float32),
    )


def penalty(params: Params) -> Array:
    """-log density of all weights' means, and of the hyper-priors, in nats."""
    own: Mixture = params[NAME]
    means = [edits.mean_of(node).mean.ravel() for _, node in tree.weights(params)]
    w = jnp.concatenate(means)
    blocks = jnp.pad(w, (0, -w.size % BLOCK)).reshape(-1, BLOCK)
    inside = jnp.arange(blocks.size, dtype=jnp.int32).reshape(blocks.shape) < w.size

    @jax.checkpoint
    def block(total, item):
        values, real = item
        log_p = jax.nn.logsumexp(own.log_joint(values), axis=-1)
        return total - jnp.sum(jnp.where(real, log_p, 0)), None

    total, _ = jax.lax.scan(block, jnp.zeros((), jnp.float32), (blocks, inside))
    return total + own.hyper()


def share(params: Params, key: Key = None) -> Params:
    """An edit: each weight becomes the mean of its most responsible component.

    Biases and scales of normalization are not shared; they stay as they are.
    """
    del key
    own: Mixture = params[NAME]
    means = jnp.concatenate([jnp.zeros((1,), jnp.float32), own.means])

    def visit(place: tree.Place, node):
        if not is_posterior(node) or place.is_vector:
            return node
        mean = edits.mean_of(node).mean
        winner = jnp.argmax(own.log_joint(mean.ravel()), axis=-1)
        return Point(means[winner].reshape(mean.shape))

    return tree.change(visit, params)
