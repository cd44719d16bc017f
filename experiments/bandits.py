"""Mushrooms to eat or to leave: a contextual bandit (Blundell et al. 2015).

Who eats an edible one gets 5, who eats a poisonous one -35 or 5, each in half of the
cases; who leaves it gets 0. The oracle eats what is edible and leaves the rest. What it
would get, less what an agent gets, is the agent's regret: eating a poisonous one costs
15 on average, leaving an edible one 5. Here any data set of two classes serves, whose
class 0 is poisonous.

The agent learns from a ring of what it met last; rewards are of what it did alone.
"""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from jax import random

from vnets.pytrees import pytree
from vnets.rng import stream
from vnets.sources import ALL
from vnets.types import Array, Key

LEAVE, EAT = 0, 1
ACTIONS = 2
GOOD, BAD = 5.0, -35.0
POISONED = (GOOD + BAD) / 2  # on average


def expected_reward(edible: Array, action: Array) -> Array:
    """The mean reward of an action."""
    return jnp.where(action == EAT, jnp.where(edible, GOOD, POISONED), 0.0)


def reward(edible: Array, action: Array, key: Key) -> Array:
    """A draw of the reward of an action."""
    ill = random.bernoulli(key, 0.5, jnp.shape(action)) & ~edible
    return jnp.where(action == EAT, jnp.where(ill, BAD, GOOD), 0.0)


def best(edible: Array) -> Array:
    """The oracle's action."""
    return jnp.where(edible, EAT, LEAVE)


def expected_regret(edible: Array, action: Array) -> Array:
    """What the oracle gets on average, less what the action does: 0, 5 or 15."""
    return expected_reward(edible, best(edible)) - expected_reward(edible, action)


def random_regret(edible: Array) -> float:
    """The regret per interaction of who eats every other one, whatever it is."""
    both = [expected_regret(edible, jnp.full(edible.shape, a)) for a in (LEAVE, EAT)]
    return float(jnp.mean(jnp.stack(both)))


@pytree
class Memory:
    """What an agent met: the last C in a ring, and what each of T cost.

    Attributes:
      row: of the contexts, int32 [C].
      action: int32 [C].
      reward: [C].
      seen: interactions so far, int32 scalar.
      regret: of each interaction, [T]; 0 where it is still to come.
      expected: the same of the mean reward, [T].
    """

    row: Array
    action: Array
    reward: Array
    seen: Array
    regret: Array
    expected: Array

    @classmethod
    def empty(cls, capacity: int, interactions: int) -> "Memory":
        """Before the first of T interactions."""
        none = jnp.zeros((capacity,), jnp.int32)
        paid = jnp.zeros((interactions,), jnp.float32)
        return cls(
            row=none,
            action=none,
            reward=jnp.zeros((capacity,), jnp.float32),
            seen=jnp.zeros((), jnp.int32),
            regret=paid,
            expected=paid,
        )

    @property
    def held(self) -> Array:
        """How many interactions the ring holds."""
        return jnp.minimum(self.seen, len(self.row))

    def after(self, row: Array, edible: Array, action: Array, key: Key) -> "Memory":
        """With one more interaction, in the place of the oldest if the ring is full."""
        got, place = reward(edible, action, key), self.seen % len(self.row)
        cost = expected_reward(edible, best(edible)) - got
        expected = expected_regret(edible, action)
        return Memory(
            row=self.row.at[place].set(row),
            action=self.action.at[place].set(action),
            reward=self.reward.at[place].set(got),
            seen=self.seen + 1,
            regret=self.regret.at[self.seen].set(cost),
            expected=self.expected.at[self.seen].set(expected),
        )

    def batch(self, key: Key, size: int) -> tuple[Array, Array, Array]:
        """Rows, actions and rewards [B] of interactions at random, with replacement."""
        at = random.randint(key, (size,), 0, self.held)
        return self.row[at], self.action[at], self.reward[at]


def greedy(values: Array, epsilon: float, key: Key) -> Array:
    """The action of the largest value [A], or with probability epsilon any."""
    key_whether, key_which = random.split(key)
    explores = random.bernoulli(key_whether, epsilon)
    any_ = random.randint(key_which, (), 0, len(values))
    return jnp.where(explores, any_, jnp.argmax(values)).astype(jnp.int32)


class Interactions:
    """A source for `train.fit`: a context at random, for so many updates.

    An epoch is a number of interactions.
    """

    arrays = ()
    batch_size = 1

    def __init__(self, contexts: int, interactions: int, updates: int, capacity: int):
        """Sets the sizes.

        Args:
          contexts: N, how many there are to choose from, with replacement.
          interactions: in an epoch.
          updates: U, for each of them.
          capacity: C, of the agent's ring: the data that it learns from, at most.

        Raises:
          ValueError: one of them is below 1.
        """
        sizes = {"interactions": interactions, "updates": updates, "capacity": capacity}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        self.contexts, self.updates, self.n = contexts, updates, capacity
        self.steps_per_epoch = interactions * updates

    def chunks(
        self, key: Key, epoch: int, steps: int, rows: slice = ALL, first: int = 0
    ) -> Iterator[Array]:
        """The epoch's contexts by their rows, `steps` updates at a time, [steps, 1]."""
        met = (self.steps_per_epoch // self.updates,)
        row = random.randint(stream(key, "context", epoch), met, 0, self.contexts)
        row = jnp.repeat(row, self.updates)[:, None]
        for start in range(first, self.steps_per_epoch, steps):
            yield row[start : start + steps, rows]

    def batch(self, arrays, item, key: Key) -> dict[str, Array]:
        """Inside jit: the row of the context."""
        del arrays, key
        return {"input": item}


def summary(memory: Memory, edible: np.ndarray) -> dict[str, float]:
    """What all interactions cost, in rewards.

    Args:
      memory: at the end.
      edible: of all contexts, bool [N].

    Returns:
      regret; expected, of mean rewards; of_random, expected over that of who eats every
      other one; last_fifth, the share of the last fifth of the interactions in
      expected, and last_rate, expected for each of these; poisoned and left, how many
      poisonous ones were eaten and how many edible ones were not.
    """
    regret, expected = (np.asarray(x) for x in (memory.regret, memory.expected))
    last, total = expected[-max(1, len(expected) // 5) :], float(expected.sum())
    dull = len(expected) * random_regret(jnp.asarray(edible))
    return {
        "regret": float(regret.sum()),
        "expected": total,
        "of_random": total / dull,
        "last_fifth": float(last.sum()) / total if total else 0.0,
        "last_rate": float(last.mean()),
        "poisoned": float(np.count_nonzero(expected == -POISONED)),
        "left": float(np.count_nonzero(expected == GOOD)),
    }


POINTS = 100  # of a curve


def curve(memory: Memory) -> dict[str, list[float]]:
    """Regret summed up to an interaction, at `POINTS` of them or at all."""
    count = len(memory.regret)
    at = np.unique(np.linspace(1, count, min(POINTS, count)).round().astype(int))
    summed = {
        name: np.cumsum(np.asarray(getattr(memory, name), np.float64))[at - 1]
        for name in ("regret", "expected")
    }
    axes = {"interaction": at.astype(float), **summed}
    return {name: values.tolist() for name, values in axes.items()}
