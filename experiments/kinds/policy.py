"""Policies with noisy weights, by REINFORCE: games are played, and no data are there.

The columns, of returns: "det", noise off; "stoch", drawn as in training; "ens", the
probabilities of draws averaged at each step.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp

from experiments import rollouts
from experiments import spec as parts
from experiments.kinds import Columns, Kind
from vnets import backend, edits, train
from vnets.types import Array

FIELDS = (
    *("model", "noise", "discount", "updates", "batch_size", "dataset.name"),
    *("probe.episodes", "evals.episodes", "evals.samples"),
)


def fields(config) -> tuple[str, ...]:
    """What this kind reads of a config."""
    del config
    return FIELDS


@dataclasses.dataclass(frozen=True, eq=False)
class PolicyGradient(Kind):
    """A policy and its game, as a config describes them.

    Attributes:
      game: what is played.
      policy: who plays in training.
      players: compiled, (params, numbers of episodes, key) -> returns, by column.
    """

    watched: ClassVar[str] = "return"
    locate: ClassVar[None] = None  # by inputs of a batch, and here is none
    game: Any = None
    policy: Any = None
    players: dict[str, Callable] = dataclasses.field(default_factory=dict)

    def loss(self) -> Callable:
        """The policy gradient, at the noise that episodes were played with."""
        return rollouts.reinforce(self.game, self.policy, self.config.discount)

    def columns(self, group: str, names: Sequence[str], split=None) -> Columns:
        """See `Kind`; the same key for all: the same starts, so that differences are
        less noisy, and without noise in the weights they are the same episodes."""
        del split
        chosen = {
            name: parts.pick(f"{group}.columns", name, self.players) for name in names
        }
        numbers = jnp.arange(self.config[group].episodes, dtype=jnp.int32)

        def columns(params, collections, key):
            del collections
            played = {name: run(params, numbers, key) for name, run in chosen.items()}
            return {name: _summary(returns) for name, returns in played.items()}

        return columns


def _summary(found: Array) -> dict[str, float]:
    return {
        "return": float(jnp.mean(found)),
        "std": float(jnp.std(found)),  # over episodes
        "episodes": len(found),
    }


def build(config) -> PolicyGradient:
    """The policy that a config describes; see `configs/rl.py` for its fields.

    Raises:
      ConfigError: a value that does not fit.
    """
    game = parts.pick("dataset.name", config.dataset.name, rollouts.GAMES)
    model = parts.model(config.model, game.actions)
    per = parts.pick("noise", config.noise, rollouts.NOISE)
    source = parts.call(
        "batch_size",
        rollouts.Episodes,
        {"batch_size": config.batch_size, "updates": config.updates},
    )
    policies = {
        "det": rollouts.Policy(model, edits.mean_only),
        "stoch": rollouts.Policy(model, per=per),
        # A step's noise averaged out: of one observation, a weight sample and the
        # local reparameterization give predictions of the same law.
        "ens": rollouts.Policy(model, samples=config.evals.samples),
    }

    def player(policy: rollouts.Policy) -> Callable:
        def returns(params, numbers, key):
            return rollouts.play(game, policy, params, numbers, key).returns

        return backend.jit(returns)

    return PolicyGradient(
        config=config,
        model=model,
        init=train.initializer(model, jnp.zeros((1, game.inputs), jnp.float32)),
        source=source,
        game=game,
        policy=policies["stoch"],
        players={name: player(policy) for name, policy in policies.items()},
    )
