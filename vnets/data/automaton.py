"""A text that a finite automaton writes, whose entropy rate is known exactly.

In each of six states it writes one of eight symbols, and the symbol says which state
comes next: whoever knows where it began knows the state for ever, and whoever does not
finds it out. So no model's expected loss is below `entropy_rate` nats a symbol, and a
net that reads well comes near it. The automaton and its texts are the same in every
version of NumPy.
"""

import functools

import numpy as np

from vnets.data.types import Arrays, Places

STATES, SYMBOLS, SEED = 6, 8, 27
SIZES = {"train": 100_001, "validation": 20_001, "test": 100_001}


@functools.cache
def rules() -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of symbols [states, symbols], and the state that follows each."""
    bits = np.random.PCG64(SEED)
    u = bits.random_raw((STATES, SYMBOLS)) / 2.0**64
    weights = u**4  # a few symbols have most of a state
    following = (bits.random_raw((STATES, SYMBOLS)) >> np.uint64(32)) % STATES
    return weights / weights.sum(1, keepdims=True), following.astype(np.int64)


def entropy_rate() -> float:
    """Nats a symbol: the entropy of each state, weighted by how often it is in it."""
    probability, following = rules()
    move = np.zeros((STATES, STATES))
    for state in range(STATES):
        np.add.at(move[state], following[state], probability[state])
    # The stationary distribution: it does not change, and sums to 1.
    equations = np.vstack([move.T - np.eye(STATES), np.ones(STATES)])
    right = np.append(np.zeros(STATES), 1.0)
    stationary = np.linalg.lstsq(equations, right, rcond=None)[0]
    entropy = -np.sum(probability * np.log(probability), 1)
    return float(stationary @ entropy)


def read(name: str, places: Places, download: bool) -> Arrays:
    """Streams of symbols and of those that follow them, int32 [L] each."""
    del name, places, download  # made here
    arrays = {}
    for number, (split, size) in enumerate(SIZES.items()):
        text = written(size, number)
        arrays |= {f"{split}_tokens": text[:-1], f"{split}_next": text[1:]}
    return Arrays(arrays, source=f"generated: an automaton of {STATES} states")


def written(size: int, number: int) -> np.ndarray:
    """Symbols of a text, int32 [size]; its number says which."""
    probability, following = rules()
    edges = np.cumsum(probability, 1)
    uniform = np.random.PCG64([SEED, number]).random_raw(size) / 2.0**64
    text, state = np.empty(size, np.int32), 0
    for place, u in enumerate(uniform):
        symbol = min(int(np.searchsorted(edges[state], u, "right")), SYMBOLS - 1)
        text[place], state = symbol, following[state, symbol]
    return text
