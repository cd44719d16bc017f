"""Tables of the frequencies of a stream's tokens, and which streams share one.

See `streams` for what a token is.
"""

import dataclasses
import functools
from array import array

import numpy as np

from vnets.compact.binary import Bytes

MANTISSAS = range(8)  # the m to choose from
MOST_TOKENS = 255
MAX_BITS = 31  # of a number
ABSENT, MOST = 0, 15  # half bytes: 0 for a token that is not there, else log2 + 1
PRECISION = 12  # bits: frequencies of a table sum to 2^12
TOTAL = 2**PRECISION
SHARED, NEW, OWN = range(3)  # the kind's table; a new one for the kind; for this alone
MOST_LOW = 31  # the largest k


@dataclasses.dataclass(frozen=True)
class Table:
    """Frequencies of tokens.

    Attributes:
      mantissa: m.
      sizes: half bytes, one for each token; 2 to 255, not all absent.
    """

    mantissa: int
    sizes: tuple[int, ...]

    @functools.cached_property
    def frequencies(self) -> np.ndarray:
        """Of each token, 0 where it is absent; they sum to `TOTAL`."""
        sizes = np.asarray(self.sizes, np.int64)
        there = sizes > ABSENT
        weights = np.where(there, 1 << sizes, 0)
        found = there + weights * (TOTAL - int(there.sum())) // int(weights.sum())
        found[np.argmax(weights)] += TOTAL - found.sum()
        return found

    @functools.cached_property
    def starts(self) -> np.ndarray:
        """Where each token's slots begin among the 4096."""
        return np.cumsum(self.frequencies) - self.frequencies

    def slots(self) -> tuple[bytes, array, array]:
        """Token, frequency of the token, and place within the token, of each slot."""
        tokens = np.repeat(np.arange(len(self.sizes)), self.frequencies)
        places = np.arange(TOTAL) - self.starts[tokens]
        owned = self.frequencies[tokens]
        owned, places = (
            array("H", n.astype(np.uint16).tobytes()) for n in (owned, places)
        )
        return tokens.astype(np.uint8).tobytes(), owned, places

    @functools.cached_property
    def parts(self) -> tuple[np.ndarray, np.ndarray]:
        """The number above the k bits if those that remain are 0; how many remain."""
        tokens = np.arange(len(self.sizes))
        lengths = np.maximum((tokens >> self.mantissa) - 1, 0)
        leading = tokens - (lengths << self.mantissa)
        return leading << np.minimum(lengths, MAX_BITS), lengths

    def packed(self) -> bytes:
        """m, the number of tokens and their half bytes."""
        even = np.asarray([*self.sizes, *[ABSENT] * (len(self.sizes) % 2)], np.uint8)
        halves = even[::2] * 16 + even[1::2]
        return bytes([self.mantissa, len(self.sizes)]) + halves.tobytes()

    @classmethod
    def unpacked(cls, source: Bytes) -> "Table":
        """Inverts `packed`.

        Raises:
          ValueError: it is no table.
        """
        mantissa, size = source.take(2)
        halves = np.frombuffer(source.take((size + 1) // 2), np.uint8)
        sizes = np.stack([halves // 16, halves % 16], axis=1).ravel()
        if mantissa not in MANTISSAS:
            raise ValueError("a stream has an unknown kind of tokens")
        if size < 2 or not sizes[:size].any():
            raise ValueError("a stream has no tokens")
        if sizes[size:].any():
            raise ValueError("a table ends with a token too many")
        return cls(mantissa, tuple(sizes[:size].tolist()))


def tokens_of(numbers: np.ndarray, m: int) -> np.ndarray:
    """The token of each number."""
    _, exponent = np.frexp(numbers.astype(np.float64))  # exact below 2^53
    length = np.maximum(exponent - 1 - m, 0)
    return (numbers >> length) + (length << m)


@dataclasses.dataclass(frozen=True)
class _Counted:
    """A stream as its distinct numbers and how often each is there."""

    values: np.ndarray
    times: np.ndarray

    def tokens(self, low: int, mantissa: int) -> np.ndarray:
        """How often each token is there, [tokens]; at least two tokens."""
        tokens = tokens_of(self.values >> low, mantissa)
        return np.bincount(tokens, weights=self.times, minlength=2)

    def bits(self, low: int, table: Table) -> float:
        """What the stream takes by a table; infinite if that lacks a token."""
        counts = self.tokens(low, table.mantissa)
        if counts.size > len(table.sizes):
            return np.inf
        seen = counts > 0
        frequencies = table.frequencies[: counts.size][seen]
        if not frequencies.all():
            return np.inf
        each = PRECISION - np.log2(frequencies) + table.parts[1][: counts.size][seen]
        return float((counts[seen] * (each + low)).sum())

    def low(self) -> int:
        """About log2 of the mean."""
        mean = (self.values * self.times).sum() / self.times.sum()
        return int(mean + 1).bit_length() - 1


def bits_alone(numbers: np.ndarray) -> float:
    """What a stream takes with a table of its own."""
    return _best_table([_Counted(*np.unique(numbers, return_counts=True))])[2]


def chosen(streams: list[np.ndarray]) -> list[tuple[int, int, Table]]:
    """k, which table and the table for each stream of a kind, for fewest bytes."""
    counted = [_Counted(*np.unique(one, return_counts=True)) for one in streams]
    own = [_best_table([one]) for one in counted]
    if len(counted) < 2:
        return [(lows[0], NEW, table) for table, lows, _ in own]
    shared, lows, _ = _best_table(counted)
    found = [(low[0], OWN, table) for table, low, _ in own]
    sharing, saved = [], -8.0 * len(shared.packed())
    for i, (one, low) in enumerate(zip(counted, lows, strict=True)):
        near = range(max(0, low - 2), min(low + 3, MOST_LOW + 1))
        bits, low = min((one.bits(k, shared), k) for k in near)
        if bits <= own[i][2]:
            sharing.append((i, low))
            saved += own[i][2] - bits
    if saved > 0:
        for number, (i, low) in enumerate(sharing):
            found[i] = (low, SHARED if number else NEW, shared)
    return found


def _best_table(counted: list[_Counted]) -> tuple[Table, list[int], float]:
    """One table for these streams, a k for each, and bits with the table's."""
    found = []
    for mantissa in MANTISSAS:
        for fewer in range(8):
            lows = [max(0, one.low() - fewer) for one in counted]
            pairs = zip(counted, lows, strict=True)
            each = [one.tokens(low, mantissa) for one, low in pairs]
            size = max(counts.size for counts in each)
            if size > MOST_TOKENS:
                continue
            padded = [np.pad(one, (0, size - one.size)) for one in each]
            counts = np.sum(padded, axis=0)
            table = Table(mantissa, _sizes(counts))
            pairs = zip(counted, lows, strict=True)
            bits = sum(one.bits(low, table) for one, low in pairs)
            found.append((bits + 8 * len(table.packed()), mantissa, fewer, table, lows))
    bits, _, _, table, lows = min(found, key=lambda one: one[:3])
    return table, lows, bits


def _sizes(counts: np.ndarray) -> tuple[int, ...]:
    """Half bytes of each token's frequency; the most frequent has the largest."""
    log = np.round(np.log2(np.maximum(counts, 1) / counts.max())).astype(int)
    return tuple(np.where(counts > 0, np.maximum(MOST + log, 1), ABSENT).tolist())
