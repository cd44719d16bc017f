"""Lossless compression of labels by a net whose weights have a posterior: bits back.

    code = WeightCode(size, fit, log_p, prior)
    message = code.push(labels, payload)          # bytes; the payload is any file
    labels, weights, payload = code.pop(message)  # bit for bit

Sender and receiver know the inputs, the net, the prior of its weights and how the
posterior q is found from the labels. The sender takes the weights from the payload, as
if q had coded them; then the labels are coded by p(y | x, w), and the weights by their
prior. The receiver reads the weights, then the labels, finds q as the sender did, and
codes the weights by q: what is left is the payload. So what the payload grows by is

    -log2 p(y | x, w) + sum log2 q(w) / p(w)

on average the negative ELBO in bits (Hinton and van Camp 1993): the whole price of the
labels, if the payload is sent anyway.

Weights are coded as multiples of a step, a third or less of the least standard
deviation. The coder takes every probability as a whole number of 2^-24, which both ends
find by the same program. `flat` gives the mean and the standard deviation [W] of a Flax
net whose weights and biases all have normal noise, and `filled` the net of some weights
[W], for its `log_p`. The same trick for the latent variables of examples is in
`vnets.bitsback`.
"""

import dataclasses
import hashlib
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from vnets import bitsback, tree
from vnets.nodes import Point, is_posterior
from vnets.types import Params

# Checksums of the rest and of what coded it; exponents of step and reach, powers of 2.
HEAD = struct.Struct("<IIbB")
STEPS = 3.0  # in the least standard deviation, or up to twice as many
REACH = 16  # log2 of the steps on each side of 0, at most: the coder has 24 bits
WIDEST = 13  # log2 of the steps in the greatest standard deviation, at most
TAILS = 8.0  # standard deviations to each side of a mean
SHARES = 2**16  # of a label's probability
SIGMAS = 4.0  # of the bits of a draw, that a payload must have beyond their mean
MASK = b"vnets.weight_code"
END = b"\x01"  # after the payload, before zeros that fill its last word


class Received(NamedTuple):
    """What a message held: labels [N], weights [W], payload."""

    labels: np.ndarray
    weights: np.ndarray
    payload: bytes


@dataclasses.dataclass(frozen=True)
class WeightCode:
    """A code of the labels of inputs that both sides have.

    Attributes:
      size: W, number of weights.
      fit: labels [N] -> mean and standard deviation [W] of the posterior. The receiver
        must find the same bits: train on one kind of machine, with the same versions.
      log_p: weights [W] -> log probability of each class for each input, [N, K], nats.
      prior: values -> log density of a weight, elementwise, nats.

    Raises:
      ValueError: a size below 1.
    """

    size: int
    fit: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    log_p: Callable[[np.ndarray], np.ndarray]
    prior: Callable[[np.ndarray], np.ndarray]

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f"a code needs 1 weight at least, not {self.size}")

    def push(self, labels: np.ndarray, payload: bytes) -> bytes:
        """The message with labels [N], whole numbers from 0 on, and a payload.

        Raises:
          ValueError: a payload that is too short to draw the weights from: the message
            says how many bits are needed; labels that are no classes of the net; a
            posterior that no grid fits.
        """
        labels = np.asarray(labels)
        posterior = self._posterior(labels)
        grid = _Grid.of(posterior)
        needed, given = posterior.bits(grid.step), 8 * len(payload)
        too_short = (
            f"a payload of {given} bits is too short: {needed} bits are needed to draw "
            f"{self.size} weights from"
        )
        if given < needed:
            raise ValueError(too_short)
        coder = bitsback.stack(_words(payload))
        cells = posterior.pop(coder, grid.step)
        if coder.num_words() < bitsback.LEFT:  # once in 30,000 payloads of this length
            raise ValueError(f"{too_short}, and this draw needs more")
        shares = self._shares(cells, grid.step)
        if (
            labels.shape != shares.shape[:1]
            or not np.isin(labels, np.arange(shares.shape[1])).all()
        ):
            raise ValueError(
                f"labels are [{shares.shape[0]}], whole numbers below "
                f"{shares.shape[1]}, as the net has inputs and classes"
            )
        classes = bitsback.models().Categorical(perfect=False)
        coder.encode_reverse(labels.astype(np.int32), classes, shares)
        cells_by_prior = (cells + grid.reach).astype(np.int32)
        coder.encode_reverse(cells_by_prior, self._prior(grid))
        checksum = posterior.checksum(labels, cells)
        rest = struct.pack("<IbB", checksum, grid.exponent, grid.log_reach)
        rest += coder.get_compressed().astype("<u4").tobytes()
        return struct.pack("<I", zlib.crc32(rest)) + rest

    def pop(self, message: bytes) -> Received:
        """What a message holds; this finds the posterior, too, as the sender did.

        Raises:
          ValueError: a message that is damaged, or none; inputs, a net, a prior or a
            fit that are not the sender's.
        """
        if len(message) < HEAD.size or (len(message) - HEAD.size) % 4:
            raise ValueError(f"{len(message)} bytes are no message, or a part of one")
        checksum, sent, exponent, log_reach = HEAD.unpack_from(message)
        if checksum != zlib.crc32(message[4:]) or log_reach > REACH:
            raise ValueError("the message is damaged: its checksum is another")
        grid = _Grid(exponent, log_reach)
        coder = bitsback.stack(np.frombuffer(message[HEAD.size :], "<u4"))
        found = np.asarray(coder.decode(self._prior(grid), self.size))
        cells = found.astype(np.int64) - grid.reach
        shares = self._shares(cells, grid.step)
        classes = bitsback.models().Categorical(perfect=False)
        labels = np.asarray(coder.decode(classes, shares))
        posterior = self._posterior(labels)
        if posterior.checksum(labels, cells) != sent:
            raise ValueError(
                "labels, weights or posterior are not the sender's: inputs, net, prior "
                "and fit must be the same, on one kind of machine and in one version"
            )
        posterior.push(coder, cells, grid.step)
        payload = _bytes(coder.get_compressed())
        return Received(labels, cells * grid.step, payload)

    def bits_needed(self, labels: np.ndarray) -> int:
        """Bits that a payload of these labels must have."""
        posterior = self._posterior(np.asarray(labels))
        return posterior.bits(_Grid.of(posterior).step)

    def _posterior(self, labels: np.ndarray) -> "_Posterior":
        mean, std = (np.asarray(a, np.float64) for a in self.fit(labels))
        if not mean.shape == std.shape == (self.size,):
            raise ValueError(
                f"a posterior has means and standard deviations [{self.size}], not "
                f"{list(mean.shape)} and {list(std.shape)}"
            )
        if not (np.isfinite(mean).all() and np.isfinite(std).all() and std.min() > 0):
            raise ValueError(
                "means must be finite and standard deviations positive: a weight "
                "without noise has no bits that come back"
            )
        return _Posterior(mean, std)

    def _shares(self, cells: np.ndarray, step: float) -> np.ndarray:
        """The probability of each class for each input, in SHARES, [N, K]."""
        log_p = np.asarray(self.log_p(cells * step), np.float64)
        if log_p.ndim != 2 or np.isnan(log_p).any():
            raise ValueError("a net gives log probabilities [N, K], and none is NaN")
        return np.maximum(np.rint(SHARES * np.exp(log_p)), 1).astype(np.float32)

    def _prior(self, grid: "_Grid") -> Any:
        """The coder's model of a weight by the prior."""
        values = np.arange(-grid.reach, grid.reach + 1) * grid.step
        log_p = np.asarray(self.prior(values), np.float64)
        if log_p.shape != values.shape or not np.isfinite(log_p.max()):
            raise ValueError(
                "a prior gives a log density for each value, and none is infinite"
            )
        masses = np.exp(log_p - log_p.max())
        return bitsback.models().Categorical(masses / masses.sum(), perfect=False)


class _Grid(NamedTuple):
    """The multiples of 2^exponent, 2^log_reach to each side of 0."""

    exponent: int
    log_reach: int

    @property
    def step(self) -> float:
        return math.ldexp(1.0, self.exponent)

    @property
    def reach(self) -> int:
        return 1 << self.log_reach

    @classmethod
    def of(cls, posterior: "_Posterior") -> "_Grid":
        """The grid of a posterior; refuses one that is too narrow for its width."""
        mean, std = posterior
        exponent = math.floor(math.log2(std.min() / STEPS))
        step = math.ldexp(1.0, exponent)
        farthest = np.abs(mean).max() + (2 * TAILS) * std.max() + 2 * step
        log_reach = max(1, math.ceil(math.log2(farthest / step)))
        if std.max() / step > 2**WIDEST or log_reach > REACH or exponent < -128:
            raise ValueError(
                f"standard deviations from {std.min():.3g} to {std.max():.3g} and "
                f"means up to {np.abs(mean).max():.3g} do not fit one grid: {2**REACH} "
                "steps to each side of 0, three in the least standard deviation"
            )
        return cls(exponent, log_reach)


class _Posterior(NamedTuple):
    """Independent normal weights, mean and std [W]."""

    mean: np.ndarray
    std: np.ndarray

    def checksum(self, labels: np.ndarray, cells: np.ndarray) -> int:
        """Of all that a receiver must find as the sender did."""
        found = zlib.crc32(np.stack(self).astype("<f8").tobytes())
        found = zlib.crc32(labels.astype("<i4").tobytes(), found)
        return zlib.crc32(cells.astype("<i8").tobytes(), found)

    def bits(self, step: float) -> int:
        """What drawing the weights takes from a payload, and some more."""
        each = np.log2(math.sqrt(2 * math.pi * math.e) * self.std / step)
        spread = SIGMAS * math.sqrt(len(each) / 2) / math.log(2)
        return math.ceil(each.sum() + spread) + 32 * (bitsback.LEFT + 2)

    def pop(self, coder, step: float) -> np.ndarray:
        """Weights in steps, read off the coder, [W]."""
        cells = np.zeros(len(self.mean), np.int64)
        for of, center, model, *arguments in self._groups(step):
            cells[of] = center + np.asarray(coder.decode(model, *arguments))
        return cells

    def push(self, coder, cells: np.ndarray, step: float) -> None:
        """The reverse of `pop`."""
        for of, center, model, *arguments in reversed([*self._groups(step)]):
            coder.encode_reverse(
                (cells[of] - center).astype(np.int32), model, *arguments
            )

    def _groups(self, step: float) -> Iterator[tuple]:
        """Weights whose standard deviations are within a factor of two.

        A cell has 2^-24 at least. Where all weights had the window of the widest, a
        narrow one would be drawn from its far ends now and then.
        """
        octaves = np.ceil(np.log2(self.std / step)).astype(int)
        center = np.rint(self.mean / step).astype(np.int64)
        offset, scale = self.mean / step - center, self.std / step
        for octave in np.unique(octaves):
            of, half = octaves == octave, int(TAILS * 2**octave)
            model = bitsback.models().QuantizedGaussian(-half, half)
            yield of, center[of], model, offset[of], scale[of]


def flat(params: Params) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations [W] of all weights of a net, in the tree's order.

    Raises:
      ValueError: a leaf that is not of independent normal weights, each with noise: an
        array (such as a bias without a posterior), a point, noise of another family.
    """
    found = []
    for place, leaf in tree.each(params):
        if not (is_posterior(leaf) and leaf.noisy and leaf.is_normal):
            raise ValueError(
                f"{place.leaf!r} is no normal posterior, so it has no bits that come "
                'back; name biases among the posteriors, too: "dense1/bias"'
            )
        mean, var = leaf.moments()
        mean = np.zeros(leaf.shape) if mean is None else np.asarray(mean)
        std = np.sqrt(np.asarray(var, np.float64))
        found.append((mean.ravel(), np.broadcast_to(std, leaf.shape).ravel()))
    means, stds = zip(*found, strict=True)
    return np.concatenate(means), np.concatenate(stds)


def filled(params: Params, weights: np.ndarray) -> Params:
    """The tree with points in place of its nodes, of weights [W] as in `flat`."""
    sizes = [math.prod(leaf.shape) for _, leaf in tree.each(params)]
    split = iter(np.split(np.asarray(weights, np.float32), np.cumsum(sizes)[:-1]))
    return tree.change(
        lambda _, leaf: Point(jnp.asarray(next(split).reshape(leaf.shape))), params
    )


def _words(payload: bytes) -> np.ndarray:
    """A payload as the coder's words, masked: a file of zeros is no random draw."""
    whole = bytes(np.frombuffer(payload, np.uint8) ^ _mask(len(payload))) + END
    return np.frombuffer(whole + bytes(-len(whole) % 4), "<u4")


def _bytes(words: np.ndarray) -> bytes:
    """The payload of `_words`."""
    whole = words.astype("<u4").tobytes().rstrip(b"\0")
    if not whole.endswith(END):
        raise ValueError("what is left of the message is no payload: it is damaged")
    return bytes(np.frombuffer(whole[:-1], np.uint8) ^ _mask(len(whole) - 1))


def _mask(size: int) -> np.ndarray:
    """Random bytes, the same for all, that no payload is likely to know."""
    return np.frombuffer(hashlib.shake_256(MASK).digest(size), np.uint8)
