"""Ways to damage a file, each a function (path, generator of numbers).

What one damages is the same in every run: all that is drawn comes from the generator.
"""

import os


def flip(path, rng):
    """One bit."""
    content = bytearray(path.read_bytes() or b"\0")
    content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def cut(path, rng):
    """All from somewhere on."""
    content = path.read_bytes()
    path.write_bytes(content[: rng.integers(max(len(content), 1))])


def empty(path, rng):
    """No byte is left."""
    del rng
    path.write_bytes(b"")


def zeros(path, rng):
    """A block that was never written, as after a loss of power."""
    content = bytearray(path.read_bytes())
    start = int(rng.integers(max(len(content), 1)))
    block = content[start : start + 64]
    content[start : start + 64] = bytes(len(block))
    path.write_bytes(content)


def garble(path, rng):
    """All bytes, as many as before."""
    path.write_bytes(rng.bytes(max(path.stat().st_size, 1)))


def swap(path, rng):
    """The two halves."""
    del rng
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[half:] + content[:half])


def extend(path, rng):
    """More bytes at the end."""
    path.write_bytes(path.read_bytes() + rng.bytes(1 + int(rng.integers(64))))


def lose(path, rng):
    """No file."""
    del rng
    path.unlink()


def fifo(path, rng):
    """What waits for a writer for ever."""
    del rng
    path.unlink()
    os.mkfifo(path)


WAYS = (flip, cut, empty, zeros, garble, swap, extend, lose, fifo)
