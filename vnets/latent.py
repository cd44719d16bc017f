"""Latent variables of each example: autoencoders, and bounds on log p(x).

    model = Autoencoder(encoder, decoder, size=2)
    loss = neg_elbo(forward(model, latent=True), Bernoulli(), prior, n_train)

The encoder's outputs are a posterior of the latent variables, a node of shape [B, Z]
as those of weights are; their prior is N(0, 1). So one objective serves an autoencoder
(`sampled=False`: a code without noise or KL), a variational autoencoder (Kingma and
Welling 2014), one whose decoder has noisy weights, which adds the KL of these, and,
with labels as targets, the deep variational information bottleneck (Alemi et al. 2017).

All bounds are in nats for each example. `log_weights` are those of importance sampling
with the encoder's posterior: their mean is the ELBO, the log of their mean the tighter
bound of Burda et al. 2016, which rises with the number of draws to log p(x).
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax, random

from vnets.layers import TEST, Mode
from vnets.likelihoods import Likelihood
from vnets.nodes import Additive
from vnets.predictor import Member
from vnets.priors import standard_normal
from vnets.rng import stream
from vnets.types import Array, Key

PRIOR = standard_normal(1.0)
AT_ONCE = 100_000  # pairs of a latent variable and an example, whose likelihood is due


class Autoencoder(nn.Module):
    """Inputs [B, ...] -> what the decoder says of them, and the latent KL, [B].

    Attributes:
      encoder: inputs -> [B, 2 Z], mean and log variance; of a code without noise its
        last Z outputs are not used.
      decoder: [B, Z] -> outputs, as the likelihood takes them.
      size: Z.
      sampled: whether z is drawn and has a KL; else it is the mean, and the KL is 0.
    """

    encoder: nn.Module
    decoder: nn.Module
    size: int
    sampled: bool = True

    def __call__(self, x, mode: Mode = TEST) -> tuple[Array, Array]:
        q = self.posterior(x, mode)
        if not self.sampled:
            return self.decode(q.mean, mode), jnp.zeros(len(q.mean), jnp.float32)
        z = q.sample(self.make_rng("noise"))
        return self.decode(z, mode), jax.vmap(PRIOR)(q)

    def posterior(self, x, mode: Mode = TEST) -> Additive:
        """The node of the latent variables of each example, [B, Z].

        Raises:
          ValueError: an encoder of another number of outputs.
        """
        outputs = self.encoder(x, mode)
        if outputs.shape[1:] != (2 * self.size,):
            raise ValueError(
                f"the encoder of {self.size} latent variables gives [B, "
                f"{2 * self.size}], their means and log variances, not "
                f"{list(outputs.shape)}"
            )
        mean, log_var = jnp.split(outputs, 2, axis=-1)
        return Additive(mean, log_var)

    def decode(self, z: Array, mode: Mode = TEST) -> Array:
        """What the decoder says at latent variables [B, Z]."""
        return self.decoder(z, mode)


def posterior(net: Member, x, key: Key, mode: Mode = TEST) -> Additive:
    """The node of the latent variables of each example, [B, Z], by one draw of weights.

    Args:
      net: of an `Autoencoder`, as all below.
      x: inputs [B, ...].
      key: of the weights' noise, if there is any.
      mode: how it is run.
    """
    return net.model.apply(
        net.variables, x, mode, rngs={"noise": key}, method="posterior"
    )


def decode(net: Member, z: Array, key: Key, mode: Mode = TEST) -> Array:
    """What the decoder says at latent variables [B, Z], by one draw of weights."""
    return net.model.apply(net.variables, z, mode, rngs={"noise": key}, method="decode")


def log_weights(
    net: Member,
    likelihood: Likelihood,
    x: Array,
    key: Key,
    samples: int,
    target: Array | None = None,
    mode: Mode = TEST,
) -> Array:
    """log p(x | z) + log p(z) - log q(z | x) of draws from the posterior, [S, B].

    Args:
      net: of an `Autoencoder` that draws.
      likelihood: of the decoder's outputs.
      x: inputs [B, ...].
      key: of the draws.
      samples: S.
      target: what the outputs explain; the inputs themselves by default.
      mode: how the net is run.

    Raises:
      ValueError: a net whose codes have no noise, or no samples.
    """
    if not net.model.sampled:
        raise ValueError("a code without noise has no density, so no bound on log p(x)")
    if samples < 1:
        raise ValueError(f"samples must be at least 1, not {samples}")
    target = x if target is None else target
    q = posterior(net, x, stream(key, "encoder"), mode)
    std = jnp.exp(0.5 * q.log_var)

    def one(key):
        eps = random.normal(stream(key, "z"), q.mean.shape)
        z = q.mean + std * eps
        nll = likelihood.nll(decode(net, z, stream(key, "decoder"), mode), target)
        # Of both normal densities the constants are the same.
        of_prior, of_q = -0.5 * z**2, -0.5 * eps**2 - 0.5 * q.log_var
        return jnp.sum(of_prior - of_q, -1) - nll

    return lax.map(one, random.split(stream(key, "draws"), samples))


def log_mean(log_weights: Array) -> Array:
    """The log of the mean over draws, [S, ...] -> [...]."""
    return jax.nn.logsumexp(log_weights, axis=0) - math.log(len(log_weights))


def effective_samples(log_weights: Array) -> Array:
    """How many equal weights vary as much, 1 to S: (sum w)^2 / sum w^2, [S, B] -> [B].

    Kish 1965.
    """
    return jnp.exp(
        2 * jax.nn.logsumexp(log_weights, axis=0)
        - jax.nn.logsumexp(2 * log_weights, axis=0)
    )


def log_mean_by_prior(
    net: Member,
    likelihood: Likelihood,
    target: Array,
    key: Key,
    samples: int,
    mode: Mode = TEST,
) -> Array:
    """log of the mean of p(x | z) over z drawn from the prior, [B].

    Unbiased before the logarithm, and hopeless after it: hardly any z has to do with an
    example (Doersch 2016). The same draws serve all examples.

    Args:
      net: of an `Autoencoder`.
      likelihood: of the decoder's outputs.
      target: what these explain, [B, ...].
      key: of the draws.
      samples: how many, of which as many as fit in memory are made at once.
      mode: how the net is run.

    Raises:
      ValueError: no samples.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, not {samples}")
    chunk = max(1, min(samples, AT_ONCE // len(target)))

    def one(outputs):
        outputs = jnp.broadcast_to(outputs, (len(target), *outputs.shape))
        return -likelihood.nll(outputs, target)

    def add(total, number):
        own = random.fold_in(key, number)
        z = random.normal(stream(own, "z"), (chunk, net.model.size))
        log_p = jax.vmap(one)(decode(net, z, stream(own, "decoder"), mode))
        inside = number * chunk + jnp.arange(chunk) < samples
        log_p = jnp.where(inside[:, None], log_p, -jnp.inf)
        return jnp.logaddexp(total, jax.nn.logsumexp(log_p, axis=0)), None

    start = jnp.full(len(target), -jnp.inf)
    total, _ = lax.scan(add, start, jnp.arange(-(-samples // chunk)))
    return total - math.log(samples)
