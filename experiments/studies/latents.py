"""What latent variables are worth: tighter bounds, their use, their bits, pictures.

Measured of one autoencoder, its weights' noise off, on the test set:

    latent  active, how many latent variables do anything: those whose means vary by
            more than 0.01 from picture to picture (Burda et al. 2016); square, the mean
            of z^2 over latent variables drawn by the encoder, 1 under the prior;
            neighbours, the accuracy of the nearest training codes at the test's
            classes, if there are any
    pixels  alone, log p(x) in nats by a density of each pixel by itself, of no net
    moved   why squared distance misleads (Doersch 2016), of no net, either: half and
            whole, how far each of `evals.pictures` is from itself, moved down and right
            by so much of a pixel; and other, how far it is from the nearest training
            picture of another class, if there are any; by how far it is from black
    bound   of `evals.pictures` of them: elbo, and importance, the bound of Burda et al.
            by `evals.importance_samples` draws, nats; prior, the estimate of as many
            draws of the prior as `evals.prior_samples` (Doersch 2016: hopeless), and
            prior_few by no more than importance has; and effective, how many of the
            importance weights count
    learned elbo, of as many training pictures; and gap, what it is above that of tests
    bits    of the same pictures, if they are black and white: what each pixel costs by
            the bound and by bits back with a real coder (`vnets.bitsback`); decoded, 1
            if all came back bit for bit

Curves: the codes of the pictures; some of these, reconstructed; a few that are moved
or lose ink; the estimates of log p(x) by their draws; and with two latent variables
what the decoder makes of a grid of `evals.tiles` times as many, at equal steps of the
prior's mass (Kingma and Welling 2014, figure 4). No pictures where `evals.tiles` is 0.
"""

import functools
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from scipy import ndimage
from scipy.special import logsumexp, ndtri

from experiments.core import Measured, Net
from experiments.datasets import prepare_of
from vnets import bitsback, edits, latent
from vnets.data import Dataset, Split
from vnets.likelihoods import Bernoulli, Grey
from vnets.predictor import Member
from vnets.rng import stream
from vnets.types import Array, Key

FIELDS = tuple(
    f"evals.{name}"
    for name in (
        *("pictures", "importance_samples", "prior_samples", "neighbours"),
        *("cells", "tiles"),
    )
)
ACTIVE = 0.01
Pixels = Bernoulli | Grey
PIXELS: dict[str, Pixels] = {"binary": Bernoulli(), "grey": Grey()}
WORDS = 64  # that a message starts from
AT_ONCE = 200  # codes whose distances to all others fit in memory
CODES = 2000  # that a figure shows, the first
RECONSTRUCTED = 4  # in a row; as many rows, of pictures and what became of them
MOVES = {"half": 0.5, "whole": 1.0}  # of a picture, in pixels


def _silent() -> Key:
    """A key for weights without noise, which draw nothing."""
    return random.key(0)


def measure_of(
    settings, dataset: Dataset, kind: Pixels
) -> Callable[[Net, Key], Measured]:
    """What is measured of one net whose pixels are of a kind, by `config.evals`."""

    def measure(net: Net, key: Key) -> Measured:
        params = edits.mean_only(net.params)
        member = Member(net.model, {"params": params, **net.collections})
        return _measure(settings, dataset, kind, member, key)

    return measure


def pixels(split: Split) -> Array:
    """Pictures as nets take them, [N, D], pixels in [0, 1]."""
    x = prepare_of(split)(jnp.asarray(split.inputs))
    return x.reshape(len(x), -1)


def _measure(
    settings, dataset: Dataset, kind: Pixels, net: Member, key: Key
) -> Measured:
    learn, test = (np.asarray(pixels(one)) for one in (dataset.train, dataset.test))
    mean, active, square = _codes_of(net, test)
    codes = np.asarray(mean)
    of = {"active": float(active), "square": float(square)}
    shown = min(settings.pictures, len(test))
    shape = dataset.test.shape[:2]
    white = functools.partial(_white, kind, net)
    apart, moved = _distances(dataset, learn, test[:shown])
    evals = {"latent": of, "pixels": {"alone": float(_alone(kind, learn, test))}}
    evals["moved"] = apart
    curves = {}
    if settings.tiles:
        curves["moved"] = {"white": moved}
        curves["reconstructed"] = {"white": _reconstructed(white, test, codes, shape)}
    if dataset.classes:
        of["neighbours"] = _nearest(
            *(np.asarray(_codes_of(net, learn)[0]), dataset.train.target),
            *(codes, dataset.test.target),
            settings.neighbours,
        )
        classes = dataset.test.target
        curves["codes"] = _codes(codes[:CODES], classes[:CODES])
    if settings.tiles and net.model.size == 2:
        curves["manifold"] = {"white": _manifold(white, settings.tiles, shape)}
    if net.model.sampled:
        weights = _weights(settings, kind, key)
        seen = np.asarray(weights(net, test[:shown]), np.float64)
        found = _bounds(settings, kind, net, seen, test[:shown], key)
        evals["bound"], curves["draws"] = found
        elbo = float(np.mean(np.asarray(weights(net, learn[:shown]), np.float64)))
        evals["learned"] = {"elbo": elbo, "gap": elbo - evals["bound"]["elbo"]}
        if isinstance(kind, Bernoulli) and not (test % 1).any():
            found = _bits(settings, net, test[:shown].astype(np.int32))
            evals["bits"] = {"bound": _bits_of(evals["bound"]["elbo"], test), **found}
    return Measured(evals, curves)


@functools.partial(jax.jit, static_argnums=0)
def _alone(kind: Pixels, learn: Array, test: Array) -> Array:
    """log p(x), nats, of pixels that know nothing of one another, nor of a code.

    Each has the share of white, or the mean and deviation, that it has in training;
    with a white and a black picture more, that nothing is impossible.
    """
    count, total = len(learn) + 2, jnp.sum(learn, 0) + 1
    outputs = jnp.log(total) - jnp.log(count - total)
    if isinstance(kind, Grey):
        log_std = jnp.log(jnp.std(learn, 0) + kind.least)
        outputs = jnp.concatenate([outputs, log_std])
    return jnp.mean(kind.crossed(outputs[None], test))


@jax.jit
def _codes_of(net: Member, x: Array) -> tuple[Array, Array, Array]:
    """Means of the latent variables, [N, Z]; how many of them are active; and E[z^2]
    of what the decoder is given in training, over pictures and variables."""
    q = latent.posterior(net, x, _silent())
    noise = jnp.exp(q.log_var) if net.model.sampled else 0.0
    active = jnp.sum(jnp.var(q.mean, 0) > ACTIVE)
    return q.mean, active, jnp.mean(jnp.square(q.mean) + noise)


def _nearest(known, classes, asked, truth, neighbours: int) -> float:
    """Accuracy of the vote of the nearest codes; of equal votes the lowest class."""
    nearest = []
    for distance, _ in _squares(np.float64(known), np.float64(asked), truth):
        order = np.argpartition(distance, neighbours - 1, axis=1)
        nearest.append(classes[order[:, :neighbours]])
    votes = np.concatenate(nearest)
    counts = np.stack([(votes == k).sum(1) for k in range(classes.max() + 1)], 1)
    return float(np.mean(counts.argmax(1) == truth))


def _squares(known, asked, truth) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Squared distances of some that are asked, but for their own squares, to all that
    are known, [M, N]; and the classes of these some, [M]."""
    squares, parts = (known**2).sum(1), -(-len(asked) // AT_ONCE)
    both = (np.array_split(asked, parts), np.array_split(truth, parts))
    for part, own in zip(*both, strict=True):
        yield squares - 2 * part @ known.T, own


def _distances(dataset: Dataset, learn: np.ndarray, test: np.ndarray):
    """How far test pictures [N, D] are from what they become and from others; and a
    few of all, as `_mosaic` has them."""
    shape = dataset.test.shape[:2]
    x = test.reshape(-1, *shape)
    seen = {name: _moved(x, by) for name, by in MOVES.items()}
    if dataset.classes:
        truth = dataset.test.target[: len(test)]
        nearest = _of_another_class(learn, dataset.train.target, test, truth)
        seen["other"] = learn[nearest].reshape(x.shape)
    found = {name: _apart(x, others) for name, others in seen.items()}
    row = (x, seen["half"], _erased(x, seen["half"]), *list(seen.values())[1:])
    rows = np.stack([pictures[: len(row)] for pictures in row], 1)
    return found, _mosaic(rows.reshape(-1, *shape), shape)


def _of_another_class(known, classes, asked, truth) -> np.ndarray:
    """Which picture that is known is the nearest of another class, to each asked."""
    found = [
        np.where(own[:, None] == classes, np.inf, distance).argmin(1)
        for distance, own in _squares(known, asked, truth)
    ]
    return np.concatenate(found)


def _moved(x: np.ndarray, by: float) -> np.ndarray:
    """Pictures [N, H, W] moved down and right by so much of a pixel; black comes in."""
    return ndimage.shift(x, (0, by, by), order=1, mode="grid-constant")


def _apart(x: np.ndarray, others: np.ndarray) -> float:
    """Mean squared distance of pictures [N, H, W], in units of that from black."""
    return float(np.sum(np.square(x - others)) / np.sum(np.square(x)))


def _erased(x: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Pictures that lost ink from their top, until they are as far away as others."""
    far = np.sum(np.square(x - others), (1, 2), keepdims=True)
    lost = np.cumsum(np.square(x).reshape(len(x), -1), 1).reshape(x.shape)
    return np.where(lost > far, x, 0)


def _codes(mean: np.ndarray, target: np.ndarray) -> dict[str, list[float]]:
    """The first two latent variables of each picture, with its class."""
    columns = np.round(mean[:, [0, min(1, mean.shape[1] - 1)]].astype(np.float64), 3)
    axes = {"first": columns[:, 0], "second": columns[:, 1], "class": target}
    return {name: values.tolist() for name, values in axes.items()}


def _manifold(white: Callable, tiles: int, shape: tuple[int, int]) -> list[int]:
    """What the decoder makes of a grid, as `_mosaic` has it."""
    steps = ndtri((np.arange(tiles) + 0.5) / tiles)
    down, across = np.meshgrid(-steps, steps, indexing="ij")
    z = jnp.asarray(np.stack([across.ravel(), down.ravel()], 1), jnp.float32)
    return _mosaic(np.asarray(white(z)), shape)


def _reconstructed(
    white: Callable, x: np.ndarray, mean: np.ndarray, shape: tuple[int, int]
) -> list[int]:
    """A row of pictures, a row of what the decoder makes of the means of their codes,
    and so on, as `_mosaic` has it."""
    count = RECONSTRUCTED * RECONSTRUCTED // 2
    both = np.stack([x[:count], white(mean[:count])])
    rows = both.reshape(2, -1, RECONSTRUCTED, x.shape[1]).swapaxes(0, 1)
    return _mosaic(rows.reshape(-1, x.shape[1]), shape)


@functools.partial(jax.jit, static_argnums=0)
def _white(kind: Pixels, net: Member, z: Array) -> Array:
    """The white of each pixel that the decoder expects at codes [N, Z], [N, D]."""
    return kind.mean(latent.decode(net, z, _silent()))


def _mosaic(white: np.ndarray, shape: tuple[int, int]) -> list[int]:
    """Per cent of white of a square picture of framed pictures [N, D], row by row.

    Args:
      white: between 0 and 1; N is a square number.
      shape: of a picture, height and width; narrow ones have wider frames.
    """
    edge, tiles = max(shape) + 2, math.isqrt(len(white))
    more = [edge - one for one in shape]
    around = [(0, 0), *((one // 2, one - one // 2) for one in more)]
    framed = np.pad(white.reshape(-1, *shape), around)
    rows = framed.reshape(tiles, tiles, edge, edge).transpose(0, 2, 1, 3)
    return np.rint(100 * rows).astype(int).ravel().tolist()


def _weights(settings, kind: Pixels, key: Key) -> Callable:
    """(net, pictures) -> their `latent.log_weights`."""
    key, draws = stream(key, "bound"), settings.importance_samples
    return jax.jit(lambda net, x: latent.log_weights(net, kind, x, key, draws))


def _bounds(
    settings, kind: Pixels, net: Member, weights: np.ndarray, x: np.ndarray, key: Key
):
    """Bounds on log p(x), nats, the mean over pictures; and by the number of draws."""
    draws, numbers = len(weights), _powers(settings.prior_samples)
    effective = jax.jit(latent.effective_samples)

    @jax.jit
    def naive(net, x):
        own, counts = stream(key, "prior"), (*numbers, draws)
        return jnp.mean(latent.log_mean_by_prior(net, kind, x, own, counts), -1)

    def importance(n: int) -> float:
        whole = weights[: draws // n * n].reshape(n, -1, len(x))
        return float(np.mean(logsumexp(whole, axis=0))) - math.log(n)

    *by_prior, by_few = naive(net, x).tolist()
    found = {
        "elbo": float(np.mean(weights)),
        "importance": importance(draws),
        "effective": float(np.mean(effective(weights))),
        "prior": by_prior[-1],
        "prior_few": by_few,
    }
    curve = {
        "samples": [float(n) for n in numbers],
        "prior": by_prior,
        "importance": [importance(min(n, draws)) for n in numbers],
    }
    return found, curve


def _powers(most: int) -> list[int]:
    """10, 100, ... and the most."""
    return [*(10**k for k in range(1, len(str(most - 1)))), most]


def _bits(settings, net: Member, x: np.ndarray) -> dict[str, float]:
    """Bits of a pixel by a real coder, and whether all came back."""

    @jax.jit
    def encode(net, x):
        q = latent.posterior(net, x[None].astype(jnp.float32), _silent())
        return q.mean[0], jnp.exp(0.5 * q.log_var[0])

    @jax.jit
    def decode(net, z):
        return Bernoulli().mean(latent.decode(net, z[None], _silent())[0])

    coder = bitsback.BitsBack(
        net.model.size,
        functools.partial(encode, net),
        functools.partial(decode, net),
        settings.cells,
    )
    start = np.random.PCG64(0).random_raw(WORDS).astype(np.uint32)
    message = coder.push(start, x)
    found, before = coder.pop(message, len(x))
    same = np.array_equal(found, x) and np.array_equal(before, start)
    return {"coded": 32 * (len(message) - WORDS) / x.size, "decoded": float(same)}


def _bits_of(elbo: float, x: np.ndarray) -> float:
    """Bits of a pixel that a bound in nats stands for."""
    return -elbo / (x.shape[1] * math.log(2))
