"""What moves in the phase transition: from the means of a layer into its variances.

A unit of a layer with normal noise gives y = m(x) + sqrt(v(x)) eps. A class can be read
off its mean m or off its variance v. Per unit and draw, in nats, and as if each were
the signal of a Gaussian channel:

    mean_information      1/2 log(1 + Var_c[m] / E[v])
    variance_information  1/2 log(1 + Var_c[log v] / 2)

with Var_c the variance over classes of the class means. The 2 is the least variance of
an estimate of log v from one draw (the inverse of its Fisher information). The talk of
Neklyudov et al. (2018) leaves open what happens during the transition; the two curves
cross where the variances begin to tell more than the means.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from vnets import backend, tree
from vnets.edits import without_mean
from vnets.evaluate import to_float
from vnets.layers import TEST, call_path
from vnets.nodes import Multiplicative, Posterior
from vnets.types import Array, Key, choose

IMAGES = 2000  # of the test set, for the information of the two channels


def dense_node(params, layer: str) -> Posterior:
    """The posterior node of a dense layer.

    Raises:
      ValueError: there is no such layer; the message names those there are.
    """
    nodes = {at.name: node for at, node in tree.nodes(params) if len(node.shape) == 2}
    return choose("dense layer", layer, nodes)


def layer_input(model, layer: str) -> Callable:
    """(variables, x, key) -> what the named layer gets, [B, ..., I], as in a test."""

    def run(variables, x: Array, key: Key) -> Array:
        seen = []

        def watch(call, args, kwargs, context):
            if call_path(context) == layer:
                seen.append(args[0])
            return call(*args, **kwargs)

        with nn.intercept_methods(watch):
            model.apply(variables, x, mode=TEST, rngs={"noise": key})
        return seen[0]

    return backend.jit(run)


def channel_information(mean, var: Array, labels: Array) -> dict[str, float]:
    """Nats per unit and draw in the two channels (see above).

    Args:
      mean: of the pre-activations, [N, O], or None for zero.
      var: of the pre-activations, [N, O].
      labels: [N]; every class of 0 ... max must occur.
    """
    hot = jax.nn.one_hot(labels, int(jnp.max(labels)) + 1, dtype=jnp.float32)
    hot = hot / jnp.sum(hot, 0)[None]

    def between(signal: Array) -> Array:
        return jnp.var(hot.T @ signal, axis=0)

    noise = jnp.mean(var, 0)
    snr = jnp.zeros_like(noise) if mean is None else between(mean) / noise
    return {
        "mean_information": float(jnp.mean(0.5 * jnp.log1p(snr))),
        "variance_information": float(
            jnp.mean(0.5 * jnp.log1p(between(jnp.log(var)) / 2))
        ),
    }


def probe(model, layer: str, split) -> Callable[..., dict[str, float]]:
    """(params, collections, key) -> the information of both channels of a layer.

    Args:
      model: the net.
      layer: path of a dense layer with normal noise.
      split: images and labels; the first `IMAGES` count.
    """
    images = to_float(jnp.asarray(split.inputs[:IMAGES]))
    labels = jnp.asarray(split.target[:IMAGES])
    run = layer_input(model, layer)

    def measure(params, collections, key: Key) -> dict[str, float]:
        h = run({"params": params, **collections}, images, key)
        mean, var = dense_node(params, layer).moments()
        y_mean = None if mean is None else h @ mean
        return channel_information(y_mean, jnp.square(h) @ var, labels)

    return measure


def gaussian_kl(mean_q: Array, var_q: Array, mean_p: Array, var_p: Array) -> Array:
    """KL(N(mean_q, var_q) || N(mean_p, var_p)), elementwise, in nats."""
    ratio = var_q / var_p
    shift = jnp.square(mean_q - mean_p) / var_p
    return 0.5 * (ratio + shift - 1.0 - jnp.log(ratio))


def substitution(params, layer: str) -> dict[str, float] | None:
    """What it costs to drop the means: N(mu, alpha mu^2) -> N(0, alpha mu^2).

    Returns:
      kl (nats a weight, mean over the weights that are not exactly zero),
      half_inverse_alpha, the closed form 1 / (2 alpha) averaged alike, and log_alpha;
      None for a layer that is not multiplicative.
    """
    node = dense_node(params, layer)
    if not isinstance(node, Multiplicative):
        return None
    mean, var = node.moments()
    zero, zero_var = without_mean(node, None).moments()
    zero = jnp.zeros_like(mean) if zero is None else zero
    there = var > 0
    safe = jnp.where(there, var, 1.0), jnp.where(there, zero_var, 1.0)
    kl = gaussian_kl(mean, safe[0], zero, safe[1])
    half = jnp.broadcast_to(0.5 * jnp.exp(-node.log_alpha), mean.shape)
    count = jnp.sum(there)
    return {
        "kl": float(jnp.sum(jnp.where(there, kl, 0)) / count),
        "half_inverse_alpha": float(jnp.sum(jnp.where(there, half, 0)) / count),
        "log_alpha": float(jnp.mean(node.log_alpha)),
    }
