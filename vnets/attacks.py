"""Attacks on images within an L-inf ball: FGSM and its iteration, through any noise.

What is attacked is a `Predictor`, or any other `log_p(x [B, ...], key) -> [S, B, K]`: S
draws of log probabilities (noise, members of an ensemble, or both; S = 1 for a plain
net). Images are in [0, 1], and so is what comes out.

A stochastic net is attacked through the gradient of an average over its draws, fresh
ones at every update (expectation over transformation: Athalye, Engstrom, Ilyas and Kwok
2018). With a single draw the noise of the gradient is easily taken for robustness, so
always state S. Success is judged by other draws than those of the attack, and by as
many as the net uses to predict.

Sources: Goodfellow, Shlens and Szegedy 2015 (FGSM); Kurakin, Goodfellow and Bengio 2017
(its iteration, without a random start); Madry et al. 2018 (as projected ascent).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from vnets import renamed
from vnets.likelihoods import of_class
from vnets.pytrees import pytree
from vnets.rng import stream
from vnets.types import Array, Key
from vnets.uncertainty import log_mean

LogP = Callable[[Array, Key], Array]
Loss = Callable[[Array, Array], Array]


@pytree
class Attacked:
    """What an iterated attack made of a batch.

    Attributes:
      image: after the last update, [B, ...] in [0, 1].
      log_p: the judge's log predictive probabilities after 0, 1, ..., T updates,
        [T + 1, B, K]; those after 0 are of the original images, with draws of their
        own.
    """

    image: Array
    log_p: Array


def mean_cross_entropy(log_p: Array, label: Array) -> Array:
    """The mean over draws of -log p(label), nats: [S, B, K], int [B] -> [B].

    Its gradient is unbiased at any number of draws, so noise cannot hide it for ever.
    """
    every = jnp.broadcast_to(label, (len(log_p), *jnp.shape(label)))
    return -of_class(log_p, every).mean(0)


def cross_entropy_of_mean(log_p: Array, label: Array) -> Array:
    """-log of the mean over draws of p(label), nats: [S, B, K], int [B] -> [B].

    What is judged, exactly, but its gradient is biased at few draws, and it follows
    only those draws that are right still.
    """
    return mean_cross_entropy(log_mean(log_p)[None], label)


LOSSES: dict[str, Loss] = {
    "mean_cross_entropy": mean_cross_entropy,
    "cross_entropy_of_mean": cross_entropy_of_mean,
}


def gradient_sign(
    log_p: LogP, x: Array, label: Array, key: Key, loss: Loss = mean_cross_entropy
) -> Array:
    """The direction of an update, -1, 0 or 1 for each pixel, [B, ...].

    The examples do not mix as long as the net does not mix them: batch normalization
    must run on its running statistics.
    """
    total = jax.grad(lambda image: jnp.sum(loss(log_p(image, key), label)))
    return jnp.sign(total(x))


def fgsm(
    log_p: LogP,
    x: Array,
    label: Array,
    epsilon: float | Array,
    key: Key,
    loss: Loss = mean_cross_entropy,
) -> Array:
    """One step of length epsilon along the sign of the gradient, kept in [0, 1].

    Args:
      log_p: the predictor, with the attack's number of draws.
      x: images in [0, 1], [B, ...].
      label: true classes, int [B]; the attack leads away from them.
      epsilon: how far each pixel may move, in units of its range.
      key: of the draws.
      loss: what is ascended, (draws [S, B, K], label [B]) -> [B].

    Returns:
      Images [B, ...].

    Raises:
      ValueError: an epsilon that is not one number from 0 on, or pixels outside [0, 1].
    """
    _check_lengths(epsilon=epsilon)
    _check_pixels(x)
    return jnp.clip(x + epsilon * gradient_sign(log_p, x, label, key, loss), 0.0, 1.0)


def iterated(
    log_p: LogP,
    x: Array,
    label: Array,
    *,
    epsilon: float | Array,
    step: float | Array,
    updates: int,
    key: Key,
    judge: LogP | None = None,
    loss: Loss = mean_cross_entropy,
) -> Attacked:
    """Sign steps, each projected onto the L-inf ball around x and onto [0, 1].

    It starts from x itself. Everything but `updates` and the functions may be traced:
    one compiled attack serves every epsilon.

    Args:
      log_p: the predictor, with the attack's number of draws; fresh at each update.
      x: images in [0, 1], [B, ...].
      label: true classes, int [B]; the attack leads away from them.
      epsilon: radius of the ball, in units of the pixels' range.
      step: length of an update, in the same units.
      updates: T.
      key: of all draws; those of the judge do not depend on those of the attack.
      judge: the predictor as it is used, with its own number of draws; `log_p` itself
        by default.
      loss: what is ascended, (draws [S, B, K], label [B]) -> [B].

    Raises:
      ValueError: less than one update, an epsilon or a step that is not one number from
        0 on, or pixels outside [0, 1].
    """
    if updates < 1:
        raise ValueError(f"updates must be at least 1, not {updates}")
    _check_lengths(epsilon=epsilon, step=step)
    _check_pixels(x)
    judge = judge or log_p
    low, high = jnp.maximum(x - epsilon, 0.0), jnp.minimum(x + epsilon, 1.0)

    def judged(image: Array, update: int | Array) -> Array:
        return log_mean(judge(image, stream(key, "judge", update)))

    def one(image: Array, update: Array) -> tuple[Array, Array]:
        own = stream(key, "attack", update)
        direction = gradient_sign(log_p, image, label, own, loss)
        image = jnp.clip(image + step * direction, low, high)
        return image, judged(image, update)

    first = judged(x, 0)
    image, rest = lax.scan(one, x, jnp.arange(1, updates + 1, dtype=jnp.int32))
    return Attacked(image, jnp.concatenate([first[None], rest]))


def _check_lengths(**values: float | Array) -> None:
    """Refuses what is not one number from 0 on; what is traced may be below it."""
    for name, value in values.items():
        known = not isinstance(value, Tracer)
        if jnp.shape(value) or (known and not float(value) >= 0):
            raise ValueError(f"{name} is a number from 0 on, not {value}")


def _check_pixels(x: Array) -> None:
    """Refuses images that would be cut off, where they are known."""
    if isinstance(x, Tracer) or not np.size(x):
        return
    known = np.asarray(x)  # NumPy's, which is not traced inside jit
    low, high = known.min(), known.max()
    if not (low >= 0 and high <= 1):
        raise ValueError(f"images are in [0, 1], not from {low:g} to {high:g}")


def is_right(log_p: Array, label: Array) -> Array:
    """Whether the label is the most probable class, [..., B, K] -> [..., B].

    A prediction that is NaN is not.
    """
    right = jnp.argmax(log_p, -1) == _for_each("label", label, log_p)
    return right & ~_unknown(log_p)


def _unknown(log_p: Array) -> Array:
    return jnp.any(jnp.isnan(log_p), -1)


def _for_each(name: str, values: Array, log_p: Array) -> Array:
    """What each image has one of, [B], for all that log_p is of, [..., B, K].

    Raises:
      ValueError: another shape.
    """
    if jnp.shape(values) != log_p.shape[-2:-1]:
        raise ValueError(
            f"predictions {log_p.shape} need a {name} {log_p.shape[-2:-1]}, not "
            f"{jnp.shape(values)}"
        )
    return jnp.broadcast_to(values, log_p.shape[:-1])


def success_rate(log_p: Array, label: Array, counted: Array) -> Array:
    """The fraction of the counted images that are misclassified, [..., B, K] -> [...].

    Args:
      log_p: log predictive probabilities of attacked images, [..., B, K].
      label: true classes, int [B].
      counted: whether an image counts, bool [B]: give those that were classified
        correctly before, by draws other than any in `log_p`. A noisy net then has a
        rate above zero without any attack, which belongs beside the attack's.

    Returns:
      Rates in [0, 1]; NaN if nothing counts, or a prediction that does is NaN.
    """
    those = _for_each("counted", counted, log_p)
    rate = jnp.sum(~is_right(log_p, label) & those, -1) / jnp.sum(counted)
    return jnp.where(jnp.any(_unknown(log_p) & those, -1), jnp.nan, rate)


__getattr__ = renamed.getter("vnets.attacks")
