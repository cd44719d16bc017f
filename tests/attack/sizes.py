"""How much is attacked, by ATTACKS in the environment.

"full", unless told otherwise: 50 kills, 400 damages of a checkpoint, 17,500 compact
files and 225 command lines, in some ten minutes on two quiet cores. "quick", what CI
runs: every fifth of them, 10, 80, 3,500 and 45.
"""

import os

EVERY = {"full": 1, "quick": 5}
ATTACKS = os.environ.get("ATTACKS") or "full"
if ATTACKS not in EVERY:
    raise ValueError(f"ATTACKS is {ATTACKS!r}; choose from {list(EVERY)}")


def some(count: int, every: int = 1) -> range:
    """The numbers of the attacks to try: each `every`-th below `count`, or fewer."""
    return range(0, count, every * EVERY[ATTACKS])
