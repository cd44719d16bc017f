"""Streams of whole numbers in few bytes: tokens by a range coder, low bits as they are.

A number below 2^m is its own token; of a larger one the token holds the length and the
m bits below the leading one, and the remaining bits follow raw. The frequencies of a
stream's tokens are powers of two, half a byte each, and stand before it: within a
factor of sqrt 2 of the counts, which costs some 0.03 bits a token. Range coding is
constriction's (Bamler 2022). Reading checks every size before it allocates.
"""

import functools
from collections.abc import Iterator

import numpy as np

MANTISSAS = range(8)  # the m to choose from
MOST_TOKENS = 255
AT_ONCE = 2**15  # numbers that are read in one go
MAX_BITS = 31  # of a number
ABSENT, MOST = 0, 15  # half bytes: 0 for a token that is not there, else log2 + 1


class Writer:
    """Collects streams; `sections` gives what a `Reader` takes."""

    def __init__(self):
        coder, _ = _constriction()
        self._coder = coder.RangeEncoder()
        self._tables = bytearray()
        self._bits: list[np.ndarray] = []

    def write(self, numbers: np.ndarray) -> None:
        """Appends numbers, 0 <= n < 2^31; how many is for the reader to know.

        Raises:
          ValueError: a number outside this range.
        """
        numbers = np.asarray(numbers, np.int64)
        if not numbers.size:
            return
        if numbers.min() < 0 or numbers.max() >= 2**MAX_BITS:
            raise ValueError(f"numbers must be within 0 ... 2^{MAX_BITS} - 1")
        tried = [_tokens(numbers, m) for m in MANTISSAS]
        mantissa = int(np.argmin([_size(*one) for one in tried]))
        tokens, extra, lengths = tried[mantissa]
        table = _table(tokens)
        self._tables += bytes([mantissa, table.size]) + _packed(table)
        self._coder.encode(tokens.astype(np.int32), _model(table))
        self._bits.append(_spread(extra, lengths))

    def sections(self) -> tuple[bytes, bytes, bytes]:
        """Tables, range-coded words and raw bits."""
        words = self._coder.get_compressed().astype("<u4").tobytes()
        bits = np.concatenate(self._bits) if self._bits else np.zeros(0, np.uint8)
        return bytes(self._tables), words, np.packbits(bits).tobytes()


class Reader:
    """Reads the streams of a `Writer` back, in their order.

    Args:
      tables: and
      words: and
      bits: the sections; nothing in them is trusted.

    Raises:
      ValueError: from every method, where the sections hold no such streams.
    """

    def __init__(self, tables: bytes, words: bytes, bits: bytes):
        if len(words) % 4:
            raise ValueError("range-coded words are cut off")
        coder, _ = _constriction()
        self._coder = coder.RangeDecoder(np.frombuffer(words, "<u4").astype(np.uint32))
        self._tables, self._at = tables, 0
        self._bits = bits
        self._used = 0  # bits

    def read(self, count: int) -> np.ndarray:
        """The next stream, int64 [count]; the caller has bounded `count`."""
        return np.concatenate([np.zeros(0, np.int64), *self.parts(count)])

    def parts(self, count: int) -> Iterator[np.ndarray]:
        """The same in parts, none empty: a number takes some 80 bytes on its way."""
        if not count:
            return
        mantissa, size = self._take(2)
        if mantissa not in MANTISSAS:
            raise ValueError("a stream has an unknown kind of tokens")
        table = _unpacked(self._take((size + 1) // 2), size)
        if size < 2 or not table.any():
            raise ValueError("a stream has no tokens")
        model = _model(table)
        for start in range(0, count, AT_ONCE):
            yield self._part(model, mantissa, min(AT_ONCE, count - start))

    def _part(self, model, mantissa: int, count: int) -> np.ndarray:
        try:
            tokens = self._coder.decode(model, count).astype(np.int64)
        except AssertionError as error:
            raise ValueError("range-coded words do not fit their tables") from error
        lengths, leading = _parts(tokens, mantissa)
        if lengths.max() >= MAX_BITS - mantissa:
            raise ValueError("a token stands for a number that is too large")
        return leading + self._gather(lengths)

    def finish(self) -> None:
        """Checks that nothing but zero padding is left."""
        held = np.frombuffer(self._bits, np.uint8)
        byte, bit = divmod(self._used, 8)
        rest = held[byte:]
        clean = not rest.size or (not (rest[0] << bit) & 0xFF and not rest[1:].any())
        if self._at != len(self._tables) or not clean:
            raise ValueError("there is more than the streams")
        if not self._coder.maybe_exhausted():
            raise ValueError("range-coded words do not end where the streams do")

    def _take(self, size: int) -> bytes:
        taken = self._tables[self._at : self._at + size]
        if len(taken) < size:
            raise ValueError("tables are cut off")
        self._at += size
        return taken

    def _gather(self, lengths: np.ndarray) -> np.ndarray:
        """The raw bits of each number, lowest first, as numbers."""
        total = int(lengths.sum())
        first, offset = divmod(self._used, 8)
        last = -(-(self._used + total) // 8)
        if last > len(self._bits):
            raise ValueError("raw bits are cut off")
        part = np.frombuffer(self._bits[first:last], np.uint8)
        bits = np.unpackbits(part)[offset:]
        self._used += total
        starts = np.cumsum(lengths) - lengths
        numbers = np.zeros(lengths.size, np.int64)
        for place in range(int(lengths.max(initial=0))):
            longer = lengths > place
            numbers[longer] |= bits[starts[longer] + place].astype(np.int64) << place
        return numbers


def zigzag(numbers: np.ndarray) -> np.ndarray:
    """Whole numbers of either sign as 0, -1, 1, -2, 2, ... -> 0, 1, 2, 3, 4, ..."""
    wide = np.asarray(numbers, np.int64)
    return np.where(wide < 0, -2 * wide - 1, 2 * wide)


def unzigzag(numbers: np.ndarray) -> np.ndarray:
    """Inverts `zigzag`."""
    return np.where(numbers % 2 == 1, -(numbers + 1) // 2, numbers // 2)


@functools.cache
def _constriction():
    """constriction's queue coder and models."""
    import constriction

    # Its submodules are made by the compiled extension: type checkers see none.
    stream = constriction.stream  # type: ignore[attr-defined]
    return stream.queue, stream.model


def _tokens(numbers: np.ndarray, m: int):
    """Token, remaining bits and how many these are, for each number."""
    _, exponent = np.frexp(numbers.astype(np.float64))  # exact below 2^53
    length = np.maximum(exponent - 1 - m, 0)
    small = numbers < 2**m
    tokens = np.where(small, numbers, (numbers >> length) + (length << m))
    return tokens, numbers & ((1 << length) - 1), length


def _parts(tokens: np.ndarray, m: int):
    """How many raw bits follow each token, and the number if these are zero."""
    length = np.maximum((tokens >> m) - 1, 0)
    leading = np.where(tokens < 2**m, tokens, tokens - (length << m))
    return length, leading << np.minimum(length, MAX_BITS)


def _table(tokens: np.ndarray) -> np.ndarray:
    """Half bytes of each token's frequency; the most frequent has the largest."""
    counts = np.bincount(tokens, minlength=2)
    log = np.round(np.log2(np.maximum(counts, 1) / counts.max())).astype(int)
    return np.where(counts > 0, np.maximum(MOST + log, ABSENT + 1), ABSENT)


def _frequencies(table: np.ndarray) -> np.ndarray:
    """Probabilities of the tokens: exact in floating point but for the division."""
    weights = np.where(table > ABSENT, np.exp2(table.astype(np.float64)), 0.0)
    return weights / weights.sum()


def _model(table: np.ndarray):
    _, models = _constriction()
    return models.Categorical(_frequencies(table).astype(np.float32), perfect=False)


def _size(tokens: np.ndarray, extra: np.ndarray, lengths: np.ndarray) -> float:
    """Bits of a stream and its table; infinite if it has too many kinds of tokens."""
    del extra
    if tokens.max() >= MOST_TOKENS:
        return np.inf
    counts = np.bincount(tokens, minlength=2)
    seen = counts > 0
    coded = -(counts[seen] * np.log2(_frequencies(_table(tokens))[seen])).sum()
    return 16 + 4 * counts.size + coded + lengths.sum()


def _packed(table: np.ndarray) -> bytes:
    even = np.append(table, ABSENT) if table.size % 2 else table
    return (even[::2] * 16 + even[1::2]).astype(np.uint8).tobytes()


def _unpacked(packed: bytes, size: int) -> np.ndarray:
    held = np.frombuffer(packed, np.uint8)
    table = np.stack([held // 16, held % 16], axis=1).ravel().astype(np.int64)
    if table[size:].any():
        raise ValueError("a table ends with a token too many")
    return table[:size]


def _spread(extra: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The low bits of all numbers, one after another, lowest first; uint8 0 or 1."""
    starts = np.cumsum(lengths) - lengths
    bits = np.zeros(int(lengths.sum()), np.uint8)
    for place in range(int(lengths.max(initial=0))):
        longer = lengths > place
        bits[starts[longer] + place] = (extra[longer] >> place) & 1
    return bits
