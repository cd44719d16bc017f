"""How much the gradient of a KL varies that is drawn and not computed.

The prior is N(0, 1), the posterior N(mean, sigma^2), and the KL of a draw w is
log q(w) - log p(w), both at the same w. The closed form has the mean of its gradient,
so that variances are mean squares around it.

    sampled  the whole gradient; log q has none by the mean, and -1/2 by log sigma^2,
             whatever the draw
    path     without the term of log q's own parameters (the score), whose mean is 0:
             it varies not at all where q is p, but by the mean as 1 / sigma^2 where
             sigma is small
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax, random

from experiments import spec as parts
from experiments.core import Measured
from vnets import backend, tree
from vnets.nodes import Additive, Posterior
from vnets.priors import standard_normal
from vnets.rng import stream
from vnets.types import Array, Key

WAYS = ("sampled", "path")
KINDS = ("mean", "log_var")


def draw_of_kl(node: Posterior, key: Key, way: str) -> Array:
    """log q(w) - log p(w) at a draw, summed over weights; its gradient is the way's."""
    w = node.sample(key)
    held = lax.stop_gradient(node) if way == "path" else node
    prior = Additive(jnp.zeros_like(w), jnp.zeros_like(w))
    return jnp.sum(held.log_prob(w) - prior.log_prob(w))


def errors(node: Additive, key: Key, way: str, draws: int) -> tuple[dict, dict]:
    """What gradients of draws exceed that of the closed form by, by `KINDS`.

    Args:
      node: with normal noise.
      key: of the draws.
      way: of `WAYS`.
      draws: how many.

    Returns:
      The means [...] over the draws, and the mean squares [...]: the variances.
    """
    exact = jax.grad(lambda one: standard_normal(1.0)(one))(node)

    def add(sums, number):
        found = jax.grad(draw_of_kl)(node, stream(key, number), way)
        gaps = {kind: getattr(found, kind) - getattr(exact, kind) for kind in KINDS}
        squares = jax.tree.map(jnp.square, gaps)
        return jax.tree.map(jnp.add, sums, (gaps, squares)), None

    zero = {kind: jnp.zeros(node.shape, jnp.float32) for kind in KINDS}
    sums, _ = lax.scan(add, (zero, zero), jnp.arange(draws, dtype=jnp.int32))
    return jax.tree.map(lambda s: s / draws, sums)


def measure_of(kind) -> Callable | None:
    """Variances for each weight, of the net at its start and at its end.

    None where the config gives no `evals.kl_draws`.

    Raises:
      ConfigError: one draw, or a net whose noise is another.
    """
    draws = kind.config.evals.get("kl_draws", 0)
    if not draws:
        return None
    parts.several("evals.kl_draws", draws)
    noisy = [node for _, node in tree.nodes(kind.shapes) if node.noisy]
    fit = (node.is_normal and all(hasattr(node, of) for of in KINDS) for node in noisy)
    if not (noisy and all(fit)):
        raise parts.ConfigError(
            "config.evals.kl_draws is of weights that all have a mean and a log_var: "
            "choose gaussian in config.model.posteriors"
        )

    @backend.jit
    def variances(params, key) -> dict:
        nodes = {at.key: node for at, node in tree.nodes(params) if node.noisy}
        found, count = {}, sum(node.mean.size for node in nodes.values())
        for way in WAYS:
            sums = [
                errors(node, stream(key, name), way, draws)[1]
                for name, node in nodes.items()
            ]
            for of in KINDS:
                total = sum(jnp.sum(one[of]) for one in sums)
                found[f"{way}_{of}"] = total / count
        return found

    def measure(params, collections, key) -> Measured:
        del collections
        start, _ = kind.init(stream(random.key(0), "start"))
        found = {}
        for when, net in {"start": start, "end": params}.items():
            own = variances(net, stream(key, "kl"))
            found |= {f"{when}_{name}": float(v) for name, v in own.items()}
        return Measured({"kl_gradients": found})

    return measure
