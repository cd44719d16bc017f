"""Whole numbers, floats and texts as bytes, and a reader that trusts none of them."""

import struct

import numpy as np


def varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the last byte is below 128."""
    found = bytearray()
    while number >= 128:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def text(value: str) -> bytes:
    """Its length in bytes, and it in UTF-8."""
    encoded = value.encode()
    return varint(len(encoded)) + encoded


def is_short(value: np.float32) -> bool:
    """Whether a float32 has no more than the 8 bits of precision of a bfloat16."""
    return not struct.unpack("<I", struct.pack("<f", value))[0] & 0xFFFF


def shortened(value: np.float32) -> np.float32:
    """The least of such numbers that is not below a positive one."""
    [held] = struct.unpack("<I", struct.pack("<f", value))
    [found] = struct.unpack("<f", struct.pack("<I", -(-held // 2**16) * 2**16))
    return np.float32(found)


def float32(value: np.float32, long: bool) -> bytes:
    """All four bytes, or the upper two of a value that `is_short`."""
    packed = struct.pack("<f", value)
    return packed if long else packed[2:]


def float64(value: float) -> bytes:
    """All eight bytes."""
    return struct.pack("<d", value)


class Bytes:
    """Reads from the front.

    Raises:
      ValueError: from every method, where the content ends before what it reads.
    """

    def __init__(self, content: bytes):
        self._content, self._at = content, 0

    def take(self, size: int) -> bytes:
        """The next bytes."""
        taken = self._content[self._at : self._at + size]
        if len(taken) < size:
            raise ValueError("it is cut off")
        self._at += size
        return taken

    def rest(self) -> bytes:
        """All that are left."""
        return self.take(len(self._content) - self._at)

    def byte(self) -> int:
        """The next one."""
        return self.take(1)[0]

    def varint(self) -> int:
        """Inverts `varint`, of numbers below 2^35."""
        number = 0
        for place in range(0, 35, 7):
            one = self.byte()
            number |= (one & 127) << place
            if one < 128:
                return number
        raise ValueError("a whole number is too long")

    def text(self, most: int = 255) -> str:
        """Inverts `text`, of as many bytes at most."""
        size = self.varint()
        if size > most:
            raise ValueError("a text is too long")
        return self.take(size).decode()  # UnicodeDecodeError is a ValueError

    def float32(self, long: bool) -> np.float32:
        """Inverts `float32`."""
        packed = self.take(4) if long else bytes(2) + self.take(2)
        return np.float32(struct.unpack("<f", packed)[0])

    def float64(self) -> float:
        """Inverts `float64`."""
        return struct.unpack("<d", self.take(8))[0]
