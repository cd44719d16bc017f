"""Texts whose class is the marker that stands last: what attention must find.

They are the same in every version of NumPy.
"""

import numpy as np

from vnets.data.types import Arrays, Places

LONGEST, SHORTEST, WORDS, MARKERS, SEED = 12, 6, 20, 3, 31
SIZES = {"train": 2400, "test": 600}


def read(name: str, places: Places, download: bool) -> Arrays:
    """Tokens int32 [N, 12], padded in front by 0; 1 to 3 are markers, 0 to 2 classes.

    A text has 6 to 12 tokens, one of four of them a marker, at least one.
    """
    del name, places, download  # made here
    arrays, place = {}, np.arange(LONGEST)
    for number, (split, size) in enumerate(SIZES.items()):
        bits = np.random.PCG64([SEED, number]).random_raw((3, size, LONGEST))
        bits = (bits >> np.uint64(16)).astype(np.int64)  # the lowest are less random
        markers = 1 + bits[0] % MARKERS
        others = 1 + MARKERS + bits[0] % (WORDS - MARKERS - 1)
        tokens = np.where(bits[1] % 4 == 0, markers, others).astype(np.int32)
        length = SHORTEST + bits[2, :, 0] % (LONGEST - SHORTEST + 1)
        one = LONGEST - 1 - bits[2, :, 1] % SHORTEST  # is within every text
        rows = np.arange(size)
        tokens[rows, one] = markers[rows, one]
        tokens[place < LONGEST - length[:, None]] = 0
        last = np.where((tokens > 0) & (tokens <= MARKERS), place, 0).max(1)
        arrays[f"{split}_tokens"] = tokens
        arrays[f"{split}_label"] = tokens[rows, last] - 1
    return Arrays(arrays, source="generated: the last of three markers")
