"""Random keys made from names and counters instead of from the order of calls.

`stream(root, "noise", step)` is the same key whenever and wherever it is asked for,
so a resumed run needs no stored key, and adding a consumer changes no other's draws.
"""

import zlib

import jax
from jax import random

from vnets.types import Key


def stream(key: Key, *path: str | int | jax.Array) -> Key:
    """Derives a key by folding in each name (hashed by CRC-32) or counter of `path`."""
    for part in path:
        key = random.fold_in(
            key, zlib.crc32(part.encode()) if isinstance(part, str) else part
        )
    return key
