"""Streams of whole numbers in few bytes, by integer arithmetic alone.

The k lowest bits of a number are stored as they are. What is above them is a token if
it is below 2^m; of a larger one the token holds the length and the m bits below the
leading one, and the bits that remain are stored, too. Tokens are coded by rANS (Duda
2013) with 16-bit words and tables of frequencies that sum to 4096. A table is written
as half a byte for each token, log2 of its frequency, which is within a factor of sqrt 2
and costs some 0.03 bits a token. Streams of a kind share one table, each at a k of its
own; a stream has its own table where that takes fewer bytes.

No decoder rounds anything: every machine and language reads the same numbers.
"""

from array import array
from collections.abc import Iterator

import numpy as np

from vnets.compact.binary import Bytes, varint
from vnets.compact.tables import (
    ABSENT,
    MAX_BITS,
    MOST,
    NEW,
    OWN,
    PRECISION,
    SHARED,
    TOTAL,
    Table,
    chosen,
    tokens_of,
)

KINDS = ("gaps", "levels", "biases", "deviations", "words")
AT_ONCE = 2**15  # numbers that are read in one go
LOW = 2**16  # the coder's state is LOW to LOW^2 - 1; it begins and ends at LOW
HEAD_BITS = 5  # of a stream's first byte are its k, the others which table it has


class Writer:
    """Collects streams; `content` gives what a `Reader` takes."""

    def __init__(self):
        self._streams: list[tuple[str, np.ndarray]] = []

    def write(self, kind: str, numbers: np.ndarray) -> None:
        """Appends numbers, 0 <= n < 2^31; how many is for the reader to know.

        Raises:
          ValueError: a number outside this range.
        """
        numbers = np.asarray(numbers, np.int64)
        if not numbers.size:
            return
        if numbers.min() < 0 or numbers.max() >= 2**MAX_BITS:
            raise ValueError(f"numbers must be within 0 ... 2^{MAX_BITS} - 1")
        self._streams.append((kind, numbers))

    def content(self) -> bytes:
        """Tables, words and raw bits."""
        choices = [(0, OWN, Table(0, (MOST, ABSENT)))] * len(self._streams)
        for kind in KINDS:
            places = [i for i, (one, _) in enumerate(self._streams) if one == kind]
            numbers = [self._streams[i][1] for i in places]
            for i, choice in zip(places, chosen(numbers), strict=True):
                choices[i] = choice
        heads, bits, coded = b"", [np.zeros(0, np.uint8)], []
        for (_, numbers), (low, which, table) in zip(
            self._streams, choices, strict=True
        ):
            heads += bytes([low + (which << HEAD_BITS)])
            heads += b"" if which == SHARED else table.packed()
            tokens = tokens_of(numbers >> low, table.mantissa)
            lengths = table.parts[1][tokens] + low
            bits.append(_spread(numbers & ((1 << lengths) - 1), lengths))
            coded.append((table, tokens))
        words = _coded(coded)
        raw = np.packbits(np.concatenate(bits))
        return heads + varint(words.size) + words.tobytes() + raw.tobytes()


class Reader:
    """Reads the streams of a `Writer` back, in their order.

    Args:
      source: at what the writer's `content` was; nothing in it is trusted.
      streams: kind and count of each stream; the caller has bounded the counts.

    Raises:
      ValueError: from every method, where there are no such streams.
    """

    def __init__(self, source: Bytes, streams: list[tuple[str, int]]):
        kept: dict[str, Table] = {}
        heads = [self._head(source, kept, *one) for one in streams if one[1]]
        self._streams = iter(heads)
        words = source.take(2 * source.varint())
        self._words = array(
            "H", np.frombuffer(words, "<u2").astype(np.uint16).tobytes()
        )
        if len(self._words) < 2:
            raise ValueError("words are cut off")
        self._state = self._words[0] << 16 | self._words[1]
        if self._state < LOW:
            raise ValueError("words begin with no state")
        self._at = 2  # words
        self._bits = Bits(source.rest())

    @staticmethod
    def _head(source: Bytes, kept: dict[str, Table], kind: str, count: int):
        head = source.byte()
        low, which = head % 2**HEAD_BITS, head >> HEAD_BITS
        if which == SHARED:
            if kind not in kept:
                raise ValueError("a stream shares a table that is not there")
            table = kept[kind]
        elif which in (NEW, OWN):
            table = Table.unpacked(source)
            if which == NEW:
                kept[kind] = table
        else:
            raise ValueError("a stream has an unknown kind of table")
        lengths = table.parts[1]
        if lengths[np.asarray(table.sizes) > ABSENT].max() >= MAX_BITS:
            raise ValueError("a token stands for a number that is too large")
        return low, table, count

    def parts(self, count: int) -> Iterator[np.ndarray]:
        """The next stream, int64 [count], in parts of which none is empty."""
        if not count:
            return
        low, table, declared = next(self._streams)
        assert count == declared
        leading, lengths = table.parts
        slots = table.slots()  # large: not kept
        for start in range(0, count, AT_ONCE):
            tokens = self._decoded(slots, min(AT_ONCE, count - start))
            high = leading[tokens]
            # Of a shared table another stream may have larger ones: not all of it. The
            # bits that follow never lead to the next power of two.
            if (int(high.max()) << low) >= 2**MAX_BITS:
                raise ValueError("a number is too large")
            yield (high << low) + self._bits.take(lengths[tokens] + low)

    def finish(self) -> None:
        """Checks that nothing but zero padding is left."""
        if (self._at, self._state) != (len(self._words), LOW):
            raise ValueError("words do not end where the streams do")
        self._bits.finish()

    def _decoded(self, slots, count: int) -> np.ndarray:
        """Tokens, uint8 [count]."""
        tokens, frequencies, places = slots
        state, at, words = self._state, self._at, self._words
        found = bytearray(count)
        try:
            for i in range(count):
                slot = state & (TOTAL - 1)
                found[i] = tokens[slot]
                state = frequencies[slot] * (state >> PRECISION) + places[slot]
                if state < LOW:
                    state = state << 16 | words[at]
                    at += 1
        except IndexError:
            raise ValueError("words are cut off") from None
        self._state, self._at = state, at
        return np.frombuffer(found, np.uint8)


class Bits:
    """The raw bits of numbers, one number after another, the lowest bit first.

    Args:
      content: of a file; nothing in it is trusted.
    """

    def __init__(self, content: bytes):
        self._content = content
        self._used = 0  # bits

    def take(self, lengths: np.ndarray) -> np.ndarray:
        """As many bits as each length says, as numbers, int64.

        Raises:
          ValueError: there are fewer.
        """
        total = int(lengths.sum())
        first, offset = divmod(self._used, 8)
        last = -(-(self._used + total) // 8)
        if last > len(self._content):
            raise ValueError("raw bits are cut off")
        part = np.frombuffer(self._content[first:last], np.uint8)
        bits = np.unpackbits(part)[offset:]
        self._used += total
        starts = np.cumsum(lengths) - lengths
        numbers = np.zeros(lengths.size, np.int64)
        for place in range(int(lengths.max())):
            longer = lengths > place
            numbers[longer] |= bits[starts[longer] + place].astype(np.int64) << place
        return numbers

    def finish(self) -> None:
        """Refuses anything but zeros after the last number."""
        held = np.frombuffer(self._content, np.uint8)
        byte, bit = divmod(self._used, 8)
        rest = held[byte:]
        if rest.size and ((rest[0] << bit) & 0xFF or rest[1:].any()):
            raise ValueError("there is more than the streams")


def zigzag(numbers: np.ndarray) -> np.ndarray:
    """Whole numbers of either sign as 0, -1, 1, -2, 2, ... -> 0, 1, 2, 3, 4, ..."""
    wide = np.asarray(numbers, np.int64)
    return np.where(wide < 0, -2 * wide - 1, 2 * wide)


def unzigzag(numbers: np.ndarray) -> np.ndarray:
    """Inverts `zigzag`."""
    return np.where(numbers % 2 == 1, -(numbers + 1) // 2, numbers // 2)


def _coded(streams: list[tuple[Table, np.ndarray]]) -> np.ndarray:
    """Words of all tokens, in the order in which a reader needs them; uint16."""
    state, words = LOW, []
    for table, tokens in reversed(streams):
        frequencies, starts = table.frequencies.tolist(), table.starts.tolist()
        for token in tokens[::-1].tolist():
            frequency = frequencies[token]
            if state >= frequency << (32 - PRECISION):
                words.append(state & 0xFFFF)
                state >>= 16
            above, below = divmod(state, frequency)
            state = (above << PRECISION) + below + starts[token]
    words += [state & 0xFFFF, state >> 16]
    return np.asarray(words[::-1], "<u2")


def _spread(extra: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The low bits of all numbers, one after another, lowest first; uint8 0 or 1."""
    starts = np.cumsum(lengths) - lengths
    bits = np.zeros(int(lengths.sum()), np.uint8)
    for place in range(int(lengths.max())):
        longer = lengths > place
        bits[starts[longer] + place] = (extra[longer] >> place) & 1
    return bits
