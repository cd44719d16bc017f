"""An adaptive mixture of normals as the prior of noisy weights (Hinton, van Camp 1993).

    prior = coding.mixture(5)       # learned with the weights, as any parameter is
    price = prior(node)             # nats

The KL of a normal from a mixture has no closed form. A sender who chooses a component
for each weight, at random by r, and gets the bits of the choice back, pays

    sum_k r_k (KL_k - ln share_k) + sum_k r_k ln r_k  >=  the KL,

least at r_k ~ share_k exp(-KL_k), where it is -ln sum_k share_k exp(-KL_k). The mixture
itself is not charged for, as there.
"""

import math

import jax
import jax.numpy as jnp

from vnets.nodes import Posterior
from vnets.priors.base import VAR_FLOOR, along, check_normal, sum_kept
from vnets.pytrees import pytree
from vnets.types import Array


@pytree
class Mixture:
    """K normals.

    Attributes:
      means: [K].
      log_std: [K].
      logits: of the shares, [K].
    """

    means: Array
    log_std: Array
    logits: Array

    def __call__(self, node: Posterior) -> Array:
        """The price of a node's weights, nats; at least their KL from the mixture.

        Raises:
          TypeError: a node whose weights are no independent normal variables.
        """
        check_normal(node, "coding.Mixture")
        mean, var = node.moments()
        mean = jnp.zeros_like(var) if mean is None else mean
        return sum_kept(node, self.price(mean, var))

    def price(self, mean: Array, var: Array) -> Array:
        """Of each weight, of the shape of mean and var."""
        means, log_std, log_share = self._along(mean)
        gap = mean[..., None] - means
        square = (var[..., None] + jnp.square(gap)) * jnp.exp(-2 * log_std)
        kl = 0.5 * (square - 1 - jnp.log(var + VAR_FLOOR)[..., None]) + log_std
        return -jax.nn.logsumexp(log_share - kl, axis=-1)

    def density(self, w: Array) -> Array:
        """Log density of each weight, of the shape of w."""
        means, log_std, log_share = self._along(w)
        z = (w[..., None] - means) * jnp.exp(-log_std)
        log_p = -0.5 * (jnp.square(z) + math.log(2 * math.pi)) - log_std
        return jax.nn.logsumexp(log_share + log_p, axis=-1)

    def _along(self, w: Array) -> tuple[Array, ...]:
        own = self.means, self.log_std, jax.nn.log_softmax(self.logits)
        return tuple(along(values, w) for values in own)


def mixture(components: int = 5, reach: float = 0.24) -> Mixture:
    """A mixture before it learns: means spread evenly over [-reach, reach].

    Neighbours are two standard deviations apart, as those of Hinton and van Camp; one
    alone is at 0, with the standard deviation `reach`.

    Raises:
      ValueError: no component, or no reach.
    """
    if components < 1 or not reach > 0:
        raise ValueError(
            f"a mixture needs 1 component and a positive reach, not {components} and "
            f"{reach}"
        )
    several = components > 1
    means = jnp.linspace(-reach, reach, components) if several else jnp.zeros(1)
    std = reach / (components - 1) if several else reach
    return Mixture(
        jnp.asarray(means, jnp.float32),
        jnp.full(components, math.log(std), jnp.float32),
        jnp.zeros(components, jnp.float32),
    )
