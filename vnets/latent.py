"""Latent variables of each example: autoencoders, and bounds on log p(x).

    model = Autoencoder(encoder, decoder, size=2)
    loss = neg_elbo(forward(model, latent=True), Bernoulli(), prior, n_train)

The encoder's outputs are a posterior of the latent variables, a node of shape [B, Z]
as those of weights are; their prior is N(0, 1). So one objective serves an autoencoder
(`sampled=False`: a code without noise or KL), a variational autoencoder (Kingma and
Welling 2014), one whose decoder has noisy weights, which adds the KL of these, and,
with labels as targets, the deep variational information bottleneck (Alemi et al. 2017).

Latent variables are numbers or bits (`Normal`, `Bits`), which say, too, how the
gradient comes through their draw in training (`vnets.gradients`). Their KL is exact.

All bounds are in nats for each example. `log_weights` are those of importance sampling
with the encoder's posterior: their mean is the ELBO, the log of their mean the tighter
bound of Burda et al. 2016, which rises with the number of draws to log p(x).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax, random

from vnets import gradients
from vnets.layers import TEST, Mode
from vnets.likelihoods import Likelihood, require_sum
from vnets.nodes import Additive
from vnets.predictor import Member
from vnets.priors import standard_normal
from vnets.pytrees import pytree
from vnets.rng import stream
from vnets.types import Array, Key, choose

PRIOR = standard_normal(1.0)
AT_ONCE = 100_000  # pairs of a latent variable and an example, whose likelihood is due


@dataclasses.dataclass(frozen=True)
class Normal:
    """Numbers; the prior is N(0, 1), and the encoder gives means and log variances.

    Attributes:
      gradient: "pathwise", or "score" of an example's cost, less the mean cost of the
        others of its batch.

    Raises:
      ValueError: another gradient.
    """

    gradient: Literal["pathwise", "score"] = "pathwise"
    outputs: ClassVar[int] = 2  # of the encoder, for each latent variable

    def __post_init__(self):
        choose("gradient", self.gradient, ("pathwise", "score"))

    @property
    def exact(self) -> "Normal":
        """Those that are drawn in tests: the same numbers."""
        return Normal()

    def posterior(self, outputs: Array) -> Additive:
        """The node of latent variables, from what the encoder gives, [B, 2 Z]."""
        mean, log_var = jnp.split(outputs, 2, axis=-1)
        return Additive(mean, log_var)

    def kl(self, q: Additive) -> Array:
        """KL from the prior, nats, [B]."""
        return jax.vmap(PRIOR)(q)

    def drawn(self, q: Additive, key: Key) -> Array:
        """z [B, Z] as the decoder is given it in training."""
        return q.sample(key)

    def log_q(self, q: Additive, z: Array) -> Array:
        """log q(z | x) but for a constant, [B]."""
        eps = (z - q.mean) * jnp.exp(-0.5 * q.log_var)
        return -0.5 * jnp.sum(jnp.square(eps) + q.log_var, -1)

    def weighed(self, q: Additive, key: Key) -> tuple[Array, Array]:
        """A draw [B, Z] from the posterior, and log p(z) - log q(z | x), [B]."""
        eps = random.normal(key, q.mean.shape)
        z = q.mean + jnp.exp(0.5 * q.log_var) * eps
        # Of both normal densities the constants are the same.
        return z, 0.5 * jnp.sum(eps**2 + q.log_var - z**2, -1)

    def of_prior(self, key: Key, shape: tuple[int, ...]) -> Array:
        """Draws from the prior."""
        return random.normal(key, shape)


@pytree
class Coins:
    """Independent bits: the posterior of `Bits`.

    Attributes:
      logits: of a 1, [B, Z].
    """

    logits: Array

    @property
    def mean(self) -> Array:
        """The probabilities of a 1."""
        return jax.nn.sigmoid(self.logits)


@dataclasses.dataclass(frozen=True)
class Bits:
    """0 or 1; the prior is a fair coin, and the encoder gives logits.

    Attributes:
      gradient: "score" of an example's cost, less the mean cost of the others of its
        batch, "straight_through" or "concrete"; the last gives the decoder numbers
        between 0 and 1 in training.
      temperature: of "concrete", > 0.

    Raises:
      ValueError: another gradient; a temperature that is missing, or that no gradient
        has a use for.
    """

    gradient: Literal["score", "straight_through", "concrete"] = "score"
    temperature: float | None = None
    outputs: ClassVar[int] = 1

    def __post_init__(self):
        choose("gradient", self.gradient, ("score", "straight_through", "concrete"))
        if (self.gradient == "concrete") != (self.temperature is not None):
            raise ValueError(
                'gradient "concrete" has a temperature, and no other one has: not '
                f"{self.gradient!r} and {self.temperature}"
            )
        if self.temperature is not None and not self.temperature > 0:
            raise ValueError(
                f"the temperature must be positive, not {self.temperature}"
            )

    @property
    def exact(self) -> "Bits":
        """Those that are drawn in tests: bits, whatever gradient trained them."""
        return Bits()

    def posterior(self, outputs: Array) -> Coins:
        """The coins of latent variables, from what the encoder gives, [B, Z]."""
        return Coins(outputs)

    def kl(self, q: Coins) -> Array:
        """KL from the prior, nats, [B]: Z ln 2 less the entropy."""
        log_1, log_0 = jax.nn.log_sigmoid(q.logits), jax.nn.log_sigmoid(-q.logits)
        return jnp.sum(q.mean * log_1 + (1 - q.mean) * log_0 + math.log(2), -1)

    def drawn(self, q: Coins, key: Key) -> Array:
        """z [B, Z] as the decoder is given it in training."""
        if self.gradient == "straight_through":
            return gradients.straight_through(q.logits, key)
        if self.temperature is not None:
            return gradients.concrete(q.logits, key, self.temperature)
        return random.bernoulli(key, q.mean).astype(q.logits.dtype)

    def log_q(self, q: Coins, z: Array) -> Array:
        """log q(z | x), [B]."""
        return jnp.sum(gradients.log_bernoulli(q.logits, z), -1)

    def weighed(self, q: Coins, key: Key) -> tuple[Array, Array]:
        """A draw [B, Z] from the posterior, and log p(z) - log q(z | x), [B]."""
        z = self.exact.drawn(q, key)
        return z, -z.shape[-1] * math.log(2) - self.log_q(q, z)

    def of_prior(self, key: Key, shape: tuple[int, ...]) -> Array:
        """Draws from the prior."""
        return random.bernoulli(key, shape=shape).astype(jnp.float32)


LATENTS: dict[str, Any] = {"normal": Normal, "bits": Bits}


class Autoencoder(nn.Module):
    """Inputs [B, ...] -> what the decoder says of them, and the latent KL, [B].

    With the gradient "score" there is a third: log q(z | x) of the draw, [B], by which
    `loss.forward` corrects the gradient of the cost.

    Attributes:
      encoder: inputs -> [B, 2 Z], mean and log variance; of a code without noise its
        last Z outputs are not used. Of bits [B, Z], their logits.
      decoder: [B, Z] -> outputs, as the likelihood takes them.
      size: Z.
      sampled: whether z is drawn and has a KL; else it is the mean, and the KL is 0.
      latents: what z is, and how the gradient comes through its draw.

    Raises:
      ValueError: a code without noise of anything but numbers by the pathwise gradient.
    """

    encoder: nn.Module
    decoder: nn.Module
    size: int
    sampled: bool = True
    latents: Normal | Bits = Normal()

    def __post_init__(self):
        if not self.sampled and self.latents != Normal():
            raise ValueError(
                f"a code without noise is of {Normal()}, not {self.latents}"
            )
        super().__post_init__()

    def __call__(self, x, mode: Mode = TEST) -> tuple[Array, ...]:
        q: Any = self.posterior(x, mode)
        if not self.sampled:
            return self.decode(q.mean, mode), jnp.zeros(len(q.mean), jnp.float32)
        z, kl = self.latents.drawn(q, self.make_rng("noise")), self.latents.kl(q)
        if self.latents.gradient != "score":
            return self.decode(z, mode), kl
        z = lax.stop_gradient(z)
        return self.decode(z, mode), kl, self.latents.log_q(q, z)

    def posterior(self, x, mode: Mode = TEST) -> Additive | Coins:
        """The node of the latent variables of each example, [B, Z].

        Raises:
          ValueError: an encoder of another number of outputs.
        """
        outputs, wanted = self.encoder(x, mode), self.latents.outputs * self.size
        if outputs.shape[1:] != (wanted,):
            raise ValueError(
                f"the encoder of {self.size} latent variables, {self.latents}, gives "
                f"[B, {wanted}], not {list(outputs.shape)}"
            )
        return self.latents.posterior(outputs)

    def decode(self, z: Array, mode: Mode = TEST) -> Array:
        """What the decoder says at latent variables [B, Z]."""
        return self.decoder(z, mode)


def posterior(net: Member, x, key: Key, mode: Mode = TEST) -> Any:
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
      ValueError: a net whose codes have no noise, no samples, or a likelihood that
        takes the mean over the parts of an example.
    """
    if not net.model.sampled:
        raise ValueError("a code without noise has no density, so no bound on log p(x)")
    if samples < 1:
        raise ValueError(f"samples must be at least 1, not {samples}")
    target = x if target is None else target
    require_sum(likelihood, likelihood.shape(target))
    q = posterior(net, x, stream(key, "encoder"), mode)

    def one(key):
        z, log_ratio = net.model.latents.weighed(q, stream(key, "z"))
        nll = likelihood.nll(decode(net, z, stream(key, "decoder"), mode), target)
        return log_ratio - nll

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
    samples: int | Sequence[int],
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
      samples: how many, of which as many as fit in memory are made at once; or several
        numbers, each of the first of the same draws.
      mode: how the net is run.

    Returns:
      [B], or of several numbers [K, B].

    Raises:
      ValueError: no samples, or a likelihood as in `log_weights`.
    """
    require_sum(likelihood, likelihood.shape(target))
    counts = np.asarray(samples).reshape(-1)
    if counts.dtype.kind not in "iu" or not counts.size or counts.min() < 1:
        raise ValueError(f"samples are integers from 1 on, not {samples}")
    most = int(counts.max())
    chunk = max(1, min(most, AT_ONCE // len(target)))

    def add(total, number):
        own = random.fold_in(key, number)
        z = net.model.latents.of_prior(stream(own, "z"), (chunk, net.model.size))
        outputs = decode(net, z, stream(own, "decoder"), mode)
        log_p = likelihood.crossed(outputs, target)
        inside = number * chunk + jnp.arange(chunk)[None] < counts[:, None]
        log_p = jnp.where(inside[..., None], log_p[None], -jnp.inf)
        return jnp.logaddexp(total, jax.nn.logsumexp(log_p, axis=1)), None

    start = jnp.full((len(counts), len(target)), -jnp.inf)
    total, _ = lax.scan(add, start, jnp.arange(-(-most // chunk)))
    found = total - np.log(counts).astype(np.float32)[:, None]
    return found.reshape(*np.shape(samples), len(target))
