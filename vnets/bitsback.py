"""Lossless compression by a latent variable model: bits back, with a real coder.

    coder = BitsBack(size, encode, decode)
    message = coder.push(start, examples)       # uint32 words
    examples, start = coder.pop(message, n)     # bit for bit

An example is coded with its latent variables: these are read off the message as if the
posterior had coded them (bits that decoding gives back), then the example is coded by
p(x | z), and z by its prior. A message grows by the negative ELBO on average (Hinton
and van Camp 1993; chained by asymmetric numeral systems: Townsend, Bird and Barber
2019). The coder is `constriction`'s (Bamler 2022).

Latent variables are numbers of cells of the same mass under the prior N(0, 1), so that
the prior costs the same bits for each of them; pixels are 0 or 1. The weights of a net
are sent in the same way: `vnets.weight_code`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

LEFT = 2  # words of a message, that something could still be read from it
LEAST = 1e-6  # of a pixel's probability: the coder has 24 bits of it


@dataclasses.dataclass(frozen=True)
class BitsBack:
    """A coder of examples with latent variables.

    Attributes:
      size: Z, latent variables of an example.
      encode: x [D] -> mean and standard deviation [Z] of its latent variables.
      decode: z [Z] -> the probability of a 1 for each of its pixels, [D]. Both must
        give the same bits for the same bits: on one machine, compiled once.
      cells: of each latent variable, 2 or more.

    Raises:
      ValueError: fewer cells or latent variables.
    """

    size: int
    encode: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    decode: Callable[[np.ndarray], np.ndarray]
    cells: int = 1024

    def __post_init__(self):
        if self.size < 1 or self.cells < 2:
            raise ValueError(
                "needs 1 latent variable and 2 cells at least, not "
                f"{self.size} and {self.cells}"
            )

    def push(self, start: np.ndarray, examples: np.ndarray) -> np.ndarray:
        """The message, uint32 words, of examples [N, D] in their order, after `start`.

        Args:
          start: random words, from which the first latent variables are read and which
            `pop` gives back: some Z / 3 and a few more.
          examples: of 0 and 1.

        Raises:
          ValueError: pixels that are not 0 or 1; a start that is too short.
        """
        examples = np.asarray(examples)
        if examples.ndim != 2 or not np.isin(examples, (0, 1)).all():
            raise ValueError("examples are [N, D], pixels of 0 and 1")
        coder, of = stack(start), self._models()
        for x in examples.astype(np.int32):
            cells = coder.decode(of.cell, self._masses(x))
            if coder.num_words() < LEFT:
                raise ValueError(f"a start of {len(start)} words is too short")
            coder.encode_reverse(x, of.pixel, self._pixels(cells))
            coder.encode_reverse(cells, of.prior)
        return coder.get_compressed()

    def pop(self, message: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """The last n examples [n, D] of a message in their order, and what it was
        before them.

        Raises:
          ValueError: n below 1.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, not {n}")
        coder, of, found = stack(message), self._models(), []
        for _ in range(n):
            cells = coder.decode(of.prior, self.size)
            x = np.asarray(coder.decode(of.pixel, self._pixels(cells)), np.int32)
            coder.encode_reverse(cells, of.cell, self._masses(x))
            found.append(x)
        return np.stack(found[::-1]), coder.get_compressed()

    def _models(self) -> "_Models":
        model = models()
        return _Models(
            model.Uniform(self.cells),
            model.Categorical(perfect=False),
            model.Bernoulli(perfect=False),
        )

    def _masses(self, x: np.ndarray) -> np.ndarray:
        """The mass of each cell under the posterior, [Z, cells]."""
        from scipy.special import ndtr, ndtri

        mean, std = (np.asarray(a, np.float64)[:, None] for a in self.encode(x))
        edges = ndtri(np.arange(self.cells + 1) / self.cells)
        return np.diff(ndtr((edges - mean) / std)).astype(np.float32)

    def _pixels(self, cells: np.ndarray) -> np.ndarray:
        """The probability of a 1 for each pixel, [D], at the cells' middles."""
        from scipy.special import ndtri

        z = ndtri((np.asarray(cells) + 0.5) / self.cells)
        ones = np.asarray(self.decode(z.astype(np.float32)), np.float32)
        return np.clip(ones, LEAST, 1 - LEAST)


class _Models(NamedTuple):
    """The coder's models of cells by the prior and by a posterior, and of pixels."""

    prior: Any
    cell: Any
    pixel: Any


def stack(words: np.ndarray) -> Any:
    """The coder, with words of a message on it."""
    return _stream().stack.AnsCoder(np.asarray(words, np.uint32))


def models() -> Any:
    """The coder's models, by name."""
    return _stream().model


def _stream() -> Any:
    """The coder's module, which has no types."""
    import constriction

    return vars(constriction)["stream"]
